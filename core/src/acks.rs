//! Who has what: the acks of other nodes, and those who wait for them.

use std::{
    collections::{BTreeMap, HashMap},
    ops::Range,
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll, Waker},
    time::Duration,
};

use counterfoil_replication::{AckBoard, AckChange, Event};
use counterfoil_storage::{Head, Holes, Incarnation, LogId, NodeName, Seq};

/// What a node has said of its own disk, to this node or to one that passed it on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ack {
    /// The log.
    pub log: LogId,
    /// The node whose disk it is.
    pub node: NodeName,
    /// Which life of that node.
    pub incarnation: Incarnation,
    /// Where the log durably ends there.
    pub head: Head,
    /// What was there before that and is lost: its disk is damaged.
    pub holes: Holes,
}

impl From<counterfoil_replication::Ack> for Ack {
    fn from(ack: counterfoil_replication::Ack) -> Self {
        let counterfoil_replication::Ack { log, node, incarnation, head, holes, .. } = ack;
        Self { log, node, incarnation, head, holes }
    }
}

impl Ack {
    /// Up to where the node has all of the log: what comes behind a hole may be there, and is not promised.
    pub fn whole_until(&self) -> Seq {
        self.holes.first_seq().unwrap_or(self.head.next_seq).min(self.head.next_seq)
    }

    /// The same for one to whom nothing before `floor` matters.
    pub(crate) fn whole_from(&self, floor: Seq) -> Seq {
        let missing = self.holes.iter().find(|(_, next_seq)| *next_seq > floor);
        missing.map_or(self.head.next_seq, |(first_seq, _)| first_seq).min(self.head.next_seq)
    }

    /// Whether the node has the records from `first_seq` to before `next_seq`.
    pub(crate) fn covers(&self, first_seq: Seq, next_seq: Seq) -> bool {
        self.head.next_seq >= next_seq && !self.holes.meet(first_seq, next_seq)
    }
}

/// The acks that a store has heard since it was opened. In memory only: peers say them again.
#[derive(Debug)]
pub(crate) struct Acks {
    /// Who said what; the table holds what follows from it.
    board: Arc<AckBoard>,
    table: Mutex<Table>,
    /// Anything in the table has changed.
    changed: Condvar,
}

#[derive(Debug, Default)]
struct Table {
    closed: bool,
    /// Counts changes, so that one between a look and a wait is not missed.
    version: u64,
    next_waiter: u64,
    logs: HashMap<LogId, LogAcks>,
}

#[derive(Debug, Default)]
struct LogAcks {
    nodes: BTreeMap<NodeName, Ack>,
    waiters: BTreeMap<WaiterId, Waiter>,
}

/// Names a waiter of a log until it is satisfied or leaves.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct WaiterId(u64);

/// Is woken once `nodes` distinct nodes have these records.
#[derive(Debug)]
struct Waiter {
    records: Range<Seq>,
    nodes: usize,
    waker: Waker,
}

impl LogAcks {
    fn count(&self, records: &Range<Seq>) -> usize {
        self.nodes.values().filter(|ack| ack.covers(records.start, records.end)).count()
    }

    /// Takes out the wakers of those who have what they wait for.
    fn satisfied(&mut self) -> Vec<Waker> {
        let ready: Vec<_> = self
            .waiters
            .iter()
            .filter(|(_, waiter)| self.count(&waiter.records) >= waiter.nodes)
            .map(|(id, _)| *id)
            .collect();
        ready.iter().filter_map(|id| self.waiters.remove(id)).map(|waiter| waiter.waker).collect()
    }
}

impl Acks {
    pub(crate) fn new(own: NodeName) -> Self {
        Self { board: AckBoard::new(own), table: Mutex::default(), changed: Condvar::new() }
    }

    /// Where the sessions of the store hear of each other's acks.
    pub(crate) fn board(&self) -> &Arc<AckBoard> {
        &self.board
    }

