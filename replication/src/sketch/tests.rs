use std::collections::BTreeMap;

use counterfoil_storage::{Digest, Head};
use proptest::prelude::*;

use super::*;

fn at(log: u32, next_seq: u64, digest: u8) -> LogHead {
    let mut id = [0; 16];
    id[..4].copy_from_slice(&log.to_be_bytes());
    let head = Head { next_seq: Seq(next_seq), digest: Digest::from_bytes([digest; 32]) };
    LogHead { log: LogId::from_bytes(id), head }
}

fn salt(byte: u8) -> Salt {
    Salt::of(FrontierHash::from_bytes([byte; 16]))
}

fn sketched(salt: Salt, heads: &[LogHead]) -> Sketched {
    Sketched::new(salt, heads).unwrap()
}

/// What a difference says that is there, given what is here.
fn applied(salt: Salt, here: &[LogHead], there: &[LogHead], difference: &Difference) -> Result<(), TestCaseError> {
    let there: BTreeMap<LogId, LogHead> = there.iter().map(|said| (said.log, *said)).collect();
    for (position, said) in here.iter().enumerate() {
        match (difference.changed.get(&position), there.get(&said.log)) {
            (None, there) => prop_assert_eq!(there, Some(said)),
            (Some(None), there) => prop_assert_eq!(there, None),
            (Some(Some(marked)), Some(there)) => {
                prop_assert!(marked.is(*there) && !marked.is(*said));
                prop_assert_eq!(marked.next_seq, there.head.next_seq);
            }
            (Some(Some(_)), None) => prop_assert!(false, "nothing of it is there"),
        }
    }
    let only_there = there.keys().filter(|log| here.iter().all(|said| said.log != **log));
    let mut marks: Vec<_> = only_there.map(|log| salt.mark(*log)).collect();
    let mut told = difference.only_there.clone();
    marks.sort();
    told.sort();
    prop_assert_eq!(told, marks);
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(500))]

    #[test]
    fn what_a_sketch_tells_is_what_differs(
        logs in prop::collection::btree_map(0_u32..5000, (0_u64..3, 0_u64..3, 0_u8..3, 0_u8..2), 0..80),
        alike in 0_u32..200,
        cells in 1_usize..250,
        byte in any::<u8>(),
    ) {
        let side = |is_here: bool| -> Vec<LogHead> {
            let of_side = |ends: &(u64, u64, u8, u8)| if is_here { (ends.0, ends.2) } else { (ends.1, ends.3) };
            let differing = logs.iter().map(|(log, ends)| (*log, of_side(ends))).filter(|(_, end)| end.0 > 0);
            let heads = differing.chain((0..alike).map(|log| (10_000 + log, (7, 7))));
            heads.map(|(log, (next_seq, digest))| at(log, next_seq << 30, digest)).collect()
        };
        let (here, there) = (side(true), side(false));
        let salt = salt(byte);
        let told = sketched(salt, &here).difference(&sketched(salt, &there).cells(cells));
        if let Some(difference) = &told {
            applied(salt, &here, &there, difference)?;
        }
        // Two cells a log and twelve besides are enough, but for bad luck.
        prop_assert!(told.is_some() || cells < 2 * logs.len() + 60, "{} of {cells} cells", logs.len());
    }

    #[test]
    fn no_cells_make_it_panic_or_go_on_for_ever(
        cells in prop::collection::vec(prop_oneof![
            any::<[u8; 24]>(), Just([0; 24]), Just([255; 24]), Just([1; 24])
        ], 0..300),
        alike in 0_u32..50,
    ) {
        let here: Vec<_> = (0..alike).map(|log| at(log, 1, 1)).collect();
        let cells: Vec<_> = cells.into_iter().map(Cell::from_bytes).collect();
        if let Some(difference) = sketched(salt(0), &here).difference(&cells) {
            prop_assert!(difference.changed.len() + difference.only_there.len() <= cells.len());
        }
    }
}

#[test]
fn cells_that_tell_of_more_logs_than_there_are_cells_tell_nothing() {
    let of_many: Vec<_> = (0..2000).map(|log| at(log, 1, 1)).collect();
    for count in [1, 24, 1000, 1999] {
        assert_eq!(sketched(salt(0), &[]).difference(&sketched(salt(0), &of_many).cells(count)), None);
    }
    let told = sketched(salt(0), &[]).difference(&sketched(salt(0), &of_many).cells(3200)).unwrap();
    assert_eq!(told.only_there.len(), 2000);
    assert_eq!(sketched(salt(0), &[]).difference(&[]), None, "no cells say nothing");
}

