//! What the benches share: the payload, the workloads, the systems that do them, and the limits.
//!
//! `cargo bench -p counterfoil-benches --features peers --bench arena` puts all systems beside each other. The
//! other benches put a journal beside its limit with criterion, to watch one change: `--bench append -- D`.
//! The machine is noisy, so a number counts only beside the one that a hand-written program reached in
//! the same run: rounds of all alternate, medians are compared, and each bench ends with a table.

mod contest;
mod group_commit;
mod limit;
mod our_pair;
mod ours;
mod pair;
mod payload;
mod reconciling_cost;
mod remote_limit;
mod segments;
mod shaper;
mod system;
mod workload;

pub use contest::{Contest, Measure, Ratios, Target, stopwatch};
pub use group_commit::GroupCommit;
pub use limit::Limit;
pub use ours::Counterfoil;
pub use pair::{Pair, Pairing, Waiter, line_of};
pub use payload::{Payload, RECORD_BYTES};
pub use reconciling_cost::{Cost, LeastReconciling, OurReconciling, Reconciler};
pub use remote_limit::{RemoteDisk, RemoteLimit};
pub use segments::{Frames, Segments, Snapshot, Spot};
pub use shaper::{Line, Shaper};
pub use system::{Body, Contender, Outcome, Reader, Remark, System};
pub use workload::{Archive, IN_FLIGHT, LOGS_A_COMMIT, MANY_LOGS, RECORDS_A_CALL, SyncCase, Unit, WRITERS, Workload};

use std::{io, path::Path};

use counterfoil_storage::{Genesis, Journal, LogId, LogWriter, NodeName, Options, SpaceName};
use tempfile::TempDir;

/// A folder on the disk that holds the target folder, gone when dropped.
///
/// The usual folder for temporary files may be in memory, where a flush costs nothing.
pub fn folder() -> io::Result<TempDir> {
    let program = std::env::current_exe()?;
    let parent = program.parent().ok_or(io::ErrorKind::NotFound)?;
    tempfile::Builder::new().prefix("counterfoil-bench-").tempdir_in(parent)
}

/// A new store with default options, as an application gets it, and `logs` logs of its own.
///
/// # Panics
///
/// If the disk fails: a bench has nobody to tell.
pub fn store(logs: u64) -> (TempDir, Journal, Vec<LogWriter>) {
    let folder = folder().expect("a folder beside the target");
    let (journal, writers) = store_in(folder.path(), logs);
    (folder, journal, writers)
}

/// The same in the folder `store` of a given one.
///
/// # Panics
///
/// If the disk fails.
pub fn store_in(folder: &Path, logs: u64) -> (Journal, Vec<LogWriter>) {
    store_with(Options::default(), folder, logs)
}

/// The same with options of one's own.
///
/// # Panics
///
/// If the disk fails.
pub fn store_with(options: Options, folder: &Path, logs: u64) -> (Journal, Vec<LogWriter>) {
    let node = NodeName::new("bench").expect("a name");
    let journal = Journal::create(&folder.join("store"), node, options).expect("a new store");
    let writers = (0..logs).map(|log| journal.writer(create_log(&journal, log)).expect("an own log")).collect();
    journal.commit().expect("a commit");
    (journal, writers)
}

fn create_log(journal: &Journal, number: u64) -> LogId {
    let space = SpaceName::new(&format!("practice-{number}")).expect("a name");
    let identity = journal.identity();
    let genesis = Genesis::new(space, identity.node.clone(), *identity.incarnation.as_bytes());
    journal.create_log(genesis).expect("a new log")
}
