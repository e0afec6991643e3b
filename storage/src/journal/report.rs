//! What opening and verifying a store found.

use std::fmt;

use super::{
    error::Place,
    frame::{Frame, FrameEntry},
};
use crate::ids::{LogId, SegmentNumber, Seq};

/// Bytes that are not as they were written.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Damage {
    /// The segment file; none if it is another file of the store, which `what` names.
    pub segment: Option<SegmentNumber>,
    /// Bytes from the start of that file.
    pub offset: u64,
    /// The log whose records are concerned, where that can be told.
    pub log: Option<LogId>,
    /// The first record concerned.
    pub first_seq: Option<Seq>,
    /// The last record concerned.
    pub last_seq: Option<Seq>,
    /// What is wrong.
    pub what: String,
}

impl Damage {
    pub(crate) fn new(place: Place, what: impl Into<String>) -> Self {
        let Place { segment, offset } = place;
        Self { segment: Some(segment), offset, log: None, first_seq: None, last_seq: None, what: what.into() }
    }

    pub(crate) fn of_identity(what: &str) -> Self {
        Self::of_store(format!("the identity file: {what}"))
    }

    /// Damage to a file that is no segment, which `what` names.
    pub(crate) fn of_store(what: impl Into<String>) -> Self {
        Self { segment: None, offset: 0, log: None, first_seq: None, last_seq: None, what: what.into() }
    }

    /// Damage that concerns the records from `first_seq` to before `next_seq`.
    pub(crate) fn of_records(place: Place, log: LogId, first_seq: Seq, next_seq: Seq, what: impl Into<String>) -> Self {
        let last_seq = Some(Seq(next_seq.0.saturating_sub(1).max(first_seq.0)));
        Self { log: Some(log), first_seq: Some(first_seq), last_seq, ..Self::new(place, what) }
    }
}

impl Frame {
    /// The damage to a frame at `place` of which the rest is whole.
    pub(crate) fn damage(&self, place: Place, what: &str) -> Vec<Damage> {
        let mut offset = place.offset + self.header.entries_offset() as u64;
        let mut damage = Vec::new();
        for entry in &self.entries {
            if let FrameEntry::Lost(lost) = entry {
                let place = Place { offset, ..place };
                damage.push(match lost.header() {
                    Some(header) => Damage::of_records(place, header.log, header.first_seq, header.next_seq(), what),
                    None => Damage::new(place, what),
                });
            }
            offset += entry.bytes().len() as u64;
        }
        if damage.is_empty() {
            damage.push(Damage::new(place, format!("{what}; nothing in the commit is missing")));
        }
        damage
    }
}

impl fmt::Display for Damage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.segment {
            Some(segment) => write!(f, "segment {segment} at offset {}: {}", self.offset, self.what)?,
            None => f.write_str(&self.what)?,
        }
        match (self.log, self.first_seq, self.last_seq) {
            (Some(log), Some(first), Some(last)) => write!(f, " (log {log}, records {first} to {last})"),
            (Some(log), ..) => write!(f, " (log {log})"),
            _ => Ok(()),
        }
    }
}

/// One thing that opening found.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Finding {
    /// Bytes are not as they were written. What they held is not served; the rest is.
    Damage(Damage),
    /// Bytes behind the last valid frame that nothing proves. They were kept aside.
    TornTail {
        /// Where they begin.
        place: Place,
        /// How many, up to the last that is not zero.
        len_bytes: u64,
        /// The file in the store's folder that they were copied to; none when opened to read only.
        kept_in: Option<String>,
        /// They begin like the next frame. A crash in the middle of a commit leaves such bytes; so
        /// would damage to the very last commit before its mark was written, which can't be told apart.
        possibly_acknowledged: bool,
    },
    /// The last frame was valid but not proven durable: it was written anew before being served.
    CopiedLastFrame {
        /// Where it was.
        place: Place,
    },
    /// The last frame is valid but not proven durable, and the store was opened to read only with no writer
    /// beside: it is served from what the system returns, and written anew by the next who opens for writing.
    UnprovenLastFrame {
        /// Where it is.
        place: Place,
    },
    /// The store is a copy, or its own newest records may be missing: it writes new logs from here on.
    NewIncarnation {
        /// Why.
        why: &'static str,
    },
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Damage(damage) => damage.fmt(f),
            Self::TornTail { place, len_bytes, kept_in, possibly_acknowledged } => {
                write!(f, "{place}: {len_bytes} bytes of an unfinished commit were cut out")?;
                if let Some(name) = kept_in {
                    write!(f, " and kept in {name}")?;
                }
                if *possibly_acknowledged { write!(f, " (possibly acknowledged)") } else { Ok(()) }
            }
            Self::CopiedLastFrame { place } => write!(f, "{place}: the last commit was written anew"),
            Self::UnprovenLastFrame { place } => {
                write!(
                    f,
                    "{place}: the store was not closed; its last commit is written anew at the next opening for writing"
                )
            }
            Self::NewIncarnation { why } => write!(f, "new incarnation: {why}; this node writes new logs from here on"),
        }
    }
}

/// What opening found.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Recovery {
    /// The store had been closed, or was new.
    pub clean: bool,
    /// What was found, in the order of the journal.
    pub findings: Vec<Finding>,
}

impl Recovery {
    /// The damage among the findings.
    pub fn damage(&self) -> impl Iterator<Item = &Damage> {
        self.findings.iter().filter_map(|finding| match finding {
            Finding::Damage(damage) => Some(damage),
            _ => None,
        })
    }
}

/// What verifying a whole store found.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct VerifyReport {
    /// Segments read.
    pub segments: u64,
    /// Frames whose checksums match.
    pub commits: u64,
    /// Batches whose checksums match.
    pub batches: u64,
    /// Records in them that are kept, each counted once.
    pub records: u64,
    /// Bytes of segments read.
    pub bytes: u64,
    /// All damage found.
    pub damage: Vec<Damage>,
    /// Bytes that are damaged and that nobody needs: what they held is stored anew elsewhere, or kept no more.
    pub mended: Vec<Damage>,
    /// Bytes at the end that nothing proves: those of a commit that was never finished, as a kill or a power cut leaves
    /// them. Nothing of it was acknowledged, unless it is the very last commit and was damaged before its mark was
    /// written, which can't be told apart. The next opening for writing keeps them aside.
    pub unfinished: Vec<Damage>,
}
