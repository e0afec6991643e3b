//! A store whose files were changed at will, with checksums mended or not: opened to read, verified, opened to
//! write, written to, opened again.

use std::path::Path;

use arbitrary::{Arbitrary, Unstructured};
use counterfoil_storage::{Arrival, Batch, Journal, LogInfo, ReadError, Seq, verify};

use crate::{
    mend,
    template::{self, DIR, Files},
};

/// A change to the files of a store. Files are numbered in the order of their names.
#[derive(Debug, Clone, Arbitrary)]
enum Edit {
    Flip { file: u8, at: u16, bits: u8 },
    Write { file: u8, at: u16, bytes: Vec<u8> },
    Number { file: u8, at: u16, value: u64 },
    Cut { file: u8, len: u16 },
    Lengthen { file: u8, by: u16 },
    Remove { file: u8 },
    Copy { from: u8, to: u8 },
    Swap { one: u8, other: u8 },
    Move { file: u8, from: u16, to: u16, len: u8 },
    Zero { file: u8, at: u16, len: u16 },
    Mend { file: u8 },
}

#[derive(Debug, Arbitrary)]
struct Input {
    is_closed: bool,
    edits: Vec<Edit>,
    mend_all: bool,
}

/// More of them say nothing new.
const EDITS_MAX: usize = 24;
/// How often a reader may say something of a store of this size before it is given up.
const READS_MAX: usize = 10_000;

/// Takes bytes as changes to a store.
pub fn run(bytes: &[u8]) {
    let Ok(input) = Input::arbitrary(&mut Unstructured::new(bytes)) else { return };
    let mut files = template::files(input.is_closed).clone();
    for edit in input.edits.iter().take(EDITS_MAX) {
        apply(edit, &mut files);
    }
    if input.mend_all {
        files.iter_mut().for_each(|(name, content)| mend::file(name, content));
    }
    let is_forged = input.mend_all || input.edits.iter().any(|edit| matches!(edit, Edit::Mend { .. }));
    check_store(&files, is_forged);
}

fn pick(files: &mut Files, number: u8) -> Option<(String, &mut Vec<u8>)> {
    let count = files.len();
    let index = usize::from(number).checked_rem(count)?;
    files.iter_mut().nth(index).map(|(name, content)| (name.clone(), content))
}

fn apply(edit: &Edit, files: &mut Files) {
    let (Edit::Flip { file, .. }
    | Edit::Write { file, .. }
    | Edit::Number { file, .. }
    | Edit::Cut { file, .. }
    | Edit::Lengthen { file, .. }
    | Edit::Remove { file }
    | Edit::Copy { from: file, .. }
    | Edit::Swap { one: file, .. }
    | Edit::Move { file, .. }
    | Edit::Zero { file, .. }
    | Edit::Mend { file }) = *edit;
    let Some((name, content)) = pick(files, file) else { return };
    let len = content.len();
    let range = |at: u16, wanted: usize| usize::from(at).min(len)..(usize::from(at) + wanted).min(len);
    match edit {
        Edit::Flip { at, bits, .. } => content[range(*at, 1)].iter_mut().for_each(|byte| *byte ^= bits),
        Edit::Write { at, bytes, .. } => {
            let range = range(*at, bytes.len());
            content[range.clone()].copy_from_slice(&bytes[..range.len()]);
        }
        Edit::Number { at, value, .. } => {
            let range = range(*at, 8);
            content[range.clone()].copy_from_slice(&value.to_le_bytes()[..range.len()]);
        }
        Edit::Cut { len, .. } => content.truncate(usize::from(*len)),
        Edit::Lengthen { by, .. } => content.resize(len + usize::from(*by), 0),
        Edit::Remove { .. } => drop(files.remove(&name)),
        Edit::Copy { to, .. } => {
            let content = content.clone();
            files.insert(format!("{to:016x}.seg"), content);
        }
        Edit::Swap { other, .. } => {
            let one = std::mem::take(content);
            if let Some((_, other)) = pick(files, *other) {
                let other = std::mem::replace(other, one);
                files.insert(name, other);
            }
        }
        Edit::Move { from, to, len, .. } => {
            let moved = content[range(*from, (*len).into())].to_vec();
            let target = range(*to, moved.len());
            content[target.clone()].copy_from_slice(&moved[..target.len()]);
        }
        Edit::Zero { at, len, .. } => content[range(*at, (*len).into())].fill(0),
        Edit::Mend { .. } => mend::file(&name, content),
    }
}

