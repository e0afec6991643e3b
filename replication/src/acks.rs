//! Who has what: the acks that the sessions of one store hear, and those that they pass on.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, BTreeSet, HashMap, HashSet},
    mem,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll, Waker},
};

use counterfoil_storage::{Digest, Head, Holes, Incarnation, LogId, NodeName, Seq};

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

/// What is known of one node and log.
#[derive(Debug, Clone)]
struct Heard {
    incarnation: Incarnation,
    /// By who told it: the node itself, or peers that pass it on.
    told: BTreeMap<NodeName, Told>,
    /// How often it has turned out here that the node took something back. Passed on with each word, so that those who hear less than
    /// before can tell whether it was lost, or only is not known any more.
    losses: u32,
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

/// What somebody tells of it.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Told {
    held: Held,
    /// Through whom it came to the one who tells it.
    via: Vec<NodeName>,
    /// How often that one has known the node to take something back.
    losses: u32,
    /// It has told of a loss from here down that has not shown, since somebody else still said more.
    lost_from: Option<Seq>,
    /// When it was heard, by the table's clock.
    at: u64,
}

/// What holds of a node.
#[derive(Debug, Clone)]
struct Known {
    held: Held,
    /// Through whom it is known, the one who told it last; nobody if the node said so itself.
    via: Vec<NodeName>,
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

impl Told {
    /// In the node's own words, or of no consequence.
    fn new(held: Held, at: u64) -> Self {
        Self { held, via: Vec::new(), losses: 0, lost_from: None, at }
    }
}

/// Whether something is missing now of what was held before: what was not held was not lost.
fn has_new_holes(before: &Held, now: &Holes) -> bool {
    let mut now = now.iter().take_while(|(first_seq, _)| *first_seq < before.head.next_seq);
    now.any(|(first_seq, next_seq)| {
        let lost = Holes::try_from(vec![(first_seq, next_seq.min(before.head.next_seq))]);
        lost.is_ok_and(|lost| !lost.are_within(&before.holes))
    })
}

/// Nothing of a log: whatever its digest would be.
fn nothing() -> Held {
    Held { head: Head { next_seq: Seq::ZERO, digest: Digest::from_bytes([0; 32]) }, holes: Holes::default() }
}

impl Heard {
    /// What holds of `node`, as far as it may be told to `to`: not by its own word, and not what came through it.
    fn known(&self, node: &NodeName, to: Option<&NodeName>) -> Option<Known> {
        let may_hear = |by: &NodeName, told: &Told| to.is_none_or(|to| by != to && !told.via.contains(to));
        let path = |by: &NodeName, told: &Told| -> Vec<NodeName> {
            told.via.iter().chain((by != node).then_some(by)).cloned().collect()
        };
        let direct = self.told.get(node).filter(|direct| self.is_own_word && may_hear(node, direct));
        let said = match direct {
            Some(direct) => Some((node, direct)),
            None if self.is_own_word => None,
            None => {
                let told = self.told.iter().filter(|(by, told)| may_hear(by, told));
                // Of two who say as much the one who is nearer: it hears sooner of what is taken back.
                told.max_by_key(|(_, told)| (told.held.head.next_seq, Reverse(told.via.len())))
            }
        };
        let said = said.map(|(by, told)| Known { held: told.held.clone(), via: path(by, told) });
        let sent = |head, holes| Known { held: Held { head, holes }, via: Vec::new() };
        match (said, self.held.filter(|_| to != Some(node))) {
            (Some(said), Some(head)) if head.next_seq > said.held.head.next_seq => Some(sent(head, said.held.holes)),
            (Some(said), _) => Some(said),
            (None, head) => head.map(|head| sent(head, Holes::default())),
        }
    }

    /// Most of what others than the node said of it.
    fn hearsay(&self, node: &NodeName) -> Seq {
        let others = self.told.iter().filter(|(by, _)| *by != node);
        others.map(|(_, told)| told.held.head.next_seq).max().unwrap_or_default()
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
                    let told = Told { via, losses, ..Told::new(held, at) };
                    let heard = in_life(heard, lives, node, *incarnation);
                    heard.is_some_and(|heard| heard.raise(peer, node, told))
                })
            }
            Event::Holds { log, node, incarnation, head } => self.change(*log, node, |heard, lives, _| {
                let heard = in_life(heard, lives, node, *incarnation);
                heard.is_some_and(|heard| {
                    let is_more = heard.held.is_none_or(|held| held.next_seq < head.next_seq);
                    heard.held = heard.held.filter(|_| !is_more).or(Some(*head));
                    is_more
                })
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
                heard.is_some_and(|heard| heard.told.remove(peer).is_some())
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

/// What is known in this life of the node. Another life's replaces it, unless the node has said itself in which it is: what
/// comes of a former one then was on its way, also if it comes from the node.
fn in_life<'a>(
    heard: &'a mut Option<Heard>,
    lives: &HashMap<NodeName, Incarnation>,
    node: &NodeName,
    incarnation: Incarnation,
) -> Option<&'a mut Heard> {
    if lives.get(node).is_some_and(|life| *life != incarnation) {
        return None;
    }
    if heard.as_ref().is_none_or(|heard| heard.incarnation != incarnation) {
        let told = BTreeMap::new();
        let losses = heard.as_ref().map(|heard| heard.losses).unwrap_or_default();
        *heard = Some(Heard { incarnation, told, held: None, losses, is_own_word: false });
    }
    heard.as_mut()
}

/// Whether somebody has spoken of a node.
fn has_said(heard: Option<&Heard>, by: &NodeName) -> bool {
    heard.is_some_and(|heard| heard.told.contains_key(by))
}

