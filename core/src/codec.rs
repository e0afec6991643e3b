//! How typed values become bytes of records, and back.
//!
//! # Bytes
//!
//! A typed record's body begins with an envelope of [`ENVELOPE_LEN`] bytes, little-endian:
//!
//! | offset | bytes | field |
//! |---|---|---|
//! | 0 | 1 | version of the envelope, 1 |
//! | 1 | 1 | codec: 0 bytes of a collection as they were given, 1 [`Bincode`], 2 `Json`, 128 to 255 the application's own |
//! | 2 | 2 | schema version of the value's type, which the application counts |
//! | 4 | | the value, as the codec writes it |

use bincode::Options as _;
use serde::{Serialize, de::DeserializeOwned};
use thiserror::Error;

/// Length of the envelope, in bytes.
pub const ENVELOPE_LEN: usize = 4;

/// The longest value a built-in codec reads or writes, in bytes: a longest record without its envelope.
pub const MAX_VALUE_LEN: usize = counterfoil_storage::MAX_RECORD_LEN - ENVELOPE_LEN;

const ENVELOPE_VERSION: u8 = 1;

/// A value could not be encoded or decoded.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum CodecError {
    /// What the codec said.
    #[error("{0}")]
    Codec(Box<dyn std::error::Error + Send + Sync>),
    /// The body does not begin with an envelope: it was appended raw, or by something else.
    #[error("it was not appended as a typed value")]
    NoEnvelope,
    /// The value was written with a codec that is not at hand.
    #[error("it was written with codec {codec}: read it with that codec")]
    OtherCodec {
        /// The codec's number.
        codec: u8,
    },
    /// The value is of a schema version for which no type was named.
    #[error("it has schema version {found}, not {expected}: name its type with `Typed::upgrade_from`")]
    OtherSchema {
        /// The version written.
        found: u16,
        /// The version that is read.
        expected: u16,
    },
}

impl CodecError {
    /// Wraps what an encoder or decoder said.
    pub fn new(error: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Self {
        Self::Codec(error.into())
    }
}

/// Makes bytes of values and values of bytes.
///
/// An implementation bounds what it allocates by the length of the bytes it is given.
pub trait Codec: Clone + Send + Sync + 'static {
    /// Its number in the envelope: 128 to 255 for an application's own. Never give it to another codec.
    const ID: u8;
    /// Its name, for messages.
    const NAME: &'static str;

    /// Appends the encoded value to `out`.
    ///
    /// # Errors
    ///
    /// The value is of a kind that the codec can't encode, or too long.
    fn encode<T: Serialize>(&self, value: &T, out: &mut Vec<u8>) -> Result<(), CodecError>;

    /// Reads a value; every byte must belong to it.
    ///
    /// # Errors
    ///
    /// The bytes are no such value.
    fn decode<T: DeserializeOwned>(&self, bytes: &[u8]) -> Result<T, CodecError>;
}

/// bincode 1.3: compact and fast; the default.
///
/// It can't decode some types that it encodes: untagged and internally tagged enums, flattened
/// structs, skipped fields, `serde_json::Value`. Appends of such values are refused
/// ([`CodecCannotRoundTrip`](crate::ErrorKind::CodecCannotRoundTrip)); use `Json` for them.
#[derive(Debug, Clone, Copy, Default)]
pub struct Bincode;

impl Bincode {
    fn options() -> impl bincode::Options {
        bincode::DefaultOptions::new().with_limit(MAX_VALUE_LEN as u64)
    }
}

impl Codec for Bincode {
    const ID: u8 = 1;
    const NAME: &'static str = "bincode";

    fn encode<T: Serialize>(&self, value: &T, out: &mut Vec<u8>) -> Result<(), CodecError> {
        Self::options().serialize_into(out, value).map_err(CodecError::new)
    }

    fn decode<T: DeserializeOwned>(&self, bytes: &[u8]) -> Result<T, CodecError> {
        Self::options().deserialize(bytes).map_err(CodecError::new)
    }
}

/// JSON: longer and slower, but self-describing: reads back every type that serde can write as JSON.
#[cfg(feature = "json")]
#[derive(Debug, Clone, Copy, Default)]
pub struct Json;

#[cfg(feature = "json")]
impl Codec for Json {
    const ID: u8 = 2;
    const NAME: &'static str = "json";

    fn encode<T: Serialize>(&self, value: &T, out: &mut Vec<u8>) -> Result<(), CodecError> {
        serde_json::to_writer(out, value).map_err(CodecError::new)
    }

