//! Who has what: the acks of other nodes, and those who wait for them.

use std::{
    collections::{BTreeMap, HashMap},
    sync::{Condvar, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll, Waker},
    time::Duration,
};

use counterfoil_replication::Event;
use counterfoil_storage::{Head, Incarnation, LogId, NodeName, Seq};

/// What a node has said of its own disk.
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
}

/// The acks that a store has heard since it was opened. In memory only: peers say them again.
#[derive(Debug)]
pub(crate) struct Acks {
    /// Its own node never counts.
    own: NodeName,
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
    nodes: BTreeMap<NodeName, (Incarnation, Head)>,
    waiters: BTreeMap<WaiterId, Waiter>,
}

/// Names a waiter of a log until it is satisfied or leaves.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct WaiterId(u64);

/// Is woken once `nodes` distinct nodes have the log up to `next_seq`.
#[derive(Debug)]
struct Waiter {
    next_seq: Seq,
    nodes: usize,
    waker: Waker,
}

impl LogAcks {
    fn count(&self, next_seq: Seq) -> usize {
        self.nodes.values().filter(|(_, head)| head.next_seq >= next_seq).count()
    }

    /// Takes out the wakers of those who have what they wait for.
    fn satisfied(&mut self) -> Vec<Waker> {
        let mut heads: Vec<_> = self.nodes.values().map(|(_, head)| head.next_seq).collect();
        heads.sort_unstable_by(|a, b| b.cmp(a));
        let is_there = |waiter: &Waiter| match waiter.nodes.checked_sub(1) {
            None => true,
            Some(index) => heads.get(index).is_some_and(|next_seq| *next_seq >= waiter.next_seq),
        };
        let ready: Vec<_> = self.waiters.iter().filter(|(_, waiter)| is_there(waiter)).map(|(id, _)| *id).collect();
        ready.iter().filter_map(|id| self.waiters.remove(id)).map(|waiter| waiter.waker).collect()
    }
}

impl Acks {
    pub(crate) fn new(own: NodeName) -> Self {
        Self { own, table: Mutex::default(), changed: Condvar::new() }
    }