impl Heard {
    /// Heads of one life only grow: what another session said meanwhile may have been overtaken.
    fn raise(&mut self, by: &NodeName, node: &NodeName, told: Told) -> bool {
        self.is_own_word |= by == node && self.hearsay(node) <= told.held.head.next_seq;
        let is_news = self.told.get(by).is_none_or(|said| {
            let (old, new) = (&said.held, &told.held);
            let is_mended = old.head == new.head && old.holes != new.holes && new.holes.are_within(&old.holes);
            let has_moved = old == new && (said.via != told.via || said.losses != told.losses);
            old.head.next_seq < new.head.next_seq || is_mended || has_moved
        });
        if is_news {
            let lost_from = self.told.get(by).and_then(|said| said.lost_from);
            let lost_from = lost_from.filter(|from| told.held.head.next_seq < *from);
            self.told.insert(by.clone(), Told { lost_from, ..told });
        }
        is_news
    }

    /// Somebody takes back what it said of the node, down to what is left.
    fn take_back(&mut self, by: &NodeName, node: &NodeName, left: Held, losses: u32, at: u64) -> bool {
        let before = self.told.get(by);
        let said = before.map(|told| told.held.head.next_seq);
        let via = before.map(|told| told.via.clone()).unwrap_or_default();
        let is_loss = by == node || before.is_some_and(|told| told.losses < losses);
        let is_news = before.is_none_or(|before| before.held != left);
        let held = self.held.map(|held| held.next_seq).filter(|_| by == node);
        let lost_from = before.and_then(|told| told.lost_from).max(said.max(held).filter(|_| is_loss));
        if by == node {
            self.held = self.held.filter(|held| held.next_seq <= left.head.next_seq);
            self.is_own_word = true;
        }
        self.told.insert(by.clone(), Told { via, losses, lost_from, ..Told::new(left, at) });
        is_news
    }

    /// Somebody who spoke of the node in an earlier session says how much it knows now: it counts for nothing until it is found on the
    /// chain, but what was said beyond it counts no more.
    fn restate(&mut self, by: &NodeName, said: Held, losses: u32, at: u64) -> bool {
        let Some(told) = self.told.get_mut(by) else {
            // Of another life.
            self.told.insert(by.clone(), Told { losses, ..Told::new(nothing(), at) });
            return true;
        };
        let before = told.held.head.next_seq;
        let (is_less, is_loss) = (said.head.next_seq < before, told.losses < losses);
        let is_rotten = !said.holes.are_within(&told.held.holes);
        if is_less {
            told.held = nothing();
        } else if is_rotten {
            told.held.holes = said.holes;
        }
        (told.losses, told.at) = (losses, at);
        told.lost_from = told.lost_from.max((is_less && is_loss).then_some(before));
        is_less || is_rotten
    }

    /// A node that was rolled back has lost what it said beyond that, and one whose disk has rotted what it says that it
    /// lacks. What others said of it before this session `began` is no newer than what it says in it.
    fn lower(&mut self, node: &NodeName, stated: &Held, began: u64, at: u64) -> bool {
        let said = self.told.values().map(|told| told.held.head.next_seq);
        let most = said.chain(self.held.map(|held| held.next_seq)).max();
        let is_beyond =
            |held: &Held| held.head.next_seq > stated.head.next_seq || !stated.holes.are_within(&held.holes);
        let outdated = self.told.len();
        self.told.retain(|by, told| by == node || told.at > began || !is_beyond(&told.held));
        let is_outdated = self.told.len() < outdated;
        let held_less = self.held.take_if(|held| held.next_seq > stated.head.next_seq).is_some();
        let said_less = match self.told.get_mut(node).filter(|said| is_beyond(&said.held)) {
            Some(said) => {
                if said.held.head.next_seq > stated.head.next_seq {
                    said.held.head = stated.head;
                }
                said.held.holes.clone_from(&stated.holes);
                said.at = at;
                true
            }
            None => false,
        };
        self.is_own_word |= said_less;
        if is_outdated || held_less {
            // It may be another history: what it has counts once that is known.
            self.is_own_word = true;
            self.told.entry(node.clone()).or_insert_with(|| Told::new(nothing(), at));
        }
        let is_less = said_less || held_less || is_outdated;
        if let Some(said) = self.told.get_mut(node).filter(|_| is_less) {
            said.lost_from = most;
        }
        is_less
    }

    /// A node is here in this life: what it said in another was of a disk that it may not have any more, and of logs
    /// that it lacks now it says nothing.
    fn meet(&mut self, node: &NodeName, incarnation: Incarnation, at: u64) -> bool {
        if self.incarnation == incarnation {
            return false;
        }
        let told = BTreeMap::from([(node.clone(), Told::new(nothing(), at))]);
        *self = Self { incarnation, told, held: None, losses: self.losses, is_own_word: true };
        true
    }

    /// Whether the node has lost something, of which less is known now than before; counted.
    ///
    /// Who tells of a loss need not be the last one by whose word more was known: so it is remembered until it shows, or that one says as much again.
    fn judge(&mut self, life: Incarnation, before: Option<&(Incarnation, Known)>, now: &Held) -> bool {
        let Some((life_before, Known { held: before, .. })) = before else { return false };
        let is_less = now.head.next_seq < before.head.next_seq;
        let is_lost = |told: &Told| told.lost_from.is_some_and(|from| now.head.next_seq < from);
        let is_loss =
            has_new_holes(before, &now.holes) || (is_less && (life != *life_before || self.told.values().any(is_lost)));
        if is_loss {
            self.losses = self.losses.saturating_add(1);
            self.told.values_mut().for_each(|told| told.lost_from = None);
        }
        is_loss
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
