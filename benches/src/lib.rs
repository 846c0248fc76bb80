//! Code of the criterion benches, the two-process benchmark and the soak test.
//!
//! Run them with `cargo bench -p nixl-benches`, `cargo xtask bench` and `cargo xtask soak`.

pub mod channel;
mod environment;
mod layout;

pub use environment::Environment;
pub use layout::{Layout, Piece};
