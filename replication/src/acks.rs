//! Who has what: the acks that the sessions of one store hear, and those that they pass on.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, HashSet},
    mem,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll, Waker},
};

use counterfoil_storage::{Digest, Head, Holes, Incarnation, LogId, NodeName, Seq};

use crate::{event::Event, message::Ack};

/// What other nodes have said they hold of each log, as the sessions of one store hear it: of the peer's own disk, or
/// passed on by the peer.
///
/// Of a node that this store talks to itself, what it says itself counts, and nobody else's word, once it has said as
/// much as others said of it or taken something back. Of another one, the most that any peer passes on. This store's own node is not among them. In memory only: peers say it all again.
///
/// A hub that mirrors onward gives the board to all its sessions: what is heard of logs in one is passed on in those in
/// which the logs come in, towards their writer.
#[derive(Debug)]
pub struct AckBoard {
    own: NodeName,
    table: Mutex<Table>,
}

#[derive(Debug, Default)]
struct Table {
    logs: HashMap<LogId, BTreeMap<NodeName, Heard>>,
    next_subscriber: u64,
    subscribers: HashMap<u64, Subscriber>,
    /// Who passes on acks of a log.
    interested: HashMap<LogId, BTreeSet<u64>>,
}

/// What is known of one node and log.
#[derive(Debug, Clone)]
struct Heard {
    incarnation: Incarnation,
    /// By who told it: the node itself, or peers that pass it on.
    told: BTreeMap<NodeName, Held>,
    /// From now on the node's own word counts, and nobody else's: it has said as much as others said of it, or taken
    /// something back. Until then what it says may only be on its way to there.
    is_own_word: bool,
    /// What the node has sent, which it says nothing more by than that it has so much at least.
    held: Option<Head>,
}

/// What a node is said to hold of a log.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Held {
    head: Head,
    /// Apart from these.
    holes: Holes,
}

/// A session that passes acks on.
#[derive(Debug, Default)]
struct Subscriber {
    logs: BTreeSet<LogId>,
    /// Logs of which something is known that the session has not taken, each once, in the order in which that came.
    dirty: Vec<LogId>,
    is_dirty: HashSet<LogId>,
    waker: Option<Waker>,
}

impl Subscriber {
    fn note(&mut self, log: LogId) {
        if self.is_dirty.insert(log) {
            self.dirty.push(log);
        }
    }

    fn take(&mut self) -> Vec<LogId> {
        self.is_dirty.clear();
        mem::take(&mut self.dirty)
    }
}

/// What holds of a node and a log has changed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AckChange {
    /// What holds now; at 0 if nothing does.
    pub ack: Ack,
    /// Where the log ended there until now, as far as known; `None` if nothing was.
    pub from: Option<Head>,
    /// What was missing there until now.
    pub from_holes: Holes,
}

impl AckChange {
    /// Whether the node holds less than was known.
    pub fn is_withdrawal(&self) -> bool {
        self.from.is_some_and(|from| from.next_seq > self.ack.head.next_seq)
            || (self.from.is_some() && !self.ack.holes.are_within(&self.from_holes))
    }
}

/// Nothing of a log: whatever its digest would be.
fn nothing() -> Held {
    Held { head: Head { next_seq: Seq::ZERO, digest: Digest::from_bytes([0; 32]) }, holes: Holes::default() }
}

impl Heard {
    /// What holds of `node`, leaving out what `except` told.
    fn held(&self, node: &NodeName, except: Option<&NodeName>) -> Option<Held> {
        let told = self.told.iter().filter(|(by, _)| Some(*by) != except);
        let sent = self.held.filter(|_| Some(node) != except);
        let said = match self.told.get(node).filter(|_| self.is_own_word && Some(node) != except) {
            Some(direct) => Some(direct),
            None => told.map(|(_, held)| held).max_by_key(|held| held.head.next_seq),
        };
        let holes = said.map(|said| said.holes.clone()).unwrap_or_default();
        let head = said.map(|said| said.head).into_iter().chain(sent).max_by_key(|head| head.next_seq);
        head.map(|head| Held { head, holes })
    }

    /// Most of what others than the node said of it.
    fn hearsay(&self, node: &NodeName) -> Seq {
        self.told.iter().filter(|(by, _)| *by != node).map(|(_, held)| held.head.next_seq).max().unwrap_or_default()
    }
}

impl AckBoard {
    /// For the store of the node `own`, with nothing on it.
    pub fn new(own: NodeName) -> Arc<Self> {
        Arc::new(Self { own, table: Mutex::default() })
    }

