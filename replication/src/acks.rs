//! Who has what: the acks that the sessions of one store hear, and those that they pass on.

mod heard;

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, HashSet},
    mem,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll, Waker},
};

use counterfoil_storage::{Head, Holes, Incarnation, LogId, NodeName, Seq};

use self::heard::{Heard, Held, Known, Told, has_new_holes, has_said, in_life, nothing};
use crate::{
    event::Event,
    memory::Memory,
    message::{Ack, VIA_MAX},
};

/// What other nodes have said they hold of each log, as the sessions of one store hear it: of the peer's own disk, or
/// passed on by the peer.
///
/// Of a node that this store talks to itself, what it says itself counts, and nobody else's word, once it has said as
/// much as others said of it or taken something back. Of another one, the most that any peer passes on. This store's own node is not among them. In memory only: peers say it all again.
///
/// Each word is known with the nodes through which it came, and goes to none of them again: so in a ring of hubs what a
/// node has taken back can't come round, and what was said of it stays said only while somebody's word of it does not
/// come from the one who asks.
///
/// A hub that mirrors onward gives the board to all its sessions: what is heard of logs in one is passed on in those in
/// which the logs come in, towards their writer.
#[derive(Debug)]
pub struct AckBoard {
    own: NodeName,
    table: Mutex<Table>,
    /// What was said of frontiers, for the sessions to come.
    memory: Arc<Memory>,
}

#[derive(Debug, Default)]
struct Table {
    /// Counts what was heard.
    clock: u64,
    /// In which life each node has said itself to be.
    lives: HashMap<NodeName, Incarnation>,
    /// In order, so that a simulated history is repeatable.
    logs: BTreeMap<LogId, BTreeMap<NodeName, Heard>>,
    next_subscriber: u64,
    subscribers: HashMap<u64, Subscriber>,
    /// Who passes on acks of a log.
    interested: HashMap<LogId, BTreeSet<u64>>,
}

/// A session that passes acks on.
#[derive(Debug)]
struct Subscriber {
    peer: NodeName,
    /// When it began, by the table's clock.
    began: u64,
    /// It has been said that words have come through too many hands.
    is_far_told: bool,
    logs: BTreeSet<LogId>,
    /// What the peer said last in this session of its own disk, and can take back in it; and in which life.
    said: HashMap<LogId, (Incarnation, Held)>,
    /// Logs of which something is known that the session has not taken, each once, in the order in which that came.
    dirty: Vec<LogId>,
    is_dirty: HashSet<LogId>,
    waker: Option<Waker>,
}

impl Subscriber {
    fn new(peer: NodeName, began: u64) -> Self {
        let (logs, said, dirty, is_dirty) = (BTreeSet::new(), HashMap::new(), Vec::new(), HashSet::new());
        Self { peer, began, is_far_told: false, logs, said, dirty, is_dirty, waker: None }
    }

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
    /// The node has taken nothing back: who said more knows no more of it.
    pub is_forgotten: bool,
}

impl AckChange {
    /// Whether the node holds less than was known, by what it or others say.
    pub fn is_withdrawal(&self) -> bool {
        let Some(head) = self.from else { return false };
        let from = Held { head, holes: self.from_holes.clone() };
        let holds_less = head.next_seq > self.ack.head.next_seq || has_new_holes(&from, &self.ack.holes);
        holds_less && !self.is_forgotten
    }
}

impl AckBoard {
    /// For the store of the node `own`, with nothing on it.
    pub fn new(own: NodeName) -> Arc<Self> {
        Arc::new(Self { own, table: Mutex::default(), memory: Arc::default() })
    }

    /// What the sessions of the store remember from one to the next.
    pub(crate) fn memory(&self) -> &Arc<Memory> {
        &self.memory
    }

