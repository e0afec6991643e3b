//! `counterfoil append`

use std::{fmt::Write as _, fs::File, ops::Range, process::Command};

use crate::sandbox::{Ended, Sandbox};

#[test]
fn any_bytes_come_back_as_they_were() {
    let sandbox = Sandbox::with_practice();
    let input = b"plain\n\n\nwith \0 and \xff\xfe\r\n{\"a\":1}\nunterminated";
    let ended = sandbox.run_with("append practice.store", input).expect_status(0);
    assert!(ended.stdout.is_empty());
    let mut expected = input.to_vec();
    expected.push(b'\n');
    assert_eq!(sandbox.cat("practice.store"), expected);
}

#[test]
fn the_last_line_of_standard_error_sums_up() {
    let sandbox = Sandbox::with_practice();
    for (input, expected) in [
        (&b""[..], "appended 0 records, 0 bytes"),
        (b"ab\ncde\n", "appended 2 records, 5 bytes, seq 0..1, digest "),
        (b"\n", "appended 1 record, 0 bytes, seq 2..2, digest "),
    ] {
        let ended = sandbox.run_with("append practice.store", input).expect_status(0);
        let line = ended.only_error();
        assert!(line.starts_with(expected), "{line}");
        if let Some((_, digest)) = line.split_once("digest ") {
            assert_eq!(digest, sandbox.head("practice.store", "practice-1").0);
        }
    }
}

#[test]
fn each_record_is_acknowledged_in_order_while_input_is_still_open() {
    let sandbox = Sandbox::with_practice();
    for (run, level) in ["buffered", "local"].into_iter().enumerate() {
        let mut append = sandbox.start(&format!("append practice.store --ack --durability {level}"));
        for seq in 5 * run..5 * run + 5 {
            append.write(format!("record {seq}\n"));
            assert_eq!(append.read_line(), format!("ack {seq}"));
        }
        append.finish().expect_status(0);
    }
    assert_eq!(sandbox.cat("practice.store").split(|byte| *byte == b'\n').count(), 10 + 1);
}

#[test]
fn many_records_are_acknowledged_in_order_whatever_the_batch() {
    let sandbox = Sandbox::with_practice();
    let (mut acks, mut expected) = (String::new(), String::new());
    for seq in 0..15_000 {
        writeln!(acks, "ack {seq}").unwrap();
        writeln!(expected, "record number {}", seq % 5000).unwrap();
    }
    let input = &expected[..expected.len() / 3];
    let mut printed = String::new();
    for words in ["", "--batch 7", "--batch 100000"] {
        let ended =
            sandbox.run_with(&format!("append practice.store --ack {words}"), input.as_bytes()).expect_status(0);
        printed += ended.text();
    }
    assert!(printed == acks, "acks are missing or out of order");
    assert!(sandbox.cat("practice.store") == expected.as_bytes());
}

#[test]
fn a_mirror_that_is_not_there_in_time_is_bad_news_and_the_record_stays() {
    // Within the shortest time a busy machine may not get as far as to try.
    let times = ["0.2", "5", "60"];
    let late = times.into_iter().map(late_mirror).find(|(_, ended, _)| ended.stderr.contains("can't be reached"));
    let (sandbox, ended, time) = late.expect("why is told");
    let nobody = format!("{NOBODY} --timeout 0.2");
    assert!(ended.stdout.is_empty(), "no ack: {ended:?}");
    let last = ended.stderr.lines().last().unwrap();
    let why = format!(
        "record 0 (line 1 of the input) is only durable locally after {time} s (hub@127.0.0.1:1: it can't be reached"
    );
    assert!(last.contains(&why), "{last}");
    assert!(last.contains("1 line of the input is in the store (to seq 0)"), "{last}");
    assert!(last.ends_with("there is nothing to append again"), "{last}");

    let ended = sandbox.run_with(&format!("append practice.store --ack {nobody}"), b"second\n").expect_status(1);
    assert_eq!(ended.text(), "ack 1\n");
    assert!(ended.stderr.contains("hub has not been reached"), "{}", ended.stderr);
    assert!(ended.stderr.contains("nothing is known of what it has of space practice-1"), "{}", ended.stderr);
    assert!(ended.stderr.contains("1 line of the input is in the store (to seq 1)"), "{}", ended.stderr);
    assert!(!ended.stderr.contains("start the link again"), "it would not help: {}", ended.stderr);
    assert_eq!(sandbox.cat("practice.store"), b"first\nsecond\n");
}

const NOBODY: &str = "--mirror-to hub@127.0.0.1:1 --tls tls-practice-1";

/// Appends a record that is to be mirrored within a time where nobody listens.
fn late_mirror(time: &str) -> (Sandbox, Ended, &str) {
    let sandbox = Sandbox::with_practice_and_hub();
    let words = format!("append practice.store --ack --durability mirrored {NOBODY} --timeout {time}");
    let ended = sandbox.run_with(&words, b"first\n").expect_status(1);
    (sandbox, ended, time)
}

#[test]
fn ctrl_c_keeps_what_was_appended_and_ends_cleanly() {
    for signal in ["INT", "TERM"] {
        let sandbox = Sandbox::with_practice();
        let mut append = sandbox.start("append practice.store --ack");
        append.write("kept\n");
        assert_eq!(append.read_line(), "ack 0");
        append.signal(signal);
        // Its input stays open meanwhile.
        append.wait_for_error("appended 1 record, 4 bytes, seq 0..0");
        append.finish().expect_status(0);
        assert_eq!(sandbox.cat("practice.store"), b"kept\n");
    }
}

