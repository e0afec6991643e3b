//! What is known of one key: which of its versions are live, and which have been seen.
//!
//! A state is a set of writes, joined. Joining knows no order, and joining the same write again changes nothing: so
//! however writes come, in whatever order and how often, the same set of them leads to the same live versions.
//!
//! A write may claim to have seen what it can't have: of another's log it supersedes only what bears an earlier time than
//! itself, and the very version that it names by its digest. So nobody can supersede what is still to be written.
//!
//! Source: the version vectors with a dot of N. Preguiça, C. Baquero et al., *Dotted Version Vectors: Logical Clocks for
//! Optimistic Replication*, 2010. A write's dot is its place in its log; its vector is what it names as seen.

use std::cmp::Ordering;

use counterfoil_storage::{Hlc, LogId, Seq, read_varint, write_varint};

use super::record::{Prefix, Seen};

/// A version that no write has superseded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Live {
    pub(crate) log: LogId,
    pub(crate) seq: Seq,
    pub(crate) time: Hlc,
    pub(crate) is_deleted: bool,
}

/// The state of a key.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct KeyState {
    /// The last version seen in each log, or named by one that was seen; ascending by log.
    seen: Vec<Seen>,
    /// Versions that nothing seen supersedes; ascending by log and sequence number.
    live: Vec<Live>,
}

impl KeyState {
    /// The versions that no write has superseded: several are a conflict.
    pub(crate) fn live(&self) -> &[Live] {
        &self.live
    }

    /// The last version seen in each log: what a write names that supersedes everything seen.
    pub(crate) fn seen(&self) -> &[Seen] {
        &self.seen
    }

    /// Several versions are live.
    pub(crate) fn is_conflict(&self) -> bool {
        self.live.len() > 1
    }

    /// The last version seen in a log.
    pub(crate) fn last_in(&self, log: LogId) -> Option<&Seen> {
        self.seen.binary_search_by_key(&log, |seen| seen.log).ok().map(|index| &self.seen[index])
    }

    /// Takes in a write at `place`, which names what it supersedes.
    pub(crate) fn apply(&mut self, place: Seen, supersedes: impl IntoIterator<Item = Seen>, is_deleted: bool) {
        let is_superseded = self.last_in(place.log).is_some_and(|last| covers(last, &place));
        let mut is_old = is_superseded;
        for seen in supersedes {
            let Self { seen: known, live } = self;
            live.retain(|live| (live.log, live.seq) == (place.log, place.seq) || !is_covered(known, live, &seen));
            self.see(seen);
        }
        // The version itself may have been taken in before: it stays what it was then.
        is_old |= self.live.iter().any(|live| (live.log, live.seq) == (place.log, place.seq));
        self.see(place);
        if let Ok(index) = self.seen.binary_search_by_key(&place.log, |seen| seen.log)
            && self.seen[index].seq == place.seq
        {
            // What is here counts, and not what others say of it.
            self.seen[index].prefix = place.prefix.or(self.seen[index].prefix);
        }
        if !is_old {
            let live = Live { log: place.log, seq: place.seq, time: place.time, is_deleted };
            let index = self.live.partition_point(|other| (other.log, other.seq) < (live.log, live.seq));
            // Mostly the only one: there are many states, and no room is kept for more.
            self.live.reserve_exact(1);
            self.live.insert(index, live);
        }
    }

    fn see(&mut self, seen: Seen) {
        match self.seen.binary_search_by_key(&seen.log, |known| known.log) {
            Err(index) => {
                self.seen.reserve_exact(1);
                self.seen.insert(index, seen);
            }
            Ok(index) => {
                let known = &mut self.seen[index];
                let time = known.time.max(seen.time);
                if seen.seq > known.seq || (seen.seq == known.seq && known.prefix.is_none()) {
                    *known = seen;
                }
                known.time = time;
            }
        }
    }

    /// Takes in all that another state has taken in.
    pub(crate) fn join(&mut self, other: &Self) {
        let is_live_there = |live: &Live| {
            let is_same = |there: &&Live| (there.log, there.seq) == (live.log, live.seq);
            other.live.iter().any(|there| is_same(&there))
                || !other.seen.iter().any(|seen| is_covered(&self.seen, live, seen))
        };
        let mut live: Vec<_> = self.live.iter().copied().filter(is_live_there).collect();
        let is_news = |there: &&Live| !self.seen.iter().any(|seen| is_covered(&other.seen, there, seen));
        live.extend(other.live.iter().filter(is_news));
        live.sort_unstable_by_key(|live| (live.log, live.seq));
        self.live = live;
        other.seen.iter().for_each(|seen| self.see(*seen));
    }
}

