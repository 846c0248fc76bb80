//! Standard streams that are closed.
#![allow(unsafe_code, reason = "closes files by their numbers")]

/// Runs `body` while the standard streams of this process are closed, as a program in another language may close them: Rust's runtime opens
/// them at the start of its own.
///
/// # Panics
///
/// If they cannot be kept and restored.
pub fn without_standard_streams<T>(body: impl FnOnce() -> T) -> T {
    // SAFETY: the numbers are those of standard streams, which nothing uses meanwhile; the copies are this function's own.
    let keep = |number| unsafe { libc::fcntl(number, libc::F_DUPFD_CLOEXEC, 100) };
    let kept = [0, 1, 2].map(|number| {
        let kept = keep(number);
        // SAFETY: as above.
        assert!(kept >= 100 && unsafe { libc::close(number) } == 0);
        kept
    });
    let result = body();
    for (number, kept) in kept.into_iter().enumerate() {
        let number = number as libc::c_int;
        // SAFETY: as above.
        assert_eq!(unsafe { libc::dup2(kept, number) }, number);
        // SAFETY: as above.
        unsafe { libc::close(kept) };
    }
    result
}
