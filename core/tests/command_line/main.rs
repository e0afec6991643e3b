//! The command `counterfoil` from outside, as an operator or a script uses it.

mod append;
mod cat;
mod cert;
mod collection;
mod collection_damage;
mod door;
mod fhir;
mod kill;
mod mirror;
mod mirrors;
mod namespaces;
mod proxy;
mod recorded;
mod refusals;
mod repair;
#[path = "../roll_back/mod.rs"]
mod roll_back;
mod sandbox;
mod status;
mod storm;
mod sync;
mod trim;
mod usage;
mod verify;
