//! Collections of many keys: bounds of issue 5 that hold whatever others reach.

use std::{fs, path::Path, time::Duration};

use bytes::Bytes;
use counterfoil::{Collection, Durability, Store};
use counterfoil_benches::{Outcome, RECORD_BYTES};

use crate::turn::{Bodies, Turn, median_of, nanoseconds, now};

/// What a process with a store and its collections may take: each has a budget of 64 MiB by default.
pub(crate) const MEMORY_BUDGET_KIB: f64 = 128.0 * 1024.0;

type Values = Collection<u64, Bytes>;

/// The collection of a store in `folder`, which is made if need be.
fn open(folder: &Path) -> Outcome<(Store, Values)> {
    let store = Store::builder().node("bench").open_or_create(folder.join("store"))?;
    let values = store.own_space()?.collection_of_bytes("keyed")?;
    Ok((store, values))
}

/// Puts that many keys, in no order, not waiting for each; keys a second once all are durable.
pub(crate) fn put(folder: &Path, keys: usize, bodies: &Bodies) -> Outcome<Turn> {
    let (store, values) = open(folder)?;
    let start = now();
    let mut last = None;
    for (number, body) in (0..keys as u64).zip(bodies.each()) {
        last = Some(values.put(&scattered(number), &Bytes::copy_from_slice(body))?);
    }
    if let Some(receipt) = last {
        receipt.wait(Durability::Local)?;
    }
    let figure = keys as f64 / start.elapsed().as_secs_f64();
    store.close(Duration::ZERO)?;
    Ok(Turn { figure, latencies: Vec::new() })
}

/// Microseconds that getting a key at random takes.
pub(crate) fn get(folder: &Path, keys: usize, reads: usize) -> Outcome<Turn> {
    let (store, values) = open(folder)?;
    let mut latencies = Vec::with_capacity(reads);
    for read in 0..reads as u64 {
        let key = scattered(scattered(read) % keys as u64);
        let start = now();
        let found = values.get(&key)?;
        latencies.push(nanoseconds(start.elapsed()));
        if found.value().is_none_or(|value| value.len() != RECORD_BYTES) {
            return Err("a key is not there".into());
        }
    }
    store.close(Duration::ZERO)?;
    Ok(Turn { figure: median_of(&mut latencies) / 1e3, latencies })
}

/// Milliseconds that opening takes after a clean close, until a key is got.
pub(crate) fn reopen(folder: &Path) -> Outcome<Turn> {
    let start = now();
    let (store, values) = open(folder)?;
    values.get(&scattered(0))?;
    let figure = start.elapsed().as_secs_f64() * 1e3;
    store.close(Duration::ZERO)?;
    Ok(Turn { figure, latencies: Vec::new() })
}

/// Opens, gets at random and puts, as a process whose memory is looked at.
pub(crate) fn use_much(folder: &Path, keys: usize) -> Outcome<()> {
    get(folder, keys, 20_000)?;
    put(folder, 200_000, &Bodies::new())?;
    print!("{}", fs::read_to_string("/proc/self/status")?);
    Ok(())
}

/// Each number once, in no order.
fn scattered(number: u64) -> u64 {
    number.wrapping_mul(0x9e37_79b9_7f4a_7c15)
}
