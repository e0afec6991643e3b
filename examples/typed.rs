//! Values instead of bytes: types with serde, a type that has grown a field, and records as they come.
//!
//! `cargo run --release --example typed` prints three visits that were there, then two that came
//! while they were followed. Not to copy: the store in memory, which ends with the program.

use std::{thread, time::Duration};

use counterfoil::{Cursor, Durability, Error, Store};
use serde::{Deserialize, Serialize};

/// A visit as the first version of the application wrote it.
#[derive(Serialize, Deserialize)]
struct VisitV1 {
    patient: u64,
    note: String,
}

/// A visit as it is written now.
#[derive(Debug, Serialize, Deserialize)]
struct Visit {
    patient: u64,
    note: String,
    /// Minutes; not known of old visits.
    duration: Option<u32>,
}

impl From<VisitV1> for Visit {
    fn from(VisitV1 { patient, note }: VisitV1) -> Self {
        Self { patient, note, duration: None }
    }
}

fn main() -> Result<(), Error> {
    let store = Store::builder().node("practice-12").in_memory()?;
    let space = store.own_space()?;

    let old = space.typed::<VisitV1>().schema_version(1);
    old.append(&VisitV1 { patient: 7, note: "BP 120/80".into() })?;

    let visits = space.typed::<Visit>().schema_version(2).upgrade_from::<VisitV1>(1);
    visits.append(&Visit { patient: 8, note: "Cough".into(), duration: Some(12) })?;
    let receipt = visits.append(&Visit { patient: 7, note: "BP 118/79".into(), duration: Some(5) })?;
    receipt.wait(Durability::Local)?;

    let mut followed = visits.follow(Cursor::start());
    let desk = visits.clone();
    let work = thread::spawn(move || -> Result<(), Error> {
        for patient in [9, 10] {
            thread::sleep(Duration::from_millis(200));
            desk.append(&Visit { patient, note: "Vaccinated".into(), duration: Some(3) })?;
        }
        Ok(())
    });
    while let Some(visit) = followed.next_timeout(Duration::from_secs(1))? {
        let Visit { patient, note, duration } = visit.value();
        let minutes = duration.map_or("unknown".to_owned(), |minutes| format!("{minutes} min"));
        println!("{:>3}  patient {patient:<3} {note:<12} {minutes} (schema {})", visit.seq().0, visit.schema_version());
    }
    work.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))?;
    store.close(Duration::ZERO)
}
