//! What differs between two nodes: each way to find out does it once, since nothing of it depends on the machine.

use counterfoil_benches::{Reconciler, SyncCase, Workload};

use crate::{
    progress::Progress,
    report::{Entry, Results, Series},
    turn::Turn,
};

/// All of them, at one case.
pub(crate) fn run(lineup: &[&dyn Reconciler], case: SyncCase, records: usize, progress: &Progress) -> Results {
    let mut results = Results::default();
    for reconciler in lineup {
        let name = reconciler.name();
        progress.say(Workload::S(case), name, "finds out");
        match reconciler.find_out(case, records) {
            Ok(cost) => {
                let turn = Turn { figure: cost.bytes, latencies: Vec::new() };
                results.series.push(Series::new(Entry { system: name, remark: None }, vec![turn]));
                let rest = cost.rest_bytes.filter(|_| case.differing > 0);
                let rest = rest.map(|bytes| format!("; {bytes} B more to announce, frame and acknowledge them"));
                let what = if case.differing > 0 { "the first record leaves" } else { "that nothing differs is known" };
                let (trips, rest) = (cost.round_trips, rest.unwrap_or_default());
                results.found.push(format!("{name}: {what} after {trips} round trips{rest}"));
            }
            Err(error) => results.absent.push((name, format!("failed: {error}"))),
        }
    }
    results
}
