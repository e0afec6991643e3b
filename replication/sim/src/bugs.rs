//! Mistakes that an implementation could make, planted to see that a history with one of them is told from a sound one.
//!
//! They are made around the product, not in it: in what leaves a machine, reaches it, or is left out. So nothing that is
//! delivered has a switch for them.

use counterfoil_replication::{Ack, CaughtUp, Event, Heads, Message};
use counterfoil_storage::{Batch, BatchBuilder, Digest, Head, Hlc, Holes, NodeName, Seq};

/// A planted mistake, made by every machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Bug {
    /// A target acknowledges what has arrived, durable or not.
    AcksOnArrival,
    /// A target acknowledges one record more than it has.
    AcksOneTooMany,
    /// A target acknowledges a head of another history.
    AcksAnotherHistory,
    /// A hub acknowledges in the name of the hub behind it, too.
    AcksForAnother,
    /// A source takes what it has sent for acknowledged.
    CountsWhatWasSent,
    /// A source counts its own disk.
    CountsItself,
    /// A hub sends on what has arrived, durable or not.
    RelaysOnArrival,
    /// Now and then a batch is not sent.
    SkipsABatch,
    /// Now and then a batch is sent twice.
    SendsABatchTwice,
    /// Now and then two batches change places.
    SwapsBatches,
    /// Now and then a bit of a record is flipped.
    FlipsABit,
    /// Now and then a batch is encoded anew.
    EncodesAnew,
    /// Credit is not returned.
    KeepsCredit,
    /// Credit is returned twice.
    ReturnsCreditTwice,
    /// Whatever was offered, the answer is that it is here.
    AnswersEqualAlways,
    /// A target that is asked what has changed since it last said so says that nothing has.
    SaysNothingChanged,
    /// A log that the target lacks is not announced.
    ForgetsToAnnounce,
    /// A hub passes on its own head as that of the hub behind it.
    PassesOnItsOwnHead,
    /// A hub passes nothing on.
    PassesNothingOn,
    /// A connection that has fallen silent is not noticed.
    NeverNoticesSilence,
    /// What has become durable is not told to the sessions.
    MissesNews,
    /// A process that is killed comes back with the disk of a while ago.
    ComesBackOlder,
    /// A connection that was lost is not made again.
    NeverRedials,
    /// A session begins with two hellos.
    SaysHelloTwice,
    /// A node that is synced with does not ask for what the other end has.
    AsksForNothing,
    /// A node does not stream what it got from others.
    RelaysNothing,
    /// A node sends what it gets back to where it came from.
    SendsBack,
    /// A source says at once that the target has caught up.
    SaysCaughtUpAtOnce,
    /// An end takes any amount of batches, whatever its limits.
    TakesAnyAmount,
    /// Who has a name may bring logs of anybody.
    LetsEverybodyRelay,
    /// What arrives of a known log is stored, whoever sent it.
    StoresWhateverComes,
    /// An ack is believed before it is looked at.
    BelievesAcksUnseen,
    /// Once a log has stopped, nothing else is taken either.
    OneLogStopsAll,
    /// Where one end of a session breaks the rules, the other one never connects again to anybody.
    SulksOnceAccused,
}

impl Bug {
    /// All that practices and hubs can make.
    pub const ALL: [Self; 24] = [
        Self::AcksOnArrival,
        Self::AcksOneTooMany,
        Self::AcksAnotherHistory,
        Self::AcksForAnother,
        Self::CountsWhatWasSent,
        Self::CountsItself,
        Self::RelaysOnArrival,
        Self::SkipsABatch,
        Self::SendsABatchTwice,
        Self::SwapsBatches,
        Self::FlipsABit,
        Self::EncodesAnew,
        Self::KeepsCredit,
        Self::ReturnsCreditTwice,
        Self::AnswersEqualAlways,
        Self::ForgetsToAnnounce,
        Self::PassesOnItsOwnHead,
        Self::PassesNothingOn,
        Self::NeverNoticesSilence,
        Self::MissesNews,
        Self::ComesBackOlder,
        Self::NeverRedials,
        Self::SaysHelloTwice,
        Self::TakesAnyAmount,
    ];

    /// Those that only show beside one who lies.
    pub const OF_LIARS: [Self; 5] = [
        Self::LetsEverybodyRelay,
        Self::StoresWhateverComes,
        Self::BelievesAcksUnseen,
        Self::OneLogStopsAll,
        Self::SulksOnceAccused,
    ];

