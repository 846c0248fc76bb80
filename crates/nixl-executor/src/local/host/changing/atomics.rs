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
    let head = (src as usize).wrapping_neg() % WORD;
    let head = if WORD == 1 { len } else { head.min(len) };
    let tail = head + (len - head) / WORD * WORD;
    for at in (0..head).chain(tail..len) {
        // SAFETY: the caller vouches for the source and the target; a byte needs no alignment.
        unsafe {
            *dst.add(at) = AtomicU8::from_ptr(src.add(at).cast_mut()).load(Ordering::Relaxed)
        };
    }
    for at in (head..tail).step_by(WORD) {
        // SAFETY: as above; the source is aligned after its head.
        let word = unsafe { AtomicUsize::from_ptr(src.add(at).cast_mut().cast()) };
        let word = word.load(Ordering::Relaxed);
        // SAFETY: as above.
        unsafe { dst.add(at).cast::<usize>().write_unaligned(word) };
    }
}
