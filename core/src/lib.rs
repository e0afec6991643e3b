//! Being laid out.

#[cfg(feature = "net")]
pub mod certificates;

pub use counterfoil_storage::{NameError, NodeName};
