//! Records that claim to be writes to collections, by another node: what a space's collections make of them.

use std::{path::Path, sync::Arc, time::Duration};

use bytes::Bytes;
use counterfoil::{Collection, Cursor, Store, Versions, vfs::Memory};
use counterfoil_storage::{
    Attributes, BatchBuilder, Genesis, Hlc, Journal, LogId, NodeName, Options, RecordKind, SpaceName,
};

/// The kind of such records.
const COLLECTION: RecordKind = RecordKind::new(1);

const DIR: &str = "fuzz.store";

fn options(disk: &Memory) -> Options {
    let mut options = Options::default();
    (options.vfs, options.background) = (Arc::new(disk.clone()), false);
    options
}

/// The log of the other node, whose name seeds need for references.
fn genesis() -> Genesis {
    let name = "other";
    Genesis::new(SpaceName::new("fuzz").expect("a name"), NodeName::new(name).expect("a name"), [7; 16])
}

/// A store with a log of another node whose records are these.
fn store_with(bodies: &[&[u8]]) -> Store {
    let disk = Memory::default();
    let node = NodeName::new("fuzz").expect("a name");
    let journal = Journal::create(Path::new(DIR), node, options(&disk)).expect("memory");
    let genesis = genesis();
    let (log, mut head) = (genesis.log_id(), genesis.head());
    journal.create_log(genesis).expect("memory");
    for (time, body) in (1..).zip(bodies) {
        let mut builder = BatchBuilder::with_capacity(body.len());
        let attributes = Attributes { kind: COLLECTION, happened_unix_ms: None };
        builder.push_with(Hlc::from_bits(time), attributes, body);
        let batch = builder.seal(log, head);
        head = batch.head();
        journal.store(batch).expect("it continues the log");
    }
    journal.close().expect("memory");
    Store::builder().vfs(Arc::new(disk)).background(false).open(DIR).expect("it was closed")
}

/// Splits the bytes into records, each up to a byte that is 0xff.
pub fn run(input: &[u8]) {
    let bodies: Vec<_> = input.split(|byte| *byte == 0xff).take(64).collect();
    let store = store_with(&bodies);
    let space = store.space("fuzz").expect("a name");
    let collection: Collection<Vec<u8>, Bytes> = space.collection_of_bytes("c").expect("others' records are no error");
    let unreadable = collection.unreadable().expect("memory").len();
    let records = space.read(..).expect("memory").map(|record| record.expect("memory"));
    assert_eq!(records.filter(|record| record.writes().is_none()).count(), unreadable, "the others were taken in");
    for entry in collection.range(..).expect("no bound").collect::<Vec<_>>() {
        let (key, versions) = entry.expect("it is read from the log that it was found in");
        let history = collection.history(&key).expect("memory");
        let is_there = |id| history.versions.iter().any(|version| version.id() == id);
        assert!(versions.all().iter().all(|version| is_there(version.id())), "a live version is one that was written");
        // A write here supersedes all of it, whatever it claims to have seen.
        collection.put(&key, &Bytes::from_static(b"decided")).expect("memory");
        let Versions::One(decided) = collection.get(&key).expect("memory") else { panic!("one version is left") };
        assert_eq!(decided.value().expect("it was just put"), &b"decided"[..]);
    }
    assert_eq!(collection.conflicts().expect("no bound").count(), 0);
    let mut changes = collection.changes(Cursor::start());
    while changes.next_timeout(Duration::ZERO).expect("memory").is_some() {}
}

/// A write of each kind, and references to what is there, to what is not, and to another history.
pub fn seeds() -> Vec<Vec<u8>> {
    let write = |flags: u8, rest: &[u8]| [&[1, 1, flags, 1, b'c', 1, b'k'], rest].concat();
    let value = b"\x05\x01\x01\x01\x00v";
    let put = write(1, &[&b"\x00\x00"[..], value].concat());
    let again = write(1, &[&b"\x01\x00"[..], value].concat());
    let delete = write(0, b"\x02\x00");
    let reference = |log: LogId, seq: u8| [log.as_bytes(), &[seq][..], &[9; 8]].concat();
    let elsewhere = |log| write(1, &[&b"\x00\x01"[..], &reference(log, 0), value].concat());
    let records = |bodies: &[&Vec<u8>]| bodies.iter().map(|body| &body[..]).collect::<Vec<_>>().join(&0xff);
    vec![
        put.clone(),
        records(&[&put, &again, &delete]),
        records(&[&put, &put]),
        records(&[&put, &elsewhere(LogId::from_bytes([3; 16])), &elsewhere(genesis().log_id())]),
        records(&[&vec![2, 1], &put, &vec![0]]),
    ]
}
