//! How many logs a peer may have this end keep.
//!
//! A log is for ever: whoever may write to a space could have a store fill with empty ones, which every later opening and
//! every session of the space would pay for. An honest node begins one in each of its lives.

use counterfoil_storage::LogId;

use super::{Session, state::Incoming};
use crate::{error::PeerMisbehaved, message::ParkReason};

/// Logs that a peer may announce in a session although this end does not take them. They are remembered, since what was
/// sent before the source heard of it is still to come.
const UNWANTED_MAX: usize = 1024;

impl Session {
    /// A log is this end's to keep: it is in the journal, or may get there.
    pub(super) fn note_kept(&mut self, id: LogId) {
        let Some(log) = self.logs.get_mut(&id) else { return };
        if !std::mem::replace(&mut log.is_kept, true) {
            let kept = &mut self.spaces[log.space].kept;
            *kept.entry(log.genesis.node.clone()).or_default() += 1;
        }
    }

    /// Keeps a log whose flow has opened, or stops it if there are too many of its writer.
    pub(super) fn keep_or_park(&mut self, id: LogId) {
        let limit = self.config.limits.logs_per_writer_max;
        let Some(log) = self.logs.get(&id) else { return };
        let count = self.spaces[log.space].kept.get(log.writer()).copied().unwrap_or_default();
        if log.is_kept || count < limit {
            return self.note_kept(id);
        }
        let (writer, space) = (log.writer().clone(), log.genesis.space.clone());
        self.park_incoming(id, ParkReason::TooManyOfWriter { writer, space, limit: limit as u32 });
    }

    /// Counts a log that was announced and is not taken.
    pub(super) fn note_unwanted(&mut self, id: LogId) -> Result<(), PeerMisbehaved> {
        let Some(log) = self.logs.get(&id).filter(|log| !log.is_kept) else { return Ok(()) };
        if matches!(log.incoming, Incoming::Parked(_)) {
            self.target.unwanted += 1;
        }
        if self.target.unwanted > UNWANTED_MAX {
            return Err(PeerMisbehaved::TooManyLogs { limit: UNWANTED_MAX });
        }
        Ok(())
    }
}