/// Whether a live version of a state that has seen `known` is superseded by whoever has seen `by`.
fn is_covered(known: &[Seen], live: &Live, by: &Seen) -> bool {
    let is_it = |seen: &&Seen| (seen.log, seen.seq) == (live.log, live.seq);
    let prefix = || known.iter().find(is_it).and_then(|seen| seen.prefix);
    let Live { log, seq, time, .. } = *live;
    log == by.log && covers(by, &Seen { log, seq, time, prefix: prefix() })
}

/// Whether what was seen of a log includes a version of it.
fn covers(seen: &Seen, version: &Seen) -> bool {
    let is_other_history = seen.prefix.zip(version.prefix).is_some_and(|(named, found)| named != found);
    match seen.seq.cmp(&version.seq) {
        Ordering::Less => false,
        Ordering::Equal => !is_other_history,
        Ordering::Greater => seen.time >= version.time,
    }
}

/// Numbers for the logs of a space, so that the index need not repeat their ids.
pub(crate) trait LogNumbers {
    /// The number of a log.
    fn number(&mut self, log: LogId) -> u32;
}

/// The version of this place in this log is known by its digest.
const HAS_PREFIX: u8 = 1;
/// It is live, with the time of the place.
const LIVE: u8 = 2;
/// And deletes.
const DELETED: u8 = 4;

impl KeyState {
    /// As a row of the index. Mostly the last version seen in a log is a live one too, and is told once.
    ///
    /// | bytes | field |
    /// |---|---|
    /// | varint | number of logs of which something was seen; for each: |
    /// | varint, varint | number of the log, sequence number of the last version seen |
    /// | 8 | its time, little-endian |
    /// | 1 | flags: 1 a prefix follows, 2 this version is live and of this time, 4 it deletes |
    /// | 8 | the prefix |
    /// | | and up to the row's end each other live version: |
    /// | varint, varint, 8, 1 | number of the log, sequence number, time, 1 if it deletes or else 0 |
    pub(crate) fn encode(&self, out: &mut Vec<u8>, numbers: &mut impl LogNumbers) {
        write_varint(out, self.seen.len() as u64);
        for seen in &self.seen {
            let live = self.live.iter().find(|live| is_place_of(seen, live));
            let deleted = live.map_or(0, |live| LIVE | if live.is_deleted { DELETED } else { 0 });
            write_place(out, numbers.number(seen.log), seen.seq, seen.time);
            out.push(deleted | if seen.prefix.is_some() { HAS_PREFIX } else { 0 });
            out.extend(seen.prefix.iter().flat_map(|prefix| prefix.0));
        }
        for live in self.live.iter().filter(|live| !self.seen.iter().any(|seen| is_place_of(seen, live))) {
            write_place(out, numbers.number(live.log), live.seq, live.time);
            out.push(live.is_deleted.into());
        }
    }

    /// From a row of the index, whose logs have these numbers; `None` if it is damaged.
    pub(crate) fn decode(row: &[u8], logs: &[LogId]) -> Option<Self> {
        let mut row = Row(row);
        let count = usize::try_from(row.varint()?).ok().filter(|count| *count <= row.0.len())?;
        let mut state = Self { seen: Vec::with_capacity(count), live: Vec::with_capacity(1) };
        for _ in 0..count {
            let (log, seq, time) = row.place(logs)?;
            let [flags] = row.array()?;
            let prefix = if flags & HAS_PREFIX != 0 { Some(Prefix(row.array()?)) } else { None };
            state.seen.push(Seen { log, seq, prefix, time });
            match flags & !HAS_PREFIX {
                0 => {}
                LIVE => state.live.push(Live { log, seq, time, is_deleted: false }),
                flags if flags == LIVE | DELETED => state.live.push(Live { log, seq, time, is_deleted: true }),
                _ => return None,
            }
        }
        if !row.0.is_empty() {
            while !row.0.is_empty() {
                let (log, seq, time) = row.place(logs)?;
                state.live.push(Live { log, seq, time, is_deleted: row.flag()? });
            }
            state.live.sort_unstable_by_key(|live| (live.log, live.seq));
        }
        Some(state)
    }
}

fn is_place_of(seen: &Seen, live: &Live) -> bool {
    (seen.log, seen.seq, seen.time) == (live.log, live.seq, live.time)
}

fn write_place(out: &mut Vec<u8>, log: u32, seq: Seq, time: Hlc) {
    write_varint(out, log.into());
    write_varint(out, seq.0);
    out.extend_from_slice(&time.to_bits().to_le_bytes());
}

struct Row<'a>(&'a [u8]);

