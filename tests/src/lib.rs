//! Helpers shared by the whole-workspace tests.

mod by;
mod exports;
pub mod forge;
mod fork;
mod line;
mod memory;
mod pattern;
mod process;
mod program;
mod seccomp;
mod signals;
mod skip;
mod streams;

pub use by::{By, local};
pub use exports::{Cache, Exports, block_of};
pub use fork::{at_exit, exit_of_child, in_child, with_the_loaders_lock_held};
pub use line::{bytes_of, hex_line, metadata, native_line};
pub use memory::{Memory, bytes};
pub use pattern::{Random, crc32, pattern};
pub use process::{
    Offer, Peer, PeerError, Resources, alone, alone_within, eventually, resources, within,
};
pub use program::{Program, program};
pub use seccomp::{Refused, refuse, refusing};
pub use signals::{handlers_of_signals, install_handlers};
pub use skip::skip;
pub use streams::without_standard_streams;

/// The example in the README compiles and runs.
#[cfg(doctest)]
#[doc = include_str!("../../README.md")]
struct Readme;

/// The example of one-shot reads compiles and runs.
#[cfg(doctest)]
#[doc = include_str!("../../docs/GUIDE.md")]
struct Guide;

/// The example of exports compiles.
#[cfg(doctest)]
#[doc = include_str!("../../docs/EXPORTS.md")]
struct Exported;
