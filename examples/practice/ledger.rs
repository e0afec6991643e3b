//! What is known of a practice from outside: what it said was durable, and when.

use std::time::{Duration, Instant};

use counterfoil_examples::latency::Latencies;

use crate::site::News;

/// Parts of the run, in order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Phase {
    AllUp,
    LineCut,
    LineMended,
    HubStopped,
    HubBack,
    SiteKilled,
}

impl Phase {
    pub(crate) const ALL: [Self; 6] =
        [Self::AllUp, Self::LineCut, Self::LineMended, Self::HubStopped, Self::HubBack, Self::SiteKilled];

    /// Of 100 records of the first practice, how many are acknowledged when it begins.
    pub(crate) fn begins_at_percent(self) -> u64 {
        match self {
            Self::AllUp => 0,
            Self::LineCut => 20,
            Self::LineMended => 40,
            Self::HubStopped => 50,
            Self::HubBack => 60,
            Self::SiteKilled => 82,
        }
    }

    /// Whether in this phase the hub catches up with what it missed.
    pub(crate) fn is_after_fault(self) -> bool {
        matches!(self, Self::LineMended | Self::HubBack | Self::SiteKilled)
    }
}

/// What one practice did in one phase.
#[derive(Debug, Default)]
pub(crate) struct PhaseLedger {
    pub(crate) latencies: Latencies,
    /// Of bare writes beside the store.
    pub(crate) bare: Latencies,
    pub(crate) lag_max: u64,
    /// From the beginning of the phase until the hub had everything.
    pub(crate) caught_up_after: Option<Duration>,
}

/// What one practice did.
#[derive(Debug)]
pub(crate) struct Ledger {
    phase: Phase,
    phase_began_at: Instant,
    phases: [PhaseLedger; Phase::ALL.len()],
    /// Length of the log as far as acknowledged.
    pub(crate) acked: u64,
    /// Records that were durable, but not acknowledged, when the process was killed.
    pub(crate) durable_unacked: u64,
    /// What must not be: records lost, doubled or out of order, by the practice's own word.
    pub(crate) broken_promises: Vec<String>,
    pub(crate) is_closed: bool,
}

impl Ledger {
    pub(crate) fn new(now: Instant) -> Self {
        Self {
            phase: Phase::AllUp,
            phase_began_at: now,
            phases: Default::default(),
            acked: 0,
            durable_unacked: 0,
            broken_promises: Vec::new(),
            is_closed: false,
        }
    }

    pub(crate) fn begin(&mut self, phase: Phase, now: Instant) {
        self.phase = phase;
        self.phase_began_at = now;
    }

    pub(crate) fn of_phase(&self, phase: Phase) -> &PhaseLedger {
        &self.phases[phase as usize]
    }

    /// Median latency in a phase, as a multiple of that in all phases in which line and hub were up:
    /// before and after, since disks have their moods. Of appends, or of bare writes.
    pub(crate) fn median_ratio(&self, phase: Phase, of: fn(&PhaseLedger) -> &Latencies) -> Option<f64> {
        let mut up = Latencies::default();
        for phase in [Phase::AllUp, Phase::LineMended, Phase::HubBack, Phase::SiteKilled] {
            up.extend(of(self.of_phase(phase)));
        }
        let median = of(self.of_phase(phase)).percentile(50)?;
        Some(median.as_secs_f64() / up.percentile(50)?.as_secs_f64())
    }

    /// Notes what the practice's process has said.
    pub(crate) fn hear(&mut self, news: News, now: Instant) {
        let phase = &mut self.phases[self.phase as usize];
        match news {
            News::Ready { next_seq } if next_seq < self.acked => {
                self.broken_promises.push(format!("records {next_seq} to before {} are lost", self.acked));
            }
            News::Ready { next_seq } => {
                self.durable_unacked += next_seq - self.acked;
                self.acked = next_seq;
            }
            News::Ack { seq, latency } => {
                if seq != self.acked {
                    self.broken_promises.push(format!("record {seq} came where {} was due", self.acked));
                }
                self.acked = seq + 1;
                phase.latencies.add(latency);
            }
            News::Bare { latency } => phase.bare.add(latency),
            News::Lag { records: 0 } => {
                phase.caught_up_after.get_or_insert(now - self.phase_began_at);
            }
            News::Lag { records } => phase.lag_max = phase.lag_max.max(records),
            News::Appended => {}
            News::Closed => self.is_closed = true,
        }
    }
}
