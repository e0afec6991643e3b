//! Sketches of frontiers, by which one end finds out in which logs the other differs, at a cost by how many those are and
//! not by how many there are.
//!
//! A sketch is a row of cells. Each log counts in the first, and in others that follow from its name, ever fewer of them: so
//! the first *n* cells of any row are a sketch, of as many differences as about half of *n*. Cells are sums; less the sums
//! over what is here they are sums over the logs that differ alone. One in which one such log is left names it,
//! and when that log has been taken out of all its cells there are others.
//!
//! Source: L. Yang, Y. Gilad, M. Alizadeh, *Practical Rateless Set Reconciliation*, SIGCOMM 2024; where the cells are is theirs.
//! Theirs are sums of elements, of which a changed log would be two, that of each end. Here a log weighs its cells by what it
//! is called and adds where it ends, so that a changed log is one difference.
//!
//! All that is summed is *salted* by what the source offered. So a writer can't look for a history that others take for
//! another: to try one it takes both ends' frontiers, and a chance of 2^-61 each time.

use std::collections::{HashMap, HashSet};

use counterfoil_storage::{LogId, Seq};
use serde::{Deserialize, Serialize};

use crate::{
    codec::COUNTERS_MAX,
    frontier::{FrontierHash, LogHead},
};

/// Cells of the first sketch of an answer: enough for ten logs that differ, nine times of ten.
pub(crate) const CELLS_AT_FIRST: usize = 24;
/// Sums are modulo this prime, which is one that processors divide by with a shift.
const PRIME: u64 = (1 << 61) - 1;
/// Logs with more records are in no sketch: that a cell's length is below tells a cell of one log from others.
const NEXT_SEQ_MAX: u64 = 1 << 40;

fn reduce(value: u128) -> u64 {
    let folded = (value & u128::from(PRIME)) as u64 + (value >> 61) as u64;
    if folded >= PRIME { folded - PRIME } else { folded }
}

fn plus(a: u64, b: u64) -> u64 {
    reduce(u128::from(a) + u128::from(b))
}

fn minus(a: u64, b: u64) -> u64 {
    plus(a, PRIME - b)
}

fn times(a: u64, b: u64) -> u64 {
    reduce(u128::from(a) * u128::from(b))
}

/// `a` to the power of what is two less than the prime.
fn inverse(a: u64) -> u64 {
    let (mut power, mut square, mut exponent) = (1, a, PRIME - 2);
    while exponent > 0 {
        if exponent & 1 == 1 {
            power = times(power, square);
        }
        square = times(square, square);
        exponent >>= 1;
    }
    power
}

/// What a log is called in sketches of one offer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct LogMark([u8; 8]);

impl LogMark {
    /// From its bytes.
    pub const fn from_bytes(bytes: [u8; 8]) -> Self {
        Self(bytes)
    }

    fn of(mark: u64) -> Self {
        Self(mark.to_le_bytes())
    }
}

/// Where a log ends at the other end, as a sketch tells it: the length, and of what it ends in enough to know it again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct MarkedHead {
    salt: Salt,
    pub(crate) next_seq: Seq,
    mark: u64,
}

impl MarkedHead {
    /// Whether it is this head, of the same log.
    pub(crate) fn is(&self, head: LogHead) -> bool {
        head.head.next_seq == self.next_seq && self.salt.head(head) == self.mark
    }
}

/// What makes the marks of one offer others than those of any other.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Salt([u8; blake3::KEY_LEN]);

impl Salt {
    /// Of what the source offered.
    pub(crate) fn of(offered: FrontierHash) -> Self {
        let mut key = [0; blake3::KEY_LEN];
        key[..16].copy_from_slice(offered.as_bytes());
        Self(key)
    }

    fn hash(self, what: u8, log: LogId, head: &[&[u8]]) -> u64 {
        let mut hasher = blake3::Hasher::new_keyed(&self.0);
        hasher.update(&[what]).update(log.as_bytes());
        for part in head {
            hasher.update(part);
        }
        let mut first = [0; 8];
        first.copy_from_slice(&hasher.finalize().as_bytes()[..8]);
        1 + u64::from_le_bytes(first) % (PRIME - 1)
    }

    fn log(self, log: LogId) -> u64 {
        self.hash(0, log, &[])
    }

    /// What a log is called.
    pub(crate) fn mark(self, log: LogId) -> LogMark {
        LogMark::of(self.log(log))
    }

    fn head(self, LogHead { log, head }: LogHead) -> u64 {
        self.hash(1, log, &[&head.next_seq.0.to_le_bytes(), head.digest.as_bytes()])
    }
}

/// One cell of a [`Sketch`](crate::Sketch): sums over the logs that count in it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cell([u8; 24]);

impl Cell {
    /// From its bytes: three little-endian numbers.
    pub const fn from_bytes(bytes: [u8; 24]) -> Self {
        Self(bytes)
    }
}

