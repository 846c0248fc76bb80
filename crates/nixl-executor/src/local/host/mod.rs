//! Copies by the processor, and the progress of copies.

mod changing;
pub(crate) mod host_copy;
pub(crate) mod progress;
mod streaming;

pub use progress::Progress;
