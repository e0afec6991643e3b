//! What is known of one node's disk and one log: whose word of it counts, and whether less of it is a loss.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, HashMap},
};

use counterfoil_storage::{Digest, Head, Holes, Incarnation, NodeName, Seq};

/// What is known of one node and log.
#[derive(Debug, Clone)]
pub(super) struct Heard {
    pub(super) incarnation: Incarnation,
    /// By who told it: the node itself, or peers that pass it on.
    told: BTreeMap<NodeName, Told>,
    /// How often it has turned out here that the node took something back. Passed on with each word, so that those who hear less than
    /// before can tell whether it was lost, or only is not known any more.
    pub(super) losses: u32,
    /// From now on the node's own word counts, and nobody else's: it has said as much as others said of it, or taken
    /// something back. Until then what it says may only be on its way to there.
    is_own_word: bool,
    /// What the node has sent, which it says nothing more by than that it has so much at least.
    held: Option<Head>,
}

/// What a node is said to hold of a log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Held {
    pub(super) head: Head,
    /// Apart from these.
    pub(super) holes: Holes,
}

/// What somebody tells of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Told {
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
pub(super) struct Known {
    pub(super) held: Held,
    /// Through whom it is known, the one who told it last; nobody if the node said so itself.
    pub(super) via: Vec<NodeName>,
}

impl Told {
    pub(super) fn new(held: Held, via: Vec<NodeName>, losses: u32, at: u64) -> Self {
        Self { held, via, losses, lost_from: None, at }
    }
}

/// Whether something is missing now of what was held before: what was not held was not lost.
pub(super) fn has_new_holes(before: &Held, now: &Holes) -> bool {
    let mut now = now.iter().take_while(|(first_seq, _)| *first_seq < before.head.next_seq);
    now.any(|(first_seq, next_seq)| {
        let lost = Holes::try_from(vec![(first_seq, next_seq.min(before.head.next_seq))]);
        lost.is_ok_and(|lost| !lost.are_within(&before.holes))
    })
}

/// Nothing of a log: whatever its digest would be.
pub(super) fn nothing() -> Held {
    Held { head: Head { next_seq: Seq::ZERO, digest: Digest::from_bytes([0; 32]) }, holes: Holes::default() }
}

impl Heard {
    /// What holds of `node`, as far as it may be told to `to`: not by its own word, and not what came through it.
    pub(super) fn known(&self, node: &NodeName, to: Option<&NodeName>) -> Option<Known> {
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

    /// Heads of one life only grow: what another session said meanwhile may have been overtaken.
    pub(super) fn raise(&mut self, by: &NodeName, node: &NodeName, told: Told) -> bool {
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

    /// The node was seen to send what goes up to there.
    pub(super) fn hold(&mut self, head: Head) -> bool {
        let is_more = self.held.is_none_or(|held| held.next_seq < head.next_seq);
        self.held = self.held.filter(|_| !is_more).or(Some(head));
        is_more
    }

    /// Somebody knows nothing of the node any more.
    pub(super) fn forget(&mut self, by: &NodeName) -> bool {
        self.told.remove(by).is_some()
    }

    /// Somebody takes back what it said of the node, down to what is left.
    pub(super) fn take_back(&mut self, by: &NodeName, node: &NodeName, left: Held, losses: u32, at: u64) -> bool {
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
        self.told.insert(by.clone(), Told { lost_from, ..Told::new(left, via, losses, at) });
        is_news
    }

    /// Somebody who spoke of the node in an earlier session says how much it knows now: it counts for nothing until it is found on the
    /// chain, but what was said beyond it counts no more.
    pub(super) fn restate(&mut self, by: &NodeName, said: Held, losses: u32, at: u64) -> bool {
        let Some(told) = self.told.get_mut(by) else {
            // Of another life.
            self.told.insert(by.clone(), Told::new(nothing(), Vec::new(), losses, at));
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
    pub(super) fn lower(&mut self, node: &NodeName, stated: &Held, began: u64, at: u64) -> bool {
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
            self.told.entry(node.clone()).or_insert_with(|| Told::new(nothing(), Vec::new(), 0, at));
        }
        let is_less = said_less || held_less || is_outdated;
        if let Some(said) = self.told.get_mut(node).filter(|_| is_less) {
            said.lost_from = most;
        }
        is_less
    }

    /// A node is here in this life: what it said in another was of a disk that it may not have any more, and of logs
    /// that it lacks now it says nothing.
    pub(super) fn meet(&mut self, node: &NodeName, incarnation: Incarnation, at: u64) -> bool {
        if self.incarnation == incarnation {
            return false;
        }
        let told = BTreeMap::from([(node.clone(), Told::new(nothing(), Vec::new(), 0, at))]);
        *self = Self { incarnation, told, held: None, losses: self.losses, is_own_word: true };
        true
    }

    /// Whether the node has lost something, of which less is known now than before; counted.
    ///
    /// Who tells of a loss need not be the last one by whose word more was known: so it is remembered until it shows, or that one says as much again.
    pub(super) fn judge(&mut self, life: Incarnation, before: Option<&(Incarnation, Known)>, now: &Held) -> bool {
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

/// What is known in this life of the node. Another life's replaces it, unless the node has said itself in which it is: what
/// comes of a former one then was on its way, also if it comes from the node.
pub(super) fn in_life<'a>(
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
pub(super) fn has_said(heard: Option<&Heard>, by: &NodeName) -> bool {
    heard.is_some_and(|heard| heard.told.contains_key(by))
}