    fn table(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes in what a session with `peer` tells; what has changed by it.
    pub fn hear(&self, peer: &NodeName, event: &Event) -> Vec<AckChange> {
        match event {
            Event::Acked { log, node, incarnation, head, holes } => self.change(*log, node, |heard| {
                let held = Held { head: *head, holes: holes.clone() };
                in_life(heard, peer, node, *incarnation).is_some_and(|heard| heard.raise(peer, node, held))
            }),
            Event::Holds { log, node, incarnation, head } => self.change(*log, node, |heard| {
                let heard = in_life(heard, peer, node, *incarnation);
                heard.is_some_and(|heard| {
                    let is_more = heard.held.is_none_or(|held| held.next_seq < head.next_seq);
                    heard.held = heard.held.filter(|_| !is_more).or(Some(*head));
                    is_more
                })
            }),
            Event::Stated { log, node, incarnation, head, holes } => self.change(*log, node, |heard| {
                heard.as_mut().is_some_and(|heard| heard.lower(node, *incarnation, *head, holes))
            }),
            Event::Withdrawn { log, node, incarnation, to, holes, .. } => self.change(*log, node, |heard| {
                let heard = in_life(heard, peer, node, *incarnation);
                let left = Held { head: *to, holes: holes.clone() };
                heard.is_some_and(|heard| {
                    heard.held = heard.held.filter(|held| peer != node || held.next_seq <= to.next_seq);
                    heard.is_own_word |= peer == node;
                    heard.told.insert(peer.clone(), left.clone()) != Some(left)
                })
            }),
            Event::PeerReady { node, incarnation, .. } => {
                let logs: Vec<LogId> = self.table().logs.keys().copied().collect();
                let meet =
                    |heard: &mut Option<Heard>| heard.as_mut().is_some_and(|heard| heard.meet(node, *incarnation));
                logs.into_iter().flat_map(|log| self.change(log, node, meet)).collect()
            }
            _ => Vec::new(),
        }
    }

    /// Changes what is known of a node and a log; tells those who pass it on.
    fn change(&self, log: LogId, node: &NodeName, change: impl FnOnce(&mut Option<Heard>) -> bool) -> Vec<AckChange> {
        if *node == self.own {
            return Vec::new();
        }
        let mut table = self.table();
        let nodes = table.logs.entry(log).or_default();
        let mut heard = nodes.remove(node);
        let said = |heard: &Option<Heard>| {
            let heard = heard.as_ref()?;
            Some((heard.incarnation, heard.held(node, None)?))
        };
        let before = said(&heard);
        let is_news = change(&mut heard);
        let after = said(&heard);
        nodes.extend(heard.map(|heard| (node.clone(), heard)));
        if is_news {
            table.notify(log);
        }
        drop(table);
        let changed = after.filter(|after| Some(after) != before.as_ref());
        let ack = changed.map(|(incarnation, Held { head, holes })| Ack {
            log,
            node: node.clone(),
            incarnation,
            head,
            holes,
        });
        let (from, from_holes) = before.map(|(_, held)| (held.head, held.holes)).unzip();
        ack.map(|ack| AckChange { ack, from, from_holes: from_holes.unwrap_or_default() }).into_iter().collect()
    }

    /// What is known of a log.
    pub fn of_log(&self, log: LogId) -> Vec<Ack> {
        self.except(log, None)
    }

    /// What is known of a log otherwise than from a peer: what may be passed on to it.
    fn except(&self, log: LogId, peer: Option<&NodeName>) -> Vec<Ack> {
        let table = self.table();
        let nodes = table.logs.get(&log).into_iter().flatten();
        let acks = nodes.filter_map(|(node, heard)| {
            let Held { head, holes } = heard.held(node, peer)?;
            Some(Ack { log, node: node.clone(), incarnation: heard.incarnation, head, holes })
        });
        acks.filter(|ack| Some(&ack.node) != peer).collect()
    }

    /// A place for a session that passes acks on.
    pub(crate) fn subscribe(self: &Arc<Self>) -> Subscription {
        let mut table = self.table();
        let id = table.next_subscriber;
        table.next_subscriber += 1;
        table.subscribers.insert(id, Subscriber::default());
        drop(table);
        Subscription { board: Arc::clone(self), id }
    }
}

impl Table {
    fn notify(&mut self, log: LogId) {
        for id in self.interested.get(&log).into_iter().flatten() {
            let Some(subscriber) = self.subscribers.get_mut(id) else { continue };
            subscriber.note(log);
            if let Some(waker) = subscriber.waker.take() {
                waker.wake();
            }
        }
    }
}

/// What is known in this life of the node. Another life's replaces it, unless it comes from somebody else than the node,
/// which has said itself in which it is.
fn in_life<'a>(
    heard: &'a mut Option<Heard>,
    by: &NodeName,
    node: &NodeName,
    incarnation: Incarnation,
) -> Option<&'a mut Heard> {
    let is_other = heard.as_ref().is_none_or(|heard| heard.incarnation != incarnation);
    if is_other {
        let is_known_directly =
            heard.as_ref().is_some_and(|heard| heard.told.contains_key(node) || heard.held.is_some());
        if is_known_directly && by != node {
            return None;
        }
        *heard = Some(Heard { incarnation, told: BTreeMap::new(), held: None, is_own_word: false });
    }
    heard.as_mut()
}

