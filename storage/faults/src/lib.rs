//! A disk that fails on purpose, and the exploration of Counterfoil's journal on it.
//!
//! [`FaultVfs`] stands in for the operating system's files. It loses, tears and reorders what was not
//! flushed, refuses by number or by kind of operation, runs full, and rots. The explorations are in
//! `tests`.

mod disk;
mod fault;
mod medium;
mod names;
mod rng;

pub use disk::FaultVfs;
pub use fault::{Counts, Fault, Injection, Operation};
pub use rng::Rng;
