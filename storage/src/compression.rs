//! How the bodies of batches are stored: as they are, or compressed each by itself.
//!
//! Which is written in the batch's flags, so that a store may hold all kinds. A node passes on and stores
//! what it can't read itself.

use std::fmt;

/// How the body of a batch is stored.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Compression {
    /// As it is.
    #[default]
    None,
    /// LZ4 block format: about 0.3 of FHIR resources at 8 KiB a batch. Needs the feature `lz4`.
    Lz4,
    /// Zstandard at level 1: about 0.22 of the same, at about three times the work. Needs the feature `zstd`.
    Zstd,
}

/// Bodies below this length, in bytes, are stored as they are.
const COMPRESSED_LEN_MIN: usize = 128;

impl Compression {
    /// The flags that say so.
    pub(crate) fn flags(self) -> u16 {
        match self {
            Self::None => 0,
            Self::Lz4 => 1,
            Self::Zstd => 2,
        }
    }

    pub(crate) fn from_flags(flags: u16) -> Option<Self> {
        [Self::None, Self::Lz4, Self::Zstd].into_iter().find(|known| known.flags() == flags)
    }

    /// Whether this build can compress and decompress so.
    pub fn is_available(self) -> bool {
        match self {
            Self::None => true,
            Self::Lz4 => cfg!(feature = "lz4"),
            Self::Zstd => cfg!(feature = "zstd"),
        }
    }

    /// The compressed body, if that saves at least an eighth.
    pub(crate) fn compress(self, body: &[u8]) -> Option<Vec<u8>> {
        if body.len() < COMPRESSED_LEN_MIN {
            return None;
        }
        let compressed = match self {
            Self::None => None,
            Self::Lz4 => lz4::compress(body),
            Self::Zstd => zstd::compress(body),
        };
        compressed.filter(|compressed| compressed.len() <= body.len() - body.len() / 8)
    }

    /// The body of exactly `raw_len` bytes that was compressed; `None` if these bytes are no such thing, or
    /// this build can't tell. Allocates no more than `raw_len`.
    pub(crate) fn decompress(self, stored: &[u8], raw_len: usize) -> Option<Vec<u8>> {
        match self {
            Self::None => (stored.len() == raw_len).then(|| stored.to_vec()),
            Self::Lz4 => lz4::decompress(stored, raw_len),
            Self::Zstd => zstd::decompress(stored, raw_len),
        }
    }
}

impl fmt::Display for Compression {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::None => "none",
            Self::Lz4 => "lz4",
            Self::Zstd => "zstd",
        })
    }
}

#[cfg(feature = "lz4")]
mod lz4 {
    #[expect(clippy::unnecessary_wraps, reason = "like the others")]
    pub(super) fn compress(body: &[u8]) -> Option<Vec<u8>> {
        Some(lz4_flex::block::compress(body))
    }

    pub(super) fn decompress(stored: &[u8], raw_len: usize) -> Option<Vec<u8>> {
        let mut body = vec![0; raw_len];
        let len = lz4_flex::block::decompress_into(stored, &mut body).ok()?;
        (len == raw_len).then_some(body)
    }
}

#[cfg(feature = "zstd")]
mod zstd {
    use std::cell::RefCell;

    use zstd::bulk::{Compressor, Decompressor};

    /// Bodies are small: what a higher level saves is lost in the time that it takes.
    const LEVEL: i32 = 1;

    thread_local! {
        /// Making one takes longer than compressing a batch.
        static COMPRESSOR: RefCell<Option<Compressor<'static>>> = RefCell::new(Compressor::new(LEVEL).ok());
        static DECOMPRESSOR: RefCell<Option<Decompressor<'static>>> = RefCell::new(Decompressor::new().ok());
    }

    pub(super) fn compress(body: &[u8]) -> Option<Vec<u8>> {
        COMPRESSOR.with_borrow_mut(|compressor| compressor.as_mut()?.compress(body).ok())
    }

    pub(super) fn decompress(stored: &[u8], raw_len: usize) -> Option<Vec<u8>> {
        let body = DECOMPRESSOR.with_borrow_mut(|decompressor| decompressor.as_mut()?.decompress(stored, raw_len).ok());
        body.filter(|body| body.len() == raw_len)
    }
}

#[cfg(not(feature = "lz4"))]
mod lz4 {
    pub(super) use super::absent::{compress, decompress};
}

#[cfg(not(feature = "zstd"))]
mod zstd {
    pub(super) use super::absent::{compress, decompress};
}

#[cfg(not(all(feature = "lz4", feature = "zstd")))]
mod absent {
    pub(super) fn compress(_body: &[u8]) -> Option<Vec<u8>> {
        None
    }

    pub(super) fn decompress(_stored: &[u8], _raw_len: usize) -> Option<Vec<u8>> {
        None
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn what_is_compressed_reads_back_and_foreign_bytes_are_refused_within_bounds(
            words in proptest::collection::vec(0_u8..8, 0..3000),
            foreign in proptest::collection::vec(any::<u8>(), 0..300),
        ) {
            for compression in [Compression::Lz4, Compression::Zstd] {
                if let Some(compressed) = compression.compress(&words) {
                    let read = compression.decompress(&compressed, words.len());
                    prop_assert_eq!(read.as_deref(), Some(&words[..]));
                    prop_assert_eq!(compression.decompress(&compressed, words.len() + 1), None);
                    prop_assert_eq!(compression.decompress(&compressed, words.len() - 1), None);
                }
                if let Some(read) = compression.decompress(&foreign, 100) {
                    prop_assert_eq!(read.len(), 100);
                }
            }
        }
    }

    #[test]
    fn what_this_build_can_do_it_does() {
        for compression in [Compression::Lz4, Compression::Zstd] {
            assert_eq!(compression.compress(&[7; 8192]).is_some(), compression.is_available(), "{compression}");
        }
    }
}
