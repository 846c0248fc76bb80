//! Classes of transfers that share a device.

use std::fmt;

/// The purpose of a transfer, by which the queue of a device orders it.
#[derive(Clone, Copy, Debug, Default, Eq, Hash, PartialEq)]
#[non_exhaustive]
pub enum FileClass {
    /// A request waits for it. It is never refused for the length of the queue.
    #[default]
    Demand,
    /// It is read before a request needs it.
    Prefetch,
    /// It is written behind.
    Write,
    /// It is read to be verified.
    Scrub,
}

impl FileClass {
    pub(crate) const ALL: [Self; 4] = [Self::Demand, Self::Prefetch, Self::Write, Self::Scrub];

    pub(crate) fn index(self) -> usize {
        match self {
            Self::Demand => 0,
            Self::Prefetch => 1,
            Self::Write => 2,
            Self::Scrub => 3,
        }
    }
}

impl fmt::Display for FileClass {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Demand => "demand",
            Self::Prefetch => "prefetch",
            Self::Write => "write",
            Self::Scrub => "scrub",
        })
    }
}
