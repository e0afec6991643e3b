//! Walking along the records in the body of a batch.

use std::ops::Range;

use bytes::Bytes;

use super::{BatchError, BatchHeader};
use crate::{ids::Seq, time::Hlc, varint};

/// Set in the length of a record that has attributes; a length alone is never so large.
const ATTRIBUTES_BIT: u64 = 1 << 25;

/// Set in the first byte of the attributes when a time follows.
const HAPPENED_BIT: u8 = 1;

/// What a writer says of a record besides its bytes. Most records have none, which costs nothing.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Attributes {
    /// What the bytes are; 0 is the application's own. The journal does not look at it.
    pub kind: RecordKind,
    /// When it happened, if that is not when it was recorded: milliseconds since 1970 (UTC), negative before.
    pub happened_unix_ms: Option<i64>,
}

/// Tells records of one use from those of another: 0 to 127. The journal gives it no meaning.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RecordKind(u8);

impl RecordKind {
    /// Bytes of the application's own.
    pub const PLAIN: Self = Self(0);

    /// A kind by its number.
    ///
    /// # Panics
    ///
    /// If the number is above 127; in a constant, that is an error of compilation.
    pub const fn new(number: u8) -> Self {
        assert!(number < 128, "kinds have seven bits");
        Self(number)
    }

    /// Its number.
    pub const fn number(self) -> u8 {
        self.0
    }
}

impl Attributes {
    /// Appends what stands before the bytes of a record that takes `len` of them.
    pub(super) fn write_prefix(self, out: &mut Vec<u8>, len: usize, step: u64) {
        if self == Self::default() {
            varint::write(out, len as u64);
            varint::write(out, step);
            return;
        }
        varint::write(out, len as u64 | ATTRIBUTES_BIT);
        varint::write(out, step);
        let happened = self.happened_unix_ms.map(i64::to_le_bytes);
        out.push(self.kind.0 << 1 | if happened.is_some() { HAPPENED_BIT } else { 0 });
        out.extend(happened.iter().flatten());
    }

    /// Reads attributes and how many bytes they took; none may be left out that were announced.
    #[cold]
    fn read(bytes: &[u8]) -> Option<(Self, usize)> {
        let (first, rest) = bytes.split_first().filter(|(first, _)| **first != 0)?;
        let kind = RecordKind(first >> 1);
        if first & HAPPENED_BIT == 0 {
            return Some((Self { kind, happened_unix_ms: None }, 1));
        }
        let happened_unix_ms = Some(i64::from_le_bytes(*rest.first_chunk()?));
        Some((Self { kind, happened_unix_ms }, 9))
    }
}

/// A record: bytes with a place in a log and a time.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    /// Its sequence number in its log.
    pub seq: Seq,
    /// When its writer recorded it.
    pub time: Hlc,
    /// What its writer says of it besides.
    pub attributes: Attributes,
    /// Its bytes: a slice of the batch's buffer, which lives as long as the slice does.
    pub body: Bytes,
}

/// A record that borrows its bytes from its batch: a scan that looks at each record and keeps none does
/// not count references.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RecordRef<'a> {
    /// Its sequence number in its log.
    pub seq: Seq,
    /// When its writer recorded it.
    pub time: Hlc,
    /// What its writer says of it besides.
    pub attributes: Attributes,
    /// Its bytes.
    pub body: &'a [u8],
}

/// A record in a body: sequence number, time, attributes, where its bytes are.
type Found = (Seq, Hlc, Attributes, Range<usize>);

/// A walk along the records in a body.
#[derive(Debug, Clone)]
struct Walk {
    header: BatchHeader,
    /// Where in the body the next record begins.
    offset: usize,
    seq: Seq,
    time: Hlc,
}

impl Walk {
    fn new(header: &BatchHeader) -> Self {
        Self { header: *header, offset: 0, seq: header.first_seq, time: header.time }
    }

