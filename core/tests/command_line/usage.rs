//! Wrong usage and help.

use crate::sandbox::Sandbox;

#[test]
fn a_mistake_ends_with_2_and_is_told_in_one_line_that_says_what_to_do() {
    let sandbox = Sandbox::with_practice();
    sandbox.run("cert ca ca").expect_status(0);
    sandbox.certify("practice-1");
    for (words, expected) in [
        ("", "requires a subcommand"),
        ("apend practice.store", "'append'"),
        ("append", "<STORE>"),
        ("append practice.store --sapce x", "'--space'"),
        ("append practice.store --durability twice", "buffered, local, mirrored"),
        ("append practice.store --durability mirrored", "--mirror-to"),
        ("append practice.store --mirror-to hub@127.0.0.1:1", "--tls"),
        ("append practice.store --batch 0", "see `counterfoil append --help`"),
        ("cert node . --node a --out b --days x", "see `counterfoil cert node --help`"),
        ("append practice.store --timeout=-1", "'--timeout <SECS>': give a number of seconds from 0 to 1000000000"),
        ("append practice.store --timeout -1", "'--timeout <SECS>': give a number of seconds from 0 to 1000000000"),
        ("append practice.store --timeout NaN", "'--timeout <SECS>': give a number of seconds from 0 to 1000000000"),
        ("append practice.store --timeout 1e300", "'--timeout <SECS>': give a number of seconds from 0 to 1000000000"),
        ("append practice.store --space ../x", "can't be a name"),
        ("append practice.store --mirror-to nobody --tls .", "ca.pem"),
        ("cat practice.store --log 12", "hexadecimal"),
        ("cat practice.store --log 00000000000000000000000000000000", "not in this store"),
        ("cat practice.store --from x", "--from"),
        ("init practice.store --node practice-1", "holds a store already"),
        ("init . --node a", "holds other files (ca): choose an empty folder"),
        ("init other.store --node a/b", "can't be a name"),
        (
            "init ca/ca.pem --node a",
            "ca.pem: creating the folder failed: File exists (os error 17); a store is a folder",
        ),
        ("init ca/ca.pem/x --node a", "(os error 20); a store is a folder: choose another path"),
        ("serve practice.store --listen 127.0.0.1 --tls tls-practice-1", "give HOST:PORT, as in 0.0.0.0:7400"),
        ("serve practice.store --listen 192.0.2.1:0 --tls tls-practice-1", "no address of this machine"),
        (
            "serve practice.store --listen 127.0.0.1:0 --tls tls-practice-1 --metrics 127.0.0.1",
            "give HOST:PORT, as in 0.0.0.0:7400",
        ),
        (
            "serve practice.store --listen 127.0.0.1:0 --tls tls-practice-1 --policy nowhere.toml",
            "nowhere.toml: the policy can't be read: No such file or directory (os error 2); check the path",
        ),
        ("cert node nowhere --node a --out b", "nowhere"),
        ("cert node . --node a --out b --days 0", "choose 1 to"),
        ("serve practice.store --listen 127.0.0.1:0 --tls nowhere", "nowhere"),
        ("mirror practice.store --to hub@127.0.0.1:1 --tls nowhere", "nowhere"),
    ] {
        let ended = sandbox.run(words).expect_status(2);
        let line = ended.only_error();
        assert!(line.starts_with("counterfoil: ") && line.contains(expected), "{words}: {line}");
        assert!(ended.stdout.is_empty(), "{words}: {ended:?}");
    }
}

#[test]
fn a_folder_without_a_store_is_named_by_every_command() {
    let sandbox = Sandbox::with_practice_and_hub();
    for words in [
        "append nowhere",
        "cat nowhere",
        "status nowhere",
        "verify nowhere",
        "serve nowhere --listen 127.0.0.1:0 --tls tls-hub",
        "mirror nowhere --to hub@127.0.0.1:1 --tls tls-practice-1",
    ] {
        let ended = sandbox.run(words).expect_status(2);
        assert!(ended.only_error().contains("nowhere holds no store"), "{words}: {}", ended.stderr);
        assert!(!sandbox.path("nowhere").exists());
    }
}

#[test]
fn help_and_version_are_data() {
    let sandbox = Sandbox::new();
    for words in ["--help", "help", "--version", "append --help", "help cert", "cert node --help"] {
        let ended = sandbox.run(words).expect_status(0);
        assert!(ended.text().contains("counterfoil"), "{words}");
        assert!(ended.stderr.is_empty(), "{words}");
    }
}

#[test]
fn a_second_writer_is_refused_at_once_and_the_first_does_not_notice() {
    let sandbox = Sandbox::with_practice();
    let mut first = sandbox.start("append practice.store --ack");
    first.write("one\n");
    assert_eq!(first.read_line(), "ack 0");
    let second = sandbox.run_with("append practice.store", b"two\n").expect_status(2);
    assert!(second.only_error().contains("locked"), "{}", second.stderr);
    first.write("three\n");
    assert_eq!(first.read_line(), "ack 1");
    first.finish().expect_status(0);
    assert_eq!(sandbox.cat("practice.store"), b"one\nthree\n");
}

#[test]
fn a_level_of_logging_that_is_none_is_told_and_the_work_is_done() {
    let sandbox = Sandbox::with_practice();
    let status = std::process::Command::new(env!("CARGO_BIN_EXE_counterfoil"))
        .args(["status", "practice.store"])
        .env("COUNTERFOIL_LOG", "bogus")
        .current_dir(sandbox.path(""))
        .output()
        .unwrap();
    assert!(status.status.success());
    let errors = String::from_utf8(status.stderr).unwrap();
    assert!(errors.starts_with("counterfoil: COUNTERFOIL_LOG=bogus is not understood"), "{errors}");
    assert_eq!(errors.lines().count(), 1, "{errors}");
}

#[test]
fn the_help_of_serve_says_what_a_policy_is_and_how_it_is_read_again() {
    let sandbox = Sandbox::new();
    let help = sandbox.run("serve --help").expect_status(0);
    for expected in ["[[grant]]", "rights = [\"read\", \"write\"]", "[[deny]]", "SIGHUP"] {
        assert!(help.text().contains(expected), "{expected}: {}", help.text());
    }
}
