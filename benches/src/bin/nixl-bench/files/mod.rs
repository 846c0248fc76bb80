//! The suite `files`: blocks between files and memory, by our executor, by plain threads, plain io_uring and NIXL's POSIX plugin.

mod arrangement;
mod awaited;
mod batch;
mod beside;
mod calls;
mod cancel;
mod case;
mod engine;
mod filtered;
mod options;
mod place;
mod posix;
mod ring;
mod side;
mod suite;
mod table;
mod threads;
mod verdict;
mod world;

pub(crate) use self::case::BASELINE;
pub(crate) use self::options::FileArgs;
pub(crate) use self::suite::{run, run_local};
pub(crate) use self::table::{HEADINGS, lines};
pub(crate) use self::verdict::verdicts;

/// The name of this suite in reports.
pub(crate) const SUITE: &str = "files";
