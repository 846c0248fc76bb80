//! Calls of the kernel on the memory of operations: reads and writes at offsets, of many segments.
#![allow(unsafe_code, reason = "the kernel reads and writes memory by address")]

use std::io;

use super::io_kind::IoKind;
use super::operation::FileOp;
use super::segment::Segment;

/// The segments of what is left of an operation, as the kernel takes them.
pub(super) fn iovecs(op: &FileOp) -> (*const libc::iovec, u32) {
    const {
        assert!(size_of::<Segment>() == size_of::<libc::iovec>());
        assert!(align_of::<Segment>() == align_of::<libc::iovec>());
    }
    let segments = op.segments();
    // At most `IOV_MAX`.
    (segments.as_ptr().cast(), segments.len() as u32)
}

/// Makes one call for what is left of an operation, and blocks for it.
pub(super) fn call(op: &FileOp) -> io::Result<usize> {
    let (iovecs, count) = iovecs(op);
    let (fd, count) = (op.descriptor(), count as libc::c_int);
    let offset = offset(op)?;
    let result = match op.kind() {
        // SAFETY: the segments are memory that the operation leases to be written, and keeps until it is answered.
        IoKind::Read => unsafe { libc::preadv(fd, iovecs, count, offset) },
        // SAFETY: the segments are memory that the operation leases to be read, and keeps until it is answered.
        IoKind::Write => unsafe { libc::pwritev(fd, iovecs, count, offset) },
        // SAFETY: no memory is involved.
        IoKind::Sync => unsafe { libc::fdatasync(fd) as isize },
    };
    usize::try_from(result).map_err(|_| io::Error::last_os_error())
}

/// As [`call`], for at most so many bytes.
pub(super) fn call_for(op: &FileOp, bytes: usize) -> io::Result<usize> {
    let Some(first) = op.segments().first() else { return call(op) };
    let (fd, offset, len) = (op.descriptor(), offset(op)?, first.len.min(bytes));
    let result = match op.kind() {
        // SAFETY: as in `call`, for a part of the first segment.
        IoKind::Read => unsafe { libc::pread(fd, first.address as *mut _, len, offset) },
        // SAFETY: as in `call`, for a part of the first segment.
        _ => unsafe { libc::pwrite(fd, first.address as *const _, len, offset) },
    };
    usize::try_from(result).map_err(|_| io::Error::last_os_error())
}

/// Reads what is left of an operation if it is in the page cache, without blocking.
pub(super) fn read_cached(op: &FileOp) -> io::Result<usize> {
    let (iovecs, count) = iovecs(op);
    let (fd, count) = (op.descriptor(), count as libc::c_int);
    let offset = offset(op)?;
    // SAFETY: as in `call`.
    let result = unsafe { libc::preadv2(fd, iovecs, count, offset, libc::RWF_NOWAIT) };
    usize::try_from(result).map_err(|_| io::Error::last_os_error())
}

fn offset(op: &FileOp) -> io::Result<libc::off_t> {
    libc::off_t::try_from(op.offset()).map_err(|_| io::Error::from_raw_os_error(libc::EFBIG))
}
