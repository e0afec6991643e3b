//! negentropy: range-based set reconciliation, as nostr relays do it (NIP-77).
//!
//! It knows sets of records, not logs: each has a time and an id of 32 bytes. Ranges of equal fingerprints are left, others are split
//! into 16 until they are short enough to be listed.

use counterfoil_benches::{Cost, Outcome, Reconciler, SyncCase};
use negentropy::{Id, Negentropy, NegentropyStorageVector};

pub(crate) struct Ranges;

/// What the id of a record takes on the wire.
const ID_BYTES: usize = 32;

impl Reconciler for Ranges {
    fn name(&self) -> &'static str {
        "negentropy"
    }

    fn find_out(&self, case: SyncCase, records: usize) -> Outcome<Cost> {
        let [client, server] = [0, 1].map(|side| set(case, records as u64, side));
        let (client, server) = (client?, server?);
        let (mut client, mut server) = (Negentropy::borrowed(&client, 0)?, Negentropy::borrowed(&server, 0)?);
        let (mut have, mut need) = (Vec::new(), Vec::new());
        let mut next = Some(client.initiate()?);
        let mut cost = Cost::default();
        let mut first_record = None;
        let mut halves = 0;
        while let Some(message) = next {
            let answer = server.reconcile(&message)?;
            cost.bytes += (message.len() + answer.len()) as f64;
            halves += 2;
            next = client.reconcile_with_ids(&answer, &mut have, &mut need)?;
            if !(have.is_empty() && need.is_empty()) {
                first_record.get_or_insert(f64::from(halves) / 2.0);
            }
        }
        if (have.len() + need.len()) != case.differing as usize {
            return Err(format!("{} of {} records were found", have.len() + need.len(), case.differing).into());
        }
        // What the client lacks it has yet to ask for by name.
        cost.bytes += (need.len() * ID_BYTES) as f64;
        // Equal fingerprints are known to be so where the first message arrives.
        cost.round_trips = first_record.unwrap_or(0.5);
        Ok(cost)
    }
}

/// The records of one side: what is common to both, and its half of what differs.
fn set(case: SyncCase, records: u64, side: u64) -> Outcome<NegentropyStorageVector> {
    let mut set = NegentropyStorageVector::with_capacity(records as usize + case.differing as usize);
    let newer = (0..u64::from(case.differing)).filter(|number| number % 2 == side).map(|number| records + number);
    for number in (0..records).chain(newer) {
        set.insert(number, Id::from_byte_array(*blake3::hash(&number.to_le_bytes()).as_bytes()))?;
    }
    set.seal()?;
    Ok(set)
}
