//! Passive operations, found by the key in a notification instead of a scan.

mod announced;
mod ended;
mod entry;
mod held;
mod quiet;
mod readers;
mod reads;
mod retained;
mod spec;
mod table;
mod telemetry;
mod words;

pub(crate) use entry::{PassiveEntry, Release};
pub use held::Held;
pub use quiet::{Claimant, QuietProof, QuietWatch};
pub(crate) use readers::ExportReaders;
pub(crate) use retained::Freed;
pub use spec::OfferSpec;
pub(crate) use table::{PassiveTable, SlotsFound};
pub use words::{OfferWord, OfferWords};
