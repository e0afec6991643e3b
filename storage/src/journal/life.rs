//! A new life of the node while its store is open.
//!
//! That a store was rolled back in its place (its files copied over, a machine set back) can't be seen here: its identity is
//! bound to the files that are there. It shows when another node holds what this one wrote and has no more. Then all logs
//! that the node writes end where they are, since each may go on elsewhere, and it writes on in new ones: what recovery does
//! for a copy, at once.

use std::{
    array, io,
    path::PathBuf,
    sync::{Arc, PoisonError},
};

use thiserror::Error;

use super::{
    Journal,
    commit::Shared,
    error::{AppendError, DiskError},
    identity::{BoundIdentity, IDENTITY_FILE, Identity, IdentityState},
};
use crate::{
    ids::{Incarnation, SpaceName},
    sync::{Mutex, MutexGuard, OnceLock},
    vfs::OpenMode,
};

/// Lives that may be begun while a store is open: a node that claims to hold what it does not must not make others begin
/// logs without end.
const NEW_LIVES_MAX: usize = 8;
/// Nor is one begun once a space has as many logs of this node: others take no more than twice as many.
const LOGS_OF_NODE_MAX: usize = 128;

/// A new life was not begun.
#[derive(Debug, Clone, Error)]
#[non_exhaustive]
pub enum NewLifeError {
    /// What is queued could not be committed first.
    #[error(transparent)]
    Append(#[from] AppendError),
    /// The identity could not be read or written. Appends go on as before.
    #[error("{path}: the identity can't be written: {error}")]
    Disk {
        /// The file.
        path: PathBuf,
        /// What the operating system said.
        error: DiskError,
    },
    /// It has been done as often as it is believed while the store is open.
    #[error(
        "it has begun {NEW_LIVES_MAX} new lives since the store was opened: open it again, and look at who says what it holds"
    )]
    TooOften,
    /// The node has written so many logs to a space that others may soon take no more.
    #[error(
        "it has written {LOGS_OF_NODE_MAX} logs to space {space}, half of what others take: it goes on in the last one"
    )]
    TooManyLogs {
        /// The space.
        space: SpaceName,
    },
}

/// Who the store is and was since it was opened.
#[derive(Debug)]
pub(crate) struct Lifetimes {
    identities: [OnceLock<Identity>; NEW_LIVES_MAX + 1],
    /// Held while a new life is begun.
    beginning: Mutex<()>,
}

impl Lifetimes {
    pub(crate) fn new(identity: Identity) -> Self {
        let lifetimes = Self { identities: array::from_fn(|_| OnceLock::new()), beginning: Mutex::new(()) };
        lifetimes.begin(identity);
        lifetimes
    }

    /// Who it is now.
    pub(crate) fn present(&self) -> &Identity {
        let present = self.identities.iter().map_while(OnceLock::get).last();
        present.expect("the first was there from the beginning")
    }

    /// Whether another life may be begun.
    fn has_next(&self) -> bool {
        self.identities.iter().any(|identity| identity.get().is_none())
    }

    fn begin(&self, identity: Identity) {
        let next = self.identities.iter().find(|identity| identity.get().is_none());
        // Nobody else begins one: the first is the constructor's, the others have the lock.
        drop(next.map(|next| next.set(identity)));
    }
}

/// As long as it is held, the life of the node does not change.
#[derive(Debug)]
pub struct PresentLife<'a> {
    _beginning: MutexGuard<'a, ()>,
}

impl Journal {
    /// Waits until no new life is being begun, and has none begin before the guard is dropped.
    pub fn hold_life(&self) -> PresentLife<'_> {
        PresentLife { _beginning: self.shared.lifetimes.beginning.lock().unwrap_or_else(PoisonError::into_inner) }
    }

    /// Ends the logs of the life `found_in`, if it is the present one: another node holds what was written in it and is not
    /// here. From then on [`identity`](Self::identity) tells of another life, whose logs are to be made; what is there of the old ones is
    /// taken of others like any log's.
    ///
    /// Appends to the old logs fail with [`AppendError::LogEnded`], nothing of them queued. What was queued is committed first.
    ///
    /// **Durability**: on `Ok` the new life survives power loss.
    ///
    /// # Errors
    ///
    /// Nothing has changed, unless it is the disk that failed: then the store may be in another life when it is next opened.
    pub fn begin_new_life(&self, found_in: Incarnation) -> Result<(), NewLifeError> {
        let shared = &self.shared;
        let _beginning = self.hold_life();
        if shared.identity().incarnation != found_in {
            return Ok(());
        }
        shared.check_new_life()?;
        shared.queue_for_writing()?.end_own_logs(true);
        let begun = self.commit().map_err(NewLifeError::from).and_then(|()| shared.renew_identity());
        let mut queue = shared.queue();
        match begun {
            Ok(identity) => {
                let view = shared.view();
                queue.give_up_own_logs(|slot| view.head_at(slot));
                drop(view);
                shared.lifetimes.begin(identity);
                drop(queue);
                tracing::warn!(dir = %shared.dir.display(), "this store was rolled back: a new life begins, in new logs");
                Ok(())
            }
            Err(error) => {
                queue.end_own_logs(false);
                Err(error)
            }
        }
    }
}

impl Shared {
    /// Who the store is now.
    pub(crate) fn identity(&self) -> &Identity {
        self.lifetimes.present()
    }

    fn check_new_life(&self) -> Result<(), NewLifeError> {
        if !self.lifetimes.has_next() {
            return Err(NewLifeError::TooOften);
        }
        let view = self.view();
        let mut spaces: Vec<_> = view.logs().map(|state| &state.row.genesis).collect();
        spaces.retain(|genesis| genesis.node == self.identity().node);
        spaces.sort_unstable_by(|a, b| a.space.cmp(&b.space));
        let full = spaces.chunk_by(|a, b| a.space == b.space).find(|logs| logs.len() >= LOGS_OF_NODE_MAX);
        full.map_or(Ok(()), |logs| Err(NewLifeError::TooManyLogs { space: logs[0].space.clone() }))
    }

    /// Writes down that another life has begun.
    fn renew_identity(self: &Arc<Self>) -> Result<Identity, NewLifeError> {
        let path = self.dir.join(IDENTITY_FILE);
        let renew = || {
            let file = self.options.vfs.open(&path, OpenMode::Write)?;
            let (IdentityState::Whole(mut bound) | IdentityState::OneCopy(mut bound)) = BoundIdentity::read(&*file)?
            else {
                return Err(io::Error::new(io::ErrorKind::InvalidData, "it is damaged"));
            };
            bound.identity.incarnation = self.options.lives.next()?;
            bound.write(&*file)?;
            Ok(bound.identity)
        };
        renew().map_err(|error| NewLifeError::Disk { path: path.clone(), error: error.into() })
    }
}