    fn table(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes an ack in. It replaces what the node said before: heads of one incarnation only grow,
    /// another incarnation begins anew.
    pub(crate) fn record(&self, ack: Ack) {
        if ack.node == self.own {
            return;
        }
        let mut table = self.table();
        let log = table.logs.entry(ack.log).or_default();
        let said = log.nodes.entry(ack.node).or_insert((ack.incarnation, ack.head));
        if said.0 != ack.incarnation || said.1.next_seq < ack.head.next_seq {
            *said = (ack.incarnation, ack.head);
        }
        let wakers = log.satisfied();
        table.version += 1;
        drop(table);
        self.changed.notify_all();
        wakers.into_iter().for_each(Waker::wake);
    }

    /// Lowers an ack: the node has lost what it had.
    pub(crate) fn withdraw(&self, ack: Ack) {
        let mut table = self.table();
        table.logs.entry(ack.log).or_default().nodes.insert(ack.node, (ack.incarnation, ack.head));
        table.version += 1;
        drop(table);
        self.changed.notify_all();
    }

    /// Takes in where a log ends at a node, as a new session says: a node that was rolled back has lost what it said
    /// beyond that. Where what it said ended, if so.
    fn lower(&self, ack: &Ack) -> Option<Head> {
        let mut table = self.table();
        let said = table.logs.get_mut(&ack.log)?.nodes.get_mut(&ack.node)?;
        if said.0 != ack.incarnation || said.1.next_seq <= ack.head.next_seq {
            return None;
        }
        let from = std::mem::replace(&mut said.1, ack.head);
        table.version += 1;
        drop(table);
        self.changed.notify_all();
        Some(from)
    }

    /// A node is here in this life: what it said in another was of a disk that it may not have any more, and
    /// of logs that it lacks now it says nothing.
    fn meet(&self, node: &NodeName, incarnation: Incarnation) {
        let mut table = self.table();
        for log in table.logs.values_mut() {
            if log.nodes.get(node).is_some_and(|(said_in, _)| *said_in != incarnation) {
                log.nodes.remove(node);
            }
        }
        table.version += 1;
        drop(table);
        self.changed.notify_all();
    }

    /// Has those who wait for any change look again.
    pub(crate) fn touch(&self) {
        self.table().version += 1;
        self.changed.notify_all();
    }

    /// Takes in what a session tells of acks. Gives the event back for others, as a withdrawal if it turned out as one.
    pub(crate) fn hear(&self, event: Event) -> Event {
        match &event {
            Event::Acked { log, node, incarnation, head } => {
                self.record(Ack { log: *log, node: node.clone(), incarnation: *incarnation, head: *head });
            }
            Event::Stated { log, node, incarnation, head } => {
                let (log, node, incarnation, to) = (*log, node.clone(), *incarnation, *head);
                if let Some(from) = self.lower(&Ack { log, node: node.clone(), incarnation, head: to }) {
                    return Event::Withdrawn { log, node, incarnation, from, to };
                }
            }
            Event::PeerReady { node, incarnation, .. } => self.meet(node, *incarnation),
            Event::Withdrawn { log, node, incarnation, to, .. } => {
                self.withdraw(Ack { log: *log, node: node.clone(), incarnation: *incarnation, head: *to });
            }
            _ => {}
        }
        event
    }

    /// How many other nodes have the log up to `next_seq`.
    pub(crate) fn count(&self, log: LogId, next_seq: Seq) -> usize {
        self.table().logs.get(&log).map_or(0, |log| log.count(next_seq))
    }

    /// Where the log durably ends at `node`, as far as known here.
    pub(crate) fn head(&self, log: LogId, node: &NodeName) -> Option<Head> {
        self.table().logs.get(&log)?.nodes.get(node).map(|(_, head)| *head)
    }

    /// What is known of a log.
    pub(crate) fn of_log(&self, log: LogId) -> Vec<Ack> {
        let table = self.table();
        let nodes = table.logs.get(&log).map(|acks| &acks.nodes);
        nodes
            .into_iter()
            .flatten()
            .map(|(node, (incarnation, head))| Ack { log, node: node.clone(), incarnation: *incarnation, head: *head })
            .collect()
    }

    /// Ready once `nodes` other nodes have the log up to `next_seq`: with true; or once the store
    /// is closed: with false. Otherwise the waker is kept, under the id in `waiter`.
    pub(crate) fn poll_mirrored(
        &self,
        (log, next_seq, nodes): (LogId, Seq, usize),
        waiter: &mut Option<WaiterId>,
        cx: &mut Context<'_>,
    ) -> Poll<bool> {
        let mut table = self.table();
        let closed = table.closed;
        table.next_waiter += 1;
        let id = waiter.unwrap_or(WaiterId(table.next_waiter));
        let acks = table.logs.entry(log).or_default();
        if acks.count(next_seq) >= nodes || closed {
            acks.waiters.remove(&id);
            *waiter = None;
            return Poll::Ready(acks.count(next_seq) >= nodes);
        }
        acks.waiters.insert(id, Waiter { next_seq, nodes, waker: cx.waker().clone() });
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
        }
    }

    fn acks() -> Acks {
        Acks::new(NodeName::new("own").unwrap())
    }

    #[test]
    fn distinct_other_nodes_count_and_the_own_never() {
        let acks = acks();
        let log = LogId::from_bytes([1; 16]);
        for said in [ack("own", 0, 9), ack("hub", 1, 5), ack("hub", 1, 7), ack("second", 1, 6)] {
            acks.record(said);
        }
        assert_eq!(acks.count(log, Seq(7)), 1);
        assert_eq!(acks.count(log, Seq(6)), 2);
        assert_eq!(acks.count(log, Seq(8)), 0);
    }

