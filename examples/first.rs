//! The first steps: a store, a record that survives power loss, and what is there so far.
//! Run it twice: `cargo run --release --example first`. It prints one line more each time.
//! Not to copy: the folder in the current directory; give your store a place of its own.

use counterfoil::{Durability, Error, Store};

fn main() -> Result<(), Error> {
    let store = Store::builder().node("practice-12").open_or_create("first.store")?;
    let space = store.own_space()?;

    let receipt = space.append("a record is any bytes")?;
    receipt.wait(Durability::Local)?;

    for record in space.read(..)? {
        let record = record?;
        println!("{} {}", record.seq(), String::from_utf8_lossy(record.body()));
    }
    store.close(std::time::Duration::ZERO)
}