    fn decode<T: DeserializeOwned>(&self, bytes: &[u8]) -> Result<T, CodecError> {
        serde_json::from_slice(bytes).map_err(CodecError::new)
    }
}

/// What stands before a typed value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Envelope {
    pub(crate) codec: u8,
    pub(crate) schema: u16,
}

/// The codec of bytes that were given as bytes: whoever reads them as values says how.
pub(crate) const VERBATIM: u8 = 0;

impl Envelope {
    /// Before bytes that were given as bytes.
    #[cfg(feature = "collections")]
    pub(crate) const VERBATIM: Self = Self { codec: VERBATIM, schema: 0 };

    /// In bytes.
    #[cfg(feature = "collections")]
    pub(crate) const LEN: usize = 4;

    pub(crate) fn write(self, out: &mut Vec<u8>) {
        let [low, high] = self.schema.to_le_bytes();
        out.extend_from_slice(&[ENVELOPE_VERSION, self.codec, low, high]);
    }

    /// Reads the envelope; the rest is the value.
    pub(crate) fn split(body: &[u8]) -> Result<(Self, &[u8]), CodecError> {
        match body {
            [ENVELOPE_VERSION, codec, low, high, value @ ..] => {
                Ok((Self { codec: *codec, schema: u16::from_le_bytes([*low, *high]) }, value))
            }
            _ => Err(CodecError::NoEnvelope),
        }
    }
}

/// Decodes with the codec that the envelope names: `C`, or one of the built-in ones.
pub(crate) fn decode_with<C: Codec, T: DeserializeOwned>(codec: &C, id: u8, value: &[u8]) -> Result<T, CodecError> {
    match id {
        id if id == C::ID || id == VERBATIM => codec.decode(value),
        Bincode::ID => Bincode.decode(value),
        #[cfg(feature = "json")]
        Json::ID => Json.decode(value),
        codec => Err(CodecError::OtherCodec { codec }),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::{collection::vec, prelude::*};

    use super::*;

    type Value = (u64, String, Option<Vec<i32>>, BTreeMap<String, f64>);

    proptest! {
        #[test]
        fn values_read_back_through_envelope_and_codec(
            value in any::<Value>(),
            schema in any::<u16>(),
        ) {
            prop_assume!(value.3.values().all(|number| !number.is_nan()));
            let mut body = Vec::new();
            Envelope { codec: Bincode::ID, schema }.write(&mut body);
            Bincode.encode(&value, &mut body).unwrap();
            let (envelope, encoded) = Envelope::split(&body).unwrap();
            prop_assert_eq!(envelope, Envelope { codec: Bincode::ID, schema });
            prop_assert_eq!(decode_with::<_, Value>(&Bincode, envelope.codec, encoded).unwrap(), value);
        }

        #[test]
        fn foreign_bodies_are_decoded_or_refused_without_a_panic(mut body in vec(any::<u8>(), 0..200), codec in 0_u8..4) {
            if let [version, id, ..] = &mut body[..] {
                (*version, *id) = (ENVELOPE_VERSION, codec);
            }
            if let Ok((envelope, encoded)) = Envelope::split(&body) {
                drop(decode_with::<_, Value>(&Bincode, envelope.codec, encoded));
            }
        }
    }

    #[test]
    fn the_bytes_of_a_typed_value_are_fixed_for_ever() {
        let mut body = Vec::new();
        Envelope { codec: Bincode::ID, schema: 0x0102 }.write(&mut body);
        Bincode.encode(&(7_u64, "ab"), &mut body).unwrap();
        assert_eq!(body, [1, 1, 2, 1, 7, 2, b'a', b'b']);
        let (envelope, value) = Envelope::split(&body).unwrap();
        assert_eq!(envelope, Envelope { codec: 1, schema: 0x0102 });
        assert_eq!(Bincode.decode::<(u64, String)>(value).unwrap(), (7, "ab".to_owned()));
    }

    #[test]
    fn a_length_from_foreign_bytes_is_refused_before_it_is_allocated() {
        let huge = [253, 255, 255, 255, 255, 255, 255, 255, 127];
        assert!(Bincode.decode::<Vec<u8>>(&huge).is_err());
        assert!(Bincode.decode::<String>(&huge).is_err());
        assert!(Bincode.decode::<u8>(&[1, 2]).is_err(), "bytes left over");
    }

    #[test]
    fn a_body_without_an_envelope_is_not_taken_for_a_value() {
        for body in [&b""[..], b"\x01\x01\x00", b"{\"a\":1}"] {
            assert!(matches!(Envelope::split(body), Err(CodecError::NoEnvelope)));
        }
    }
}