impl Row<'_> {
    fn varint(&mut self) -> Option<u64> {
        let (value, len) = read_varint(self.0)?;
        self.0 = &self.0[len..];
        Some(value)
    }

    fn place(&mut self, logs: &[LogId]) -> Option<(LogId, Seq, Hlc)> {
        let log = *logs.get(usize::try_from(self.varint()?).ok()?)?;
        Some((log, Seq(self.varint()?), Hlc::from_bits(u64::from_le_bytes(self.array()?))))
    }

    fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (array, rest) = self.0.split_first_chunk()?;
        self.0 = rest;
        Some(*array)
    }

    fn flag(&mut self) -> Option<bool> {
        let [flag] = self.array()?;
        (flag < 2).then_some(flag == 1)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::{collection::vec, prelude::*};

    use super::*;

    fn log(number: u8) -> LogId {
        LogId::from_bytes([number; 16])
    }

    fn place(log_number: u8, seq: u64, time: u64) -> Seen {
        Seen { log: log(log_number), seq: Seq(seq), prefix: Some(Prefix([log_number; 8])), time: Hlc::from_bits(time) }
    }

    /// A write and, for the model, all the writes before it in cause and effect.
    #[derive(Debug, Clone)]
    struct Made {
        place: Seen,
        names: Vec<Seen>,
        past: BTreeSet<(LogId, Seq)>,
    }

    /// Nodes 0 to 2 that write a key and take in each other's writes, one by one, log by log.
    #[derive(Debug, Clone, Copy)]
    enum Step {
        Write(usize),
        /// The first takes in so many more writes of the second.
        Take(usize, usize, usize),
    }

    fn step() -> impl Strategy<Value = Step> {
        let node = 0_usize..3;
        prop_oneof![
            node.clone().prop_map(Step::Write),
            (node.clone(), node, 1_usize..4).prop_map(|(by, from, count)| Step::Take(by, from, count)),
        ]
    }

    /// The writes made, and at each step the state of a node with what it has taken in, to be compared.
    fn play(steps: &[Step], mut look: impl FnMut(&KeyState, &[&Made])) -> Vec<Made> {
        let mut made: Vec<Made> = Vec::new();
        let mut states = vec![KeyState::default(); 3];
        let mut pasts = vec![BTreeSet::new(); 3];
        let mut taken = [[0_usize; 3]; 3];
        // Each node's clock comes after all that it has taken in, and nothing else is known of it.
        let mut clocks = [100_u64, 0, 30];
        for step in steps {
            let node = match *step {
                Step::Write(node) => {
                    let time = clocks[node] + 1;
                    let place = place(node as u8, taken[node][node] as u64 * 7, time);
                    let names = states[node].seen().iter().map(|seen| Seen { time: place.time, ..*seen });
                    let (names, past): (Vec<_>, _) = (names.collect(), pasts[node].clone());
                    clocks[node] = time;
                    states[node].apply(place, names.clone(), false);
                    // What it knows of, it knows with all that was before it, though that may not have arrived.
                    pasts[node].insert((place.log, place.seq));
                    taken[node][node] += 1;
                    made.push(Made { place, names, past });
                    node
                }
                Step::Take(by, from, count) => {
                    let of_log: Vec<_> =
                        made.iter().filter(|made| made.place.log == log(from as u8)).cloned().collect();
                    for write in of_log.iter().skip(taken[by][from]).take(count) {
                        states[by].apply(write.place, write.names.iter().copied(), false);
                        pasts[by].insert((write.place.log, write.place.seq));
                        pasts[by].extend(&write.past);
                        clocks[by] = clocks[by].max(write.place.time.to_bits());
                        taken[by][from] += 1;
                    }
                    by
                }
            };
            let has = |made: &&Made| {
                let log_number = usize::from(made.place.log.as_bytes()[0]);
                made.place.seq.0 / 7 < taken[node][log_number] as u64
            };
            look(&states[node], &made.iter().filter(has).collect::<Vec<_>>());
        }
        made
    }

    /// By the model: the writes taken in that are in the past of none taken in.
    fn expected(there: &[&Made]) -> Vec<(LogId, Seq)> {
        let place = |made: &Made| (made.place.log, made.place.seq);
        let is_live = |made: &&&Made| !there.iter().any(|other| other.past.contains(&place(made)));
        let mut live: Vec<_> = there.iter().filter(is_live).map(|made| place(made)).collect();
        live.sort_unstable();
        live
    }

    fn places(state: &KeyState) -> Vec<(LogId, Seq)> {
        state.live().iter().map(|live| (live.log, live.seq)).collect()
    }

    proptest! {
        #[test]
        fn live_are_exactly_the_versions_in_the_past_of_no_other_whatever_has_arrived(steps in vec(step(), 1..40)) {
            let mut looks = Vec::new();
            play(&steps, |state, there| looks.push((places(state), expected(there))));
            for (found, expected) in looks {
                prop_assert_eq!(found, expected);
            }
        }

        #[test]
        fn order_grouping_and_repetition_change_nothing(
            steps in vec(step(), 1..30), order in vec(any::<prop::sample::Index>(), 0..60), split in any::<u64>(),
        ) {
            let made = play(&steps, |_, _| {});
            let whole = made.iter().fold(KeyState::default(), |mut state, write| {
                state.apply(write.place, write.names.iter().copied(), false);
                state
            });
            // Each log in its order, as often as it comes; which log is next is the test's choice.
            let mut logs: Vec<Vec<&Made>> =
                (0..3).map(|node| made.iter().filter(|made| made.place.log == log(node)).collect()).collect();
            let mut parts = [KeyState::default(), KeyState::default()];
            let mut order = order.into_iter();
            let mut count = 0;
            while logs.iter().any(|log| !log.is_empty()) {
                let filled: Vec<_> = (0..3).filter(|node| !logs[*node].is_empty()).collect();
                let chosen = order.next().map_or(filled[0], |index| *index.get(&filled));
                let write = logs[chosen].remove(0);
                let part = &mut parts[usize::from(split >> (count % 64) & 1 == 1)];
                part.apply(write.place, write.names.iter().copied(), false);
                part.apply(write.place, write.names.iter().copied(), false);
                count += 1;
            }
            let [mut first, mut second] = parts;
            let (former, latter) = (first.clone(), second.clone());
            first.join(&latter);
            second.join(&former);
            prop_assert_eq!(&first, &whole);
            prop_assert_eq!(&second, &whole);
        }

        #[test]
        fn a_state_reads_back_from_its_row(steps in vec(step(), 1..30)) {
            struct Numbers(Vec<LogId>);
            impl LogNumbers for Numbers {
                fn number(&mut self, log: LogId) -> u32 {
                    let known = self.0.iter().position(|known| *known == log);
                    known.unwrap_or_else(|| { self.0.push(log); self.0.len() - 1 }) as u32
                }
            }
            let mut states = Vec::new();
            play(&steps, |state, _| states.push(state.clone()));
            for state in states {
                let (mut row, mut numbers) = (Vec::new(), Numbers(Vec::new()));
                state.encode(&mut row, &mut numbers);
                prop_assert_eq!(KeyState::decode(&row, &numbers.0), Some(state));
                prop_assert_eq!(KeyState::decode(&row[..row.len() - 1], &numbers.0), None);
            }
        }
    }

    #[test]
    fn the_row_of_a_key_with_one_version_has_22_bytes() {
        struct One;
        impl LogNumbers for One {
            fn number(&mut self, _: LogId) -> u32 {
                1
            }
        }
        let (mut state, mut row) = (KeyState::default(), Vec::new());
        state.apply(place(9, 0x4000, 0x0102_0304_0506_0708), [], false);
        state.encode(&mut row, &mut One);
        let golden = [&b"\x01\x01\x80\x80\x01"[..], b"\x08\x07\x06\x05\x04\x03\x02\x01", b"\x03", &[9; 8]].concat();
        assert_eq!((&row, row.len()), (&golden, 22));
    }

    #[test]
    fn a_reference_to_another_history_of_a_log_supersedes_nothing_here() {
        let mut state = KeyState::default();
        state.apply(place(1, 5, 1), [], false);
        let other_history = Seen { prefix: Some(Prefix([0xee; 8])), ..place(1, 5, 2) };
        state.apply(place(2, 0, 2), [other_history], false);
        assert_eq!(places(&state), [(log(1), Seq(5)), (log(2), Seq(0))]);
        state.apply(place(3, 0, 3), [place(1, 5, 3), place(2, 0, 3)], false);
        assert_eq!(places(&state), [(log(3), Seq(0))]);
    }

    #[test]
    fn a_version_that_was_superseded_before_it_came_is_no_conflict_when_it_comes() {
        let mut state = KeyState::default();
        state.apply(place(2, 0, 2), [place(1, 5, 2)], false);
        state.apply(place(1, 5, 1), [], false);
        assert_eq!(places(&state), [(log(2), Seq(0))]);
        state.apply(place(1, 6, 3), [place(1, 5, 3)], true);
        assert!(state.is_conflict());
    }

    #[test]
    fn a_version_named_by_its_digest_is_superseded_though_its_clock_was_ahead() {
        let mut state = KeyState::default();
        state.apply(place(1, 5, 1000), [], false);
        state.apply(place(2, 0, 2), [place(1, 5, 2)], false);
        assert_eq!(places(&state), [(log(2), Seq(0))]);
    }

    #[test]
    fn nobody_supersedes_what_is_still_to_be_written() {
        let mut state = KeyState::default();
        state.apply(place(2, 0, 2), [place(1, u64::MAX, 2)], false);
        state.apply(place(1, 5, 3), [place(2, 0, 3)], false);
        assert_eq!(places(&state), [(log(1), Seq(5))]);
        state.apply(place(1, 6, 4), [place(1, 5, 4)], false);
        assert_eq!(places(&state), [(log(1), Seq(6))]);
    }
}
