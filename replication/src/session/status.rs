//! How a session stands, for people and metrics.

use counterfoil_storage::Seq;

use super::{
    Session,
    state::{Incoming, Inflow, Log, Outgoing, Space},
};
use crate::event::{SessionStatus, SpaceStatus};

impl Session {
    pub(super) fn report(&self) -> SessionStatus {
        let mut spaces: Vec<_> = self.spaces.iter().map(|space| self.report_space(space)).collect();
        spaces.sort_by(|a, b| a.space.cmp(&b.space));
        SessionStatus {
            peer: self.config.peer.clone(),
            incarnation: self.peer.map(|peer| peer.incarnation),
            last_heard: self.liveness.last_heard,
            in_flight_bytes: self.logs.values().map(|log| log.in_flight.bytes).sum(),
            spaces,
        }
    }

    fn report_space(&self, space: &Space) -> SpaceStatus {
        let mut status = SpaceStatus {
            space: space.name.clone(),
            sends: space.out_scope().is_some(),
            receives: matches!(space.inflow, Inflow::Open { .. }),
            in_sync: space.in_sync,
            lag_records: 0,
            lag_bytes: 0,
            behind_since: space.behind_since,
            behind_records: 0,
            parked: Vec::new(),
            acked: Vec::new(),
        };
        for (id, log) in space.logs.iter().filter_map(|id| self.logs.get(id).map(|log| (*id, log))) {
            let carried = space.out_scope().is_some_and(|scope| self.source_carries(scope, log));
            if carried {
                let (records, bytes) = lag(log);
                status.lag_records += records;
                status.lag_bytes += bytes;
            }
            if status.receives {
                status.behind_records += log.source_next_seq.0.saturating_sub(log.head().next_seq.0);
            }
            if let Outgoing::Parked(reason) = &log.outgoing {
                status.parked.push((id, reason.clone()));
            }
            if let Incoming::Parked(reason) = &log.incoming {
                status.parked.push((id, reason.clone()));
            }
            if let Some(head) = log.peer_head.filter(|head| head.next_seq > Seq::ZERO) {
                status.acked.push((id, head));
            }
        }
        status
    }
}

/// Records durable here that the peer has not acknowledged, and about how many bytes they are.
fn lag(log: &Log) -> (u64, u64) {
    let Some(local) = log.local else { return (0, 0) };
    let next_seq = local.head.next_seq.0;
    let acked = log.peer_head.map_or(0, |head| head.next_seq.0);
    let sent = match &log.outgoing {
        Outgoing::Streaming(streaming) => streaming.sent.next_seq.0,
        _ => acked,
    };
    let kept = next_seq.saturating_sub(local.first_seq.0).max(1);
    let unsent = u128::from(next_seq.saturating_sub(sent));
    let unsent_bytes = u128::from(local.bytes) * unsent / u128::from(kept);
    (next_seq.saturating_sub(acked), log.in_flight.bytes + u64::try_from(unsent_bytes).unwrap_or(u64::MAX))
}
