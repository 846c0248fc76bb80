//! Copies of bytes that another process may change meanwhile.
//!
//! A plain copy of such bytes is a data race, which the language leaves undefined. These copies move each byte as a relaxed atomic
//! access does: on x86-64 by assembly, elsewhere and under Miri by atomic loads.
#![allow(unsafe_code, reason = "copies by address")]

#[cfg(any(test, miri, not(target_arch = "x86_64")))]
mod atomics;
#[cfg(all(target_arch = "x86_64", not(miri)))]
mod x86_64;

/// Copies `len` bytes on this thread.
///
/// The source may change during the copy, and another process may read or write the target: each byte of the copy is then one of
/// those that the source had meanwhile.
///
/// # Safety
///
/// Both ranges are host memory, mapped for reading and for writing. They do not overlap, and nothing else in this process touches the
/// target meanwhile.
pub(super) unsafe fn copy_bytes(src: *const u8, dst: *mut u8, len: usize) {
    #[cfg(all(target_arch = "x86_64", not(miri)))]
    // SAFETY: the caller vouches for both ranges.
    unsafe {
        x86_64::copy(src, dst, len);
    }
    #[cfg(not(all(target_arch = "x86_64", not(miri))))]
    // SAFETY: the caller vouches for both ranges.
    unsafe {
        atomics::copy(src, dst, len);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, AtomicU8, Ordering};
    use std::thread;

    use proptest::prelude::*;

    use super::*;

    /// Lengths around every boundary of the copies, and up to 1 MiB.
    fn lens() -> impl Strategy<Value = usize> {
        prop_oneof![4 => 0usize..40, 4 => 0usize..600, 4 => 0usize..10_000, 1 => 0usize..=1 << 20]
    }

    /// Copies between vectors at these offsets, and compares with a plain copy.
    fn check(copy: unsafe fn(*const u8, *mut u8, usize), len: usize, from: usize, to: usize) {
        let mut src: Vec<u8> = (0..from + len).map(|i| ((i * 31) >> 2) as u8).collect();
        let mut dst = vec![0xEE; to + len + 130];
        let mut expected = dst.clone();
        expected[to..to + len].copy_from_slice(&src[from..]);
        // Another process may write it: the pointer must allow that.
        let (source, target) = (src[from..].as_mut_ptr().cast_const(), dst[to..].as_mut_ptr());
        // SAFETY: both vectors are this test's own and long enough.
        unsafe { copy(source, target, len) };
        assert!(dst == expected, "{len} bytes from {from} to {to}");
    }

    proptest! {
        #[test]
        fn any_length_at_any_alignment(len in lens(), from in 0usize..130, to in 0usize..130) {
            check(copy_bytes, len, from, to);
            check(atomics::copy, len, from, to);
        }
    }

    #[test]
    #[cfg_attr(miri, ignore = "takes an interpreter many minutes")]
    fn short_copies_at_each_alignment() {
        for len in 0..300 {
            for offset in 0..16 {
                check(copy_bytes, len, offset, 0);
                check(copy_bytes, len, 3, offset);
                check(atomics::copy, len, offset, 16 - offset);
            }
        }
    }

    /// Another thread stands for another process.
    #[test]
    #[cfg_attr(miri, ignore = "takes an interpreter many minutes")]
    fn each_byte_of_a_source_that_changes_is_an_old_or_a_new_one() {
        let values =
            |round: usize, at: usize| (at as u8).wrapping_mul(31) ^ ((round as u8 & 1) * 0x55);
        let source: Vec<AtomicU8> = (0..70_000).map(|at| AtomicU8::new(values(0, at))).collect();
        let done = AtomicBool::new(false);
        thread::scope(|scope| {
            scope.spawn(|| {
                for round in (0..2).cycle() {
                    let each = || source.iter().enumerate();
                    each().for_each(|(at, byte)| byte.store(values(round, at), Ordering::Relaxed));
                    if done.load(Ordering::Relaxed) {
                        return;
                    }
                }
            });
            let each_is_either = [1, 5, 13, 30, 60, 100, 200, 1000, 5000, 70_000]
                .repeat(20)
                .into_iter()
                .all(|len| {
                    let mut copied = vec![0; len];
                    // SAFETY: the source outlives the scope; the target is this thread's own. Both are long enough.
                    unsafe { copy_bytes(source.as_ptr().cast(), copied.as_mut_ptr(), len) };
                    copied
                        .iter()
                        .enumerate()
                        .all(|(at, byte)| (0..2).any(|round| *byte == values(round, at)))
                });
            done.store(true, Ordering::Relaxed);
            assert!(each_is_either);
        });
    }
}