    fn table(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes in what a session with `peer` tells; what has changed by it.
    pub fn hear(&self, peer: &NodeName, event: &Event) -> Vec<AckChange> {
        match event {
            Event::Acked { log, node, incarnation, head, holes, via, losses } => {
                let (via, losses) = (via.clone(), *losses);
                self.change(*log, node, |heard, lives, at| {
                    let held = Held { head: *head, holes: holes.clone() };
                    let told = Told::new(held, via, losses, at);
                    let heard = in_life(heard, lives, node, *incarnation);
                    heard.is_some_and(|heard| heard.raise(peer, node, told))
                })
            }
            Event::Holds { log, node, incarnation, head } => self.change(*log, node, |heard, lives, _| {
                let heard = in_life(heard, lives, node, *incarnation);
                heard.is_some_and(|heard| heard.hold(*head))
            }),
            Event::Stated { log, node, incarnation, head, holes } => {
                let began = self.table().began(node);
                let stated = Held { head: *head, holes: holes.clone() };
                self.change(*log, node, |heard, _, at| {
                    let heard = heard.as_mut().filter(|heard| heard.incarnation == *incarnation);
                    heard.is_some_and(|heard| heard.lower(node, &stated, began, at))
                })
            }
            Event::Withdrawn { log, node, incarnation, to, holes, losses, .. } => {
                self.change(*log, node, |heard, lives, at| {
                    if peer != node && !has_said(heard.as_ref(), peer) {
                        return false;
                    }
                    let heard = in_life(heard, lives, node, *incarnation);
                    let left = Held { head: *to, holes: holes.clone() };
                    heard.is_some_and(|heard| heard.take_back(peer, node, left, *losses, at))
                })
            }
            Event::Restated { log, node, incarnation, head, holes, losses } => {
                self.change(*log, node, |heard, lives, at| {
                    if !has_said(heard.as_ref(), peer) {
                        return false;
                    }
                    let heard = in_life(heard, lives, node, *incarnation);
                    let said = Held { head: *head, holes: holes.clone() };
                    heard.is_some_and(|heard| heard.restate(peer, said, *losses, at))
                })
            }
            Event::Forgotten { log, node, incarnation } => self.change(*log, node, |heard, _, _| {
                let heard = heard.as_mut().filter(|heard| heard.incarnation == *incarnation);
                heard.is_some_and(|heard| heard.forget(peer))
            }),
            Event::PeerReady { node, incarnation, .. } => {
                let mut table = self.table();
                table.lives.insert(node.clone(), *incarnation);
                let logs: Vec<LogId> = table.logs.keys().copied().collect();
                drop(table);
                let meet = |heard: &mut Option<Heard>, _: &_, at| {
                    heard.as_mut().is_some_and(|heard| heard.meet(node, *incarnation, at))
                };
                logs.into_iter().flat_map(|log| self.change(log, node, meet)).collect()
            }
            _ => Vec::new(),
        }
    }

    /// Changes what is known of a node and a log, given which lives are known and the time; tells those who pass it on.
    fn change(
        &self,
        log: LogId,
        node: &NodeName,
        change: impl FnOnce(&mut Option<Heard>, &HashMap<NodeName, Incarnation>, u64) -> bool,
    ) -> Vec<AckChange> {
        if *node == self.own {
            return Vec::new();
        }
        let mut table = self.table();
        table.clock += 1;
        let Table { clock, lives, logs, .. } = &mut *table;
        let nodes = logs.entry(log).or_default();
        let mut heard = nodes.remove(node);
        let known = |heard: &Option<Heard>| {
            let heard = heard.as_ref()?;
            Some((heard.incarnation, heard.known(node, None)?))
        };
        let before = known(&heard);
        let is_news = change(&mut heard, lives, *clock);
        // What was known and is not any more is nothing, and that is told.
        let after = known(&heard).or_else(|| {
            let (incarnation, _) = before.as_ref()?;
            Some((*incarnation, Known { held: nothing(), via: Vec::new() }))
        });
        let change = heard.as_mut().zip(after).and_then(|(heard, (incarnation, known))| {
            let is_loss = heard.judge(incarnation, before.as_ref(), &known.held);
            let Known { held: Held { head, holes }, via } = known;
            let losses = heard.losses;
            let ack = Ack { log, node: node.clone(), incarnation, head, holes, via, losses };
            let Some((life, before)) = before else {
                let is_known = ack.head.next_seq > Seq::ZERO;
                let from_holes = Holes::default();
                return is_known.then_some(AckChange { ack, from: None, from_holes, is_forgotten: false });
            };
            let Held { head: from, holes: from_holes } = before.held;
            let has_changed = life != incarnation || from != ack.head || from_holes != ack.holes;
            let is_forgotten = !is_loss && ack.head.next_seq < from.next_seq;
            has_changed.then_some(AckChange { ack, from: Some(from), from_holes, is_forgotten })
        });
        nodes.extend(heard.map(|heard| (node.clone(), heard)));
        if is_news {
            table.notify(log);
        }
        change.into_iter().collect()
    }

    /// What is known of a log.
    pub fn of_log(&self, log: LogId) -> Vec<Ack> {
        let table = self.table();
        let nodes = table.logs.get(&log).into_iter().flatten();
        let acks = nodes.filter_map(|(node, heard)| Some(ack(log, node, heard, heard.known(node, None)?)));
        acks.collect()
    }

    /// What nodes say themselves, in sessions that live now, that they hold of a log: no hearsay, nothing that is merely concluded,
    /// and nothing of nodes that can't take it back since the session in which they said it has ended, or the flow of the log in it is closed. For what can't be undone, such as to remove records.
    pub fn first_hand(&self, log: LogId) -> Vec<Ack> {
        let table = self.table();
        let mut said: BTreeMap<&NodeName, (Incarnation, &Held)> = BTreeMap::new();
        for Subscriber { peer, said: of_peer, .. } in table.subscribers.values() {
            let Some((life, held)) = of_peer.get(&log) else { continue };
            if table.lives.get(peer).is_some_and(|present| present != life) {
                continue;
            }
            // Of two sessions the one in which it said less.
            let is_less = |(_, other): &(Incarnation, &Held)| {
                held.head.next_seq < other.head.next_seq || !held.holes.are_within(&other.holes)
            };
            if said.get(peer).is_none_or(is_less) {
                said.insert(peer, (*life, held));
            }
        }
        let acks = said.into_iter().map(|(node, (incarnation, held))| {
            let Held { head, holes } = held.clone();
            Ack { log, node: node.clone(), incarnation, head, holes, via: Vec::new(), losses: 0 }
        });
        acks.collect()
    }

    /// What may be passed on of a log to a peer: of each node what is known otherwise than from the peer or through it,
    /// at 0 and through the peer if that is nothing; and whether something was known through too many hands.
    fn for_peer(&self, log: LogId, peer: &NodeName) -> (Vec<Ack>, bool) {
        let table = self.table();
        let nodes = table.logs.get(&log).into_iter().flatten().filter(|(node, _)| *node != peer);
        let mut is_too_far = false;
        let acks = nodes.map(|(node, heard)| {
            let known = heard.known(node, Some(peer)).filter(|known| {
                is_too_far |= known.via.len() > VIA_MAX;
                known.via.len() <= VIA_MAX
            });
            let unsaid = || Known { held: nothing(), via: vec![peer.clone()] };
            ack(log, node, heard, known.unwrap_or_else(unsaid))
        });
        (acks.collect(), is_too_far)
    }

    /// A place for a session with `peer`, which begins now and passes acks on: until it is dropped the peer is in touch.
    pub fn subscribe(self: &Arc<Self>, peer: NodeName) -> Subscription {
        let mut table = self.table();
        let id = table.next_subscriber;
        table.next_subscriber += 1;
        let subscriber = Subscriber::new(peer, table.clock);
        table.subscribers.insert(id, subscriber);
        drop(table);
        Subscription { board: Arc::clone(self), id }
    }
}

fn ack(log: LogId, node: &NodeName, heard: &Heard, known: Known) -> Ack {
    let Known { held: Held { head, holes }, via } = known;
    Ack { log, node: node.clone(), incarnation: heard.incarnation, head, holes, via, losses: heard.losses }
}

impl Table {
    /// When the latest session with a node began: what it says of itself there is no older than that.
    fn began(&self, node: &NodeName) -> u64 {
        let sessions = self.subscribers.values().filter(|subscriber| subscriber.peer == *node);
        sessions.map(|subscriber| subscriber.began).max().unwrap_or_default()
    }

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

/// A session's place at the board. Given up when dropped.
#[derive(Debug)]
pub struct Subscription {
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

