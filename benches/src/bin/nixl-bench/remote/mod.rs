//! The suite `remote`: transfers between memories of two processes, host, pinned and on GPUs, by the path that our
//! executor chooses, by each path that it can be made to take, and by plain nixl-sys, beside the driver's own copy.

mod at_once;
mod best;
mod buffer;
mod case;
mod engine;
mod executor;
mod iterations;
mod memory;
mod messages;
mod pair;
mod path;
mod plain;
mod planning;
mod session;
mod suite;
mod table;
mod target;
mod transfers;
mod verdict;

pub(crate) use self::path::Refusal;
pub(crate) use self::suite::run;
pub(crate) use self::table::{HEADINGS, lines, refusals};
pub(crate) use self::target::run as run_target;
pub(crate) use self::verdict::verdicts;

/// The name of this suite in reports.
pub(crate) const SUITE: &str = "remote";
