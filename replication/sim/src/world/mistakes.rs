//! Where planted mistakes are made.

use bytes::BytesMut;
use counterfoil_replication::{Ack, Event, Heads, Message, Reconciled, Scope, Sketch};
use counterfoil_storage::{Holes, SpaceName};

use super::{Outcome, World};
use crate::bugs::Bug;

/// A mistake that is made now and then is made once in so many times.
const SELDOM: u64 = 20;

impl World {
    /// Says what an endpoint wants to say, or what a mistake makes of it.
    pub(super) fn say(&mut self, connection: u64, side: usize, message: Message) -> Outcome {
        let Some(state) = self.connections.get(&connection) else { return Ok(()) };
        let (machine, peer) = (state.ends[side].machine, state.ends[1 - side].machine);
        if Some(machine) == self.liar_index() {
            self.lie(connection, side, message);
            return Ok(());
        }
        let Some(bug) = self.bug else { return self.say_one(connection, side, &message) };
        let (from, to) = (self.machines[machine].name.clone(), self.machines[peer].name.clone());
        if let Some(event) = bug.belief(&from, &to, &message) {
            self.post(machine, peer, &event)?;
            self.judge_event(connection, side, &event)?;
        }
        if let (Bug::RelaysNothing, Message::Batch(batch)) = (bug, &message)
            && !self.machines[machine].writes(batch.log())
        {
            return Ok(());
        }
        let message = match message {
            Message::Heads(Heads { space, scope, told, first: true, .. })
            | Message::Sketch(Sketch { space, scope, told, .. })
                if bug == Bug::AnswersEqualAlways =>
            {
                match self.equal(connection, side, space, [scope, told]) {
                    Some(message) => message,
                    None => return Ok(()),
                }
            }
            Message::Heads(_) if bug == Bug::AnswersEqualAlways => return Ok(()),
            message => self.exaggerate(machine, message),
        };
        let is_now = match bug {
            Bug::AcksForAnother => self.plan.second_hub,
            _ => self.rng.chance(1, SELDOM),
        };
        let held = self.held.entry((connection, side)).or_default();
        for message in bug.outgoing(&from, message, is_now, held) {
            self.say_one(connection, side, &message)?;
        }
        Ok(())
    }

    fn say_one(&mut self, connection: u64, side: usize, message: &Message) -> Outcome {
        let Some(state) = self.connections.get(&connection) else { return Ok(()) };
        let machine = state.ends[side].machine;
        self.machines[machine].judge_sent(message, &self.chains)?;
        if let Message::Batch(batch) = message
            && state.ends[side].received.get(&batch.log()).is_some_and(|received| *received >= batch.next_seq())
        {
            return Err(format!("{}: {batch:?} was sent back to where it came from", self.machines[machine].name));
        }
        self.send(connection, side, message);
        Ok(())
    }

    /// That all that was offered is here, instead of what is.
    fn equal(&self, connection: u64, side: usize, space: SpaceName, [scope, told]: [Scope; 2]) -> Option<Message> {
        let offer = *self.connections.get(&connection)?.ends[side].offers.get(&space)?;
        Some(Message::Equal(Reconciled { space, scope, told, offer }))
    }

    /// Passes on this machine's own head instead of the one that was heard.
    fn exaggerate(&self, machine: usize, message: Message) -> Message {
        let machine = &self.machines[machine];
        match message {
            Message::Ack(ack) if self.bug == Some(Bug::PassesOnItsOwnHead) && ack.node != machine.name => {
                let own = machine.heads().get(&ack.log).copied();
                Message::Ack(Ack { head: own.unwrap_or(ack.head), ..ack })
            }
            message => message,
        }
    }

    /// Flips a bit of the last record of a batch.
    pub(super) fn spoil(&mut self, message: &Message, bytes: &mut BytesMut) {
        if self.bug == Some(Bug::FlipsABit)
            && matches!(message, Message::Batch(_))
            && self.rng.chance(1, SELDOM)
            && let Some(last) = bytes.last_mut()
        {
            *last ^= 1;
        }
    }

    /// An end that has accused the other one has enough of them all.
    pub(super) fn sulk(&mut self, connection: u64, side: usize) {
        let machine = self.connections.get(&connection).map(|state| state.ends[side].machine);
        if self.bug == Some(Bug::SulksOnceAccused) {
            self.stopped.extend(machine);
        }
    }

    /// Whether a mistake makes nothing of a message that arrives.
    pub(super) fn is_left_out(&self, connection: u64, to: usize, message: &Message) -> bool {
        let machine = self.connections.get(&connection).map(|state| state.ends[to].machine);
        self.bug == Some(Bug::OneLogStopsAll)
            && matches!(message, Message::Batch(_))
            && machine.is_some_and(|machine| self.stopped.contains(&machine))
    }

    /// What a mistake does when a message arrives.
    pub(super) fn mistake_on_arrival(&mut self, connection: u64, to: usize, message: &Message) -> Outcome {
        let (Some(bug), Some(state)) = (self.bug, self.connections.get(&connection)) else { return Ok(()) };
        let machine = state.ends[to].machine;
        match (bug, message) {
            (Bug::AcksOnArrival, Message::Batch(batch)) => {
                let Some(journal) = &self.machines[machine].journal else { return Ok(()) };
                let (node, incarnation) = (self.machines[machine].name.clone(), journal.identity().incarnation);
                let holes = Holes::default();
                let ack =
                    Ack { log: batch.log(), node, incarnation, head: batch.head(), holes, via: Vec::new(), losses: 0 };
                self.say_one(connection, to, &Message::Ack(ack))?;
            }
            (Bug::SendsBack, Message::Batch(_)) if self.rng.chance(1, SELDOM) => {
                self.say_one(connection, to, message)?;
            }
            (Bug::BelievesAcksUnseen, Message::Ack(ack)) => {
                let Ack { log, node, incarnation, head, holes, via, losses } = ack.clone();
                self.judge_event(connection, to, &Event::Acked { log, node, incarnation, head, holes, via, losses })?;
            }
            (Bug::StoresWhateverComes, Message::Batch(batch)) => {
                let journal = self.machines[machine].journal.as_ref();
                let known = journal.filter(|journal| journal.log(batch.log()).is_some());
                // It may be a duplicate, or not fit: then it is not stored.
                drop(known.map(|journal| journal.try_store(batch.clone())));
                self.settle(machine)?;
            }
            (Bug::RelaysOnArrival, Message::Batch(_)) => {
                let mut onward = self.connections.iter().filter(|(_, state)| state.ends[0].machine == machine);
                if let Some((&onward, _)) = onward.next() {
                    self.say_one(onward, 0, message)?;
                }
            }
            _ => {}
        }
        Ok(())
    }

    /// Keeps each disk as it is now, until its machine is killed or this is asked for again.
    pub(super) fn remember_disks(&mut self) {
        if self.bug == Some(Bug::ComesBackOlder) {
            for (index, machine) in self.machines.iter().enumerate() {
                self.older.entry(index).or_insert_with(|| machine.disk.snapshot());
            }
        }
    }
}
