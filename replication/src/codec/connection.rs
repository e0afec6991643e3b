//! The two directions of a connection's bytes: messages one after the other, from some point on compressed.
//!
//! # Bytes
//!
//! A direction begins with messages as the [codec](super) describes them. Where its sender wants to compress, and the
//! other end has said in its `Hello` that it takes that, there stands
//!
//! | bytes | field |
//! |---|---|
//! | 4 | 2: length of what follows, little-endian |
//! | 1 | kind 2: compressed from here on |
//! | 1 | how: 1 Zstandard |
//!
//! and all that follows is one Zstandard stream of a window of [`WINDOW_BYTES`], without a checksum (TLS has one), of
//! which the plain bytes are messages again. What was said together is flushed: nothing waits for a block to fill.
//!
//! Source: Zstandard is [RFC 8878](https://www.rfc-editor.org/rfc/rfc8878).

use std::io;

use bytes::BytesMut;

use super::{CodecError, KIND_COMPRESSED, decode, encode};
use crate::message::Message;

/// How far back a compressed direction may refer, in bytes: what each end keeps for it.
pub const WINDOW_BYTES: usize = 1 << WINDOW_LOG;
#[cfg_attr(not(feature = "zstd"), expect(dead_code, reason = "for those who compress"))]
const LEVEL: i32 = 3;
const WINDOW_LOG: u32 = 18;

/// Plain bytes are compressed, and decompressed, so many at a time.
const PIECE_BYTES: usize = 64 << 10;

/// Says that a direction is compressed from here on, by Zstandard.
const BEGIN: [u8; 6] = [2, 0, 0, 0, KIND_COMPRESSED, 1];

/// Whether this end can take a compressed direction.
pub(crate) const TAKES_ZSTD: bool = cfg!(feature = "zstd");

/// The direction that leaves.
#[derive(Debug, Default)]
pub struct MessageWriter {
    /// `None` while messages leave as they are.
    compressor: Option<Compressor>,
}

impl MessageWriter {
    /// Appends a message to `out`, or to what the next [`flush`](Self::flush) brings there; its length as it is.
    ///
    /// # Errors
    ///
    /// The compressor finds no memory.
    ///
    /// # Panics
    ///
    /// As [`encode`].
    pub fn push(&mut self, message: &Message, out: &mut BytesMut) -> io::Result<usize> {
        let Some(compressor) = &mut self.compressor else {
            let before = out.len();
            encode(message, out);
            return Ok(out.len() - before);
        };
        let before = compressor.plain.len();
        encode(message, &mut compressor.plain);
        let len = compressor.plain.len() - before;
        if compressor.plain.len() >= PIECE_BYTES {
            compressor.compress(out)?;
        }
        Ok(len)
    }

    /// Appends what is missing for the other end to have all messages that were pushed.
    ///
    /// # Errors
    ///
    /// The compressor finds no memory.
    pub fn flush(&mut self, out: &mut BytesMut) -> io::Result<()> {
        self.compressor.as_mut().map_or(Ok(()), |compressor| compressor.flush(out))
    }

    /// Compresses all that is pushed from here on. The peer must have said that it takes that.
    ///
    /// # Errors
    ///
    /// There is no memory, or this was built without the feature `zstd`.
    pub fn compress(&mut self, out: &mut BytesMut) -> io::Result<()> {
        if self.compressor.is_none() {
            self.compressor = Some(Compressor::new()?);
            out.extend_from_slice(&BEGIN);
        }
        Ok(())
    }

    /// Whether [`compress`](Self::compress) has been called.
    pub fn is_compressing(&self) -> bool {
        self.compressor.is_some()
    }
}

/// The direction that arrives.
#[derive(Debug, Default)]
pub struct MessageReader {
    arrived: BytesMut,
    /// `None` while messages arrive as they are.
    decompressor: Option<Decompressor>,
}

impl MessageReader {
    /// Where to put what arrives. Of it no more is kept than the longest message and what was put there last.
    pub fn arrived(&mut self) -> &mut BytesMut {
        &mut self.arrived
    }

    /// The next message; `None` if more bytes are needed.
    ///
    /// However small the compressed bytes, no more than a piece of 64 KiB is decompressed beyond the longest message.
    ///
    /// # Errors
    ///
    /// The connection can't be used further.
    pub fn next(&mut self, batch_len_max_bytes: u32) -> Result<Option<Message>, CodecError> {
        if self.decompressor.is_none() {
            if !TAKES_ZSTD || !self.arrived.starts_with(&BEGIN) {
                // Nothing else begins so and is as short.
                let is_part = TAKES_ZSTD && BEGIN.starts_with(&self.arrived);
                return if is_part { Ok(None) } else { decode(&mut self.arrived, batch_len_max_bytes) };
            }
            let _ = self.arrived.split_to(BEGIN.len());
            self.decompressor = Some(Decompressor::new()?);
        }
        let Some(decompressor) = &mut self.decompressor else { return Ok(None) };
        loop {
            let message = decode(&mut decompressor.plain, batch_len_max_bytes)?;
            if message.is_some() || !decompressor.decompress(&mut self.arrived)? {
                return Ok(message);
            }
        }
    }

    /// Gives back a buffer in which nothing waits and less than so many bytes are left; whether it did.
    pub fn shrink(&mut self, bytes: usize) -> bool {
        let is_spent = self.arrived.is_empty() && self.arrived.capacity() < bytes;
        if is_spent {
            self.arrived = BytesMut::new();
        }
        is_spent
    }
}

