//! Representative programs, and every fault at every operation of them and of the recovery after.

use counterfoil_faults::{Fault, FaultVfs, Injection, Operation, Player, Step, Violation, small_options};

/// Several logs, small commits, a close and a kill between.
fn a_day() -> Vec<Step> {
    let mut steps = vec![Step::CreateLog, Step::CreateLog, Step::CreateForeignLog, Step::Commit];
    for round in 0..4 {
        steps.extend([Step::Append(round, 40), Step::Commit, Step::AppendAll(round + 1, vec![200; 5])]);
        steps.extend([Step::Store(0, 4), Step::Append(0, 0), Step::Commit, Step::Judge]);
        match round {
            1 => steps.push(Step::Reopen),
            2 => steps.push(Step::Kill),
            _ => {}
        }
    }
    steps.push(Step::Reopen);
    steps
}

/// Enough bytes to fill several segments, in large commits.
fn a_bulk_load() -> Vec<Step> {
    let mut steps = vec![Step::CreateLog, Step::CreateForeignLog];
    for round in 0..8 {
        steps.extend([Step::AppendAll(0, vec![700; 12]), Step::Store(0, 20), Step::Commit]);
        if round == 5 {
            steps.extend([Step::CreateLog, Step::Append(1, 9), Step::Reopen]);
        }
    }
    steps
}

/// Records longer than a batch and than a segment.
fn long_records() -> Vec<Step> {
    let mut steps = vec![Step::CreateLog];
    for len in [600, 20_000, 1, 50_000, 2] {
        steps.extend([Step::Append(0, len), Step::Commit]);
    }
    steps
}

/// A busy log that is trimmed again and again, beside quiet ones whose few records are copied forward with it.
fn retention() -> Vec<Step> {
    let mut steps =
        vec![Step::CreateLog, Step::CreateForeignLog, Step::CreateLog, Step::Append(1, 40), Step::Store(0, 2)];
    steps.push(Step::Commit);
    for round in 0..5 {
        steps.extend([
            Step::AppendAll(0, vec![700; 14]),
            Step::Commit,
            Step::AppendAll(0, vec![700; 14]),
            Step::Commit,
        ]);
        steps.extend([Step::Trim(0, 900), Step::Free]);
        match round {
            1 => steps.push(Step::Reopen),
            // The other quiet log is given up whole.
            3 => steps.extend([Step::Trim(2, 1000), Step::Append(1, 30), Step::Kill]),
            _ => {}
        }
    }
    steps.extend([Step::Free, Step::Judge]);
    steps
}