/// Sums over the logs of a cell.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Sums {
    /// Of the marks of heads.
    heads: u64,
    /// Of the same, each times its log's mark.
    weighed: u64,
    /// Of lengths, each times its log's mark.
    lengths: u64,
}

impl Sums {
    fn of(entry: &Entry) -> Self {
        let Entry { log, head, next_seq, .. } = *entry;
        Self { heads: head, weighed: times(log, head), lengths: times(log, next_seq) }
    }

    fn plus(self, other: Self) -> Self {
        let Self { heads, weighed, lengths } = self;
        Self {
            heads: plus(heads, other.heads),
            weighed: plus(weighed, other.weighed),
            lengths: plus(lengths, other.lengths),
        }
    }

    fn minus(self, other: Self) -> Self {
        let Self { heads, weighed, lengths } = self;
        Self {
            heads: minus(heads, other.heads),
            weighed: minus(weighed, other.weighed),
            lengths: minus(lengths, other.lengths),
        }
    }

    fn to_cell(self) -> Cell {
        let mut bytes = [0; 24];
        for (part, sum) in bytes.chunks_exact_mut(8).zip([self.heads, self.weighed, self.lengths]) {
            part.copy_from_slice(&sum.to_le_bytes());
        }
        Cell(bytes)
    }

    /// Of what a peer says, whatever it says.
    fn from_cell(cell: Cell) -> Self {
        let sum = |at: usize| {
            let mut bytes = [0; 8];
            bytes.copy_from_slice(&cell.0[at..at + 8]);
            u64::from_le_bytes(bytes) % PRIME
        };
        Self { heads: sum(0), weighed: sum(8), lengths: sum(16) }
    }
}

/// A log as sketches have it.
#[derive(Debug, Clone, Copy)]
struct Entry {
    log: u64,
    head: u64,
    next_seq: u64,
}

/// In which cells a log counts, ascending, without end: in cell *i* with a chance of 1 in 1 + *i*/2.
struct Places {
    next: usize,
    random: u64,
}

impl Places {
    fn of(log: u64) -> Self {
        Self { next: 0, random: log | 1 }
    }
}

impl Iterator for Places {
    type Item = usize;

    #[expect(clippy::cast_sign_loss, reason = "the quotient is not below 1")]
    fn next(&mut self) -> Option<usize> {
        let place = self.next;
        self.random = self.random.wrapping_mul(0xda94_2042_e4dd_58b5);
        // Square roots and quotients of such numbers are the same on every machine.
        let far = (place as f64 + 1.5) * (4_294_967_296.0 / (self.random as f64 + 1.0).sqrt() - 1.0);
        self.next = place.saturating_add(far.ceil().max(1.0) as usize);
        Some(place)
    }
}

/// A frontier as sketches have it.
#[derive(Debug)]
pub(crate) struct Sketched {
    salt: Salt,
    entries: Vec<Entry>,
}

/// Which logs differ.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Difference {
    /// By position in what is here: where the log ends there; `None` if there is nothing of it.
    pub(crate) changed: HashMap<usize, Option<MarkedHead>>,
    /// Logs of which there is nothing here.
    pub(crate) only_there: Vec<LogMark>,
}

impl Sketched {
    /// `None` if a log is too long for sketches.
    pub(crate) fn new(salt: Salt, heads: &[LogHead]) -> Option<Self> {
        let entry = |said: &LogHead| {
            let next_seq = Some(said.head.next_seq.0).filter(|next_seq| *next_seq < NEXT_SEQ_MAX)?;
            Some(Entry { log: salt.log(said.log), head: salt.head(*said), next_seq })
        };
        Some(Self { salt, entries: heads.iter().map(entry).collect::<Option<_>>()? })
    }

    /// So many cells of its sketch.
    pub(crate) fn cells(&self, count: usize) -> Vec<Cell> {
        self.sums(count).into_iter().map(Sums::to_cell).collect()
    }

    fn sums(&self, count: usize) -> Vec<Sums> {
        let mut sums = vec![Sums::default(); count];
        for entry in &self.entries {
            let of_entry = Sums::of(entry);
            for place in Places::of(entry.log).take_while(|place| *place < count) {
                sums[place] = sums[place].plus(of_entry);
            }
        }
        sums
    }

    /// What differs there, given a sketch of what is there; `None` if it does not tell. Takes time by the number of cells
    /// and of logs here, whatever the cells are.
    pub(crate) fn difference(&self, cells: &[Cell]) -> Option<Difference> {
        if cells.is_empty() {
            return None;
        }
        let here = self.sums(cells.len()).into_iter();
        let left = cells.iter().zip(here).map(|(there, here)| Sums::from_cell(*there).minus(here)).collect();
        let known = self.entries.iter().enumerate().map(|(position, entry)| (entry.log, position)).collect();
        let mut peeling = Peeling { here: self, known, left, found: HashSet::new(), difference: Difference::default() };
        peeling.run().then_some(peeling.difference)
    }

