//! Keys of collections as bytes that sort like the keys.

/// A key of a collection: makes bytes that sort as the keys do, and reads them back.
///
/// Texts and bytes are as they are, integers have the sign turned and the highest byte first.
pub trait Key: Sized {
    /// Appends the key's bytes: at most [`MAX_KEY_LEN`](crate::MAX_KEY_LEN) of them.
    fn encode(&self, out: &mut Vec<u8>);

    /// Reads a key back; `None` if the bytes are no key of this type.
    fn decode(bytes: &[u8]) -> Option<Self>;
}

impl Key for String {
    fn encode(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(self.as_bytes());
    }

    fn decode(bytes: &[u8]) -> Option<Self> {
        String::from_utf8(bytes.to_vec()).ok()
    }
}

impl Key for Vec<u8> {
    fn encode(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(self);
    }

    fn decode(bytes: &[u8]) -> Option<Self> {
        Some(bytes.to_vec())
    }
}

macro_rules! integer_keys {
    ($($unsigned:ty, $signed:ty);*) => {$(
        impl Key for $unsigned {
            fn encode(&self, out: &mut Vec<u8>) {
                out.extend_from_slice(&self.to_be_bytes());
            }

            fn decode(bytes: &[u8]) -> Option<Self> {
                Some(Self::from_be_bytes(bytes.try_into().ok()?))
            }
        }

        impl Key for $signed {
            fn encode(&self, out: &mut Vec<u8>) {
                (self.cast_unsigned() ^ Self::MIN.cast_unsigned()).encode(out);
            }

            fn decode(bytes: &[u8]) -> Option<Self> {
                Some((<$unsigned>::decode(bytes)? ^ Self::MIN.cast_unsigned()).cast_signed())
            }
        }
    )*};
}

integer_keys!(u8, i8; u16, i16; u32, i32; u64, i64; u128, i128);

#[cfg(test)]
mod tests {
    use std::fmt::Debug;

    use proptest::prelude::*;

    use super::*;

    fn check<K: Key + Ord + Debug>((first, second): &(K, K)) -> Result<(), TestCaseError> {
        let bytes = |key: &K| {
            let mut bytes = Vec::new();
            key.encode(&mut bytes);
            bytes
        };
        prop_assert_eq!(bytes(first).cmp(&bytes(second)), first.cmp(second));
        let read = K::decode(&bytes(first));
        prop_assert_eq!(read.as_ref(), Some(first));
        Ok(())
    }

    proptest! {
        #[test]
        fn keys_sort_as_their_bytes_and_read_back(
            texts: (String, String), bytes: (Vec<u8>, Vec<u8>), unsigned: (u64, u64), signed: (i64, i64), small: (i8, i8),
        ) {
            check(&texts)?;
            check(&bytes)?;
            check(&unsigned)?;
            check(&signed)?;
            check(&small)?;
        }
    }

    #[test]
    fn bytes_of_another_type_are_no_key() {
        assert_eq!(u32::decode(b"abc"), None);
        assert_eq!(String::decode(b"\xff"), None);
    }
}
