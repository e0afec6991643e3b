//! Two branch surgeries and a hub edit the same patients while the lines between them are cut in turns: what was written at
//! two ends at once is found, kept, shown and decided, and in the end all three hold the same.
//!
//! ```sh
//! cargo run --release --example two_surgeries
//! ```
//!
//! On the screen: what each node does, a table of the conflicts as the hub sees them, how they are decided (by a rule where
//! the two edits touch different fields, by hand where they don't), and a table of what the three nodes hold in the end.
//! The exit status is 0 only if that is the same at all three.
//!
//! Not to copy: three stores in the memory of one process, with links in the process. Real ones are `Store::open` and
//! `Store::mirror_to` with TLS; collections are used in the same way.

mod nodes;

use std::{
    io::{self, Write as _},
    process::ExitCode,
};

use counterfoil::{Error, Resolution, Resolver, Version, Versions};
use counterfoil_examples::{print::print, table::Table};

use nodes::{Nodes, Patient, Patients};

fn main() -> ExitCode {
    match run(&mut io::stdout()) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            // Nobody is left to tell if this fails.
            let _ = writeln!(io::stderr(), "two_surgeries: {error}");
            ExitCode::from(2)
        }
    }
}

fn run(screen: &mut impl io::Write) -> Result<bool, Box<dyn std::error::Error>> {
    let mut say = |text: &str| print(screen, &format!("{text}\n"));
    let nodes = Nodes::new()?;
    let (north, south, hub) = (&nodes.north.patients, &nodes.south.patients, &nodes.hub.patients);

    say("north registers Ann (1), Ben (2) and Cem (3); all lines are up")?;
    for (number, name) in [(1, "Ann"), (2, "Ben"), (3, "Cem")] {
        north.put(&number, &Patient::new(name))?;
    }
    nodes.catch_up()?;

    say("the line of north is cut: north changes Ann's phone, south her address")?;
    nodes.north.cut();
    edit(north, 1, |ann| ann.phone = "555 01".into())?;
    edit(south, 1, |ann| ann.address = "4 Mill Lane".into())?;
    say("  both give Ben a note; south gives Cem a phone, and then the hub a note to that")?;
    edit(north, 2, |ben| ben.note = "allergic to penicillin".into())?;
    edit(south, 2, |ben| ben.note = "BP 140/90".into())?;
    edit(south, 3, |cem| cem.phone = "555 03".into())?;
    nodes.catch_up()?;
    edit(hub, 3, |cem| cem.note = "call on Monday".into())?;

    say(
        "the line of north is mended, that of south cut: south deletes Cem, who has moved, north notes a visit of Cem",
    )?;
    nodes.north.heal();
    nodes.catch_up()?;
    nodes.south.cut();
    south.delete(&3)?;
    edit(north, 3, |cem| cem.note += ", came on Tuesday")?;
    nodes.south.heal();
    nodes.catch_up()?;

    say("\nall lines are up; the hub sees these in conflict:\n")?;
    say(&conflicts(hub)?)?;

    let settled = hub.settle(&DifferentFields)?;
    say(&format!(
        "by a rule: {} decided, since the edits touch different fields; {} kept",
        settled.decided, settled.kept
    ))?;
    nodes.catch_up()?;
    decide_by_hand(south, &mut say)?;
    nodes.catch_up()?;

    say("\nin the end:\n")?;
    let (table, is_equal) = outcome(&nodes)?;
    say(&table)?;
    say(if is_equal { "equal: yes, at all three" } else { "equal: NO" })?;
    Ok(is_equal)
}

/// Changes what a patient's record says now.
fn edit(patients: &Patients, number: u64, change: impl Fn(&mut Patient)) -> Result<(), Error> {
    let read = patients.get(&number)?;
    let mut patient = read.newest().and_then(Version::value).cloned().unwrap_or_default();
    change(&mut patient);
    patients.resolve(&number, &read, Some(&patient)).map(drop)
}

/// The rule: where each field has at most one content that is not empty, all of them are taken.
struct DifferentFields;

impl Resolver<u64, Patient> for DifferentFields {
    fn resolve(&self, _number: &u64, versions: &[Version<Patient>]) -> Resolution<Patient> {
        merge(versions)
    }
}

fn merge(versions: &[Version<Patient>]) -> Resolution<Patient> {
    let Some(patients) = versions.iter().map(Version::value).collect::<Option<Vec<_>>>() else {
        // Somebody deleted the record: a person decides.
        return Resolution::KeepBoth;
    };
    let field = |of: fn(&Patient) -> &str| {
        let mut contents: Vec<_> = patients.iter().map(|patient| of(patient)).filter(|text| !text.is_empty()).collect();
        contents.dedup();
        match contents[..] {
            [] => Some(String::new()),
            [only] => Some(only.to_owned()),
            _ => None,
        }
    };
    let merged = || {
        Some(Patient {
            name: field(|patient| &patient.name)?,
            phone: field(|patient| &patient.phone)?,
            address: field(|patient| &patient.address)?,
            note: field(|patient| &patient.note)?,
        })
    };
    merged().map_or(Resolution::KeepBoth, Resolution::Put)
}

/// What a person at the south does with what the rule has kept.
fn decide_by_hand(
    patients: &Patients,
    say: &mut impl FnMut(&str) -> io::Result<()>,
) -> Result<(), Box<dyn std::error::Error>> {
    for entry in patients.conflicts()? {
        let (number, read) = entry?;
        let kept: Vec<_> = read.all().iter().filter_map(Version::value).collect();
        let mut decided = kept.first().copied().cloned().unwrap_or_default();
        decided.note = kept.iter().map(|patient| patient.note.as_str()).collect::<Vec<_>>().join("; ");
        patients.resolve(&number, &read, Some(&decided))?;
        say(&format!("by hand: {} ({number}) has the note \"{}\"", decided.name, decided.note))?;
    }
    Ok(())
}

fn conflicts(patients: &Patients) -> Result<String, Error> {
    let mut table = Table::new(["patient", "version of", "what it says"]);
    for entry in patients.conflicts()? {
        let (number, versions) = entry?;
        for version in versions.all() {
            let what = version.value().map_or("deleted".to_owned(), Patient::to_string);
            table.row([number.to_string(), version.node().to_string(), what]);
        }
    }
    Ok(table.to_string())
}

/// A table of what each node holds, and whether that is the same everywhere.
fn outcome(nodes: &Nodes) -> Result<(String, bool), Error> {
    let mut table = Table::new(["patient", "north", "south", "hub", "what it says"]);
    let mut is_equal = true;
    for entry in nodes.hub.patients.range(..)? {
        let (number, at_hub) = entry?;
        let versions = |patients: &Patients| patients.get(&number);
        let found = [versions(&nodes.north.patients)?, versions(&nodes.south.patients)?, at_hub];
        let ids = found
            .each_ref()
            .map(|versions: &Versions<Patient>| versions.all().iter().map(Version::id).collect::<Vec<_>>());
        let is_same = ids[0] == ids[2] && ids[1] == ids[2] && ids[2].len() == 1;
        is_equal &= is_same;
        let [north, south, hub] = found.each_ref().map(|versions| {
            versions
                .newest()
                .map_or("nothing".to_owned(), |version| format!("record {} of {}", version.id().seq, version.node()))
        });
        let what = found[2].value().map(Patient::to_string).unwrap_or_default();
        table.row([number.to_string(), north, south, hub, what]);
    }
    is_equal &= nodes.frontiers_are_equal();
    Ok((table.to_string(), is_equal))
}
