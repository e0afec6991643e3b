//! The command `counterfoil` from outside, as an operator or a script uses it.

mod append;
mod cat;
mod cert;
mod door;
mod fhir;
mod kill;
mod mirror;
mod recorded;
mod refusals;
mod sandbox;
mod status;
mod usage;
mod verify;
