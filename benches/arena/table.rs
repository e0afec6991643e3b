//! The result as text: a table for the terminal, and Markdown to be kept.

use std::fmt::Write as _;

use counterfoil_benches::Workload;

use crate::{
    machine::Machine,
    report::{Chapter, Row, figure},
};

fn ratio(value: Option<f64>) -> String {
    value.map_or_else(|| "-".to_owned(), |ratio| format!("{ratio:.2}"))
}

fn p99(row: &Row) -> String {
    row.p99.map_or_else(String::new, |p99| format!("{p99:.1} us"))
}

/// A row's cells: system, median, spread, p99, ratios.
fn cells(workload: Workload, row: &Row) -> [String; 6] {
    let unit = workload.unit();
    let [median, min, max] = [row.median, row.min, row.max].map(|value| figure(value, unit));
    let system = format!("{}{}", row.system, if row.is_less { "*" } else { "" });
    let spread = if row.rounds > 1 { format!("{min} to {max}") } else { String::new() };
    let [limit, peer] = [row.ratio_to_limit, row.ratio_to_best_peer].map(ratio);
    [system, format!("{median} {unit}"), spread, p99(row), limit, peer]
}

const HEADINGS: [&str; 6] = ["system", "median", "spread of rounds", "p99", "of limit", "of best peer"];

/// One workload on the terminal.
pub(crate) fn terminal(chapter: &Chapter) -> String {
    let mut text = format!("{}. {}\n", chapter.workload.letter(), chapter.workload.title());
    let mut line = |cells: [&str; 6]| {
        let [system, median, spread, p99, limit, peer] = cells;
        let _ = writeln!(text, "   {system:<15} {median:>14} {spread:>22} {p99:>12} {limit:>9} {peer:>13}");
    };
    line(HEADINGS);
    for row in &chapter.rows {
        let cells = cells(chapter.workload, row);
        line(cells.each_ref().map(String::as_str));
    }
    for note in notes(chapter) {
        let _ = writeln!(text, "   {note}");
    }
    text
}

/// A line for each workload: Counterfoil beside the limit and the best peer, by what ratios are made of (medians; in
/// At 99th percentiles). Cells of Markdown, aligned for a terminal.
pub(crate) fn summary(chapters: &[Chapter]) -> String {
    let mut text = String::new();
    let mut line = |cells: [&str; 7]| {
        let [workload, unit, ours, limit, peer, of_limit, of_peer] = cells;
        let _ = writeln!(
            text,
            "| {workload:<9} | {unit:<6} | {ours:>11} | {limit:>8} | {peer:<22} | {of_limit:>8} | {of_peer:>12} |"
        );
    };
    line(["workload", "unit", "counterfoil", "limit", "best peer", "of limit", "of best peer"]);
    line(["---", "---", "---:", "---:", "---", "---:", "---:"]);
    for chapter in chapters {
        let unit = chapter.workload.unit();
        let row = |system: &str| chapter.rows.iter().find(|row| row.system == system);
        let compared = |row: Option<&Row>| row.map_or_else(|| "-".to_owned(), |row| figure(row.compared, unit));
        let peer = chapter.rows.iter().find(|row| row.is_best_peer);
        let peer = peer.map_or_else(|| "-".to_owned(), |row| format!("{} {}", figure(row.compared, unit), row.system));
        let ours = row("counterfoil");
        let of_limit = ratio(ours.and_then(|row| row.ratio_to_limit));
        let of_peer = ratio(ours.and_then(|row| row.ratio_to_best_peer));
        let (letter, unit) = (chapter.workload.letter(), unit.to_string());
        line([letter, &unit, &compared(ours), &compared(row("limit")), &peer, &of_limit, &of_peer]);
    }
    text
}

/// What is to be known of who does otherwise or nothing.
fn notes(chapter: &Chapter) -> Vec<String> {
    let remarks = chapter.rows.iter().filter_map(|row| {
        let star = if row.is_less { "*" } else { "" };
        row.remark.map(|remark| format!("{}{star}: {remark}", row.system))
    });
    let absent = chapter.absent.iter().map(|(system, reason)| format!("without {system}: {reason}"));
    remarks.chain(absent).chain(chapter.found.iter().cloned()).collect()
}

/// All workloads, to be committed.
pub(crate) fn markdown(chapters: &[Chapter], meanings: &[(&str, &str)], machine: &Machine, command: &str) -> String {
    let mut text = format!("# The arena, {}\n\nMade by `{command}` on {}.\n", machine.date, machine.description);
    text += "\nMedians of rounds in which all systems took turns. A ratio is a system's figure divided by the limit's or the \
             best peer's of the same run: more is better for rec/s and Mbit/s, less for us, ms, x and B. \
             A system with * promises less than was asked for and is not a best peer.\n";
    text += "\n| system | what durable means |\n|---|---|\n";
    for (system, durability) in meanings {
        let _ = writeln!(text, "| {system} | {durability} |");
    }
    let _ = write!(text, "\n{}", summary(chapters));
    for chapter in chapters {
        let letter = chapter.workload.letter();
        let _ = write!(text, "\n## {letter}. {}\n\n![{letter}]({letter}.svg)\n\n", chapter.workload.title());
        let _ = writeln!(text, "| {} |\n|---|---:|---:|---:|---:|---:|", HEADINGS.join(" | "));
        for row in &chapter.rows {
            let _ = writeln!(text, "| {} |", cells(chapter.workload, row).join(" | "));
        }
        let _ = writeln!(text);
        for note in notes(chapter) {
            let _ = writeln!(text, "- {note}");
        }
    }
    text
}
