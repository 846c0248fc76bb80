//! Detection of failures for lack of file descriptors: UCX needs several at once, and NIXL reports a failure without the cause.

use std::fs;
use std::path::Path;

use nixl_device::{NetworkInterface, ProcessLimit};
use nixl_ops::TransportError;
use rustix::io::Errno;

use super::library::NixlUnavailable;

/// Fewer free descriptors count as none: UCX closes those that it has opened when one more is refused.
const FEW: u64 = 16;

/// An agent opens so many at once, apart from [those of its network devices](OF_DEVICE): 15 permanent ones were counted, and
/// some are open briefly. Each further worker opens no more.
const OF_WORKER: u64 = 20;
/// A worker of UCX opens so many for each network device.
const OF_DEVICE: u64 = 2;

/// UCX makes memory files for neighbours to write to: 4.2 MB each, or so many huge pages.
const LARGEST: u64 = 6 << 20;

/// Refuses an agent without enough files, or with too small a limit on file size: UCX does not report the first, and aborts in
/// places; at the second the system ends the process.
pub(super) fn check(
    devices: usize,
    workers: usize,
    shares_memory: bool,
) -> Result<(), NixlUnavailable> {
    let largest = ProcessLimit::FileSize.soft().unwrap_or(u64::MAX);
    if shares_memory && largest < LARGEST {
        return Err(NixlUnavailable::FileSize { limit: largest, needed: LARGEST });
    }
    let Some((open, limit)) = open_and_limit() else { return Ok(()) };
    let needed = workers as u64 * (OF_WORKER + OF_DEVICE * devices as u64);
    if limit.saturating_sub(open) < needed {
        return Err(NixlUnavailable::Files { open, limit, needed, devices });
    }
    Ok(())
}

/// The open files of this process and their limit, if that is nearly reached.
pub(super) fn exhausted() -> Option<(u64, u64)> {
    let (open, limit) = open_and_limit()?;
    (limit.saturating_sub(open) < FEW).then_some((open, limit))
}

fn open_and_limit() -> Option<(u64, u64)> {
    let limit = ProcessLimit::OpenFiles.soft()?;
    // Listing takes a descriptor: a failure to get one is the answer.
    match fs::read_dir("/proc/self/fd") {
        Ok(open) => Some((open.count() as u64, limit)),
        Err(error) if error.raw_os_error() == Some(Errno::MFILE.raw_os_error()) => {
            Some((limit, limit))
        }
        Err(_) => None,
    }
}

/// The longest queue of a listening socket, without which UCX opens none.
const BACKLOG: &str = "/proc/sys/net/core/somaxconn";

/// The explanation of a failure of NIXL, as the end of a sentence. Empty if unknown.
pub(super) fn explanation() -> String {
    if let Some(error) = error() {
        return format!("; {error}");
    }
    if !Path::new("/proc/self").exists() {
        return "; UCX needs /proc, which is not mounted".to_owned();
    }
    if let Some(error) = NetworkInterface::listing_error() {
        return format!(
            "; the system refuses to list network interfaces: {error}; permit netlink sockets"
        );
    }
    if !NetworkInterface::all().is_empty() {
        return match Path::new(BACKLOG).exists() {
            true => String::new(),
            false => format!(
                "; UCX reads {BACKLOG}, which is not there: mount all of /proc, without subset=pid"
            ),
        };
    }
    if NetworkInterface::are_hidden() {
        "; UCX looks for network interfaces in /sys/class/net, which is missing or of another network namespace: mount this \
         one's sysfs"
            .to_owned()
    } else {
        "; no network interface is up, and UCX needs one: loopback will do (`ip link set lo up`)"
            .to_owned()
    }
}

/// The explanation as an error, for an otherwise unexplained failure of NIXL.
pub(super) fn error() -> Option<TransportError> {
    exhausted().map(|(open, limit)| TransportError::OutOfFiles { open, limit })
}
