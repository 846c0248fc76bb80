//! Passive operations, found by the key in a notification instead of a scan.

mod announced;
mod entry;
mod quiet;
mod readers;
mod reads;
mod retained;
mod spec;
mod table;
mod telemetry;

pub(crate) use entry::{PassiveEntry, Release};
pub use quiet::{Claimant, QuietProof, QuietWatch};
pub(crate) use readers::ExportReaders;
pub(crate) use retained::Freed;
pub use spec::OfferSpec;
pub use table::Held;
pub(crate) use table::{PassiveTable, SlotsFound};
