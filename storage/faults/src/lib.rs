//! A disk that fails on purpose, and the exploration of Counterfoil's journal on it.
//!
//! [`FaultVfs`] stands in for the operating system's files. It loses, tears and reorders what was not
//! flushed, refuses by number or by kind of operation, runs full, and rots. A [`Ledger`] is the other
//! book, by which a journal is judged; a [`Player`] plays programs and keeps it. The explorations are
//! in `tests`.

mod disk;
mod fault;
mod ledger;
mod medium;
mod names;
mod player;
mod rng;

pub use disk::FaultVfs;
pub use fault::{Counts, Fault, Injection, Operation};
pub use ledger::{Ledger, Missing, Reading, Violation};
pub use player::{Player, STORE, Step, options_on, small_options};
pub use rng::Rng;
