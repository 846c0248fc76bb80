//! The suite `blocks`: blocks of a cache that one process has exported, read by another by tickets, beside the one-shot way,
//! plain nixl-sys with prepared lists, and copies by `memcpy`.

mod at_once;
mod cache;
mod case;
mod engine;
mod export;
mod first;
mod grants;
mod memcpy;
mod messages;
mod owner;
mod polled;
mod prepared;
mod processes;
mod readers;
mod reads;
mod session;
mod small;
mod suite;
mod table;
mod turns;
mod verdict;

pub(crate) use self::owner::run as run_owner;
pub(crate) use self::polled::{Holds, Polled};
pub(crate) use self::processes::run as run_reader;
pub(crate) use self::suite::run;
pub(crate) use self::table::{HEADINGS, lines};
pub(crate) use self::verdict::verdicts;

/// The name of this suite in reports.
pub(crate) const SUITE: &str = "blocks";