    /// By which the other end can tell in how many logs it differs.
    pub(crate) fn estimate(&self) -> Estimate {
        let mut counters = vec![0_i32; COUNTERS_MAX];
        for entry in &self.entries {
            // A number of each, of which the marks would have too few bits.
            let (signs, bits) = (mix(entry.log), mix(entry.head));
            for (bit, counter) in counters.iter_mut().enumerate() {
                let sign = if (signs >> bit) & 1 == 1 { 1 } else { -1 };
                *counter = counter.wrapping_add(sign * i32::from((bits >> bit) & 1 == 1));
            }
        }
        Estimate(counters)
    }
}

/// The finalizer of splitmix64 (G. Steele, D. Lea, C. Flood, 2014).
fn mix(value: u64) -> u64 {
    let value = (value ^ (value >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let value = (value ^ (value >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    value ^ (value >> 31)
}

/// Takes what differs out of the cells, one log after the other.
struct Peeling<'a> {
    here: &'a Sketched,
    known: HashMap<u64, usize>,
    left: Vec<Sums>,
    /// Marks of logs that were taken out: none twice, so that it ends, and no more than there are cells.
    found: HashSet<u64>,
    difference: Difference,
}

impl Peeling<'_> {
    /// Whether nothing is left.
    fn run(&mut self) -> bool {
        let mut waiting: Vec<usize> = (0..self.left.len()).collect();
        // A log that is known here is known for sure. The others are looked for once none of those is left.
        let mut all_are_asked = false;
        loop {
            let Some(place) = waiting.pop() else {
                if all_are_asked || self.is_done() {
                    return self.is_done();
                }
                all_are_asked = true;
                waiting.extend(0..self.left.len());
                continue;
            };
            let Some((log, next_seq)) = self.only(place) else { continue };
            let known = self.known.get(&log).copied();
            if known.is_none() && !all_are_asked {
                continue;
            }
            if !self.found.insert(log) || self.found.len() > self.left.len() {
                return false;
            }
            self.take(log, known, next_seq, self.left[place]);
            waiting.extend(Places::of(log).take_while(|place| *place < self.left.len()));
        }
    }

    fn is_done(&self) -> bool {
        self.left.iter().all(|sums| *sums == Sums::default())
    }

    /// The mark and the length there of the one log that is left in a cell, if it is one.
    fn only(&self, place: usize) -> Option<(u64, u64)> {
        let Sums { heads, weighed, lengths } = self.left[place];
        if heads == 0 {
            return None;
        }
        let log = times(weighed, inverse(heads));
        if log == 0 || !Places::of(log).take_while(|at| *at <= place).any(|at| at == place) {
            return None;
        }
        let longer = times(lengths, inverse(log));
        let here = self.known.get(&log).map_or(0, |position| self.here.entries[*position].next_seq);
        Some((log, plus(here, longer))).filter(|(_, next_seq)| *next_seq < NEXT_SEQ_MAX)
    }

    fn take(&mut self, log: u64, known: Option<usize>, next_seq: u64, sums: Sums) {
        let count = self.left.len();
        for place in Places::of(log).take_while(|place| *place < count) {
            self.left[place] = self.left[place].minus(sums);
        }
        let Some(position) = known else {
            return self.difference.only_there.push(LogMark::of(log));
        };
        let mark = plus(self.here.entries[position].head, sums.heads);
        let next_seq = Seq(next_seq);
        let there = (mark != 0).then_some(MarkedHead { salt: self.here.salt, next_seq, mark });
        self.difference.changed.insert(position, there);
    }
}

/// By which two ends that hold nearly the same can tell in how many logs they differ: of each log a sign and whether it counts, in each of
/// 64 numbers.
///
/// Source: N. Alon, Y. Matias, M. Szegedy, *The Space Complexity of Approximating the Frequency Moments*, 1996.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Estimate(Vec<i32>);

impl Estimate {
    /// Of these numbers.
    pub const fn of(counters: Vec<i32>) -> Self {
        Self(counters)
    }

    /// How many numbers.
    pub(crate) fn len(&self) -> usize {
        self.0.len()
    }

    /// About how many logs differ.
    fn differing(&self, other: &Self) -> f64 {
        // Half of all logs that differ count in a number at one of the ends and not at the other.
        let squares = self.0.iter().zip(&other.0).map(|(a, b)| (f64::from(*a) - f64::from(*b)).powi(2));
        2.0 * squares.sum::<f64>() / COUNTERS_MAX as f64
    }

    /// So many cells will tell what differs, nine times of ten.
    #[expect(clippy::cast_sign_loss, reason = "sums of squares")]
    pub(crate) fn cells(&self, other: &Self) -> usize {
        let differing = 1.125 * self.differing(other);
        (1.4 * differing + 4.0 * differing.sqrt() + 10.0) as usize
    }
}

#[cfg(test)]
mod tests;
