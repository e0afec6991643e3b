//! Who may do what: the rights of nodes on spaces.

use std::collections::{HashMap, HashSet};

use counterfoil_storage::{NodeName, SpaceName};
use serde::Deserialize;
use thiserror::Error;
use toml::Spanned;

/// What a node may do with a space. None by default.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
#[expect(clippy::struct_excessive_bools, reason = "four independent rights; each may be held without the others")]
pub struct Rights {
    /// Receive its logs.
    pub read: bool,
    /// Stream logs that the node itself writes.
    pub write: bool,
    /// Stream logs of other writers.
    pub relay: bool,
    /// Become its writer, if it is exclusive.
    pub takeover: bool,
}

impl Rights {
    /// No right.
    pub const NONE: Self = Self { read: false, write: false, relay: false, takeover: false };

    /// These and those.
    #[must_use]
    pub fn union(self, other: Self) -> Self {
        Self {
            read: self.read || other.read,
            write: self.write || other.write,
            relay: self.relay || other.relay,
            takeover: self.takeover || other.takeover,
        }
    }
}

/// The rights of nodes on spaces, as a TOML file says them.
///
/// ```
/// use counterfoil_replication::Policy;
///
/// let policy = Policy::parse(r#"
///     [[grant]]
///     node = "hub-2"
///     space = "*"
///     rights = ["read", "relay"]
///
///     [[deny]]
///     node = "practice-13"
/// "#)?;
/// assert!(policy.rights(&"hub-2".parse()?, &"practice-12".parse()?).relay);
/// assert!(policy.is_denied(&"practice-13".parse()?));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
///
/// A policy without any `[[grant]]`, like no policy at all, gives each node the space that bears its
/// own name (read, write) and nothing else. One with grants gives what it says and nothing else.
/// A denied node has no right, whatever is granted.
#[derive(Debug, Clone, Default)]
pub struct Policy {
    /// `None`: each node has the space of its own name.
    grants: Option<HashMap<NodeName, NodeGrants>>,
    denied: HashSet<NodeName>,
}

#[derive(Debug, Clone, Default)]
struct NodeGrants {
    all_spaces: Rights,
    spaces: HashMap<SpaceName, Rights>,
}

