//! Anonymous files that other processes of the machine open by a [`SharedName`].

use std::fmt::{Arguments, Display};
use std::fs::File;
use std::io::Write as _;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};

use nixl_device::{ProcessLimit, fill_random};
use rustix::fs::{CWD, MemfdFlags, Mode, OFlags, SealFlags, readlinkat_raw};
use rustix::io::Errno;

use crate::region::RegionError;
use crate::rendezvous::{self, FileOwner, LinkError};
use crate::shared::{SharedMemoryError, SharedName};
use crate::shortage::{explained, shortage};

/// What `statfs` calls the file system of anonymous files.
const TMPFS_MAGIC: u64 = 0x0102_1994;

/// A file of `len` zero bytes, at least one, that can be sealed, and the random part of its name.
pub(crate) fn create(len: usize) -> Result<(File, [u8; 16]), RegionError> {
    if len == 0 {
        return Err(RegionError::Empty);
    }
    let failed = |errno: Errno| out_of_memory(len, errno.into());
    let mut name = [0; 16];
    fill_random(&mut name).map_err(|error| out_of_memory(len, error))?;
    if cfg!(miri) {
        // It has neither such files nor shared mappings: memory of this process alone, which no name leads to, stands in.
        let file = File::open("/dev/null").map_err(|error| out_of_memory(len, error))?;
        return Ok((file, name));
    }
    let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
    let file = rustix::fs::memfd_create(file_name(&name), flags).map_err(failed)?;
    let file = numbered_from(AFTER_STANDARD, file).map_err(failed)?;
    // Beyond the limit the system would not refuse, but kill.
    let limit = ProcessLimit::FileSize.soft();
    if limit.is_some_and(|limit| len as u64 > limit) {
        let message =
            "shared memory: it is longer than files may be; raise the limit (ulimit -f)".to_owned();
        return Err(RegionError::OutOfMemory { len, message, source: None });
    }
    file.set_len(len as u64).map_err(|error| out_of_memory(len, error))?;
    Ok((file, name))
}

/// The first number that no standard stream has. Where one of those is closed, its number is the next that the system gives, and what
/// the process prints would land in shared memory.
const AFTER_STANDARD: RawFd = 3;

/// The same file under this number or a higher one.
fn numbered_from(first: RawFd, file: OwnedFd) -> Result<File, Errno> {
    match file.as_raw_fd() < first {
        true => Ok(File::from(rustix::io::fcntl_dupfd_cloexec(&file, first)?)),
        false => Ok(File::from(file)),
    }
}

/// Seals the file.
pub(crate) fn seal(file: &File, seals: SealFlags) -> std::io::Result<()> {
    match cfg!(miri) {
        true => Ok(()),
        false => Ok(rustix::fs::fcntl_add_seals(file, seals)?),
    }
}

/// Why a file of `len` bytes, or its mapping, could not be made.
pub(crate) fn out_of_memory(len: usize, error: std::io::Error) -> RegionError {
    let message = format!("shared memory: {}", explained(&error));
    RegionError::OutOfMemory { len, message, source: Some(error.into()) }
}

/// What a file of this process is opened by elsewhere.
pub(crate) fn name_of(file: &File, name: [u8; 16], len: usize) -> SharedName {
    let fd = file.as_raw_fd().unsigned_abs();
    SharedName { pid: std::process::id(), fd, name, len: len as u64 }
}