impl Heard {
    /// Heads of one life only grow: what another session said meanwhile may have been overtaken.
    fn raise(&mut self, by: &NodeName, node: &NodeName, held: Held) -> bool {
        self.is_own_word |= by == node && self.hearsay(node) <= held.head.next_seq;
        let is_more = self.told.get(by).is_none_or(|said| {
            let is_mended = said.head == held.head && said.holes != held.holes && held.holes.are_within(&said.holes);
            said.head.next_seq < held.head.next_seq || is_mended
        });
        if is_more {
            self.told.insert(by.clone(), held);
        }
        is_more
    }

    /// A node that was rolled back has lost what it said beyond that, and one whose disk has rotted what it says that it
    /// lacks.
    fn lower(&mut self, node: &NodeName, incarnation: Incarnation, head: Head, holes: &Holes) -> bool {
        if self.incarnation != incarnation {
            return false;
        }
        let held_less = self.held.take_if(|held| held.next_seq > head.next_seq).is_some();
        let is_less = |said: &&mut Held| said.head.next_seq > head.next_seq || !holes.are_within(&said.holes);
        match self.told.get_mut(node).filter(is_less) {
            Some(said) => {
                if said.head.next_seq > head.next_seq {
                    said.head = head;
                }
                said.holes.clone_from(holes);
                self.is_own_word = true;
                true
            }
            None => held_less,
        }
    }

    /// A node is here in this life: what it said in another was of a disk that it may not have any more, and of logs
    /// that it lacks now it says nothing.
    fn meet(&mut self, node: &NodeName, incarnation: Incarnation) -> bool {
        if self.incarnation == incarnation {
            return false;
        }
        *self = Self { incarnation, told: BTreeMap::from([(node.clone(), nothing())]), held: None, is_own_word: true };
        true
    }
}

/// A session's place at the board. Given up when dropped.
#[derive(Debug)]
pub(crate) struct Subscription {
    board: Arc<AckBoard>,
    id: u64,
}

impl Subscription {
    /// From now on acks of this log are passed on; what is known of it is news.
    pub(crate) fn add(&self, log: LogId) {
        let mut table = self.board.table();
        table.interested.entry(log).or_default().insert(self.id);
        if let Some(subscriber) = table.subscribers.get_mut(&self.id) {
            subscriber.logs.insert(log);
            subscriber.note(log);
        }
    }

    /// Ready when there is something to pass on, else the task is woken when there is.
    pub(crate) fn poll(&self, cx: &mut Context<'_>) -> Poll<()> {
        let mut table = self.board.table();
        match table.subscribers.get_mut(&self.id) {
            Some(subscriber) if subscriber.dirty.is_empty() => {
                subscriber.waker = Some(cx.waker().clone());
                Poll::Pending
            }
            _ => Poll::Ready(()),
        }
    }

    /// What is to be passed on to `peer`.
    pub(crate) fn take(&self, peer: &NodeName) -> Vec<Ack> {
        let dirty = self.board.table().subscribers.get_mut(&self.id).map(Subscriber::take);
        dirty.into_iter().flatten().flat_map(|log| self.board.except(log, Some(peer))).collect()
    }
}