    fn table(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes over what has changed on the board. The table has been locked since the board was told: changes of two
    /// sessions are taken over in the order in which the board had them.
    fn apply(&self, mut table: MutexGuard<'_, Table>, changes: &[AckChange]) {
        if changes.is_empty() {
            return;
        }
        let mut wakers = Vec::new();
        for AckChange { ack, .. } in changes {
            let log = table.logs.entry(ack.log).or_default();
            if ack.head.next_seq > Seq::ZERO {
                log.nodes.insert(ack.node.clone(), ack.clone().into());
            } else {
                log.nodes.remove(&ack.node);
            }
            wakers.extend(log.satisfied());
        }
        table.version += 1;
        drop(table);
        self.changed.notify_all();
        wakers.into_iter().for_each(Waker::wake);
    }

    /// Has those who wait for any change look again.
    pub(crate) fn touch(&self) {
        self.table().version += 1;
        self.changed.notify_all();
    }

    /// Takes in what a session with `peer` tells of acks. Gives back what others may want to hear: the event, and a
    /// withdrawal for each node that turns out to hold less than was known.
    pub(crate) fn hear(&self, peer: &NodeName, event: Event) -> Vec<Event> {
        let table = self.table();
        let changes = self.board.hear(peer, &event);
        self.apply(table, &changes);
        // One that lowers nothing has been made up for by what somebody else says.
        let is_told_by_changes =
            matches!(event, Event::Withdrawn { .. } | Event::Forgotten { .. } | Event::Restated { .. });
        let is_superseded = matches!(event, Event::Stated { .. }) && !changes.is_empty();
        let event = Some(event).filter(|_| !is_told_by_changes && !is_superseded);
        event.into_iter().chain(changes.into_iter().filter_map(withdrawal)).collect()
    }

    /// How many other nodes have these records of a log.
    pub(crate) fn count(&self, log: LogId, records: &Range<Seq>) -> usize {
        self.table().logs.get(&log).map_or(0, |log| log.count(records))
    }

    /// What `node` holds of the log, as far as known here.
    pub(crate) fn of_node(&self, log: LogId, node: &NodeName) -> Option<Ack> {
        self.table().logs.get(&log)?.nodes.get(node).cloned()
    }

    /// What is known of a log.
    pub(crate) fn of_log(&self, log: LogId) -> Vec<Ack> {
        let table = self.table();
        table.logs.get(&log).map(|acks| acks.nodes.values().cloned().collect()).unwrap_or_default()
    }

    /// What nodes say themselves, in sessions that live now: see [`AckBoard::first_hand`].
    pub(crate) fn first_hand(&self, log: LogId) -> Vec<Ack> {
        // What is on the board and not taken over yet is as true.
        self.board.first_hand(log).into_iter().map(Ack::from).collect()
    }

    /// Ready once `nodes` other nodes have these records of the log: with true; or once the store
    /// is closed: with false. Otherwise the waker is kept, under the id in `waiter`.
    pub(crate) fn poll_mirrored(
        &self,
        (log, records, nodes): (LogId, Range<Seq>, usize),
        waiter: &mut Option<WaiterId>,
        cx: &mut Context<'_>,
    ) -> Poll<bool> {
        let mut table = self.table();
        let closed = table.closed;
        table.next_waiter += 1;
        let id = waiter.unwrap_or(WaiterId(table.next_waiter));
        let acks = table.logs.entry(log).or_default();
        if acks.count(&records) >= nodes || closed {
            acks.waiters.remove(&id);
            *waiter = None;
            return Poll::Ready(acks.count(&records) >= nodes);
        }
        acks.waiters.insert(id, Waiter { records, nodes, waker: cx.waker().clone() });
        *waiter = Some(id);
        Poll::Pending
    }

    /// Forgets a waiter that is no longer interested.
    pub(crate) fn forget(&self, log: LogId, waiter: WaiterId) {
        if let Some(acks) = self.table().logs.get_mut(&log) {
            acks.waiters.remove(&waiter);
        }
    }

    /// Counts the changes so far: take it before looking, and give it to [`wait_changed`](Self::wait_changed).
    pub(crate) fn version(&self) -> u64 {
        self.table().version
    }

    /// Waits for a change after `version`, or `timeout`.
    pub(crate) fn wait_changed(&self, version: u64, timeout: Duration) {
        let is_same = |table: &mut Table| table.version == version && !table.closed;
        drop(self.changed.wait_timeout_while(self.table(), timeout, is_same).unwrap_or_else(PoisonError::into_inner));
    }

    /// Nothing more will be heard: wakes all who wait.
    pub(crate) fn close(&self) {
        let mut table = self.table();
        table.closed = true;
        let waiters: Vec<_> = table.logs.values_mut().flat_map(|log| std::mem::take(&mut log.waiters)).collect();
        drop(table);
        self.changed.notify_all();
        for (_, waiter) in waiters {
            waiter.waker.wake();
        }
    }

    pub(crate) fn is_closed(&self) -> bool {
        self.table().closed
    }
}

/// The event of a change by which a node holds less.
fn withdrawal(change: AckChange) -> Option<Event> {
    let from = change.from.filter(|_| change.is_withdrawal())?;
    let counterfoil_replication::Ack { log, node, incarnation, head: to, holes, losses, .. } = change.ack;
    Some(Event::Withdrawn { log, node, incarnation, from, to, holes, losses })
}

#[cfg(test)]
mod tests {
    use counterfoil_storage::Digest;

