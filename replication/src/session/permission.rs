//! What the policy and the configuration permit, now and after a reload.

use counterfoil_storage::SpaceName;

use super::{
    Session,
    state::{Incoming, Inflow, Log, Outflow, Outgoing},
};
use crate::{
    config::Direction,
    error::{PeerMisbehaved, SessionError},
    event::{By, Event},
    message::{Flow, Message, ParkReason, Refusal, Refuse, Scope, Want},
    policy::Rights,
};

impl Session {
    pub(super) fn check_denied(&self) -> Result<(), SessionError> {
        if self.config.policy.is_denied(&self.config.peer) {
            return Err(SessionError::Denied { node: self.config.peer.clone() });
        }
        Ok(())
    }

    /// What the peer may do with a space: what the policy grants, and what this end's own wish needs.
    pub(super) fn rights(&self, index: usize) -> Rights {
        let space = &self.spaces[index];
        let policy = &self.config.policy;
        if policy.is_denied(&self.config.peer) {
            return Rights::NONE;
        }
        let receives = space.brought.is_some_and(Direction::receives);
        let wish = Rights {
            read: space.brought.is_some_and(Direction::sends),
            write: receives,
            relay: receives,
            takeover: false,
        };
        policy.rights(&self.config.peer, &space.name).union(wish)
    }

    /// Whether the peer may read a space, which need not be one of the session.
    pub(super) fn may_read(&self, space: &SpaceName) -> bool {
        match self.space_index.get(space) {
            Some(index) => self.rights(*index).read,
            None => self.config.policy.rights(&self.config.peer, space).read,
        }
    }

    /// Which logs of a space the peer may stream; `None`: none.
    pub(super) fn permitted_scope(&self, index: usize) -> Option<Scope> {
        match self.rights(index) {
            Rights { relay: true, .. } => Some(Scope::All),
            Rights { write: true, .. } => Some(Scope::Own),
            _ => None,
        }
    }

    /// Of which logs of a space the peer is told what is here, in a flow of that scope.
    pub(super) fn told_scope(&self, index: usize, scope: Scope) -> Scope {
        if self.rights(index).read { Scope::All } else { scope }
    }

    /// Whether this node writes a log in its present life.
    pub(super) fn is_own(&self, log: &Log) -> bool {
        log.genesis.node == self.config.local && log.genesis.nonce == *self.config.incarnation.as_bytes()
    }

    /// Whether what this end lacks of a log comes from the peer, or will when the peer's offer has come.
    pub(super) fn is_awaited(&self, log: &Log) -> bool {
        let is_open = !matches!(self.spaces[log.space].inflow, Inflow::Closed | Inflow::Refused);
        let scope = self.permitted_scope(log.space).filter(|_| is_open && !self.is_own(log));
        scope.is_some_and(|scope| self.target_carries(scope, log))
    }

    /// Whether a flow from this end of that scope carries a log.
    pub(super) fn source_carries(&self, scope: Scope, log: &Log) -> bool {
        scope == Scope::All || *log.writer() == self.config.local
    }

    /// Whether a flow towards this end of that scope carries a log.
    pub(super) fn target_carries(&self, scope: Scope, log: &Log) -> bool {
        scope == Scope::All || *log.writer() == self.config.peer
    }

    /// Asks for a space, if that is due and no offer says so.
    pub(super) fn want(&mut self, index: usize) {
        let space = &mut self.spaces[index];
        if std::mem::take(&mut space.want_due) {
            self.control.push_back(Message::Want(Want { space: space.name.clone() }));
        }
    }

    /// The peer asks for a space.
    pub(super) fn handle_want(&mut self, want: Want) {
        let Some(index) = self.space_or_add(&want.space) else {
            return self.refuse(want.space, Flow::Outgoing, Refusal::TooManySpaces);
        };
        self.spaces[index].wanted = true;
        if !self.rights(index).read {
            self.refuse_outflow(index);
        } else if matches!(self.spaces[index].outflow, Outflow::Closed | Outflow::Refused) {
            self.spaces[index].offer_due = true;
            self.load(index);
        }
    }

