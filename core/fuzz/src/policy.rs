//! The policy file.

use counterfoil_replication::{Policy, Rights};
use counterfoil_storage::{NodeName, SpaceName};

/// Takes bytes as the text of a policy.
pub fn run(input: &[u8]) {
    let Ok(text) = std::str::from_utf8(input) else { return };
    match Policy::parse(text) {
        Err(error) => assert!(!error.to_string().is_empty()),
        Ok(policy) => {
            for node in ["hub", "p"].map(|name| NodeName::new(name).unwrap()) {
                for space in ["hub", "p"].map(|name| SpaceName::new(name).unwrap()) {
                    let rights = policy.rights(&node, &space);
                    assert!(!policy.is_denied(&node) || rights == Rights::NONE, "a denied node has a right");
                    if !text.contains("grant") {
                        let own = node.as_str() == space.as_str();
                        assert!(own || rights == Rights::NONE, "a right that nobody granted");
                    }
                }
            }
        }
    }
}

/// Policies of all shapes.
pub fn seeds() -> Vec<Vec<u8>> {
    let texts = [
        "",
        "[[grant]]\nnode = \"hub\"\nspace = \"*\"\nrights = [\"read\", \"write\", \"relay\", \"takeover\"]\n",
        "[[grant]]\nnode = \"p\"\nspace = \"p\"\nrights = []\n[[deny]]\nnode = \"p\"\n",
        "grant = [{ node = 'hub', space = 'hub', rights = ['read'] }]\ndeny = []\n",
    ];
    texts.map(|text| text.as_bytes().to_vec()).to_vec()
}
