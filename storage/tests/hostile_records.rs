//! Records made to pass for something else once a bit of them flips. By an attacker who knows the formats, and the
//! victim's log and head, but not the salt of the segment.
#![allow(
    missing_docs,
    clippy::all,
    clippy::pedantic,
    clippy::disallowed_methods,
    reason = "an attacker's program, kept as it was"
)]
use std::{io::IoSlice, path::Path, sync::Arc};

use counterfoil_storage::{
    Batch, BatchBuilder, Digest, Genesis, Head, Hlc, Journal, LogId, NodeName, Options, Seq, SpaceName,
    vfs::{Memory, OpenMode, Vfs, VfsFile},
};

fn genesis(node: &str, nonce: u8) -> Genesis {
    Genesis::new(SpaceName::new("shared").unwrap(), NodeName::new(node).unwrap(), [nonce; 16])
}
fn options(vfs: &Memory) -> Options {
    let mut o = Options::default();
    o.vfs = Arc::new(vfs.clone());
    o.background = false;
    o
}
fn batch(log: LogId, head: Head, bodies: &[&[u8]]) -> Batch {
    let mut b = BatchBuilder::with_capacity(64);
    bodies.iter().for_each(|body| b.push(Hlc::from_bits(1000), body));
    b.seal(log, head)
}
fn header(log: LogId, first: u64, time: u64, count: u32, len: u32, prev: Digest) -> Vec<u8> {
    let mut h = b"CFB1\0\0\0\0".to_vec();
    h.extend_from_slice(log.as_bytes());
    h.extend_from_slice(&first.to_le_bytes());
    h.extend_from_slice(&time.to_le_bytes());
    h.extend_from_slice(&count.to_le_bytes());
    h.extend_from_slice(&len.to_le_bytes());
    h.extend_from_slice(&len.to_le_bytes());
    h.extend_from_slice(prev.as_bytes());
    assert_eq!(h.len(), 84);
    h
}
fn crc(bytes: &[u8]) -> u32 {
    let mut h = crc32fast::Hasher::new();
    h.update(&bytes[..84]);
    h.update(&bytes[88..]);
    h.finalize()
}
fn read_full(file: &dyn VfsFile, buffer: &mut [u8], offset: u64) -> std::io::Result<usize> {
    file.read_at(buffer, offset)
}
fn write_full(file: &dyn VfsFile, buffers: &mut [IoSlice<'_>], offset: u64) -> std::io::Result<usize> {
    file.write_at(buffers, offset)
}
fn find(hay: &[u8], needle: &[u8]) -> usize {
    hay.windows(needle.len()).position(|w| w == needle).unwrap()
}
fn segment(vfs: &Memory) -> (Arc<dyn counterfoil_storage::vfs::VfsFile>, Vec<u8>) {
    let file = vfs.open(Path::new("store/0000000000000000.seg"), OpenMode::Write).unwrap();
    let mut bytes = vec![0; file.len().unwrap() as usize];
    read_full(&*file, &mut bytes, 0).unwrap();
    (file, bytes)
}

/// The two hostile batches: read as [lost head of one | a batch of the victim] they have the same checksums.
fn forge(hostile: &Genesis, victim: LogId, victim_head: Head) -> (Vec<u8>, Vec<u8>) {
    const C: u32 = 0x1234_5678;
    let log = hostile.log_id();
    // H2: one record of 14 bytes, all free.
    let h2_len = 2 + 14;
    let said = b"discontinue all medication at once; take ten tablets of the other one";
    let mut f_body = vec![said.len() as u8, 0];
    f_body.extend_from_slice(said);
    let rest = (88 + h2_len) as u8;
    f_body.extend_from_slice(&[rest, 0]); // record two: what is left, which is H2
    let mut f =
        header(victim, victim_head.next_seq.0, 2000, 2, (f_body.len() + 88 + h2_len) as u32, victim_head.digest);
    f.extend_from_slice(&C.to_le_bytes());
    f.extend_from_slice(&f_body);
    let mut h1_body = vec![];
    let record_len = f.len();
    assert!((128..16384).contains(&record_len));
    h1_body.extend_from_slice(&[(record_len & 0x7f) as u8 | 0x80, (record_len >> 7) as u8, 0]);
    h1_body.extend_from_slice(&f);
    let mut h1 = header(log, 0, 1000, 1, h1_body.len() as u32, hostile.head().digest);
    h1.extend_from_slice(&[0; 4]);
    h1.extend_from_slice(&h1_body);
    let sum = crc(&h1);
    h1[84..88].copy_from_slice(&sum.to_le_bytes());
    let d1 = Batch::parse(h1.clone().into()).unwrap().digest();
    // Free: 40 bits of time, 14 bytes of the body.
    let make = |x: &[u8; 19]| {
        let mut time = [0; 8];
        time[..5].copy_from_slice(&x[..5]);
        let mut h2 = header(log, 1, u64::from_le_bytes(time), 1, h2_len as u32, d1);
        h2.extend_from_slice(&C.to_le_bytes());
        h2.extend_from_slice(&[14, 0]);
        h2.extend_from_slice(&x[5..]);
        let whole_f = [&f[..], &h2].concat();
        let wrong = u64::from(crc(&h2) ^ C) | u64::from(crc(&whole_f) ^ C) << 32;
        (h2, wrong)
    };
    let mut x = [0_u8; 19];
    let mut target = make(&x).1;
    let base = target;
    let mut pivots: Vec<(u64, [u8; 19])> = vec![];
    for bit in 0..19 * 8 {
        let mut unit = [0; 19];
        unit[bit / 8] ^= 1 << (bit % 8);
        let mut column = make(&unit).1 ^ base;
        for (p, how) in &pivots {
            if column & (1 << p.trailing_zeros()) != 0 {
                column ^= p;
                unit.iter_mut().zip(how).for_each(|(a, b)| *a ^= b);
            }
        }
        if column != 0 {
            pivots.push((column, unit));
        }
    }
    for (p, how) in &pivots {
        if target & (1 << p.trailing_zeros()) != 0 {
            target ^= p;
            x.iter_mut().zip(how).for_each(|(a, b)| *a ^= b);
        }
    }
    assert_eq!(target, 0, "solvable");
    let (h2, wrong) = make(&x);
    assert_eq!(wrong, 0);
    (h1, h2)
}

#[test]
fn one_flipped_bit_does_not_turn_a_hostile_nodes_bytes_into_another_nodes_batch() {
    let mut broken = vec![];
    for (byte, bit) in [(0, 0), (4, 0), (44, 5), (44, 0), (40, 7), (48, 3), (30, 0)] {
        let vfs = Memory::default();
        let dir = Path::new("store");
        let journal = Journal::create(dir, NodeName::new("hub").unwrap(), options(&vfs)).unwrap();
        let (victim, hostile) = (genesis("practice-1", 1), genesis("practice-2", 2));
        let victim_log = journal.create_log(victim.clone()).unwrap();
        journal.create_log(hostile.clone()).unwrap();
        let honest = batch(victim_log, victim.head(), &[b"take one tablet a day"]);
        journal.store(honest.clone()).unwrap();
        journal.commit().unwrap();
        let (h1, h2) = forge(&hostile, victim_log, honest.head());
        // Sound batches by every check that a receiver makes.
        for bytes in [&h1, &h2] {
            let batch = Batch::parse(bytes.clone().into()).unwrap();
            batch.check_records().unwrap();
            journal.store(batch).unwrap();
        }
        journal.commit().unwrap();
        journal.close().unwrap();
        drop(journal);
        let (file, bytes) = segment(&vfs);
        let at = find(&bytes, &h1) + byte;
        write_full(&*file, &mut [IoSlice::new(&[bytes[at] ^ 1 << bit])], at as u64).unwrap();
        let (journal, recovery) = Journal::open(dir, options(&vfs)).unwrap();
        let head = journal.log(victim_log).unwrap().durable;
        let bodies: Vec<_> = journal
            .read(victim_log, Seq(0))
            .flat_map(|b| b.map(|b| b.records().map(|r| r.unwrap().body).collect::<Vec<_>>()).unwrap_or_default())
            .collect();
        assert!(recovery.damage().count() > 0, "byte {byte}, bit {bit}: the damage is named");
        assert_eq!(bodies, ["take one tablet a day"], "byte {byte}, bit {bit}");
        let next = batch(victim_log, honest.head(), &[b"the victim's own second record"]);
        if head != honest.head() || journal.store(next).is_err() {
            broken.push((byte, bit));
        }
    }
    assert!(broken.is_empty(), "forged batches served in the victim's log for flips of {broken:?}");
}

#[test]
fn one_flipped_bit_in_a_hostile_batch_costs_nobody_else_a_record() {
    let vfs = Memory::default();
    let dir = Path::new("store");
    let journal = Journal::create(dir, NodeName::new("hub").unwrap(), options(&vfs)).unwrap();
    let (victim, hostile) = (genesis("practice-1", 1), genesis("practice-2", 2));
    let victim_log = journal.create_log(victim.clone()).unwrap();
    let hostile_log = journal.create_log(hostile.clone()).unwrap();
    journal.commit().unwrap();
    let h = batch(hostile_log, hostile.head(), &[&b"CFB1".repeat(1001)]);
    journal.store(h.clone()).unwrap();
    let honest = batch(victim_log, victim.head(), &[b"take one tablet a day"]);
    journal.store(honest.clone()).unwrap();
    journal.commit().unwrap();
    journal.close().unwrap();
    drop(journal);
    let (file, bytes) = segment(&vfs);
    let at = find(&bytes, h.bytes());
    write_full(&*file, &mut [IoSlice::new(&[bytes[at] ^ 1])], at as u64).unwrap();
    let (journal, recovery) = Journal::open(dir, options(&vfs)).unwrap();
    assert!(recovery.damage().count() > 0, "the damage is named");
    assert_eq!(journal.log(victim_log).unwrap().durable, honest.head(), "only the damaged batch is unavailable");
}
