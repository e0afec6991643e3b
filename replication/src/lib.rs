//! Being laid out.

#[cfg(feature = "net")]
pub mod net;
