//! Whether NIXL failed because this process may open no more files: UCX needs several at once, and NIXL says only that it failed.

use std::fs;

use nixl_ops::TransportError;
use rustix::io::Errno;
use rustix::process::{Resource, getrlimit};

use super::library::NixlUnavailable;

/// Fewer free descriptors than this are taken for none: UCX closes what it has opened when one more is refused.
const FEW: u64 = 16;

/// An agent opens so many (19 with two network devices were counted), but for [those of its network devices](OF_DEVICE).
const OF_AGENT: u64 = 20;
/// UCX opens so many for each network device.
const OF_DEVICE: u64 = 2;

/// Refuses an agent for which the process may not open enough files: UCX does not say that, and aborts in places.
pub(super) fn check(devices: usize) -> Result<(), NixlUnavailable> {
    let Some(limit) = getrlimit(Resource::Nofile).current else { return Ok(()) };
    // Listing takes a descriptor: where there is none, that is the answer.
    let open = match fs::read_dir("/proc/self/fd") {
        Ok(open) => open.count() as u64,
        Err(error) if error.raw_os_error() == Some(Errno::MFILE.raw_os_error()) => limit,
        Err(_) => return Ok(()),
    };
    let needed = OF_AGENT + OF_DEVICE * devices as u64;
    if limit.saturating_sub(open) < needed {
        return Err(NixlUnavailable::Files { open, limit, needed, devices });
    }
    Ok(())
}

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
