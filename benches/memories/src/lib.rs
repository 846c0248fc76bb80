//! Memory by the names of its kinds, for the examples and the benchmarks: allocated as frameworks allocate it, written and read.

mod allocations;
mod contents;
mod memory;

pub use contents::{read, write};
pub use memory::{Memory, UnknownMemory};
