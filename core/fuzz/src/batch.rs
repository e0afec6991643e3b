//! Batches and the records in them, with the checksum as it is and made to match.

use bytes::{Bytes, BytesMut};
use counterfoil_storage::{Batch, BatchBuilder, Genesis, Head, MAX_BATCH_LEN, split_batch};

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
    let borrowed: Vec<_> = batch.record_refs().collect();
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
    // One encoding for one content: what is the same to read is the same to hash.
    let mut builder = BatchBuilder::with_capacity(bytes.len());
    records.iter().for_each(|record| builder.push(record.time, &record.body));
    let again = builder.seal(batch.log(), Head { next_seq: batch.first_seq(), digest: header.previous });
    assert!(again == batch, "built again it is another");
}

/// Whole batches.
pub fn seeds() -> Vec<Vec<u8>> {
    let genesis: Genesis = template::genesis("p", "p");
    let first = template::batch(genesis.log_id(), genesis.head(), &[b"", b"one", &[7; 200]]);
    let second = template::batch(genesis.log_id(), first.head(), &[&vec![0; 20_000]]);
    let both = [&first.bytes()[..], &second.bytes()[..]].concat();
    vec![Vec::new(), first.bytes().to_vec(), both]
}
