//! Whether NIXL failed because this process may open no more files: UCX needs several at once, and NIXL says only that it failed.

use std::fs;

use nixl_ops::TransportError;
use rustix::process::{Resource, getrlimit};

/// Fewer free descriptors than this are taken for none: UCX closes what it has opened when one more is refused.
const FEW: u64 = 16;

/// The open files of this process and their limit, if hardly any more can be opened.
pub(super) fn exhausted() -> Option<(u64, u64)> {
    let limit = getrlimit(Resource::Nofile).current?;
    // Listing takes a descriptor: where there is none, that is the answer.
    let open = fs::read_dir("/proc/self/fd").map_or(limit, |open| open.count() as u64);
    (limit.saturating_sub(open) < FEW).then_some((open, limit))
}

/// As an error, where NIXL has failed otherwise unexplained.
pub(super) fn error() -> Option<TransportError> {
    exhausted().map(|(open, limit)| TransportError::OutOfFiles { open, limit })
}