#[test]
fn ten_logs_of_ten_thousand_are_told_by_the_first_cells_and_a_thousand_by_as_many_as_are_estimated() {
    let mut told = 0;
    for byte in 0..60 {
        let here: Vec<_> = (0..10_000).map(|log| at(log, 100, 1)).collect();
        let mut there = here.clone();
        (0..10).for_each(|number| there[number * 997] = at(number as u32 * 997, 90 + number as u64, 2));
        let (here, there) = (sketched(salt(byte), &here), sketched(salt(byte), &there));
        told += usize::from(here.difference(&there.cells(CELLS_AT_FIRST)).is_some());
    }
    assert!(told >= 50, "{told} of 60");
    let mut enough = 0;
    for byte in 0..20 {
        let here: Vec<_> = (0..4000).map(|log| at(log, 100, 1)).collect();
        // Longer there, shorter there, only there, only here.
        let mut there: Vec<_> = here.iter().skip(250).copied().collect();
        (0..500).for_each(|number| there[number * 3] = at(there_of(number), 80 + number as u64 % 40, 2));
        there.extend((0..250).map(|log| at(20_000 + log, 1, 1)));
        let (here, there) = (sketched(salt(byte), &here), sketched(salt(byte), &there));
        let count = there.estimate().cells(&here.estimate());
        assert!((900..3200).contains(&count), "{count} cells");
        enough += usize::from(here.difference(&there.cells(count)).is_some());
    }
    assert!(enough >= 15, "{enough} of 20");
}

fn there_of(number: usize) -> u32 {
    250 + number as u32 * 3
}

#[test]
fn marks_are_others_for_each_offer() {
    let said = at(1, 5, 7);
    assert_ne!(salt(1).mark(said.log), salt(2).mark(said.log));
    assert_ne!(salt(1).head(said), salt(2).head(said));
    assert_ne!(salt(1).head(said), salt(1).head(at(1, 6, 7)));
    assert_ne!(salt(1).head(said), salt(1).head(at(1, 5, 8)));
    assert_ne!(salt(1).head(said), salt(1).head(at(2, 5, 7)));
}

#[test]
fn the_cells_of_a_frontier_are_fixed_for_ever() {
    let cells = sketched(salt(3), &[at(1, 5, 7), at(2, 600, 8), at(3, 1 << 39, 9)]).cells(4);
    let byte = |hex: &str, at| u8::from_str_radix(&hex[at..at + 2], 16).unwrap();
    let cell = |hex: &str| (0..48).step_by(2).map(|at| byte(hex, at)).collect::<Vec<_>>();
    let golden = [
        "8e118ae1c97ade17d02da1c88cda4311ce4ae02811f87400",
        "d7f51bd89b279a14084aedd5d1fdee1cd5e51a0e59c91c18",
        "4917d54485731218523ecdd8915e150ab8d28e958ddf9612",
        "000000000000000000000000000000000000000000000000",
    ];
    assert_eq!(cells.iter().map(|cell| cell.0.to_vec()).collect::<Vec<_>>(), golden.map(cell));
    assert_eq!(Places::of(12_345).take(8).collect::<Vec<_>>(), [0, 1, 8, 12, 17, 36, 148, 478]);
}

#[test]
fn a_log_that_is_too_long_is_in_no_sketch() {
    assert!(Sketched::new(salt(0), &[at(1, NEXT_SEQ_MAX - 1, 1)]).is_some());
    assert!(Sketched::new(salt(0), &[at(1, NEXT_SEQ_MAX, 1)]).is_none());
}

#[test]
fn what_is_divided_is_what_was_multiplied() {
    for value in [1, 2, 3, 12_345, PRIME - 1, PRIME - 2, 1 << 60] {
        assert_eq!(times(value, inverse(value)), 1);
        assert_eq!(minus(plus(value, PRIME - 1), PRIME - 1), value);
        assert_eq!(minus(0, value), PRIME - value);
    }
    assert_eq!(minus(7, 0), 7);
}
