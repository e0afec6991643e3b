//! `counterfoil cert`

use std::fs;

use crate::sandbox::Sandbox;

#[test]
fn an_authority_is_made_once_and_its_key_is_private() {
    let sandbox = Sandbox::new();
    sandbox.run("cert ca authority").expect_status(0);
    let files = |folder: &str| {
        let mut names: Vec<_> =
            fs::read_dir(sandbox.path(folder)).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        names.sort();
        names
    };
    assert_eq!(files("authority"), ["ca.key", "ca.pem"]);
    let key = fs::read(sandbox.path("authority/ca.key")).unwrap();
    let again = sandbox.run("cert ca authority").expect_status(2);
    assert!(again.only_error().contains("exists"), "{}", again.stderr);
    assert_eq!(fs::read(sandbox.path("authority/ca.key")).unwrap(), key);

    sandbox.run("cert node authority --node hub --out tls --days 30").expect_status(0);
    assert_eq!(files("tls"), ["ca.pem", "cert.pem", "key.pem"]);
    #[cfg(unix)]
    for key in ["authority/ca.key", "tls/key.pem"] {
        use std::os::unix::fs::PermissionsExt as _;
        assert_eq!(fs::metadata(sandbox.path(key)).unwrap().permissions().mode() & 0o777, 0o600, "{key}");
    }
}

#[test]
fn a_node_s_files_never_come_to_lie_beside_the_authority_s_key() {
    let sandbox = Sandbox::new();
    sandbox.run("cert ca ca").expect_status(0);
    let refused = sandbox.run("cert node ca --node hub --out ca").expect_status(2);
    assert!(refused.only_error().contains("ca holds an authority's key"), "{}", refused.stderr);
    assert!(!sandbox.path("ca/key.pem").exists());
}

#[test]
fn a_certificate_can_be_renewed_in_place() {
    let sandbox = Sandbox::new();
    sandbox.run("cert ca ca").expect_status(0);
    sandbox.certify("hub");
    let before = fs::read(sandbox.path("tls-hub/cert.pem")).unwrap();
    sandbox.certify("hub");
    assert_ne!(fs::read(sandbox.path("tls-hub/cert.pem")).unwrap(), before);
    let refused = sandbox.run("cert node ca --node other --out tls-hub").expect_status(2);
    assert!(
        refused.only_error().contains("tls-hub holds the certificate of node hub, not of other"),
        "{}",
        refused.stderr
    );
    assert_eq!(fs::read(sandbox.path("tls-hub/ca.pem")).unwrap(), fs::read(sandbox.path("ca/ca.pem")).unwrap());
}