fn programs() -> [(&'static str, Vec<Step>); 4] {
    [("a day", a_day()), ("a bulk load", a_bulk_load()), ("long records", long_records()), ("retention", retention())]
}

#[test]
fn the_program_of_retention_gives_back_segments_and_copies_what_is_left_in_them() {
    let player = played(&retention(), &[]);
    assert!(player.freed_segments >= 5, "{} segments", player.freed_segments);
}

/// Which of the operations of `program` change the disk, and how many there are in all.
fn operations_of(program: &[Step]) -> (Vec<u64>, u64) {
    let player = played(program, &[]);
    // A kill begins a new count.
    let operations = player.disk.trace();
    let changing = operations.iter().zip(0..).filter(|((operation, _), _)| operation.changes_disk());
    (changing.map(|(_, number)| number).collect(), operations.len() as u64)
}

/// Plays `program` with faults, which must lead to no broken promise by itself.
fn played(program: &[Step], faults: &[Injection]) -> Player {
    let player = Player::new(FaultVfs::new(1), small_options());
    player.disk.start_trace();
    for fault in faults {
        player.disk.inject(*fault);
    }
    let mut player = player;
    let outcome = player.play(program);
    assert_eq!(outcome, Ok(()), "with {faults:?}\n{}", tail(&player.disk));
    player
}

/// The last operations, for a person to see.
fn tail(disk: &FaultVfs) -> String {
    let trace = disk.trace();
    let lines: Vec<&str> = trace.iter().map(|(_, line)| line.as_str()).collect();
    lines[lines.len().saturating_sub(60)..].join("\n") + "\n"
}

fn without_kills(program: Vec<Step>) -> Vec<Step> {
    program.into_iter().map(|step| if step == Step::Kill { Step::Reopen } else { step }).collect()
}

/// How many crashes at each operation: `COUNTERFOIL_EXPLORE`, or one.
fn seeds() -> u64 {
    std::env::var("COUNTERFOIL_EXPLORE").ok().and_then(|text| text.parse().ok()).unwrap_or(1)
}

#[test]
fn a_crash_at_any_operation_and_at_any_of_the_recovery_loses_nothing_acknowledged() {
    for (name, program) in programs() {
        let program = without_kills(program);
        let (changing, total) = operations_of(&program);
        let mut recoveries = [0; 2];
        for number in &changing {
            let fault = Injection::at(*number, Fault::PowerCut);
            let player = played(&program, &[fault]);
            // The process alone was killed: what it wrote is seen, flushed or not, and may be lost later.
            check(&player.on_disk(player.disk.clone()).prove_sound(player.disk.kill()), name, *number, 0, None);
            for seed in 0..seeds() {
                let seed = seed + number * 1000;
                check(
                    &player.on_disk(player.disk.clone()).prove_sound(player.disk.crash(seed)),
                    name,
                    *number,
                    seed,
                    None,
                );
                let [in_recovery, in_its_recovery] = crash_in_recovery(&player, name, *number, seed);
                recoveries = [recoveries[0] + in_recovery, recoveries[1] + in_its_recovery];
            }
        }
        println!(
            "{name}: a crash at {} of {total} operations (those that change the disk), {} crashes in recovery, \
             {} in the recovery from that",
            changing.len(),
            recoveries[0],
            recoveries[1]
        );
    }
}

/// The operations of opening the store on `disk`.
fn operations_of_recovery(player: &Player, disk: FaultVfs) -> Vec<Operation> {
    let mut player = player.on_disk(disk);
    player.disk.start_trace();
    assert_eq!(player.open(), Ok(()));
    player.disk.trace().into_iter().map(|(operation, _)| operation).collect()
}

/// Crashes at each operation of the recovery that changes the disk, and again in the recovery from that; how many
/// these were.
fn crash_in_recovery(player: &Player, name: &str, number: u64, seed: u64) -> [u64; 2] {
    let operations = operations_of_recovery(player, player.disk.crash(seed));
    let mut crashes = [0; 2];
    for (again, operation) in (0..).zip(&operations) {
        // Usually a part of them, another one after each crash.
        if !operation.changes_disk() || (seeds() == 1 && !(number + again).is_multiple_of(4)) {
            continue;
        }
        let mut second = player.on_disk(player.disk.crash(seed));
        second.disk.inject(Injection::at(again, Fault::PowerCut));
        check(&second.open(), name, number, seed, Some(again));
        let disk = second.disk.crash(seed ^ again);
        check(&second.prove_sound(disk), name, number, seed, Some(again));
        crashes[0] += 1;
        if number.is_multiple_of(4) {
            crashes[1] += crash_in_second_recovery(&second, name, number, seed ^ again);
        }
    }
    crashes
}

/// Crashes at operations of the recovery from a crash in a recovery; how many.
fn crash_in_second_recovery(second: &Player, name: &str, number: u64, seed: u64) -> u64 {
    let operations = operations_of_recovery(second, second.disk.crash(seed));
    let mut crashes = 0;
    for (again, operation) in (0..).zip(&operations) {
        if !operation.changes_disk() || !(seed + again).is_multiple_of((8 / seeds()).max(1)) {
            continue;
        }
        let mut third = second.on_disk(second.disk.crash(seed));
        third.disk.inject(Injection::at(again, Fault::PowerCut));
        check(&third.open(), name, number, seed, Some(again));
        let disk = third.disk.crash(seed ^ again);
        check(&third.prove_sound(disk), name, number, seed, Some(again));
        crashes += 1;
    }
    crashes
}

#[test]
fn a_fault_at_any_operation_of_a_recovery_once_or_for_ever_breaks_no_promise() {
    for (name, program) in programs() {
        let program = without_kills(program);
        let (changing, _) = operations_of(&program);
        let mut runs = 0;
        for number in changing {
            let player = played(&program, &[Injection::at(number, Fault::PowerCut)]);
            for seed in 0..seeds() {
                runs += faults_in_recovery(&player, name, number, seed + number * 1000);
            }
        }
        println!("{name}: a fault in the recovery from a crash, {runs} runs");
    }
}

/// Every fault at the operations of the recovery from a crash, then a crash or a kill; how many.
fn faults_in_recovery(player: &Player, name: &str, number: u64, seed: u64) -> u64 {
    let operations = operations_of_recovery(player, player.disk.crash(seed));
    let mut runs = 0;
    for (again, operation) in (0..).zip(&operations) {
        for (kind, fault) in (0..).zip([Fault::Eio, Fault::NoSpace, Fault::Short, Fault::Interrupted]) {
            // Usually a part of them, another one after each crash; with `COUNTERFOIL_EXPLORE` a larger part.
            if !fault.can_meet(*operation) || !(number + again * 5 + kind).is_multiple_of((32 / seeds()).max(1)) {
                continue;
            }
            let once = Injection::at(again, fault);
            // What is interrupted or short for ever is no disk.
            let often = if kind < 2 { once.for_ever() } else { once.times(20) };
            for injection in [once, often] {
                let mut second = player.on_disk(player.disk.crash(seed));
                second.disk.inject(injection);
                check(&second.open(), name, number, seed, Some(again));
                if kind >= 2 {
                    assert_eq!(second.errors, player.errors, "{name}: {injection:?} is no error");
                }
                let is_killed = (number + again).is_multiple_of(2);
                let disk = if is_killed { second.disk.kill() } else { second.disk.crash(seed ^ again) };
                check(&second.prove_sound(disk), name, number, seed, Some(again));
                runs += 1;
            }
        }
    }
    runs
}

fn check(outcome: &Result<(), Violation>, name: &str, number: u64, seed: u64, again: Option<u64>) {
    assert_eq!(*outcome, Ok(()), "{name}: crash at {number}, seed {seed}, then at {again:?} of the recovery");
}

/// One fault at every operation that can meet it, once and for ever; then a kill or a crash, and all must be well.
fn explore(fault: Fault) {
    for (name, program) in programs() {
        let program = without_kills(program);
        let mut explored = 0;
        let operations: Vec<Operation> = played(&program, &[]).disk.trace().into_iter().map(|(kind, _)| kind).collect();
        for (number, operation) in (0..).zip(&operations) {
            if !fault.can_meet(*operation) {
                continue;
            }
            for injection in [Injection::at(number, fault), Injection::at(number, fault).for_ever()] {
                let player = played(&program, &[injection]);
                let fates = [player.disk.snapshot().kill(), player.disk.snapshot().crash(number)];
                // Usually one of the two, another one for the next operation.
                let usual = number as usize % 2;
                let fates = fates
                    .into_iter()
                    .enumerate()
                    .filter(|(fate, _)| seeds() > 1 || *fate == usual)
                    .map(|(_, disk)| disk);
                for disk in fates {
                    let mut after = player.on_disk(disk.clone());
                    let outcome = after.prove_sound(disk.clone());
                    assert_eq!(
                        outcome,
                        Ok(()),
                        "{name}: {injection:?} ({operation:?})\n{}then\n{}then\n{}",
                        tail(&player.disk),
                        tail(&disk),
                        tail(&after.disk)
                    );
                    explored += 1;
                }
            }
        }
        println!("{name}: {fault:?} at {} operations, {explored} runs", operations.len());
    }
}

#[test]
fn a_disk_error_at_any_operation_once_or_for_ever_breaks_no_promise() {
    explore(Fault::Eio);
}

#[test]
fn a_full_disk_at_any_operation_once_or_for_ever_breaks_no_promise() {
    explore(Fault::NoSpace);
}

#[test]
fn a_short_or_interrupted_read_or_write_at_any_operation_is_continued() {
    for fault in [Fault::Short, Fault::Interrupted] {
        for (name, program) in programs() {
            let program = without_kills(program);
            let total = operations_of(&program).1;
            for number in 0..total {
                let player = played(&program, &[Injection::at(number, fault)]);
                assert_eq!(player.errors, 0, "{name}: {fault:?} at {number}\n{}", tail(&player.disk));
            }
            println!("{name}: {fault:?} at {total} operations");
        }
    }
}
