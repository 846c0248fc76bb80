//! Copies by atomic loads, for processors without assembly here.

use std::sync::atomic::{AtomicU8, AtomicUsize, Ordering};

/// Bytes of a load. Miri objects to threads that access the same bytes in different widths.
const WORD: usize = if cfg!(miri) { 1 } else { size_of::<usize>() };

/// Copies `len` bytes: words from where the source is aligned, and bytes before and after.
///
/// # Safety
///
/// As for [`copy_bytes`](super::copy_bytes).
pub(super) unsafe fn copy(src: *const u8, dst: *mut u8, len: usize) {
    let head = match WORD {
        1 => len,
        _ => ((src as usize).wrapping_neg() % WORD).min(len),
    };
    let words = (len - head) / WORD;
    let tail = head + words * WORD;
    for at in (0..head).chain(tail..len) {
        // SAFETY: the caller vouches for the source; a byte needs no alignment. A relaxed load may be of memory that is only read.
        let byte = unsafe { &*src.wrapping_add(at).cast::<AtomicU8>() };
        let byte = byte.load(Ordering::Relaxed);
        // SAFETY: the caller vouches for the target.
        unsafe { dst.wrapping_add(at).write(byte) };
    }
    let from = src.wrapping_add(head).cast::<AtomicUsize>();
    let to = dst.wrapping_add(head).cast::<usize>();
    for at in 0..words {
        // SAFETY: as above; the source is aligned after its head.
        let word = unsafe { &*from.wrapping_add(at) };
        let word = word.load(Ordering::Relaxed);
        // SAFETY: as above.
        unsafe { to.wrapping_add(at).write_unaligned(word) };
    }
}