/// Opens the file that another process calls this. It is as long as the name states, cannot shrink, and has `seals` besides;
/// one that has not is answered with `unsealed`. Returns the length too.
pub(crate) fn open(
    name: &SharedName,
    access: OFlags,
    seals: SealFlags,
    unsealed: SharedMemoryError,
) -> Result<(File, usize), SharedMemoryError> {
    let expected = link(&name.name);
    let file = match rendezvous::owner_of(&name.name) {
        Some(FileOwner::Ended) => return Err(SharedMemoryError::Gone),
        Some(FileOwner::Met(link)) => link.file(&name.name).map_err(|error| match error {
            LinkError::Absent => SharedMemoryError::Gone,
            LinkError::Lost => SharedMemoryError::Unanswered,
            LinkError::Full => SharedMemoryError::Exhausted {
                call: "get",
                message: "its owner gives no further files to this process: offer memory of fewer regions".to_owned(),
                error: std::io::Error::from(Errno::DQUOT).into(),
            },
            LinkError::NoDescriptor => refused("get")(Errno::MFILE.into()),
        })?,
        None => opened(name, access, &expected)?,
    };
    let file = File::from(file);
    // The number may have got another meaning since, and a peer may send any descriptor.
    let mine = format!("/proc/self/fd/{}", file.as_raw_fd());
    if linked(&mine).map_err(refused("look at"))? != expected {
        return Err(SharedMemoryError::Gone);
    }
    // A file of huge pages may lose a page to a hole that another process makes, and then have none for it.
    let system = rustix::fs::fstatfs(&file).map_err(|e| refused("look at")(e.into()))?;
    if u64::try_from(system.f_type) != Ok(TMPFS_MAGIC) {
        return Err(SharedMemoryError::Gone);
    }
    // Files of no other kind have seals.
    let found = rustix::fs::fcntl_get_seals(&file).map_err(|_| SharedMemoryError::Gone)?;
    let len = file.metadata().map_err(refused("look at"))?.len();
    let Ok(mapped) = usize::try_from(name.len) else {
        return Err(SharedMemoryError::MayShrink);
    };
    if !found.contains(SealFlags::SHRINK) || len < name.len || mapped == 0 {
        return Err(SharedMemoryError::MayShrink);
    }
    if !found.contains(seals) {
        return Err(unsealed);
    }
    Ok((file, mapped))
}

/// Opens what the name's numbers lead to.
fn opened(name: &SharedName, access: OFlags, expected: &str) -> Result<OwnedFd, SharedMemoryError> {
    let path = format!("/proc/{}/fd/{}", name.pid, name.fd);
    // Nothing but such a file is opened: to open a device may do something.
    if linked(&path).map_err(refused("look at"))? != expected {
        return Err(SharedMemoryError::Gone);
    }
    let flags = access | OFlags::CLOEXEC | OFlags::NONBLOCK;
    rustix::fs::openat(CWD, path.as_str(), flags, Mode::empty())
        .map_err(|e| refused("open")(e.into()))
}

/// What a failed call on another process's file comes to.
pub(crate) fn refused(call: &'static str) -> impl Fn(std::io::Error) -> SharedMemoryError {
    move |error| match shortage(&error) {
        Some(_) => {
            SharedMemoryError::Exhausted { call, message: explained(&error), error: error.into() }
        }
        None => SharedMemoryError::Refused { call, error: error.into() },
    }
}

pub(crate) fn file_name(name: &[u8; 16]) -> String {
    format!("nixl-{:032x}", u128::from_be_bytes(*name))
}

/// Where a descriptor of such a file leads, in `/proc`.
pub(crate) fn link(name: &[u8; 16]) -> String {
    format!("/memfd:{} (deleted)", file_name(name))
}

/// Whether a descriptor of that process leads to the file of this name. Asked on the way of operations, so it does not allocate.
pub(crate) fn leads_to(pid: u32, fd: impl Display, name: &[u8; 16]) -> bool {
    let (mut path, mut expected, mut found) = ([0; 64], [0; 64], [0; 64]);
    let name = u128::from_be_bytes(*name);
    let path = written(&mut path, format_args!("/proc/{pid}/fd/{fd}"));
    let expected = written(&mut expected, format_args!("/memfd:nixl-{name:032x} (deleted)"));
    let len = path.and_then(|path| readlinkat_raw(CWD, path, &mut found[..]).ok());
    expected.is_some() && len.and_then(|len| found.get(..len)) == expected
}

/// The text, if the buffer has room for it.
fn written<'a>(buffer: &'a mut [u8], text: Arguments<'_>) -> Option<&'a [u8]> {
    let all = buffer.len();
    let mut rest = &mut *buffer;
    rest.write_fmt(text).ok()?;
    let len = all - rest.len();
    buffer.get(..len)
}

pub(crate) fn linked(path: &str) -> std::io::Result<String> {
    let found = std::fs::read_link(path)?;
    Ok(found.to_string_lossy().into_owned())
}

#[cfg(all(test, not(miri)))]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_moved_beyond_the_numbers_of_standard_streams() {
        let file = || File::open("/dev/null").unwrap();
        let kept = file();
        let number = kept.as_raw_fd();
        assert_eq!(numbered_from(AFTER_STANDARD, kept.into()).unwrap().as_raw_fd(), number);
        let moved = numbered_from(200, file().into()).unwrap();
        assert!(moved.as_raw_fd() >= 200);
        let (made, _) = create(1).unwrap();
        assert!(made.as_raw_fd() >= AFTER_STANDARD);
    }
}