    /// Takes in what the session's peer says of its own disk, for [`AckBoard::first_hand`]: it counts there until the peer takes it back, can't
    /// take it back any more, or the session ends. [`Endpoint`](crate::Endpoint) does it with each event.
    pub fn note(&self, event: &Event) {
        let mut table = self.board.table();
        let Some(Subscriber { peer, said, .. }) = table.subscribers.get_mut(&self.id) else { return };
        match event {
            Event::Acked { log, node, incarnation, head, holes, .. } if node == peer => {
                said.insert(*log, (*incarnation, Held { head: *head, holes: holes.clone() }));
            }
            Event::Withdrawn { log, node, incarnation, to, holes, .. } if node == peer => {
                said.insert(*log, (*incarnation, Held { head: *to, holes: holes.clone() }));
            }
            // It may be another history: nothing counts until some of it is found on the chain here.
            Event::Stated { log, node, incarnation, .. } if node == peer => {
                said.insert(*log, (*incarnation, nothing()));
            }
            Event::Unheard { log, node } if node == peer => drop(said.remove(log)),
            _ => {}
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

    /// What is to be passed on to the session's peer; at 0 where nothing is to be said of a node.
    pub(crate) fn take(&self) -> Vec<Ack> {
        let mut table = self.board.table();
        let Some(subscriber) = table.subscribers.get_mut(&self.id) else { return Vec::new() };
        let (peer, dirty, mut is_far_told) = (subscriber.peer.clone(), subscriber.take(), subscriber.is_far_told);
        drop(table);
        let mut acks = Vec::new();
        for log in dirty {
            let (known, is_too_far) = self.board.for_peer(log, &peer);
            acks.extend(known);
            if is_too_far && !mem::replace(&mut is_far_told, true) {
                tracing::warn!(%log, %peer, "acks that came through {} hubs are not passed on further", VIA_MAX + 1);
            }
        }
        if let Some(subscriber) = self.board.table().subscribers.get_mut(&self.id) {
            subscriber.is_far_told = is_far_told;
        }
        acks
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
mod tests;
