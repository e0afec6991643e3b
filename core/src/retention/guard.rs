//! What must not be removed though it is due and mirrored.

use counterfoil_storage::{Batch, LogInfo, Seq};

use super::{Held, due::held_by};
use crate::{error::Result, read::COLLECTION, space::Space};

/// What of a log may be removed.
#[derive(Debug)]
pub(super) struct Removable {
    /// Where a batch begins: what comes before may go.
    pub(super) until: Seq,
    /// Bytes of the batches before that.
    pub(super) bytes: u64,
    /// What is in the way of more, if anything.
    pub(super) held: Option<Held>,
}

/// What of a log may be removed before `end`, of which enough others have all.
///
/// Reads all of it: so nothing is removed of which it can't be told whether it is needed. That may take long; it ends early, with
/// less, once `is_stopping`.
pub(super) fn removable(space: &Space, info: &LogInfo, end: Seq, is_stopping: impl Fn() -> bool) -> Removable {
    let journal = space.journal();
    let mut found = Removable { until: info.first_seq, bytes: 0, held: None };
    // One batch less: a floor needs a batch behind it that can be read.
    let mut before = (found.until, found.bytes);
    let mut batches = journal.read(info.id, found.until);
    while found.until < end && found.held.is_none() {
        if is_stopping() {
            found.held = Some(Held::Failed { what: "the store is being closed".to_owned() });
            break;
        }
        match batches.next() {
            Some(Ok(batch)) if batch.next_seq() <= end => match needed(space, &batch) {
                Ok(None) => {
                    before = (found.until, found.bytes);
                    (found.until, found.bytes) = (batch.next_seq(), found.bytes + batch.bytes().len() as u64);
                }
                Ok(Some(seq)) => found.held = Some(Held::LiveVersion { seq }),
                Err(error) => found.held = Some(Held::Failed { what: error.to_string() }),
            },
            Some(Err(error)) => {
                found.held = Some(held_by(&error, found.until));
                (found.until, found.bytes) = before;
            }
            Some(Ok(_)) | None => break,
        }
    }
    if !matches!(found.held, Some(Held::Hole { .. }))
        && found.until > info.first_seq
        && let Err(error) = journal.read_batch(info.id, found.until)
    {
        found.held = Some(held_by(&error, found.until));
        (found.until, found.bytes) = before;
    }
    found
}

/// The first record of a batch that the collections of its space still need.
fn needed(space: &Space, batch: &Batch) -> Result<Option<Seq>> {
    for record in batch.body()?.record_refs() {
        let record = record?;
        if record.attributes.kind == COLLECTION {
            return needed_by_collections(space, batch, record.seq);
        }
    }
    Ok(None)
}

#[cfg(feature = "collections")]
fn needed_by_collections(space: &Space, batch: &Batch, _first: Seq) -> Result<Option<Seq>> {
    space.engine()?.first_needed(batch)
}

/// Without them it can't be told which versions are live.
#[cfg(not(feature = "collections"))]
#[expect(clippy::unnecessary_wraps, reason = "with collections it may fail")]
fn needed_by_collections(_: &Space, _: &Batch, first: Seq) -> Result<Option<Seq>> {
    Ok(Some(first))
}