/// A policy can't be used.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("the policy can't be used: {what}")]
pub struct PolicyError {
    what: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct PolicyFile {
    #[serde(default)]
    grant: Vec<GrantEntry>,
    #[serde(default)]
    deny: Vec<DenyEntry>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct GrantEntry {
    node: NodeName,
    space: String,
    rights: Spanned<Vec<Right>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct DenyEntry {
    node: NodeName,
}

#[derive(Clone, Copy, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Right {
    Read,
    Write,
    Relay,
    Takeover,
}

impl Policy {
    /// Each node has the space that bears its own name, and nothing else.
    pub fn own_space_only() -> Self {
        Self::default()
    }

    /// Nobody has any right but those that a session's own configuration gives.
    pub fn nothing() -> Self {
        Self { grants: Some(HashMap::new()), denied: HashSet::new() }
    }

    /// Reads a policy. Unknown keys, unknown rights, grants of none and unusable names are errors that name the line. That nothing asks for
    /// the right `takeover` yet is logged.
    pub fn parse(text: &str) -> Result<Self, PolicyError> {
        let file: PolicyFile = toml::from_str(text).map_err(|error| PolicyError { what: error.to_string() })?;
        let mut nodes = HashMap::<NodeName, NodeGrants>::new();
        for entry in &file.grant {
            let line = 1 + text[..entry.rights.span().start].matches('\n').count();
            let rights = entry.rights.get_ref().iter().fold(Rights::NONE, |rights, right| match right {
                Right::Read => Rights { read: true, ..rights },
                Right::Write => Rights { write: true, ..rights },
                Right::Relay => Rights { relay: true, ..rights },
                Right::Takeover => Rights { takeover: true, ..rights },
            });
            if rights.takeover {
                let GrantEntry { node, space, .. } = entry;
                tracing::warn!(line, %node, %space, "the policy grants takeover, which nothing asks for yet: it gives nothing");
            }
            let grants = nodes.entry(entry.node.clone()).or_default();
            if entry.space == "*" {
                grants.all_spaces = grants.all_spaces.union(rights);
            } else {
                let space = SpaceName::new(&entry.space).map_err(|error| PolicyError { what: error.to_string() })?;
                let held = grants.spaces.entry(space).or_default();
                *held = held.union(rights);
            }
            if rights == Rights::NONE {
                let what = format!(
                    "line {line} grants {} no rights on {}: name some of read, write and relay, or leave the grant out; \
                     [[deny]] shuts a node out",
                    entry.node, entry.space
                );
                return Err(PolicyError { what });
            }
        }
        let grants = if file.grant.is_empty() { None } else { Some(nodes) };
        Ok(Self { grants, denied: file.deny.into_iter().map(|entry| entry.node).collect() })
    }

    /// What a node may do with a space.
    pub fn rights(&self, node: &NodeName, space: &SpaceName) -> Rights {
        if self.is_denied(node) {
            return Rights::NONE;
        }
        match &self.grants {
            None if node.as_str() == space.as_str() => Rights { read: true, write: true, ..Rights::NONE },
            None => Rights::NONE,
            Some(nodes) => nodes.get(node).map_or(Rights::NONE, |grants| {
                grants.all_spaces.union(grants.spaces.get(space).copied().unwrap_or_default())
            }),
        }
    }

    /// Whether a node is refused whatever it wants.
    pub fn is_denied(&self, node: &NodeName) -> bool {
        self.denied.contains(node)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rights(policy: &Policy, node: &str, space: &str) -> Rights {
        policy.rights(&NodeName::new(node).unwrap(), &SpaceName::new(space).unwrap())
    }

    #[test]
    fn without_grants_a_node_has_the_space_of_its_own_name_and_nothing_else() {
        for policy in [Policy::own_space_only(), Policy::parse("[[deny]]\nnode = \"x\"").unwrap()] {
            assert_eq!(rights(&policy, "a", "a"), Rights { read: true, write: true, ..Rights::NONE });
            assert_eq!(rights(&policy, "a", "b"), Rights::NONE);
        }
        assert_eq!(rights(&Policy::nothing(), "a", "a"), Rights::NONE);
    }

    #[test]
    fn grants_add_up_and_a_denial_outweighs_them() {
        let text = r#"
            [[grant]]
            node = "a"
            space = "s"
            rights = ["write"]
            [[grant]]
            node = "a"
            space = "*"
            rights = ["read", "takeover"]
            [[grant]]
            node = "b"
            space = "*"
            rights = ["relay"]
            [[deny]]
            node = "b"
        "#;
        let policy = Policy::parse(text).unwrap();
        assert_eq!(rights(&policy, "a", "s"), Rights { read: true, write: true, relay: false, takeover: true });
        assert_eq!(rights(&policy, "a", "t"), Rights { read: true, takeover: true, ..Rights::NONE });
        assert_eq!(rights(&policy, "b", "s"), Rights::NONE);
        assert_eq!(rights(&policy, "c", "c"), Rights::NONE, "a policy with grants gives what it says only");
    }

    #[test]
    fn a_policy_with_a_mistake_is_refused_and_names_it() {
        for (text, named) in [
            ("[[grant]]\nnode = \"a\"\nspace = \"s\"\nrights = [\"reed\"]", "reed"),
            ("[[grant]]\nnode = \"a/b\"\nspace = \"s\"\nrights = []", "a/b"),
            ("[[grant]]\nnode = \"a\"\nspace = \"**\"\nrights = []", "**"),
            ("[[grant]]\nnode = \"a\"\nspaces = \"s\"\nrights = []", "spaces"),
            ("[[denied]]\nnode = \"a\"", "denied"),
            ("[[grant]", "grant"),
            ("# all\n[[grant]]\nnode = \"a\"\nspace = \"s\"\nrights = []", "line 5 grants a no rights on s"),
        ] {
            let error = Policy::parse(text).unwrap_err().to_string();
            assert!(error.contains(named), "{error}");
        }
    }
}
