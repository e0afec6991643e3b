//! Bytes and texts that an application keeps for us and gives back: each says what it is, and is checked.
//!
//! # Bytes
//!
//! Four bytes that say what it is and in which version, the content, the first 4 bytes of the BLAKE3 of all before.
//! As text: all of it in lower-case hexadecimal.

use std::fmt::Write as _;

use counterfoil_storage::Digest;
use thiserror::Error;

/// What a token begins with.
pub(crate) type Magic = [u8; 4];

const CHECK_LEN: usize = 4;

/// A text or bytes are not what they are given as: a cursor, a frontier.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("this is not a {what} as it was given out: {why}")]
pub struct TokenError {
    what: &'static str,
    why: &'static str,
}

impl TokenError {
    pub(crate) fn new(what: &'static str, why: &'static str) -> Self {
        Self { what, why }
    }
}

fn check(bytes: &[u8]) -> [u8; CHECK_LEN] {
    let digest = Digest::of(bytes);
    let [a, b, c, d, ..] = *digest.as_bytes();
    [a, b, c, d]
}

/// Adds what is needed to check `content` later.
pub(crate) fn seal(magic: Magic, content: &[u8]) -> Vec<u8> {
    let mut bytes = [&magic, content].concat();
    let check = check(&bytes);
    bytes.extend(check);
    bytes
}

/// The content of bytes that [`seal`] made with the same magic.
pub(crate) fn open<'a>(what: &'static str, magic: Magic, bytes: &'a [u8]) -> Result<&'a [u8], TokenError> {
    let (content, found) = bytes.split_last_chunk().ok_or(TokenError::new(what, "it is cut short"))?;
    let rest = content.strip_prefix(&magic).ok_or(TokenError::new(what, "it begins with something else"))?;
    if check(content) == *found { Ok(rest) } else { Err(TokenError::new(what, "its checksum does not match")) }
}

pub(crate) fn to_hex(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(2 * bytes.len());
    for byte in bytes {
        // A string takes whatever is written to it.
        let _ = write!(text, "{byte:02x}");
    }
    text
}

pub(crate) fn from_hex(what: &'static str, text: &str) -> Result<Vec<u8>, TokenError> {
    let digit = |byte: u8| match byte {
        b'0'..=b'9' => Some(byte - b'0'),
        b'a'..=b'f' => Some(byte - b'a' + 10),
        _ => None,
    };
    let byte = |pair: &[u8]| match *pair {
        [high, low] => Some(digit(high)? << 4 | digit(low)?),
        _ => None,
    };
    let bytes: Option<Vec<u8>> = text.as_bytes().chunks(2).map(byte).collect();
    bytes.ok_or(TokenError::new(what, "it is not hexadecimal"))
}

/// Conversions of a type that has `to_bytes` and `from_bytes` to text and back, also for serde.
macro_rules! token_text {
    ($name:ident, $what:literal) => {
        impl std::fmt::Display for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str(&crate::token::to_hex(&self.to_bytes()))
            }
        }

        impl std::str::FromStr for $name {
            type Err = crate::token::TokenError;

            fn from_str(text: &str) -> Result<Self, Self::Err> {
                Self::from_bytes(&crate::token::from_hex($what, text)?)
            }
        }

        impl TryFrom<String> for $name {
            type Error = crate::token::TokenError;

            fn try_from(text: String) -> Result<Self, Self::Error> {
                text.parse()
            }
        }

        impl From<$name> for String {
            fn from(token: $name) -> Self {
                token.to_string()
            }
        }
    };
}

pub(crate) use token_text;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_sealed_opens_and_nothing_else_does() {
        let bytes = seal(*b"CFC1", b"content");
        assert_eq!(open("cursor", *b"CFC1", &bytes).unwrap(), b"content");
        assert!(open("cursor", *b"CFF1", &bytes).is_err());
        for bit in 0..bytes.len() * 8 {
            let mut bytes = bytes.clone();
            bytes[bit / 8] ^= 1 << (bit % 8);
            assert!(open("cursor", *b"CFC1", &bytes).is_err(), "bit {bit}");
        }
        for len in 0..bytes.len() {
            assert!(open("cursor", *b"CFC1", &bytes[..len]).is_err(), "length {len}");
        }
    }

    #[test]
    fn a_text_that_is_not_hexadecimal_is_refused() {
        assert_eq!(from_hex("cursor", &to_hex(&[0, 0x9a, 0xff])), Ok(vec![0, 0x9a, 0xff]));
        for text in ["0", "0g", "0A", "é"] {
            assert!(from_hex("cursor", text).is_err(), "{text}");
        }
    }
}