    /// The peer refuses or ends a flow.
    pub(super) fn handle_refuse(&mut self, refuse: Refuse) -> Result<(), PeerMisbehaved> {
        let Some(&index) = self.space_index.get(&refuse.space) else {
            return Err(PeerMisbehaved::UnknownSpace { space: refuse.space });
        };
        let flow = match refuse.flow {
            Flow::Incoming => {
                self.close_outflow(index);
                Flow::Outgoing
            }
            Flow::Outgoing => {
                self.close_inflow(index, Inflow::Asked);
                Flow::Incoming
            }
        };
        self.events.push_back(Event::Refused { space: refuse.space, flow, reason: refuse.reason, by: By::Peer });
        Ok(())
    }

    /// Applies a new policy to a space.
    pub(super) fn apply_policy(&mut self, index: usize) {
        let scope = self.permitted_scope(index);
        match (self.spaces[index].inflow, scope) {
            (Inflow::Open { .. }, None) => self.refuse_inflow(index),
            (Inflow::Open { scope: old }, Some(new)) if old != new => self.reopen_inflow(index, new),
            (Inflow::Refused, Some(new)) => self.reopen_inflow(index, new),
            _ => {}
        }
        let read = self.rights(index).read;
        match self.spaces[index].outflow {
            Outflow::Offered | Outflow::Answering { .. } | Outflow::Open { .. } if !read => self.refuse_outflow(index),
            Outflow::Refused | Outflow::Closed if read && self.spaces[index].wanted => {
                self.spaces[index].offer_due = true;
                self.load(index);
            }
            _ => {}
        }
    }

    /// Opens a flow towards this end with another scope: logs beyond it stop, the others are answered for again.
    fn reopen_inflow(&mut self, index: usize, scope: Scope) {
        let ids: Vec<_> = self.spaces[index].logs.iter().copied().collect();
        for id in ids {
            let Some(log) = self.logs.get(&id) else { continue };
            let carried = self.target_carries(scope, log);
            match (&log.incoming, carried) {
                (Incoming::Open { .. } | Incoming::Stalled { .. }, false) => {
                    let writer = log.writer().clone();
                    let space = self.spaces[index].name.clone();
                    self.park_incoming(id, ParkReason::NoRight { writer, space });
                }
                (Incoming::Parked(ParkReason::NoRight { .. }), true) => {
                    self.open_incoming(id, true);
                    self.keep_or_park(id);
                }
                _ => {}
            }
        }
        self.spaces[index].inflow = Inflow::Open { scope };
        self.answer_with_heads(index);
        if !self.spaces[index].load_asked {
            self.load(index);
        }
    }

    pub(super) fn refuse_inflow(&mut self, index: usize) {
        self.close_inflow(index, Inflow::Refused);
        self.refuse(self.spaces[index].name.clone(), Flow::Incoming, Refusal::NoRightToStream);
    }

    fn refuse_outflow(&mut self, index: usize) {
        self.close_outflow(index);
        self.refuse(self.spaces[index].name.clone(), Flow::Outgoing, Refusal::NoRightToRead);
    }

    pub(super) fn refuse(&mut self, space: SpaceName, flow: Flow, reason: Refusal) {
        self.control.push_back(Message::Refuse(Refuse { space: space.clone(), flow, reason }));
        self.events.push_back(Event::Refused { space, flow, reason, by: By::Local });
    }

    fn close_outflow(&mut self, index: usize) {
        let space = &mut self.spaces[index];
        space.outflow = Outflow::Refused;
        space.base = None;
        space.placing = None;
        space.offer_due = false;
        space.in_sync = false;
        let ids: Vec<_> = space.logs.iter().copied().collect();
        for id in ids {
            self.set_outgoing(id, Outgoing::Idle);
            self.note_unheard(id);
        }
        // No offer will say so.
        self.want(index);
    }

    /// Batches under way in a closed flow are dropped when they come; those queued are settled when durable.
    fn close_inflow(&mut self, index: usize, inflow: Inflow) {
        let space = &mut self.spaces[index];
        space.inflow = inflow;
        space.offered = None;
        space.answer = None;
        space.sketched = None;
        let ids: Vec<_> = space.logs.iter().copied().collect();
        for id in ids {
            if inflow == Inflow::Refused
                && self.logs.get(&id).is_some_and(|log| !matches!(log.incoming, Incoming::Idle))
            {
                self.drop_incoming(id);
            } else {
                self.close_incoming(id);
            }
        }
    }
}
