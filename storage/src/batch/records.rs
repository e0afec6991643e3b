//! Walking along the records in the body of a batch.

use std::ops::Range;

use bytes::Bytes;

use super::{BatchError, BatchHeader};
use crate::{ids::Seq, time::Hlc, varint};

/// A record: bytes with a place in a log and a time.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    /// Its sequence number in its log.
    pub seq: Seq,
    /// When its writer recorded it.
    pub time: Hlc,
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
    /// Its bytes.
    pub body: &'a [u8],
}

/// A record in a body: sequence number, time, where its bytes are.
type Found = (Seq, Hlc, Range<usize>);

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
            Some(range) => Ok((seq, self.time, range)),
            None => Err(self.fail(body)),
        })
    }

    fn step(&mut self, body: &[u8]) -> Option<Range<usize>> {
        let rest = body.get(self.offset..)?;
        let (len, len_bytes) = varint::read(rest)?;
        let (step, step_bytes) = varint::read(&rest[len_bytes..])?;
        let start = self.offset + len_bytes + step_bytes;
        let end = start.checked_add(usize::try_from(len).ok()?)?;
        let time = Hlc::from_bits(self.time.to_bits().checked_add(step)?);
        if end > body.len() || (self.seq == self.header.first_seq && step != 0) {
            return None;
        }
        self.offset = end;
        self.seq.0 += 1;
        self.time = time;
        Some(start..end)
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
        let (found, time, range) = walk.next(&self.bytes)?.ok()?;
        (found == seq).then(|| Record { seq, time, body: self.bytes.slice(range) })
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
        Some(next.map(|(seq, time, range)| Record { seq, time, body: self.body.slice(range) }))
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
        Some(next.map(|(seq, time, range)| RecordRef { seq, time, body: &self.body[range] }))
    }
}
