//! What the ends of sessions have said of frontiers, remembered from one session of two nodes to the next.
//!
//! Of each space that a node streams to a peer it remembers where the peer said that its logs end (*heard*), and of each
//! that a peer streams to it what it said itself (*stated*). With the next offer the source names the hash of what it has
//! heard; if the target has stated exactly that, or holds exactly that, it need only say what has changed since.
//!
//! In memory only, and never believed: an answer builds on it only where the hashes agree. So what is forgotten, stale or
//! wrong costs bytes on the wire, and nothing else.

use std::{
    collections::{BTreeMap, HashMap},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
};

use counterfoil_storage::{Head, LogId, NodeName, Seq, SpaceName};

use crate::{
    frontier::{FrontierHash, LogHead},
    message::Scope,
};

/// The most heads that are remembered, over all peers and spaces: of about 80 bytes each.
const HEADS_MAX: usize = 1 << 18;
/// The fewest spaces of peers among which those of no use are looked for.
const LOOK_AT_MIN: usize = 64;

/// What the sessions of one store remember.
#[derive(Debug, Default)]
pub(crate) struct Memory {
    table: Mutex<Table>,
    kept: Arc<AtomicUsize>,
}

#[derive(Debug, Default)]
struct Table {
    statements: HashMap<(NodeName, SpaceName), Arc<Statements>>,
    /// At so many it is looked through for those that are of no use.
    look_at: usize,
}

/// What was said of a space between this node and a peer, by either.
#[derive(Debug, Default)]
pub(crate) struct Statements {
    heard: Mutex<Statement>,
    stated: Mutex<Statement>,
}

/// What one end has said of a space, by its answers to offers and by what it acknowledged since.
#[derive(Debug, Default)]
pub(crate) struct Statement {
    /// Of which logs it was; `None` while nothing was said, or more than is remembered.
    scope: Option<Scope>,
    heads: BTreeMap<LogId, Head>,
    /// How many heads all statements together have.
    kept: Arc<AtomicUsize>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Whatever a panic left behind is not believed.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Memory {
    /// What is remembered of a peer and a space, for a session to go on with.
    pub(crate) fn of(&self, peer: &NodeName, space: &SpaceName) -> Arc<Statements> {
        let mut table = lock(&self.table);
        let key = (peer.clone(), space.clone());
        if let Some(known) = table.statements.get(&key) {
            return Arc::clone(known);
        }
        let is_full = self.kept.load(Ordering::Relaxed) >= HEADS_MAX / 4 * 3;
        if is_full || table.statements.len() >= table.look_at {
            // What was said of names that a peer made up says nothing, and outlives no session.
            table.statements.retain(|_, known| Arc::strong_count(known) > 1 || !(is_full || known.say_nothing()));
            table.look_at = (2 * table.statements.len()).max(LOOK_AT_MIN);
        }
        let new = Arc::new(Statements::counted(&self.kept));
        table.statements.insert(key, Arc::clone(&new));
        new
    }
}

impl Statements {
    fn counted(kept: &Arc<AtomicUsize>) -> Self {
        let statement = || Mutex::new(Statement { scope: None, heads: BTreeMap::new(), kept: Arc::clone(kept) });
        Self { heard: statement(), stated: statement() }
    }

    fn say_nothing(&self) -> bool {
        self.heard().heads.is_empty() && self.stated().heads.is_empty()
    }

    /// What the peer has said, as target.
    pub(crate) fn heard(&self) -> MutexGuard<'_, Statement> {
        lock(&self.heard)
    }

    /// What this end has said, as target.
    pub(crate) fn stated(&self) -> MutexGuard<'_, Statement> {
        lock(&self.stated)
    }
}

impl Statement {
    /// An answer begins that does not build on what was said before.
    pub(crate) fn begin(&mut self, scope: Scope) {
        self.clear();
        self.scope = Some(scope);
    }

    /// A log ends there, it was said. Of a statement that has not begun, that is of no use.
    pub(crate) fn note(&mut self, log: LogId, head: Head) {
        if self.scope.is_some() && self.heads.insert(log, head).is_none() {
            let kept = self.kept.fetch_add(1, Ordering::Relaxed);
            if kept >= HEADS_MAX {
                self.clear();
            }
        }
    }

    fn clear(&mut self) {
        self.scope = None;
        self.kept.fetch_sub(self.heads.len(), Ordering::Relaxed);
        self.heads.clear();
    }

    fn said(&self) -> impl Iterator<Item = LogHead> {
        let heads = self.heads.iter().map(|(log, head)| LogHead { log: *log, head: *head });
        heads.filter(|said| said.head.next_seq > Seq::ZERO)
    }

    /// A copy to build an answer on; `None` if nothing was said.
    pub(crate) fn base(&self) -> Option<Base> {
        let heads: Vec<_> = self.scope.map(|_| self.said().collect())?;
        Some(Base { hash: FrontierHash::of(heads.iter().copied()), heads })
    }