    /// Those that only nodes that sync can make.
    pub const OF_SYNC: [Self; 5] = [
        Self::AsksForNothing,
        Self::RelaysNothing,
        Self::SendsBack,
        Self::SaysCaughtUpAtOnce,
        Self::SaysNothingChanged,
    ];

    /// What leaves the machine `from` instead of a message. `is_now`: one of those that
    /// are made now and then, or in a certain shape, is due.
    pub(crate) fn outgoing(
        self,
        from: &NodeName,
        message: Message,
        is_now: bool,
        held: &mut Option<Batch>,
    ) -> Vec<Message> {
        match (self, message) {
            (Self::AcksOneTooMany, Message::Ack(ack)) if ack.node == *from => {
                let next_seq = Seq(ack.head.next_seq.0 + 1);
                vec![Message::Ack(Ack { head: Head { next_seq, ..ack.head }, ..ack })]
            }
            (Self::AcksAnotherHistory, Message::Ack(ack)) if ack.node == *from => {
                let digest = Digest::from_bytes([7; 32]);
                vec![Message::Ack(Ack { head: Head { digest, ..ack.head }, ..ack })]
            }
            (Self::AcksForAnother, Message::Ack(ack)) if from.as_str() == "hub" && is_now => {
                let other = NodeName::new("hub-2").map(|node| Message::Ack(Ack { node, ..ack.clone() }));
                [Message::Ack(ack)].into_iter().chain(other).collect()
            }
            (Self::SkipsABatch, Message::Batch(_)) if is_now => Vec::new(),
            (Self::SendsABatchTwice, Message::Batch(batch)) if is_now => {
                vec![Message::Batch(batch.clone()), Message::Batch(batch)]
            }
            (Self::SwapsBatches, Message::Batch(batch)) => match held.take() {
                Some(earlier) => vec![Message::Batch(batch), Message::Batch(earlier)],
                None if is_now => {
                    *held = Some(batch);
                    Vec::new()
                }
                None => vec![Message::Batch(batch)],
            },
            (Self::EncodesAnew, Message::Batch(batch)) if is_now => vec![Message::Batch(anew(&batch))],
            (Self::KeepsCredit, Message::Credit(_))
            | (Self::ForgetsToAnnounce, Message::Announce(_))
            | (Self::AsksForNothing, Message::Want(_)) => Vec::new(),
            (Self::AsksForNothing, Message::Exchange(offer)) => vec![Message::Offer(offer)],
            (Self::PassesNothingOn, Message::Ack(ack)) if ack.node != *from => Vec::new(),
            (Self::ReturnsCreditTwice, Message::Credit(credit)) => {
                vec![Message::Credit(credit.clone()), Message::Credit(credit)]
            }
            (Self::SaysNothingChanged, Message::Heads(heads)) if heads.since_heard => {
                vec![Message::Heads(Heads { heads: Vec::new(), ..heads })]
            }
            (Self::SaysCaughtUpAtOnce, Message::Announce(announce)) => {
                let caught_up = CaughtUp { space: announce.genesis.space.clone(), whole: true };
                vec![Message::Announce(announce), Message::CaughtUp(caught_up)]
            }
            (Self::SaysHelloTwice, Message::Hello(hello)) => vec![Message::Hello(hello.clone()), Message::Hello(hello)],
            (_, message) => vec![message],
        }
    }

    /// What the machine believes because of a message that it sends to `peer`.
    pub(crate) fn belief(self, from: &NodeName, peer: &NodeName, message: &Message) -> Option<Event> {
        let node = match self {
            Self::CountsWhatWasSent => peer.clone(),
            Self::CountsItself => from.clone(),
            _ => return None,
        };
        let Message::Batch(batch) = message else { return None };
        let incarnation = counterfoil_storage::Incarnation::from_bytes([7; 16]);
        let holes = Holes::default();
        Some(Event::Acked {
            log: batch.log(),
            node,
            incarnation,
            head: batch.head(),
            holes,
            via: Vec::new(),
            losses: 0,
        })
    }
}

/// The same records in a batch of another encoding: their times are not kept.
pub(crate) fn anew(batch: &Batch) -> Batch {
    let mut builder = BatchBuilder::with_capacity(batch.bytes().len());
    for record in batch.records().flatten() {
        builder.push(Hlc::from_bits(record.time.to_bits() + 1), &record.body);
    }
    let head = Head { next_seq: batch.first_seq(), digest: batch.header().previous };
    builder.seal(batch.log(), head)
}
