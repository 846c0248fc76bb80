//! Plain threads: `preadv` and `pwritev`, each thread takes the next call.
#![allow(unsafe_code, reason = "the kernel reads and writes memory by address")]

use std::io;
use std::os::fd::{AsRawFd as _, BorrowedFd};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use anyhow::{Result, anyhow, ensure};
use nixl_executor::files::IoKind;

use super::calls::Call;

/// Carries out all calls on so many threads.
pub(super) fn run(fd: BorrowedFd<'_>, kind: IoKind, calls: &[Call], threads: usize) -> Result<()> {
    let next = AtomicUsize::new(0);
    let work = || {
        while let Some(call) = calls.get(next.fetch_add(1, Ordering::Relaxed)) {
            once(fd, kind, call)?;
        }
        Ok(())
    };
    if threads == 1 {
        return work();
    }
    thread::scope(|scope| {
        let workers: Vec<_> = (0..threads).map(|_| scope.spawn(work)).collect();
        workers
            .into_iter()
            .try_for_each(|worker| worker.join().map_err(|_| anyhow!("a thread panicked"))?)
    })
}

/// Carries out one call.
pub(super) fn once(fd: BorrowedFd<'_>, kind: IoKind, call: &Call) -> Result<()> {
    let vectors = call.segments.as_ptr().cast::<libc::iovec>();
    let (count, offset) = (call.segments.len() as i32, i64::try_from(call.offset)?);
    let moved = match kind {
        // SAFETY: the segments are memory of a layout that the caller keeps, and that no operation uses now; each call has its own.
        IoKind::Read => unsafe { libc::preadv(fd.as_raw_fd(), vectors, count, offset) },
        // SAFETY: as above.
        _ => unsafe { libc::pwritev(fd.as_raw_fd(), vectors, count, offset) },
    };
    let moved = usize::try_from(moved).map_err(|_| io::Error::last_os_error())?;
    ensure!(moved == call.len, "{moved} of {} bytes were moved", call.len);
    Ok(())
}
