//! Typed values through the public API.

use std::collections::BTreeMap;

use counterfoil::{Cursor, Error, ErrorKind, Seq, Store};
use serde::{Deserialize, Serialize};

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct Visit {
    patient: u64,
    note: String,
    readings: BTreeMap<String, f64>,
}

fn visit(patient: u64) -> Visit {
    Visit { patient, note: "BP 120/80".into(), readings: BTreeMap::from([("temperature".into(), 36.6)]) }
}

#[test]
fn typed_values_read_back_as_they_were() {
    let store = Store::in_memory().unwrap();
    let visits = store.own_space().unwrap().typed::<Visit>();
    visits.append(&visit(1)).unwrap();
    visits.append_all(&[visit(2), visit(3)]).unwrap();
    visits.try_append(&visit(4)).unwrap();
    store.commit().unwrap();

    let entries: Vec<_> = visits.read(..).unwrap().map(Result::unwrap).collect();
    assert_eq!(entries.iter().map(|entry| entry.seq().0).collect::<Vec<_>>(), [0, 1, 2, 3]);
    let values: Vec<_> = entries.into_iter().map(counterfoil::Entry::into_value).collect();
    assert_eq!(values, [visit(1), visit(2), visit(3), visit(4)]);
    let followed = visits.follow(Cursor::start()).nth(3).unwrap().unwrap();
    assert_eq!((followed.value(), followed.schema_version()), (&visit(4), 1));
}

/// bincode writes the bare content of an untagged enum and can't tell what it was.
#[derive(Debug, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
enum Answer {
    Number(u64),
    Text(String),
}

#[test]
fn a_value_that_the_codec_cannot_read_back_is_refused_before_it_is_stored() {
    let store = Store::in_memory().unwrap();
    let answers = store.own_space().unwrap().typed::<Answer>();
    let error = answers.append(&Answer::Text("yes".into())).unwrap_err();
    assert!(matches!(error, Error::CodecCannotRoundTrip { codec: "bincode", .. }), "{error}");
    assert_eq!(error.kind(), ErrorKind::CodecCannotRoundTrip);
    assert_eq!(answers.append_all(&[Answer::Number(1)]).unwrap_err().kind(), ErrorKind::CodecCannotRoundTrip);
    assert!(store.logs().is_empty(), "nothing was appended");

    answers.check_round_trip(false).append(&Answer::Number(1)).unwrap();
}

#[cfg(feature = "json")]
#[test]
fn json_reads_back_what_bincode_cannot_and_both_can_share_a_space() {
    let store = Store::in_memory().unwrap();
    let space = store.own_space().unwrap();
    let answers = space.typed_with::<Answer, _>(counterfoil::Json);
    answers.append(&Answer::Text("yes".into())).unwrap();
    store.commit().unwrap();
    assert_eq!(answers.read(..).unwrap().next().unwrap().unwrap().into_value(), Answer::Text("yes".into()));

    // The envelope says which codec wrote a value.
    space.typed::<u64>().append(&7).unwrap();
    space.typed_with::<u64, _>(counterfoil::Json).append(&8).unwrap();
    store.commit().unwrap();
    let numbers = space.typed::<u64>().read(Seq(1)..).unwrap();
    assert_eq!(numbers.map(|entry| entry.unwrap().into_value()).collect::<Vec<_>>(), [7, 8]);
}

#[derive(Debug, PartialEq, Serialize, Deserialize)]
struct Named {
    first: String,
    last: String,
}

impl From<String> for Named {
    fn from(name: String) -> Self {
        let (first, last) = name.split_once(' ').unwrap_or((&name, ""));
        Self { first: first.to_owned(), last: last.to_owned() }
    }
}

#[test]
fn values_of_an_earlier_schema_are_upgraded_if_their_type_is_named_and_refused_if_not() {
    let store = Store::in_memory().unwrap();
    let space = store.own_space().unwrap();
    space.typed::<String>().append(&"Ada Lovelace".to_owned()).unwrap();
    let names = space.typed::<Named>().schema_version(2);
    names.append(&Named { first: "Grace".into(), last: "Hopper".into() }).unwrap();
    store.commit().unwrap();

    let mut refusing = names.read(..).unwrap();
    let error = refusing.next().unwrap().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Codec);
    assert!(error.to_string().contains("schema version 1"), "{error}");
    assert_eq!(refusing.next().unwrap().unwrap().value().first, "Grace", "it goes on after the error");

    let upgrading = names.upgrade_from::<String>(1).read(..).unwrap();
    let firsts: Vec<_> = upgrading.map(|entry| entry.unwrap().into_value().first).collect();
    assert_eq!(firsts, ["Ada", "Grace"]);
}

#[test]
fn a_raw_record_among_typed_ones_is_an_error_with_its_place() {
    let store = Store::in_memory().unwrap();
    let space = store.own_space().unwrap();
    space.append("raw").unwrap();
    let visits = space.typed::<Visit>();
    visits.append(&visit(1)).unwrap();
    store.commit().unwrap();
    let mut read = visits.read(..).unwrap();
    match read.next().unwrap().unwrap_err() {
        Error::Decode { log, seq, .. } => assert_eq!((Some(log), seq), (space.own_log(), Seq(0))),
        other => panic!("{other}"),
    }
    assert_eq!(read.next().unwrap().unwrap().into_value(), visit(1));
}
