//! Threads with a stack of a known size.

use std::thread::Builder;

/// Rust's default. UCX and NIXL run on threads of these crates, and need more than the least that a system allows.
const STACK: usize = 2 << 20;

/// A thread of that name with a stack of 2 MiB: `RUST_MIN_STACK` in the environment, which sets the default of all others, neither
/// makes it too small nor refuses it.
pub fn named_thread(name: &str) -> Builder {
    Builder::new().name(name.to_owned()).stack_size(STACK)
}
