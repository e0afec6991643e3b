//! Short texts that people type or programs keep: addresses `NODE@HOST:PORT`, names, ids, versions, cursors, frontiers.

use std::{fmt::Display, str::FromStr};

use counterfoil::{Cursor, Frontier, PeerAddress, VersionId};
use counterfoil_storage::{Digest, LogId, MAX_NAME_LEN, NodeName, SpaceName};

/// Takes bytes as a text of each kind.
pub fn run(input: &[u8]) {
    let Ok(text) = std::str::from_utf8(input) else { return };
    match text.parse::<PeerAddress>() {
        Err(error) => assert!(error.to_string().len() < 64 + 8 * text.len()),
        Ok(peer) => {
            assert_eq!(peer.to_string(), text, "it reads as it was written");
            assert!(peer.address.contains(':') && text.starts_with(peer.node.as_str()));
        }
    }
    let node = text.parse::<NodeName>().map(|name| name.to_string());
    let space = text.parse::<SpaceName>().map(|name| name.to_string());
    for name in [node, space].into_iter().flatten() {
        assert!(name == text && !name.is_empty() && name.len() <= MAX_NAME_LEN);
        assert!(!name.contains(['/', '\\', '\0', '\n', '@']), "{name:?}");
    }
    reads_back::<VersionId>(text);
    reads_back::<Cursor>(text);
    reads_back::<Frontier>(text);
    reads_back::<LogId>(text);
    reads_back::<Digest>(text);
}

fn reads_back<T: FromStr + Display>(text: &str) {
    if let Ok(id) = text.parse::<T>() {
        assert!(id.to_string().eq_ignore_ascii_case(text));
    }
}

/// One of each.
pub fn seeds() -> Vec<Vec<u8>> {
    let texts =
        ["hub@hub.example:7400", "h-2@[::1]:1", "practice-12", "a2204af3de30df9370422b54656bb3f9", "@:", "a@b:c"];
    let mut cursor = Cursor::start();
    cursor.set(LogId::from_bytes([1; 16]), counterfoil::Seq(2));
    let kept = [Digest::of(b"").to_string(), cursor.to_string(), Frontier::empty().to_string()];
    texts.into_iter().chain(kept.iter().map(String::as_str)).map(|text| text.as_bytes().to_vec()).collect()
}