    /// Which of `heads`, all that there are of these logs, have changed since this was said; `None` if it is not known to
    /// whoever has heard `heard`, or if logs are there no more.
    pub(crate) fn changed(&self, scope: Scope, heads: &[LogHead], heard: FrontierHash) -> Option<Vec<LogHead>> {
        if self.scope != Some(scope) || FrontierHash::of(self.said()) != heard {
            return None;
        }
        let (mut changed, mut still) = (Vec::new(), 0);
        for head in heads {
            let said = self.heads.get(&head.log);
            still += usize::from(said.is_some_and(|said| said.next_seq > Seq::ZERO));
            if said != Some(&head.head) {
                changed.push(*head);
            }
        }
        (still == self.said().count()).then_some(changed)
    }
}

impl Drop for Statement {
    fn drop(&mut self) {
        self.clear();
    }
}

/// What the peer has said of a space so far, when it was made an offer.
#[derive(Debug)]
pub(crate) struct Base {
    pub(crate) hash: FrontierHash,
    /// Ascending; of logs with records.
    pub(crate) heads: Vec<LogHead>,
}

impl Base {
    /// All heads, of which these have changed.
    pub(crate) fn with(self, changed: Vec<LogHead>) -> Vec<LogHead> {
        let mut heads: BTreeMap<_, _> = self.heads.into_iter().map(|said| (said.log, said.head)).collect();
        heads.extend(changed.into_iter().map(|said| (said.log, said.head)));
        heads.into_iter().map(|(log, head)| LogHead { log, head }).collect()
    }
}

#[cfg(test)]
mod tests {
    use counterfoil_storage::Digest;

    use super::*;

    fn at(log: u16, next_seq: u64) -> LogHead {
        let mut id = [0; 16];
        id[..2].copy_from_slice(&log.to_be_bytes());
        let head = Head { next_seq: Seq(next_seq), digest: Digest::from_bytes([7; 32]) };
        LogHead { log: LogId::from_bytes(id), head }
    }

    fn stated(heads: &[LogHead]) -> Statement {
        let mut statement = Statement::default();
        statement.begin(Scope::All);
        heads.iter().for_each(|said| statement.note(said.log, said.head));
        statement
    }

    #[test]
    fn what_has_changed_is_told_only_to_who_has_heard_exactly_what_was_said() {
        let said = [at(1, 3), at(2, 4), at(3, 0)];
        let heard = FrontierHash::of(said);
        let statement = stated(&said);
        let now = [at(1, 3), at(2, 5), at(3, 1), at(4, 1)];
        assert_eq!(statement.changed(Scope::All, &now, heard), Some(now[1..].to_vec()));
        assert_eq!(statement.changed(Scope::All, &said[..2], heard), Some(vec![]));
        assert_eq!(statement.changed(Scope::Own, &now, heard), None, "of other logs");
        assert_eq!(statement.changed(Scope::All, &now, FrontierHash::of(said[..1].to_vec())), None);
        assert_eq!(statement.changed(Scope::All, &now[1..], heard), None, "a log is gone");
        assert_eq!(Statement::default().changed(Scope::All, &now, FrontierHash::of([])), None, "nothing was said");
    }

    #[test]
    fn a_base_with_what_has_changed_is_all() {
        let base = stated(&[at(1, 3), at(2, 4), at(3, 0)]).base().unwrap();
        assert_eq!(base.hash, FrontierHash::of([at(1, 3), at(2, 4)]));
        assert_eq!(base.with(vec![at(2, 5), at(4, 1)]), [at(1, 3), at(2, 5), at(4, 1)]);
    }

    fn name(text: &str) -> NodeName {
        NodeName::new(text).unwrap()
    }

    fn space(number: usize) -> SpaceName {
        SpaceName::new(&format!("s-{number}")).unwrap()
    }

    #[test]
    fn a_memory_that_is_full_forgets_what_no_session_needs() {
        let memory = Memory::default();
        for number in 0..10 {
            let statements = memory.of(&name("a"), &space(number));
            statements.stated().begin(Scope::All);
            for log in 0..60_000 {
                statements.stated().note(at(log, 1).log, at(log, 1).head);
            }
            assert!(memory.kept.load(Ordering::Relaxed) <= HEADS_MAX);
            let again = memory.of(&name("a"), &space(number));
            assert_eq!(again.stated().base().map(|base| base.heads.len()), Some(60_000), "the newest is there");
        }
        let held: Vec<_> = (0..10).map(|number| memory.of(&name("b"), &space(number))).collect();
        for statements in &held {
            statements.heard().begin(Scope::All);
            for log in 0..60_000 {
                statements.heard().note(at(log, 1).log, at(log, 1).head);
            }
        }
        assert!(memory.kept.load(Ordering::Relaxed) <= HEADS_MAX, "whatever sessions there are");
    }

    #[test]
    fn nothing_is_left_of_names_that_a_peer_makes_up() {
        let memory = Memory::default();
        let true_one = memory.of(&name("a"), &space(0));
        true_one.heard().begin(Scope::All);
        true_one.heard().note(at(1, 1).log, at(1, 1).head);
        drop(true_one);
        for number in 1..10_000 {
            memory.of(&name("a"), &space(number)).stated().begin(Scope::Own);
        }
        assert!(lock(&memory.table).statements.len() <= 2 * LOOK_AT_MIN);
        assert!(memory.of(&name("a"), &space(0)).heard().base().is_some());
    }
}