    use super::*;

    fn ack(node: &str, incarnation: u8, next_seq: u64) -> Ack {
        Ack {
            log: LogId::from_bytes([1; 16]),
            node: NodeName::new(node).unwrap(),
            incarnation: Incarnation::from_bytes([incarnation; 16]),
            head: Head { next_seq: Seq(next_seq), digest: Digest::from_bytes([0; 32]) },
            holes: Holes::default(),
        }
    }

    fn acks() -> Acks {
        Acks::new(NodeName::new("own").unwrap())
    }

    impl Acks {
        fn record(&self, ack: Ack) {
            let Ack { log, node, incarnation, head, holes } = ack;
            self.hear(&node.clone(), Event::Acked { log, node, incarnation, head, holes, via: Vec::new(), losses: 0 });
        }
    }

    fn met(ack: &Ack) -> Event {
        Event::PeerReady { node: ack.node.clone(), incarnation: ack.incarnation, protocol: 1 }
    }

    #[test]
    fn distinct_other_nodes_count_and_the_own_never() {
        let acks = acks();
        let log = LogId::from_bytes([1; 16]);
        for said in [ack("own", 0, 9), ack("hub", 1, 5), ack("hub", 1, 7), ack("second", 1, 6)] {
            acks.record(said);
        }
        assert_eq!(acks.count(log, &(Seq::ZERO..Seq(7))), 1);
        assert_eq!(acks.count(log, &(Seq::ZERO..Seq(6))), 2);
        assert_eq!(acks.count(log, &(Seq::ZERO..Seq(8))), 0);
    }

    #[test]
    fn an_ack_of_one_life_does_not_go_back_and_another_life_begins_anew() {
        let acks = acks();
        let log = LogId::from_bytes([1; 16]);
        acks.record(ack("hub", 1, 7));
        acks.record(ack("hub", 1, 5));
        assert_eq!(acks.count(log, &(Seq::ZERO..Seq(7))), 1);
        acks.record(ack("hub", 2, 5));
        assert_eq!(acks.count(log, &(Seq::ZERO..Seq(7))), 0);
        let Ack { node, incarnation, head: to, .. } = ack("hub", 2, 3);
        let from = ack("hub", 2, 5).head;
        acks.hear(
            &node.clone(),
            Event::Withdrawn { log, node, incarnation, from, to, holes: Holes::default(), losses: 0 },
        );
        assert_eq!(acks.count(log, &(Seq::ZERO..Seq(5))), 0);
    }

    #[test]
    fn what_a_node_said_in_an_earlier_life_no_longer_counts_once_it_is_met_in_another() {
        let acks = acks();
        let log = LogId::from_bytes([1; 16]);
        acks.record(ack("hub", 1, 7));
        acks.record(ack("second", 1, 7));
        // The hub has burnt; an empty one of its name takes its place, and has nothing to acknowledge yet.
        let empty = ack("hub", 2, 0);
        let told = acks.hear(&empty.node, met(&empty));
        assert!(
            matches!(&told[..], [Event::PeerReady { .. }, Event::Withdrawn { to, .. }] if *to == empty.head),
            "{told:?}"
        );
        assert_eq!(acks.count(log, &(Seq::ZERO..Seq(7))), 1);
        assert_eq!(acks.of_node(log, &empty.node), None);
        // One that is met again in the same life still has what it had.
        let again = ack("second", 1, 7);
        acks.hear(&again.node, met(&again));
        assert_eq!(acks.count(log, &(Seq::ZERO..Seq(7))), 1);
    }

