//! A network and its machines in one thread, with faults drawn from a seed.
//!
//! Machines with real journals on faulty disks ([`FaultVfs`](counterfoil_faults::FaultVfs)) run real
//! [`Endpoint`](counterfoil_replication::Endpoint)s over simulated connections. Time is virtual; one seeded
//! source of randomness drives the faults, so a seed is a whole history. A phase of faults is followed
//! by healing, after which all copies must be equal within a bound. There are histories of practices that mirror to hubs,
//! and of nodes in chains, stars, rings and any other shape that sync.
//!
//! Judged at every step, against what each machine's journal says and against the one true chain of each log:
//!
//! - what a node acknowledges is durable there, and is found there after every crash;
//! - what leaves a node is durable there, and is found there after every crash;
//! - a mirror's log is, batch by batch and byte by byte, a prefix of its source's: no gap, no duplicate;
//! - what an application was told is durable is found after every crash;
//! - a source believes no acknowledgement that the node named did not make of its own disk, whoever passed it on, never
//!   its own nor the writer's, and counts no node twice;
//! - after healing each node knows of all that stand behind it, through whatever hubs, that they have what it has;
//! - a node that is told that it has caught up has what the other end had when they met;
//! - nothing is sent to where it came from;
//! - no honest end is accused of breaking the protocol, and no log stops.
//!
//! - what an end holds in memory of batches and messages stays within its limits.
//!
//! In some histories there is a liar ([`Plan::liar`]): a peer with a name and rights of its own that twists what it says, and
//! says what nobody asked for, also after healing. All of the above holds of the others, and nothing is stored under the name of
//! one who did not write it, no ack counts that the node named did not give (but what the liar says of its own disk can't be more
//! than there is), and no log of an honest node stops. Rights are taken away and given back, ends stop reading for a while, and one
//! connection may break all the time.
//!
//! That a broken promise would be seen is proven by planted mistakes ([`Bug`]): each must be told from a sound history.

mod bugs;
mod liar;
mod machine;
mod plan;
mod report;
mod seeds;
mod topology;
mod wire;
mod world;

pub use bugs::Bug;
pub use plan::{Lies, Plan, Shape, Sync};
pub use report::{Report, Violation};
pub use seeds::{explore_seeds, seeds};
pub use world::{explore, explore_sync, explore_sync_with, explore_with};
