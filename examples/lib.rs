//! What the examples of Counterfoil share: made-up records, latencies, and a table to show them in.

pub mod fhir;
pub mod latency;
pub mod print;
pub mod table;
