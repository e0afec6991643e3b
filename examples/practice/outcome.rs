//! What came of it: both halves of every record compared, and shown.

use std::{fmt::Write as _, io};

use counterfoil::{Digest, LogInfo, Store};
use counterfoil_examples::{
    latency::{Latencies, show as show_duration},
    print::print,
    table::Table,
};

use crate::{
    Result,
    ledger::{Phase, PhaseLedger},
    run::Practice,
};

impl Phase {
    fn name(self) -> &'static str {
        match self {
            Self::AllUp => "all up",
            Self::LineCut => "line cut",
            Self::LineMended => "line mended",
            Self::HubStopped => "hub stopped",
            Self::HubBack => "hub started",
            Self::SiteKilled => "killed, restarted",
        }
    }
}

/// Prints the tables; whether every promise was kept.
pub(crate) fn show(practices: &[Practice], hub: &Store) -> Result<bool> {
    let first = &practices[0];
    let mut text = String::new();
    writeln!(text, "Appends of {}, each durable on its own disk:\n", first.name)?;
    let mut phases = Table::new(["", "appends", "median", "p99", "bare write", "greatest lag", "hub has all after"]);
    for phase in Phase::ALL {
        phases.row(phase_row(phase, first.ledger().of_phase(phase)));
    }
    writeln!(text, "{phases}")?;
    for (phase, what) in [(Phase::LineCut, "the line was cut"), (Phase::HubStopped, "the hub was stopped")] {
        let appends = first.ledger().median_ratio(phase, |phase| &phase.latencies);
        let bare = first.ledger().median_ratio(phase, |phase| &phase.bare);
        if let Some((ratio, bare)) = appends.zip(bare) {
            writeln!(
                text,
                "While {what} an append took {ratio:.2} times as long as with both up, and a bare write and flush beside \
                 it {bare:.2} times: {:.2} times what the disk's own drift makes of it (medians).",
                ratio / bare
            )?;
        }
    }

    writeln!(text, "\nWhat each end holds:\n")?;
    let mut ends = Table::new(["", "made", "acknowledged", "on its disk", "on the hub's", "digest", ""]);
    let mut is_kept = true;
    for practice in practices {
        let verdict = compare(practice, hub)?;
        is_kept &= verdict.problems.is_empty();
        ends.row(verdict.row);
        for problem in verdict.problems {
            eprintln!("{}: {problem}", practice.name);
        }
    }
    writeln!(text, "{ends}")?;
    let (name, unacked) = (&first.name, first.ledger().durable_unacked);
    writeln!(text, "When {name} was killed, {unacked} records were durable and not yet acknowledged; they were kept.")?;
    let verdict = if is_kept {
        "Every record is at both ends, in order, once, byte for byte."
    } else {
        "A promise was broken: see above."
    };
    writeln!(text, "{verdict}")?;
    print(&mut io::stdout().lock(), &text)?;
    Ok(is_kept)
}

fn phase_row(phase: Phase, ledger: &PhaseLedger) -> [String; 7] {
    let of = |latencies: &Latencies, percent| latencies.percentile(percent).map_or("-".to_owned(), show_duration);
    let caught_up = match ledger.caught_up_after {
        _ if !phase.is_after_fault() => String::new(),
        Some(after) => show_duration(after),
        None => "the next fault".to_owned(),
    };
    [
        phase.name().to_owned(),
        ledger.latencies.count().to_string(),
        of(&ledger.latencies, 50),
        of(&ledger.latencies, 99),
        of(&ledger.bare, 50),
        format!("{} records", ledger.lag_max),
        caught_up,
    ]
}

struct Verdict {
    row: [String; 7],
    problems: Vec<String>,
}

fn compare(practice: &Practice, hub: &Store) -> Result<Verdict> {
    let made = practice.records.all()?;
    let store = Store::open_read_only(&practice.store)?;
    let mut problems = practice.ledger().broken_promises.clone();
    let acked = practice.ledger().acked;
    if acked != made.len() as u64 {
        problems.push(format!("{acked} records were acknowledged, not {}", made.len()));
    }
    let mut digests = Vec::new();
    let mut counts = Vec::new();
    for (end, store) in [("its own disk", &store), ("the hub", hub)] {
        let space = store.space(&practice.name)?;
        let bodies = space.read(..)?.map(|record| Ok(record?.into_body())).collect::<Result<Vec<_>>>()?;
        if bodies != made {
            problems.push(format!("what is on {end} is not what was made"));
        }
        counts.push(bodies.len().to_string());
        digests.push(digest(&space.logs()));
    }
    let is_equal = digests[0].is_some() && digests[0] == digests[1];
    if !is_equal {
        problems.push("the digests of the two ends differ".to_owned());
    }
    let digest = digests[0].map_or("-".to_owned(), |digest| digest.to_string().chars().take(16).collect());
    Ok(Verdict {
        row: [
            practice.name.clone(),
            made.len().to_string(),
            acked.to_string(),
            counts[0].clone(),
            counts[1].clone(),
            digest,
            if is_equal { "equal" } else { "DIFFERENT" }.to_owned(),
        ],
        problems,
    })
}

/// The digest of the only log there is.
fn digest(logs: &[LogInfo]) -> Option<Digest> {
    match logs {
        [only] => Some(only.durable.digest),
        _ => None,
    }
}
