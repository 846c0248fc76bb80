//! Helpers shared by the whole-workspace tests.

pub mod forge;
mod fork;
mod line;
mod memory;
mod pattern;
mod process;
mod skip;

pub use fork::in_child;
pub use line::{hex_line, metadata, native_line};
pub use memory::{Memory, bytes};
pub use pattern::{Random, crc32, pattern};
pub use process::{Offer, Peer, PeerError, Resources, alone, eventually, resources, within};
pub use skip::skip;

/// The example in the README compiles and runs.
#[cfg(doctest)]
#[doc = include_str!("../../README.md")]
struct Readme;
