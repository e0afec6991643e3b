//! A small store, the same in every run: several segments, several logs, closed or not.

use std::{
    collections::BTreeMap,
    io::IoSlice,
    path::Path,
    sync::{Arc, OnceLock},
};

use counterfoil_storage::{
    Batch, BatchBuilder, Genesis, Head, Hlc, Journal, LogId, NodeName, Options, SpaceName, Stored, WallClock,
    vfs::{Memory, OpenMode, Vfs as _},
};

use crate::mend;

/// The folder of the store.
pub const DIR: &str = "/store";
/// The random bytes of which every id and salt of the template is made.
const NOT_RANDOM: [u8; 16] = [0x5a; 16];

/// The files of a store by name.
pub type Files = BTreeMap<String, Vec<u8>>;

/// A clock that always shows the same time.
#[derive(Debug)]
struct StoppedClock;

impl WallClock for StoppedClock {
    fn unix_ms(&self) -> u64 {
        1_800_000_000_000
    }
}

/// No threads, a stopped clock, small segments and batches, files in memory.
pub fn options(disk: &Memory) -> Options {
    let mut options = Options::default();
    options.vfs = Arc::new(disk.clone());
    options.background = false;
    options.clock = Arc::new(StoppedClock);
    options.batch_bytes = 1 << 10;
    options.ring_bytes = 0;
    options.segment_bytes_min = 16 << 10;
    options.segment_bytes_max = 16 << 10;
    options
}

/// A genesis by a space's and a writer's name.
pub fn genesis(space: &str, writer: &str) -> Genesis {
    Genesis::new(SpaceName::new(space).unwrap(), NodeName::new(writer).unwrap(), NOT_RANDOM)
}

/// A batch that follows `head`.
pub fn batch(log: LogId, head: Head, bodies: &[&[u8]]) -> Batch {
    let mut builder = BatchBuilder::with_capacity(64);
    for body in bodies {
        builder.push(Hlc::from_bits(1 << 32), body);
    }
    builder.seal(log, head)
}

/// A disk with these files, and what is not in them cut away.
pub fn disk_of(files: &Files) -> Memory {
    let disk = Memory::default();
    // The identity first: it is bound to the number of its inode, as when it was made.
    let order = files.get_key_value("identity").into_iter().chain(files.iter().filter(|(name, _)| *name != "identity"));
    for (name, content) in order {
        let file = disk.open(&Path::new(DIR).join(name), OpenMode::Create).unwrap();
        file.write_at(&[IoSlice::new(content)], 0).unwrap();
    }
    disk
}

/// The files on a disk, locks aside.
pub fn files_of(disk: &Memory) -> Files {
    let mut files = Files::new();
    for name in disk.list(Path::new(DIR)).unwrap().into_iter().filter(|name| name != "lock") {
        let file = disk.open(&Path::new(DIR).join(&name), OpenMode::Read).unwrap();
        let mut content = vec![0; file.len().unwrap() as usize];
        file.read_at(&mut content, 0).unwrap();
        files.insert(name, content);
    }
    files
}

/// Takes chance out of a store's files.
fn settle(files: &mut Files) {
    for (name, content) in files.iter_mut() {
        for at in [0, 4096] {
            let ids = match name.as_str() {
                "identity" => vec![at + 8..at + 24, at + 24..at + 40],
                _ if content.get(at..at + 4) == Some(b"CFS1") => vec![at + 8..at + 24, at + 32..at + 48],
                _ => vec![],
            };
            for range in ids {
                content[range].copy_from_slice(&NOT_RANDOM);
            }
        }
        if name == "identity" {
            // As if it had been the first file on its disk.
            for at in [0, 4096] {
                content[at + 40..at + 48].fill(0);
            }
        }
        mend::file(name, content);
    }
}

fn build(is_closed: bool) -> Files {
    let disk = Memory::default();
    let node = NodeName::new("own").unwrap();
    Journal::create(Path::new(DIR), node, options(&disk)).unwrap().close().unwrap();
    let mut files = files_of(&disk);
    settle(&mut files);
    let disk = disk_of(&files);
    let (journal, _) = Journal::open(Path::new(DIR), options(&disk)).unwrap();
    let own = journal.create_log(genesis("practice", "own")).unwrap();
    let foreign = genesis("other", "other");
    let other = journal.create_log(foreign.clone()).unwrap();
    let writer = journal.writer(own).unwrap();
    let mut head = foreign.head();
    for round in 0..24_u8 {
        writer.append_all(&[vec![round; 300], vec![round; 700]]).unwrap();
        let batch = batch(other, head, &[&[round; 40], &[]]);
        head = batch.head();
        assert!(matches!(journal.store(batch), Ok(Stored::Queued(_))));
        journal.commit().unwrap();
    }
    if is_closed {
        journal.close().unwrap();
    }
    let mut files = files_of(&disk);
    drop(journal);
    // Segments that were begun have random salts.
    settle(&mut files);
    // Space made ready and not used says nothing and is dear to copy; what is used may itself end in a few zeros.
    for content in files.values_mut() {
        let used = content.iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1);
        content.truncate(used.next_multiple_of(8) + 1024);
    }
    files
}

/// The files of a store that was closed, or was not.
pub fn files(is_closed: bool) -> &'static Files {
    static CLOSED: OnceLock<Files> = OnceLock::new();
    static KILLED: OnceLock<Files> = OnceLock::new();
    if is_closed { CLOSED.get_or_init(|| build(true)) } else { KILLED.get_or_init(|| build(false)) }
}