    #[test]
    fn an_ack_of_one_life_does_not_go_back_and_another_life_begins_anew() {
        let acks = acks();
        let log = LogId::from_bytes([1; 16]);
        acks.record(ack("hub", 1, 7));
        acks.record(ack("hub", 1, 5));
        assert_eq!(acks.count(log, Seq(7)), 1);
        acks.record(ack("hub", 2, 5));
        assert_eq!(acks.count(log, Seq(7)), 0);
        acks.withdraw(ack("hub", 2, 3));
        assert_eq!(acks.count(log, Seq(5)), 0);
    }

    #[test]
    fn what_a_node_said_in_an_earlier_life_no_longer_counts_once_it_is_met_in_another() {
        let acks = acks();
        let log = LogId::from_bytes([1; 16]);
        acks.record(ack("hub", 1, 7));
        acks.record(ack("second", 1, 7));
        // The hub has burnt; an empty one of its name takes its place, and has nothing to acknowledge yet.
        let met = ack("hub", 2, 0);
        acks.hear(Event::PeerReady { node: met.node.clone(), incarnation: met.incarnation, protocol: 1 });
        assert_eq!(acks.count(log, Seq(7)), 1);
        assert_eq!(acks.head(log, &met.node), None);
        // One that is met again in the same life still has what it had.
        let again = ack("second", 1, 7);
        acks.hear(Event::PeerReady { node: again.node, incarnation: again.incarnation, protocol: 1 });
        assert_eq!(acks.count(log, Seq(7)), 1);
    }

    #[test]
    fn only_the_first_statement_of_a_session_takes_back_what_a_node_said_in_the_same_life() {
        let acks = acks();
        let (log, said, rolled_back) = (LogId::from_bytes([1; 16]), ack("hub", 1, 7), ack("hub", 1, 5));
        let Ack { node, incarnation, .. } = said.clone();
        let acked = |ack: &Ack| Event::Acked { log, node: node.clone(), incarnation, head: ack.head };
        let stated = |ack: &Ack| Event::Stated { log, node: node.clone(), incarnation, head: ack.head };
        acks.hear(stated(&said));
        assert_eq!(acks.head(log, &node), None, "it may be another history");
        acks.hear(acked(&said));
        acks.hear(acked(&rolled_back));
        assert_eq!(acks.count(log, Seq(7)), 1, "it was overtaken");
        let version = acks.version();
        let withdrawn = acks.hear(stated(&rolled_back));
        let (from, to) = (said.head, rolled_back.head);
        assert_eq!(withdrawn, Event::Withdrawn { log, node: node.clone(), incarnation, from, to });
        assert_eq!((acks.count(log, Seq(7)), acks.count(log, Seq(5))), (0, 1));
        assert_ne!(acks.version(), version);
        assert_eq!(acks.hear(stated(&said)), stated(&said));
        assert_eq!(acks.count(log, Seq(7)), 0);
    }

    #[test]
    fn a_waiter_is_forgotten_when_satisfied_when_it_leaves_and_when_the_store_closes() {
        let acks = acks();
        let log = LogId::from_bytes([1; 16]);
        let mut cx = Context::from_waker(Waker::noop());
        let mut first = None;
        assert!(acks.poll_mirrored((log, Seq(5), 1), &mut first, &mut cx).is_pending());
        acks.record(ack("hub", 1, 5));
        assert!(acks.table().logs[&log].waiters.is_empty());
        assert_eq!(acks.poll_mirrored((log, Seq(5), 1), &mut first, &mut cx), Poll::Ready(true));

        let mut second = None;
        assert!(acks.poll_mirrored((log, Seq(6), 1), &mut second, &mut cx).is_pending());
        acks.forget(log, second.unwrap());
        assert!(acks.table().logs[&log].waiters.is_empty());
        assert!(acks.poll_mirrored((log, Seq(6), 1), &mut second, &mut cx).is_pending());
        acks.close();
        assert_eq!(acks.poll_mirrored((log, Seq(6), 1), &mut second, &mut cx), Poll::Ready(false));
    }
}
