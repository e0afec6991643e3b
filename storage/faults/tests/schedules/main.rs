//! The journal's threads in thousands of orders, which the crate shuttle chooses.
//!
//! ```sh
//! RUSTFLAGS="--cfg shuttle" cargo test --target-dir target/shuttle -p counterfoil-faults --test schedules -- --nocapture
//! ```
//!
//! A thread goes on until it uses a primitive of `storage/src/sync.rs`, or the disk; then the scheduler says who
//! does. No promise may depend on its choice: no wake-up is lost (else shuttle finds a deadlock), nothing is
//! acknowledged or shown before its flush has returned, every receipt is told one outcome. `COUNTERFOIL_EXPLORE`
//! multiplies the schedules. One that fails is kept in a file, and the test says how to run it again.
#![cfg(shuttle)]

mod acks;
mod closing;
mod commit;
mod disk;
mod explore;
mod follow;
mod refusal;
mod relay;
mod world;
