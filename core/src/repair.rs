//! Getting back of another node what this store has lost.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, mpsc},
    time::Duration,
};

use counterfoil_replication::{
    Direction, Event, Limits, Policy,
    net::{self, DialConfig, Target, Tls},
};
use counterfoil_storage::{LogId, Seq, SpaceName};

use crate::{
    error::{Error, Result},
    store::Store,
};

/// What a repair tells while it works.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum RepairProgress {
    /// The store is read, to find all that is lost.
    Reading {
        /// Batches read.
        batches: u64,
        /// Batches in all.
        batches_max: u64,
    },
    /// What is lost is fetched.
    Fetching {
        /// Records that are here again.
        records: u64,
        /// Records that were lost.
        records_max: u64,
    },
}

/// What a repair came to.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Repair {
    /// Ranges of records that are here again, durable and as they were: log, first record, after the last.
    pub mended: Vec<(LogId, Seq, Seq)>,
    /// What is still missing.
    pub missing: Vec<Unmended>,
}

/// Records that are lost, and that the peer could not give.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Unmended {
    /// The space.
    pub space: SpaceName,
    /// The log.
    pub log: LogId,
    /// The first record missing.
    pub first_seq: Seq,
    /// After the last.
    pub next_seq: Seq,
    /// They were the end of the log once: no digest tells which these are. Whoever streams the log brings them back.
    pub is_end: bool,
    /// Why.
    pub reason: String,
}

impl Repair {
    /// How many records are here again.
    pub fn records(&self) -> u64 {
        self.mended.iter().map(|(_, first_seq, next_seq)| next_seq.0 - first_seq.0).sum()
    }
}

/// What the thread that repairs is told.
enum Told {
    Session(Event),
    Failed { reason: String, is_lasting: bool },
}

impl Store {
    /// Reads the whole store to find the records that its disk has lost, and gets them back of `peer`
    /// (`NODE@HOST:PORT`): verbatim, each batch known by its digest, so that nothing need be trusted. The peer must have
    /// them, and let this node read their spaces.
    ///
    /// Blocks. Appends, reads and links go on meanwhile; an ordinary link mends what is known to be lost by itself, as
    /// far as its peer can. Gives up after `timeout` without progress.
    ///
    /// **Durability**: what is reported as mended survives power loss. A crash in the middle leaves a store in which
    /// some of it is still missing.
    ///
    /// # Errors
    ///
    /// The peer is not well named, is this node, or was not reached; the certificate is another node's; the disk refuses;
    /// the store is closed or read only. That something is still missing is no error: see [`Repair::missing`].
    pub fn repair_from(
        &self,
        peer: impl Into<String>,
        tls: Tls,
        timeout: Duration,
        mut progress: impl FnMut(RepairProgress),
    ) -> Result<Repair> {
        let target: Target = peer.into().parse()?;
        if target.node == *self.node() {
            return Err(Error::SameNode { node: target.node });
        }
        let journal = &self.inner.journal;
        journal.find_holes(|batches, batches_max| progress(RepairProgress::Reading { batches, batches_max }))?;
        let missing = self.missing();
        let records_max = missing.iter().map(Unmended::records).sum();
        if missing.iter().all(|missing| missing.is_end) {
            journal.close_gaps()?;
            return Ok(Repair { missing, ..Repair::default() });
        }
        let spaces: BTreeSet<SpaceName> = missing.iter().map(|missing| missing.space.clone()).collect();
        let config = DialConfig {
            target: target.clone(),
            journal: journal.clone(),
            tls,
            spaces: spaces.into_iter().map(|space| (space, Direction::Mend)).collect(),
            policy: Arc::new(Policy::nothing()),
            limits: Limits::default(),
            acks: Arc::clone(self.inner.acks.board()),
            compress: false,
        };
        let (tell, told) = mpsc::channel();
        let runtime = self.inner.runtime.handle()?;
        let link = {
            let _in_runtime = runtime.enter();
            net::dial(config, move |event| {
                // Nobody listens any more once the repair is over.
                let _ = tell.send(match event {
                    net::LinkEvent::Session(event) => Told::Session(event),
                    net::LinkEvent::State(net::LinkState::Waiting { reason, is_lasting, .. }) => {
                        Told::Failed { reason: reason.to_string(), is_lasting }
                    }
                    _ => return,
                });
            })?
        };
        let fetched = |records| progress(RepairProgress::Fetching { records, records_max });
        let outcome = self.fetch_missing(&target, &told, timeout, fetched);
        link.stop();
        outcome
    }

    /// Waits until all that is missing is here, or the peer is known to be of no further use.
    fn fetch_missing(
        &self,
        target: &Target,
        told: &mpsc::Receiver<Told>,
        timeout: Duration,
        mut fetched: impl FnMut(u64),
    ) -> Result<Repair> {
        let mut repair = Repair::default();
        let mut reasons: BTreeMap<LogId, String> = BTreeMap::new();
        let mut last_failure = format!("nothing was heard of it within {} s", timeout.as_secs_f32());
        let mut was_reached = false;
        fetched(0);
        loop {
            let is_awaited = |missing: &Unmended| !missing.is_end && !reasons.contains_key(&missing.log);
            let is_left = self.missing().iter().any(is_awaited);
            if !is_left {
                break;
            }
            match told.recv_timeout(timeout) {
                Ok(Told::Session(event)) => match event {
                    Event::PeerReady { .. } => was_reached = true,
                    Event::Mended { log, first_seq, next_seq } => {
                        repair.mended.push((log, first_seq, next_seq));
                        reasons.remove(&log);
                        fetched(repair.records());
                    }
                    Event::NotMended { log, reason } => drop(reasons.insert(log, reason.to_string())),
                    _ => {}
                },
                Ok(Told::Failed { reason, is_lasting }) => {
                    last_failure = reason;
                    if is_lasting {
                        break;
                    }
                }
                Err(_) => break,
            }
        }
        let missing = self.missing();
        if !was_reached && !missing.is_empty() {
            return Err(Error::NotReached { peer: target.to_string(), reason: last_failure });
        }
        repair.missing = missing;
        for missing in repair.missing.iter_mut().filter(|missing| !missing.is_end) {
            missing.reason = reasons.get(&missing.log).unwrap_or(&last_failure).clone();
        }
        Ok(repair)
    }

    /// All that is known to be lost; of what was the end of a log once with the reason, of the rest without.
    fn missing(&self) -> Vec<Unmended> {
        let logs = self.inner.journal.logs(None).into_iter();
        let of_log = logs.flat_map(|info| {
            let (space, log, head) = (info.genesis.space.clone(), info.id, info.durable.next_seq);
            let parts = info.holes.iter().flat_map(move |(first_seq, next_seq)| {
                [(first_seq, next_seq.min(head), false), (first_seq.max(head), next_seq, true)]
            });
            let parts: Vec<_> = parts.filter(|(first_seq, next_seq, _)| first_seq < next_seq).collect();
            let unmended = move |(first_seq, next_seq, is_end): (Seq, Seq, bool)| Unmended {
                space: space.clone(),
                log,
                first_seq,
                next_seq,
                is_end,
                reason: if is_end { END_LOST.to_owned() } else { String::new() },
            };
            parts.into_iter().map(unmended)
        });
        of_log.collect()
    }
}

/// No digest tells which records these were.
const END_LOST: &str =
    "they were the end of the log once: `counterfoil sync` with a node that has them brings them back";

impl Unmended {
    /// How many records are missing.
    pub fn records(&self) -> u64 {
        self.next_seq.0 - self.first_seq.0
    }
}
