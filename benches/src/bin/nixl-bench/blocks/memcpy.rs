//! Time of the copy alone: a loop of `memcpy` over the same chunks, inside the reader's process.
#![allow(unsafe_code, reason = "copies by address")]

use std::ptr;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::{hint, thread};

use nixl_descriptor::Descriptor;

use crate::clock;

/// Copies pairs of chunks, of equal lengths, on so many threads. Returns the nanoseconds from when all threads run until the
/// last is done.
pub(crate) fn copy(pairs: &[(Descriptor, Descriptor)], threads: usize) -> u64 {
    let shares: Vec<_> = pairs.chunks(pairs.len().div_ceil(threads.max(1)).max(1)).collect();
    let Some((first, others)) = shares.split_first() else { return 0 };
    let (ready, done, go) = (AtomicUsize::new(0), AtomicUsize::new(0), AtomicBool::new(false));
    thread::scope(|scope| {
        for share in others {
            scope.spawn(|| {
                ready.fetch_add(1, Ordering::Release);
                until(|| go.load(Ordering::Acquire));
                copy_all(share);
                done.fetch_add(1, Ordering::Release);
            });
        }
        until(|| ready.load(Ordering::Acquire) == others.len());
        let begun = clock::now();
        go.store(true, Ordering::Release);
        copy_all(first);
        until(|| done.load(Ordering::Acquire) == others.len());
        clock::now() - begun
    })
}

/// Spins: the threads are no more than the cores.
fn until(is_so: impl Fn() -> bool) {
    while !is_so() {
        hint::spin_loop();
    }
}

fn copy_all(pairs: &[(Descriptor, Descriptor)]) {
    for (src, dst) in pairs {
        let (from, to) = (src.address() as *const u8, dst.address() as *mut u8);
        // SAFETY: both are host memory of this process, as long as the source, and kept by the descriptors; no engine uses them
        // while the baseline runs, and each destination is in one share only.
        unsafe { ptr::copy_nonoverlapping(from, to, src.len().min(dst.len())) };
    }
}