#[test]
fn records_are_appended_even_if_nobody_reads_the_acks() {
    let sandbox = Sandbox::with_practice();
    let mut append = sandbox.start("append practice.store --ack");
    drop(append.take_stdout());
    append.write("one\n");
    append.wait_for_error("nobody reads the acks any more");
    append.write("two\nthree\n");
    let ended = append.finish().expect_status(0);
    assert_eq!(ended.stderr.matches("nobody reads").count(), 1, "{}", ended.stderr);
    assert_eq!(sandbox.cat("practice.store"), b"one\ntwo\nthree\n");
}

#[test]
fn a_line_over_the_limit_is_named_and_those_before_it_are_kept() {
    let sandbox = Sandbox::with_practice();
    let mut input = b"one\ntwo\n".to_vec();
    input.resize(input.len() + (16 << 20) + 1, b'x');
    let ended = sandbox.run_with("append practice.store --ack", &input).expect_status(2);
    assert!(ended.stderr.contains("line 3 is longer than 16777216 bytes"), "{}", ended.stderr);
    let rest = "2 lines of the input are in the store (to seq 1): append from line 3 on";
    assert!(ended.stderr.contains(rest), "{}", ended.stderr);
    assert_eq!(ended.text(), "ack 0\nack 1\n");
    assert_eq!(sandbox.cat("practice.store"), b"one\ntwo\n");

    let longest = vec![b'y'; 16 << 20];
    sandbox.run_with("append practice.store --space long", &longest).expect_status(0);
    assert!(sandbox.cat("practice.store --space long") == [&longest[..], b"\n"].concat());
}

#[test]
fn spaces_of_one_store_are_apart() {
    let sandbox = Sandbox::with_practice();
    sandbox.run_with("append practice.store", b"own\n").expect_status(0);
    sandbox.run_with("append practice.store --space other", b"other\n").expect_status(0);
    assert_eq!(sandbox.cat("practice.store"), b"own\n");
    assert_eq!(sandbox.cat("practice.store --space other"), b"other\n");
}

#[cfg(unix)]
#[test]
fn on_a_full_disk_only_what_is_stored_is_summed_up_and_the_line_to_go_on_with_is_named() {
    let sandbox = Sandbox::with_practice();
    let mut input = String::new();
    for line in 1..=30_000 {
        writeln!(input, "{line:0>200}").unwrap();
    }
    let mut rest: Vec<_> = input.lines().collect();
    let (mut stored, mut was_cut_short) = (Vec::new(), false);
    for _ in 0..3 {
        sandbox.write("rest", rest.join("\n"));
        // No file may grow over a mebibyte: to the command it is a full disk.
        let ended = Command::new("sh")
            .args(["-c", "trap '' XFSZ; ulimit -f 2048; exec \"$0\" append practice.store"])
            .arg(env!("CARGO_BIN_EXE_counterfoil"))
            .current_dir(sandbox.path(""))
            .stdin(File::open(sandbox.path("rest")).unwrap())
            .output()
            .unwrap();
        let errors = String::from_utf8(ended.stderr).unwrap();
        assert_eq!(ended.status.code(), Some(2), "{errors}");
        let Some(summary) = errors.lines().find(|line| line.starts_with("appended ")) else {
            break;
        };
        was_cut_short = true;
        let (digest, next_seq) = match sandbox.status("practice.store")["logs"].as_array().unwrap().as_slice() {
            [log] => (log["digest"].as_str().unwrap().to_owned(), log["next_seq"].as_u64().unwrap() as usize),
            _ => (String::new(), 0),
        };
        let count = next_seq - stored.len();
        let expected = if count == 0 {
            "appended 0 records, 0 bytes".to_owned()
        } else {
            let (first, last) = (stored.len(), next_seq - 1);
            format!("appended {count} records, {} bytes, seq {first}..{last}, digest {digest}", 200 * count)
        };
        assert_eq!(summary, expected);
        let advice = errors.lines().last().unwrap();
        let (in_order, astray) = advised(advice);
        assert_eq!(in_order + astray.len(), count, "{advice}");
        let last_seq = (stored.len() + in_order).saturating_sub(1);
        let told = if in_order == 0 {
            "nothing of the input is in the store".to_owned()
        } else {
            format!("{in_order} lines of the input are in the store (to seq {last_seq})")
        };
        assert!(advice.contains(&format!("no space left on the store's disk: {told}; free some space, ")), "{advice}");
        stored.extend_from_slice(&rest[..in_order]);
        stored.extend_from_slice(&rest[astray.clone()]);
        rest = [&rest[in_order..astray.start.max(in_order)], &rest[astray.end.max(in_order)..]].concat();
    }
    assert!(was_cut_short);
    sandbox.run_with("append practice.store", rest.join("\n").as_bytes()).expect_status(0);
    let expected = [stored, rest].concat().join("\n") + "\n";
    assert!(sandbox.cat("practice.store") == expected.as_bytes(), "each line once, as the advice had it");
}

/// How many lines from the first on the command says are stored, and which of the later ones: those that were on their
/// way while the disk refused the ones before. Positions from 0.
#[cfg(unix)]
fn advised(advice: &str) -> (usize, Range<usize>) {
    let (_, advice) = advice.split_once("append from line ").expect("it says where to go on");
    let mut numbers = advice.split(|letter: char| !letter.is_ascii_digit()).filter_map(|word| word.parse().ok());
    let next: usize = numbers.next().expect("the number of a line");
    let astray = numbers.next().zip(numbers.next()).map_or(0..0, |(first, last): (usize, usize)| first - 1..last);
    (next - 1, astray)
}
