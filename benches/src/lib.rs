//! What the criterion benches and the two-process benchmark share.
//!
//! Run the one with `cargo bench -p nixl-benches`, the other with `cargo xtask bench`.

mod layout;

pub use layout::{Layout, Piece};
