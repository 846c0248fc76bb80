//! Detection of failures for lack of file descriptors: UCX needs several at once, and NIXL says only that it failed.

use std::fs;
use std::path::Path;

use nixl_device::NetworkInterface;
use nixl_ops::TransportError;
use rustix::io::Errno;
use rustix::process::{Resource, getrlimit};

use super::library::NixlUnavailable;

/// Fewer free descriptors than this are taken for none: UCX closes what it has opened when one more is refused.
const FEW: u64 = 16;

/// An agent opens so many at once, apart from [those of its network devices](OF_DEVICE): 15 that stay were counted, and some are
/// open for a moment.
const OF_AGENT: u64 = 20;
/// UCX opens so many for each network device.
const OF_DEVICE: u64 = 2;

/// UCX makes files in memory for neighbours to write to: 4.2 MB each, or so many huge pages.
const LARGEST: u64 = 6 << 20;

/// Refuses an agent for which the process may not open enough files, or write large enough ones: UCX does not say the first, and aborts
/// in places; at the second the system ends the process.
pub(super) fn check(devices: usize, shares_memory: bool) -> Result<(), NixlUnavailable> {
    let largest = getrlimit(Resource::Fsize).current.unwrap_or(u64::MAX);
    if shares_memory && largest < LARGEST {
        return Err(NixlUnavailable::FileSize { limit: largest, needed: LARGEST });
    }
    let Some((open, limit)) = open_and_limit() else { return Ok(()) };
    let needed = OF_AGENT + OF_DEVICE * devices as u64;
    if limit.saturating_sub(open) < needed {
        return Err(NixlUnavailable::Files { open, limit, needed, devices });
    }
    Ok(())
}

/// The open files of this process and their limit, if hardly any more can be opened.
pub(super) fn exhausted() -> Option<(u64, u64)> {
    let (open, limit) = open_and_limit()?;
    (limit.saturating_sub(open) < FEW).then_some((open, limit))
}

fn open_and_limit() -> Option<(u64, u64)> {
    let limit = getrlimit(Resource::Nofile).current?;
    // Listing takes a descriptor: where there is none, that is the answer.
    match fs::read_dir("/proc/self/fd") {
        Ok(open) => Some((open.count() as u64, limit)),
        Err(error) if error.raw_os_error() == Some(Errno::MFILE.raw_os_error()) => {
            Some((limit, limit))
        }
        Err(_) => None,
    }
}

/// What explains a failure of NIXL's, as the end of a sentence. Empty where nothing is known.
pub(super) fn explanation() -> String {
    match error() {
        Some(error) => format!("; {error}"),
        None if !Path::new("/proc/self").exists() => {
            "; UCX needs /proc, which is not mounted".to_owned()
        }
        None if NetworkInterface::all().is_empty() => {
            "; no network interface is up, and UCX needs one: loopback will do (`ip link set lo up`)".to_owned()
        }
        None => String::new(),
    }
}

/// As an error, where NIXL has failed otherwise unexplained.
pub(super) fn error() -> Option<TransportError> {
    exhausted().map(|(open, limit)| TransportError::OutOfFiles { open, limit })
}