#[cfg(feature = "zstd")]
use with_zstd::{Compressor, Decompressor};

#[cfg(feature = "zstd")]
mod with_zstd {
    use std::{fmt, io};

    use bytes::{Buf as _, BytesMut};
    use zstd::stream::raw::{CParameter, DParameter, Decoder, Encoder, InBuffer, Operation as _, OutBuffer};

    use super::{LEVEL, PIECE_BYTES, WINDOW_LOG};
    use crate::codec::CodecError;

    pub(super) struct Compressor {
        encoder: Encoder<'static>,
        /// Not compressed yet.
        pub(super) plain: BytesMut,
        /// Something has been compressed and not flushed.
        is_unflushed: bool,
    }

    impl fmt::Debug for Compressor {
        fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.debug_struct("Compressor").field("plain_bytes", &self.plain.len()).finish_non_exhaustive()
        }
    }

    impl Compressor {
        pub(super) fn new() -> io::Result<Self> {
            let mut encoder = Encoder::new(LEVEL)?;
            encoder.set_parameter(CParameter::WindowLog(WINDOW_LOG))?;
            Ok(Self { encoder, plain: BytesMut::new(), is_unflushed: false })
        }

        /// Compresses what is there.
        pub(super) fn compress(&mut self, out: &mut BytesMut) -> io::Result<()> {
            let mut input = InBuffer::around(&self.plain);
            while input.pos() < input.src.len() {
                append(out, |output| self.encoder.run(&mut input, output).map(drop))?;
            }
            self.plain.clear();
            self.is_unflushed = true;
            Ok(())
        }

        pub(super) fn flush(&mut self, out: &mut BytesMut) -> io::Result<()> {
            if !self.plain.is_empty() {
                self.compress(out)?;
            }
            let mut left = usize::from(std::mem::take(&mut self.is_unflushed));
            while left > 0 {
                append(out, |output| {
                    left = self.encoder.flush(output)?;
                    Ok(())
                })?;
            }
            Ok(())
        }
    }

    pub(super) struct Decompressor {
        decoder: Decoder<'static>,
        /// Messages that have not been taken.
        pub(super) plain: BytesMut,
        /// The last piece was full: there may be more of what was taken.
        has_more: bool,
    }

    impl fmt::Debug for Decompressor {
        fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.debug_struct("Decompressor").field("plain_bytes", &self.plain.len()).finish_non_exhaustive()
        }
    }

    impl Decompressor {
        pub(super) fn new() -> Result<Self, CodecError> {
            let mut decoder = Decoder::new().map_err(|_| CodecError::Compressed)?;
            decoder.set_parameter(DParameter::WindowLogMax(WINDOW_LOG)).map_err(|_| CodecError::Compressed)?;
            Ok(Self { decoder, plain: BytesMut::new(), has_more: false })
        }

        /// Decompresses one piece of what has arrived; whether there was anything.
        pub(super) fn decompress(&mut self, arrived: &mut BytesMut) -> Result<bool, CodecError> {
            if arrived.is_empty() && !self.has_more {
                return Ok(false);
            }
            let mut input = InBuffer::around(arrived);
            let before = self.plain.len();
            append(&mut self.plain, |output| self.decoder.run(&mut input, output).map(drop))
                .map_err(|_| CodecError::Compressed)?;
            let (taken, brought) = (input.pos(), self.plain.len() - before);
            arrived.advance(taken);
            self.has_more = brought == PIECE_BYTES;
            Ok(taken > 0 || brought > 0)
        }
    }

    /// Has a piece appended to `out`.
    fn append(out: &mut BytesMut, work: impl FnOnce(&mut OutBuffer<'_, [u8]>) -> io::Result<()>) -> io::Result<()> {
        let before = out.len();
        out.resize(before + PIECE_BYTES, 0);
        let mut output = OutBuffer::around(&mut out[before..]);
        let result = work(&mut output);
        let brought = output.pos();
        out.truncate(before + brought);
        result
    }
}

#[cfg(not(feature = "zstd"))]
use without_zstd::{Compressor, Decompressor};

/// Nothing is compressed: neither can be made.
#[cfg(not(feature = "zstd"))]
mod without_zstd {
    use std::io;

    use bytes::BytesMut;

    use crate::codec::CodecError;

    #[derive(Debug)]
    pub(super) struct Compressor {
        pub(super) plain: BytesMut,
        never: std::convert::Infallible,
    }

    impl Compressor {
        pub(super) fn new() -> io::Result<Self> {
            Err(io::ErrorKind::Unsupported.into())
        }

        pub(super) fn compress(&mut self, _out: &mut BytesMut) -> io::Result<()> {
            match self.never {}
        }

        pub(super) fn flush(&mut self, _out: &mut BytesMut) -> io::Result<()> {
            match self.never {}
        }
    }

    #[derive(Debug)]
    pub(super) struct Decompressor {
        pub(super) plain: BytesMut,
        never: std::convert::Infallible,
    }

    impl Decompressor {
        pub(super) fn new() -> Result<Self, CodecError> {
            Err(CodecError::Compressed)
        }

        pub(super) fn decompress(&mut self, _arrived: &mut BytesMut) -> Result<bool, CodecError> {
            match self.never {}
        }
    }
}

#[cfg(all(test, feature = "zstd"))]
mod tests;