impl Drop for Subscription {
    fn drop(&mut self) {
        let mut table = self.board.table();
        let logs = table.subscribers.remove(&self.id).map(|subscriber| subscriber.logs);
        for log in logs.into_iter().flatten() {
            if let Some(interested) = table.interested.get_mut(&log) {
                interested.remove(&self.id);
                if interested.is_empty() {
                    table.interested.remove(&log);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(name: &str) -> NodeName {
        NodeName::new(name).unwrap()
    }

    fn log() -> LogId {
        LogId::from_bytes([1; 16])
    }

    fn head(next_seq: u64) -> Head {
        Head { next_seq: Seq(next_seq), digest: Digest::from_bytes([0; 32]) }
    }

    fn life(incarnation: u8) -> Incarnation {
        Incarnation::from_bytes([incarnation; 16])
    }

    fn acked(of: &str, incarnation: u8, next_seq: u64) -> Event {
        Event::Acked {
            log: log(),
            node: node(of),
            incarnation: life(incarnation),
            head: head(next_seq),
            holes: Holes::default(),
        }
    }

    fn withdrawn(of: &str, incarnation: u8, to: u64) -> Event {
        let (node, incarnation) = (node(of), life(incarnation));
        Event::Withdrawn { log: log(), node, incarnation, from: head(99), to: head(to), holes: Holes::default() }
    }

    fn met(of: &str, incarnation: u8) -> Event {
        Event::PeerReady { node: node(of), incarnation: life(incarnation), protocol: 1 }
    }

    /// What is known, as `(node, next_seq)`.
    fn known(board: &AckBoard) -> Vec<(String, u64)> {
        board.of_log(log()).into_iter().map(|ack| (ack.node.to_string(), ack.head.next_seq.0)).collect()
    }

    #[test]
    fn each_node_counts_once_by_its_own_word_or_else_by_the_best_of_those_who_pass_it_on() {
        let board = AckBoard::new(node("own"));
        for (peer, event) in [
            ("hub", acked("hub", 1, 5)),
            ("hub", acked("far", 2, 3)),
            ("other", acked("far", 2, 4)),
            ("other", acked("own", 3, 9)),
        ] {
            board.hear(&node(peer), &event);
        }
        assert_eq!(known(&board), [("far".to_owned(), 4), ("hub".to_owned(), 5)]);
        board.hear(&node("other"), &acked("hub", 1, 7));
        assert_eq!(known(&board)[1].1, 5, "what it says itself");
        board.hear(&node("other"), &withdrawn("far", 2, 1));
        assert_eq!(known(&board)[0].1, 3, "the other one still says so");
        board.hear(&node("far"), &acked("far", 2, 2));
        assert_eq!(known(&board)[0].1, 3, "it is on its way to what was said of it");
        board.hear(&node("far"), &acked("far", 2, 3));
        board.hear(&node("other"), &acked("far", 2, 9));
        assert_eq!(known(&board)[0].1, 3, "from here on its own word");
        board.hear(&node("far"), &withdrawn("far", 2, 1));
        assert_eq!(known(&board)[0].1, 1);
    }

    #[test]
    fn another_life_begins_anew_and_hearsay_of_an_old_one_does_not_count() {
        let board = AckBoard::new(node("own"));
        board.hear(&node("hub"), &acked("hub", 1, 7));
        let changes = board.hear(&node("hub"), &met("hub", 2));
        assert_eq!((changes[0].from, changes[0].ack.head.next_seq), (Some(head(7)), Seq::ZERO));
        board.hear(&node("other"), &acked("hub", 1, 7));
        assert_eq!(known(&board), [("hub".to_owned(), 0)]);
        assert_eq!(board.hear(&node("hub"), &met("hub", 2)), []);
    }

    #[test]
    fn a_session_is_told_of_what_it_passes_on_but_not_what_its_own_peer_told_or_holds() {
        let board = AckBoard::new(node("hub"));
        let (upstream, mut cx) = (board.subscribe(), Context::from_waker(Waker::noop()));
        board.hear(&node("far"), &acked("far", 1, 5));
        assert!(upstream.poll(&mut cx).is_pending(), "it passes on nothing of this log yet");
        upstream.add(log());
        assert!(upstream.poll(&mut cx).is_ready());
        let taken = |peer: &str| -> Vec<String> {
            upstream.take(&node(peer)).iter().map(|ack| format!("{} {}", ack.node, ack.head.next_seq)).collect()
        };
        assert_eq!(taken("practice"), ["far 5"]);
        assert!(upstream.poll(&mut cx).is_pending());
        board.hear(&node("practice"), &acked("practice", 1, 9));
        board.hear(&node("practice"), &acked("third", 1, 9));
        assert_eq!(taken("practice"), ["far 5"]);
        board.hear(&node("far"), &withdrawn("far", 1, 2));
        assert_eq!(taken("far"), ["practice 9", "third 9"]);
        drop(upstream);
        assert!(board.table().interested.is_empty() && board.table().subscribers.is_empty());
    }
}