/// What a journal serves of all logs, in order.
fn read_all(journal: &Journal) -> Vec<(LogInfo, Vec<Batch>)> {
    let mut all = Vec::new();
    for info in journal.logs(None) {
        let mut batches: Vec<Batch> = Vec::new();
        let mut errors = 0;
        for item in journal.read(info.id, Seq::ZERO) {
            match item {
                Ok(batch) => {
                    assert_eq!(batch.log(), info.id, "a batch of another log is served");
                    let end = batches.last().map_or(Seq::ZERO, Batch::next_seq);
                    assert!(batch.first_seq() >= end, "{} after {end}", batch.first_seq());
                    assert!(batch.next_seq() <= info.durable.next_seq, "served beyond the end");
                    batches.push(batch);
                }
                Err(ReadError::Disk { .. } | ReadError::UnknownLog { .. }) => break,
                Err(_) => {
                    errors += 1;
                    assert!(errors < READS_MAX, "reading makes no progress");
                }
            }
        }
        for seq in [Seq::ZERO, Seq(info.durable.next_seq.0 / 2), info.durable.next_seq, Seq(u64::MAX)] {
            if let Ok(Some(batch)) = journal.read_batch(info.id, seq) {
                assert!((batch.first_seq()..batch.next_seq()).contains(&seq), "{seq} was asked for");
            }
        }
        all.push((info, batches));
    }
    // A hostile writer may number arrivals as it likes; but the walk along them ends.
    let walked = journal.read_arrivals(Arrival::ZERO).take(READS_MAX).count();
    assert!(walked < READS_MAX, "reading by arrival makes no progress");
    all
}

/// Opens a store in every way. Nothing panics or goes on for ever. What was acknowledged is served when it is opened
/// again; and all else that was served, unless checksums are forged: then nothing is known of what the disk says.
pub fn check_store(files: &Files, is_forged: bool) {
    let disk = template::disk_of(files);
    let dir = Path::new(DIR);
    let mut read_only = template::options(&disk);
    read_only.read_only = true;
    let _ = verify(dir, &read_only, |_, _| {});
    if let Ok((journal, _)) = Journal::open(dir, read_only) {
        read_all(&journal);
        drop(journal);
    }
    assert!(template::files_of(&disk) == *files, "reading changes nothing");

    let Ok((journal, _)) = Journal::open(dir, template::options(&disk)) else { return };
    let served = read_all(&journal);
    let nonce = *journal.identity().incarnation.as_bytes();
    let mut genesis = template::genesis("practice", journal.identity().node.as_str());
    genesis.nonce = nonce;
    let log = journal.create_log(genesis).and_then(|log| journal.writer(log)?.append(b"after")?.wait().map(|()| log));
    let _ = journal.close();
    drop(journal);

    let (journal, _) = Journal::open(dir, template::options(&disk)).expect("what was opened to write opens again");
    let again = read_all(&journal);
    for (info, batches) in served.iter().filter(|_| !is_forged) {
        let Some((now, found)) = again.iter().find(|(now, _)| now.id == info.id) else {
            panic!("{}: the log is gone", info.id);
        };
        assert!(now.durable.next_seq >= info.durable.next_seq, "{}: ends earlier", info.id);
        let mut found = found.iter();
        for batch in batches {
            assert!(found.any(|found| found == batch), "{}: {} is gone", info.id, batch.first_seq());
        }
    }
    if let Ok(log) = log {
        let bodies = again.iter().filter(|(info, _)| info.id == log).flat_map(|(_, batches)| batches);
        let mut bodies = bodies.flat_map(Batch::records).flatten();
        assert!(bodies.any(|record| record.body == b"after"[..]), "what was acknowledged is gone");
    }
}

/// A store without a change; the fuzzer finds the changes.
pub fn seeds() -> Vec<Vec<u8>> {
    vec![vec![0], vec![1], (0..255).collect(), [vec![1], (0..200).rev().collect()].concat()]
}
