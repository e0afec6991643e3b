//! Batches and the records in them, with the checksum as it is and made to match.

use std::path::Path;

use bytes::{Bytes, BytesMut};
use counterfoil_storage::{
    Batch, BatchBuilder, Compression, Genesis, Head, Journal, MAX_BATCH_LEN, Seq, split_batch, vfs::Memory,
};

use crate::{mend, template};

/// Takes bytes as a batch.
pub fn run(input: &[u8]) {
    check(&Bytes::copy_from_slice(input));
    let mut mended = input.to_vec();
    mend::batch(&mut mended);
    check(&Bytes::from(mended));
    let mut stream = BytesMut::from(input);
    let mut left = stream.len();
    while let Ok(Some(batch)) = split_batch(&mut stream) {
        assert_eq!(left - stream.len(), batch.bytes().len(), "a batch is split off whole");
        left = stream.len();
    }
}

fn check(bytes: &Bytes) {
    let Ok(batch) = Batch::parse(bytes.clone()) else { return };
    assert!(batch.bytes() == bytes && bytes.len() <= MAX_BATCH_LEN);
    let header = *batch.header();
    assert_eq!(header.batch_len(), bytes.len());
    assert!(batch.first_seq() < batch.next_seq());
    let records: Vec<_> = batch.records().collect();
    let Ok(body) = batch.body() else {
        assert!(
            batch.check_records().is_err() && matches!(records[..], [Err(_)]),
            "a body that can't be read has none"
        );
        return;
    };
    let borrowed: Vec<_> = body.record_refs().collect();
    assert_eq!(records.len(), borrowed.len());
    for (record, borrowed) in records.iter().zip(&borrowed) {
        match (record, borrowed) {
            (Ok(record), Ok(borrowed)) => {
                assert_eq!((record.seq, record.time, &record.body[..]), (borrowed.seq, borrowed.time, borrowed.body));
            }
            (record, borrowed) => assert_eq!(record.as_ref().err(), borrowed.as_ref().err()),
        }
    }
    if batch.check_records().is_err() {
        assert!(records.last().is_some_and(Result::is_err), "the check and the walk agree");
        return;
    }
    assert_eq!(records.len(), header.record_count as usize);
    let records: Vec<_> = records.into_iter().map(Result::unwrap).collect();
    let stride = records.len() / 16 + 1;
    for record in records.iter().step_by(stride) {
        assert_eq!(batch.record(record.seq).as_ref(), Some(record));
    }
    assert_eq!(batch.record(batch.next_seq()), None);
    if header.compression != Compression::None {
        return;
    }
    // One encoding for one content: what is the same to read is the same to hash.
    let mut builder = BatchBuilder::with_capacity(bytes.len());
    records.iter().for_each(|record| builder.push_with(record.time, record.attributes, &record.body));
    let again = builder.seal(batch.log(), Head { next_seq: batch.first_seq(), digest: header.previous });
    assert!(again == batch, "built again it is another");
}

/// Whole batches.
pub fn seeds() -> Vec<Vec<u8>> {
    let genesis: Genesis = template::genesis("p", "p");
    let first = template::batch(genesis.log_id(), genesis.head(), &[b"", b"one", &[7; 200]]);
    let second = template::batch(genesis.log_id(), first.head(), &[&vec![0; 20_000]]);
    let both = [&first.bytes()[..], &second.bytes()[..]].concat();
    let mut seeds = vec![Vec::new(), first.bytes().to_vec(), both];
    seeds.extend([Compression::Lz4, Compression::Zstd].map(compressed));
    seeds
}

/// One that a journal compressed.
fn compressed(compression: Compression) -> Vec<u8> {
    let mut options = template::options(&Memory::default());
    options.compression = compression;
    let genesis = template::genesis("p", "p");
    let journal = Journal::create(Path::new(template::DIR), genesis.node.clone(), options).unwrap();
    let nonce = *journal.identity().incarnation.as_bytes();
    let log = journal.create_log(Genesis { nonce, ..genesis }).unwrap();
    let writer = journal.writer(log).unwrap();
    writer.append_all(&[b"BP 120/80 ".repeat(40), b"BP 130/85 ".repeat(20)]).unwrap().wait().unwrap();
    journal.read_batch(log, Seq::ZERO).unwrap().expect("it is durable").bytes().to_vec()
}