    #[test]
    fn only_the_first_statement_of_a_session_takes_back_what_a_node_said_in_the_same_life() {
        let acks = acks();
        let (log, said, rolled_back) = (LogId::from_bytes([1; 16]), ack("hub", 1, 7), ack("hub", 1, 5));
        let Ack { node, incarnation, .. } = said.clone();
        let holes = Holes::default;
        let acked = |ack: &Ack| {
            let (head, via) = (ack.head, Vec::new());
            Event::Acked { log, node: node.clone(), incarnation, head, holes: holes(), via, losses: 0 }
        };
        let stated = |ack: &Ack| Event::Stated { log, node: node.clone(), incarnation, head: ack.head, holes: holes() };
        acks.hear(&node, stated(&said));
        assert_eq!(acks.of_node(log, &node), None, "it may be another history");
        acks.hear(&node, acked(&said));
        acks.hear(&node, acked(&rolled_back));
        assert_eq!(acks.count(log, &(Seq::ZERO..Seq(7))), 1, "it was overtaken");
        let version = acks.version();
        let withdrawn = acks.hear(&node, stated(&rolled_back));
        let (from, to) = (said.head, rolled_back.head);
        assert_eq!(
            withdrawn,
            [Event::Withdrawn { log, node: node.clone(), incarnation, from, to, holes: holes(), losses: 1 }]
        );
        assert_eq!((acks.count(log, &(Seq::ZERO..Seq(7))), acks.count(log, &(Seq::ZERO..Seq(5)))), (0, 1));
        assert_ne!(acks.version(), version);
        assert_eq!(acks.hear(&node, stated(&said)), [stated(&said)]);
        assert_eq!(acks.count(log, &(Seq::ZERO..Seq(7))), 0);
    }

    #[test]
    fn a_waiter_is_forgotten_when_satisfied_when_it_leaves_and_when_the_store_closes() {
        let acks = acks();
        let log = LogId::from_bytes([1; 16]);
        let mut cx = Context::from_waker(Waker::noop());
        let mut first = None;
        assert!(acks.poll_mirrored((log, Seq::ZERO..Seq(5), 1), &mut first, &mut cx).is_pending());
        acks.record(ack("hub", 1, 5));
        assert!(acks.table().logs[&log].waiters.is_empty());
        assert_eq!(acks.poll_mirrored((log, Seq::ZERO..Seq(5), 1), &mut first, &mut cx), Poll::Ready(true));

        let mut second = None;
        assert!(acks.poll_mirrored((log, Seq::ZERO..Seq(6), 1), &mut second, &mut cx).is_pending());
        acks.forget(log, second.unwrap());
        assert!(acks.table().logs[&log].waiters.is_empty());
        assert!(acks.poll_mirrored((log, Seq::ZERO..Seq(6), 1), &mut second, &mut cx).is_pending());
        acks.close();
        assert_eq!(acks.poll_mirrored((log, Seq::ZERO..Seq(6), 1), &mut second, &mut cx), Poll::Ready(false));
    }

    #[test]
    fn what_a_node_has_lost_is_not_counted_until_it_is_there_again_and_all_else_is() {
        let acks = acks();
        let log = LogId::from_bytes([1; 16]);
        let said = ack("hub", 1, 9);
        acks.record(said.clone());
        let holes = |ranges: &[(u64, u64)]| {
            let ranges: Vec<_> = ranges.iter().map(|(first, next)| (Seq(*first), Seq(*next))).collect();
            Holes::try_from(ranges).unwrap()
        };
        let Ack { node, incarnation, head, .. } = said.clone();
        let rotten =
            Event::Withdrawn { log, node, incarnation, from: head, to: head, holes: holes(&[(3, 5)]), losses: 1 };
        assert_eq!(acks.hear(&said.node, rotten.clone()), [rotten]);
        let count = |first, next| acks.count(log, &(Seq(first)..Seq(next)));
        assert_eq!((count(0, 3), count(0, 9), count(4, 5), count(5, 9)), (1, 0, 0, 1));
        assert_eq!(acks.of_log(log)[0].whole_until(), Seq(3));
        let mut waiter = None;
        let woken = Arc::new(Woken::default());
        let waker = Waker::from(Arc::clone(&woken));
        let mut cx = Context::from_waker(&waker);
        assert!(acks.poll_mirrored((log, Seq(3)..Seq(4), 1), &mut waiter, &mut cx).is_pending());
        acks.record(Ack { holes: holes(&[(4, 5)]), ..said.clone() });
        assert!(woken.0.load(std::sync::atomic::Ordering::SeqCst), "it is there again");
        acks.record(said.clone());
        assert_eq!((count(0, 9), acks.of_log(log)[0].whole_until()), (1, Seq(9)));
        // In the next session it says at first that it has lost something since.
        let Ack { node, incarnation, head, .. } = said.clone();
        let stated = Event::Stated { log, node, incarnation, head, holes: holes(&[(0, 1)]) };
        assert!(matches!(&acks.hear(&said.node, stated)[..], [Event::Withdrawn { .. }]));
        assert_eq!((count(0, 1), count(1, 9)), (0, 1));
    }

    #[derive(Default)]
    struct Woken(std::sync::atomic::AtomicBool);

    impl std::task::Wake for Woken {
        fn wake(self: Arc<Self>) {
            self.0.store(true, std::sync::atomic::Ordering::SeqCst);
        }
    }
}
