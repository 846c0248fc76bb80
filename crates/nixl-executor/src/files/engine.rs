//! Kinds of engines.

use std::fmt;

/// Which engine carries out the calls.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
#[non_exhaustive]
pub enum EngineKind {
    /// io_uring: a ring and a sleeping thread for each device.
    Uring,
    /// Calls of `preadv` and `pwritev` on threads, so many for each file system.
    Threads,
    /// The simulation.
    Simulated,
}

impl EngineKind {
    /// Its name in reports.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Uring => "io_uring",
            Self::Threads => "threads",
            Self::Simulated => "simulated",
        }
    }
}

impl fmt::Display for EngineKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}
