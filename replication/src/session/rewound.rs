//! What a peer's word says of the logs that this node writes: that it holds more of one, or another history, than there is here. Nobody
//! but this node writes them, so then it was rolled back, or the peer lies; which of the two can't be told. So the word of a
//! node counts only if this end dialled it for the space, or lets it relay there, and what comes of it is bounded:
//! see `Journal::begin_new_life`.

use counterfoil_storage::{Head, LogId};

use super::Session;

/// What is said is looked at soon; this bounds what a peer can have piled up before.
pub(super) const CLAIMS_MAX: usize = 16;

impl Session {
    /// The peer says, or has shown, that a log ends there at its disk, which is not on the chain here as far as this session knows
    /// it.
    pub(crate) fn note_claim(&mut self, id: LogId, remote: Head) {
        let Some(log) = self.logs.get(&id) else { return };
        let is_trusted = self.spaces[log.space].brought.is_some() || self.rights(log.space).relay;
        if is_trusted && self.is_own(log) && self.claims.len() < CLAIMS_MAX {
            self.claims.push((id, remote));
        }
    }

    /// The next log of this node of which the peer holds what this session does not know of; where it ends there. Another session may
    /// know more: compare with the journal.
    pub fn poll_claim(&mut self) -> Option<(LogId, Head)> {
        self.claims.pop()
    }
}