    /// The next record.
    fn next(&mut self, body: &[u8]) -> Option<Result<Found, BatchError>> {
        if self.seq == self.header.next_seq() {
            return (self.offset < body.len()).then(|| Err(self.fail(body)));
        }
        let seq = self.seq;
        Some(match self.step(body) {
            Some((attributes, range)) => Ok((seq, self.time, attributes, range)),
            None => Err(self.fail(body)),
        })
    }

    fn step(&mut self, body: &[u8]) -> Option<(Attributes, Range<usize>)> {
        let rest = body.get(self.offset..)?;
        let (mut len, len_bytes) = varint::read(rest)?;
        let (step, step_bytes) = varint::read(&rest[len_bytes..])?;
        let mut start = self.offset + len_bytes + step_bytes;
        let mut attributes = Attributes::default();
        if len & ATTRIBUTES_BIT != 0 {
            let (read, attributes_bytes) = Attributes::read(&body[start..])?;
            (attributes, len, start) = (read, len ^ ATTRIBUTES_BIT, start + attributes_bytes);
        }
        let end = start.checked_add(usize::try_from(len).ok()?)?;
        let time = Hlc::from_bits(self.time.to_bits().checked_add(step)?);
        if end > body.len() || (self.seq == self.header.first_seq && step != 0) {
            return None;
        }
        self.offset = end;
        self.seq.0 += 1;
        self.time = time;
        Some((attributes, start..end))
    }

    /// Nothing follows an error.
    fn fail(&mut self, body: &[u8]) -> BatchError {
        self.offset = body.len();
        self.seq = self.header.next_seq();
        BatchError::Records { log: self.header.log, first_seq: self.header.first_seq }
    }
}

/// The body of a batch, decompressed. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Body {
    pub(super) header: BatchHeader,
    pub(super) bytes: Bytes,
}

impl Body {
    /// The records in order, which share its buffer.
    pub fn records(&self) -> Records {
        Records { walk: Walk::new(&self.header), body: self.bytes.clone(), failure: None }
    }

    /// The same, borrowed: for scans that keep no record.
    pub fn record_refs(&self) -> RecordRefs<'_> {
        RecordRefs { walk: Walk::new(&self.header), body: &self.bytes }
    }

    /// The record with this sequence number; `None` if it is not here, or the records don't fit the header.
    pub fn record(&self, seq: Seq) -> Option<Record> {
        let mut walk = Walk::new(&self.header);
        for _ in self.header.first_seq.0..seq.0 {
            walk.next(&self.bytes)?.ok()?;
        }
        let (found, time, attributes, range) = walk.next(&self.bytes)?.ok()?;
        (found == seq).then(|| Record { seq, time, attributes, body: self.bytes.slice(range) })
    }
}

/// The records of one batch, in order.
#[derive(Debug, Clone)]
pub struct Records {
    walk: Walk,
    body: Bytes,
    /// The body can't be read.
    failure: Option<BatchError>,
}

impl Records {
    /// No record but an error.
    pub(super) fn failed(header: &BatchHeader, error: BatchError) -> Self {
        Self { walk: Walk::new(header), body: Bytes::new(), failure: Some(error) }
    }
}

impl Iterator for Records {
    type Item = Result<Record, BatchError>;

    fn next(&mut self) -> Option<Self::Item> {
        if let Some(failure) = self.failure.take() {
            // Nothing follows it.
            self.walk.fail(&self.body);
            return Some(Err(failure));
        }
        let next = self.walk.next(&self.body)?;
        Some(next.map(|(seq, time, attributes, range)| Record { seq, time, attributes, body: self.body.slice(range) }))
    }
}

/// The records of one batch, in order, borrowed from it.
#[derive(Debug, Clone)]
pub struct RecordRefs<'a> {
    walk: Walk,
    body: &'a [u8],
}

impl<'a> Iterator for RecordRefs<'a> {
    type Item = Result<RecordRef<'a>, BatchError>;

    fn next(&mut self) -> Option<Self::Item> {
        let next = self.walk.next(self.body)?;
        Some(next.map(|(seq, time, attributes, range)| RecordRef { seq, time, attributes, body: &self.body[range] }))
    }
}
