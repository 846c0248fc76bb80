//! Detection of a lack of threads: NIXL and UCX crash on a refused thread.

use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, Builder, Scope, ScopedJoinHandle};

use nixl_device::ProcessLimit;

use super::library::NixlUnavailable;

/// One serves UCX's events, one is NIXL's progress thread; the rest is a reserve for threads that the process starts meanwhile.
const NEEDED: usize = 4;

/// Refuses an agent if the process cannot start enough threads, so many more of NIXL's pool among them.
pub(super) fn check(pool: usize) -> Result<(), NixlUnavailable> {
    /// The C library's default stack size without a limit.
    const STACK: u64 = 8 << 20;
    let stack = ProcessLimit::Stack.soft().unwrap_or(STACK);
    let needed = NEEDED + pool;
    at_once(needed, stack).map_err(|(started, error)| NixlUnavailable::Threads {
        needed,
        started,
        error: error.into(),
    })
}

/// Starts so many threads with such stacks at once, briefly. Otherwise returns the number of started ones, and the reason
/// against one more.
fn at_once(count: usize, stack: u64) -> Result<(), (usize, io::Error)> {
    let is_over = AtomicBool::new(false);
    thread::scope(|scope| {
        let mut started = Vec::new();
        let all = (0..count).try_for_each(|_| {
            started.push(start(scope, stack, &is_over)?);
            Ok(())
        });
        is_over.store(true, Ordering::Release);
        started.iter().for_each(|thread| thread.thread().unpark());
        all.map_err(|error| (started.len(), error))
    })
}

fn start<'scope>(
    scope: &'scope Scope<'scope, '_>,
    stack: u64,
    is_over: &'scope AtomicBool,
) -> io::Result<ScopedJoinHandle<'scope, ()>> {
    let wait = || {
        while !is_over.load(Ordering::Acquire) {
            thread::park();
        }
    };
    let stack = usize::try_from(stack).unwrap_or(usize::MAX);
    Builder::new().name("nixl-try".to_owned()).stack_size(stack).spawn_scoped(scope, wait)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn threads_that_there_can_be_are_no_error() {
        assert_eq!((check(0), check(64)), (Ok(()), Ok(())));
    }

    #[test]
    fn one_that_is_refused_is_an_error() {
        // More address space than any process has.
        let (started, _) = at_once(2, 1 << 60).unwrap_err();
        assert_eq!(started, 0);
    }
}
