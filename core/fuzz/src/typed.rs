//! Typed values: the envelope, and what the two codecs make of any bytes.

use std::{
    collections::BTreeMap,
    sync::{Mutex, PoisonError},
};

use counterfoil::{Bincode, Codec, Durability, Json, Seq, Store};
use serde::{Deserialize, Serialize};

/// A type with everything in it that takes an announced length.
#[derive(Debug, PartialEq, Serialize, Deserialize)]
struct Value {
    text: String,
    list: Vec<Item>,
    map: BTreeMap<u16, Vec<u8>>,
    nested: Option<Box<Value>>,
}

#[derive(Debug, PartialEq, Serialize, Deserialize)]
enum Item {
    Unit,
    Number(i64),
    Real(f32),
    Pair(char, bool),
    Named { at: u128, bytes: Vec<u8> },
}

/// Bodies in a store before another one is begun.
const BODIES_MAX: u64 = 2000;

/// Takes bytes as a value of each codec, and as the body of a record that is read as a typed one.
pub fn run(input: &[u8]) {
    if let Ok(value) = Bincode.decode::<Value>(input) {
        let mut again = Vec::new();
        Bincode.encode(&value, &mut again).unwrap();
        // Bytes, not values: a number that is none does not equal itself.
        let decoded = Bincode.decode::<Value>(&again).expect("what was decoded can be encoded");
        let mut twice = Vec::new();
        Bincode.encode(&decoded, &mut twice).unwrap();
        assert_eq!(again, twice);
    }
    if let Ok(value) = Json.decode::<Value>(input) {
        let mut again = Vec::new();
        Json.encode(&value, &mut again).unwrap();
    }
    read_as_typed(input);
}

fn read_as_typed(body: &[u8]) {
    static STORE: Mutex<Option<(Store, u64)>> = Mutex::new(None);
    let mut kept = STORE.lock().unwrap_or_else(PoisonError::into_inner);
    let (store, count) = kept.take().filter(|(_, count)| *count < BODIES_MAX).unwrap_or_else(|| {
        let store = Store::builder().background(false).in_memory().unwrap();
        (store, 0)
    });
    let space = store.own_space().unwrap();
    let receipt = space.append(body).unwrap();
    receipt.wait(Durability::Local).unwrap();
    let seq = receipt.first_seq();
    let range = seq..Seq(seq.0 + 1);
    let plain: Vec<_> = space.typed::<Value>().read(range.clone()).unwrap().collect();
    let json: Vec<_> = space.typed_with::<Value, _>(Json).read(range).unwrap().collect();
    assert_eq!((plain.len(), json.len()), (1, 1), "each body is a value or an error");
    for value in plain.iter().chain(&json).filter(|value| value.is_ok()) {
        let is_built_in = [Bincode::ID, Json::ID].contains(&body[1]);
        assert!(body[0] == 1 && is_built_in, "{value:?} without an envelope");
    }
    *kept = Some((store, count + 1));
}

/// A value in each codec, bare and in its envelope.
pub fn seeds() -> Vec<Vec<u8>> {
    let value = Value {
        text: "BP 120/80".into(),
        list: vec![
            Item::Unit,
            Item::Number(-7),
            Item::Real(0.5),
            Item::Pair('ä', true),
            Item::Named { at: 1 << 99, bytes: vec![1, 2] },
        ],
        map: BTreeMap::from([(7, vec![3; 4])]),
        nested: Some(Box::new(Value { text: String::new(), list: vec![], map: BTreeMap::new(), nested: None })),
    };
    let (mut plain, mut json) = (Vec::new(), Vec::new());
    Bincode.encode(&value, &mut plain).unwrap();
    Json.encode(&value, &mut json).unwrap();
    let envelope = |codec: u8, value: &[u8]| [&[1, codec, 1, 0], value].concat();
    vec![envelope(1, &plain), envelope(2, &json), envelope(9, &plain), plain, json, vec![1, 1]]
}
