//! The engines that move the bytes.

use std::fmt;

/// A way to read and write a file.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Engine {
    /// Our executor, by the engine that it chooses, from the begin to the awaited completion.
    Executor,
    /// The same where io_uring is forbidden.
    ExecutorThreads,
    /// Our executor, one operation for each block, so many awaited at a time.
    ExecutorEach(usize),
    /// `preadv` and `pwritev` on so many threads.
    Threads(usize),
    /// One ring and so many calls in flight.
    Ring(usize),
    /// The same with registered memory and file.
    RingFixed(usize),
    /// NIXL's POSIX plugin by plain nixl-sys, polled each 200 us.
    Posix,
}

impl Engine {
    pub(super) fn name(self) -> String {
        match self {
            Self::Executor => "executor".to_owned(),
            Self::ExecutorThreads => "executor-threads".to_owned(),
            Self::ExecutorEach(count) => format!("executor-each-{count}"),
            Self::Threads(count) => format!("threads-{count}"),
            Self::Ring(depth) => format!("io_uring-{depth}"),
            Self::RingFixed(depth) => format!("io_uring-fixed-{depth}"),
            Self::Posix => "nixl-posix".to_owned(),
        }
    }
}

impl fmt::Display for Engine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.name())
    }
}

impl From<Engine> for String {
    fn from(engine: Engine) -> Self {
        engine.name()
    }
}
