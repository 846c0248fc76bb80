//! Errors of grants.

use nixl_descriptor::RegionError;
use nixl_descriptor::layout::{BlockGrantError, BlockLeaseError};
use nixl_device::SharedError;

/// A table, or a call on a grant, was refused. Nothing has changed.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum GrantError {
    /// No memory for the words.
    #[error("no shared memory for the words of grants: {0}")]
    NoMemory(#[from] RegionError),
    /// The export has too many layouts.
    #[error("{layouts} layouts are exported: at most {most} can be granted")]
    TooManyLayouts {
        /// Number of layouts.
        layouts: usize,
        /// The largest number.
        most: usize,
    },
    /// The export has no such layout.
    #[error("layout {layout} is not exported: the export has {layouts}")]
    NoLayout {
        /// The requested layout.
        layout: u16,
        /// Number of layouts.
        layouts: usize,
    },
    /// The blocks cannot be granted.
    #[error(transparent)]
    Blocks(#[from] BlockGrantError),
    /// All slots are taken.
    #[error("{slots} grants are alive: end some, or export with more slots")]
    Full {
        /// Number of slots.
        slots: u32,
    },
    /// The export is closed.
    #[error("the export is closed: it grants no more blocks")]
    Closed,
    /// The system gives no random numbers.
    #[error("the system gives no random number for a ticket: {error}")]
    NoRandomness {
        /// The error of the system.
        #[source]
        error: SharedError,
    },
    /// There is no such slot.
    #[error(
        "the export has no slot {slot}, but {slots}: the ticket is of another export or forged"
    )]
    NoSlot {
        /// The requested slot.
        slot: u32,
        /// Number of slots.
        slots: u32,
    },
    /// The grant has ended, or is of another export.
    #[error("the grant has ended, or the ticket is of another export: ask for a new ticket")]
    Over,
    /// The grant is not valid yet: the work before it is not done.
    #[error(
        "the grant is not valid yet: the work that fills its blocks is not done; try again later"
    )]
    Unpublished,
    /// The requested layers are not ready.
    #[error(
        "the layers below {ready} are ready, and those below {asked} are requested; request them later"
    )]
    NotReady {
        /// The layers below this one are ready.
        ready: u64,
        /// The end of the layers of the read.
        asked: u64,
    },
    /// The grant is valid already.
    #[error("the grant was published before: publish each once")]
    Published,
    /// The message about the grant lacks its token.
    #[error("the message about the grant of slot {slot} lacks its token: the ticket is forged")]
    WrongToken {
        /// The slot.
        slot: u32,
    },
    /// The ticket names other blocks, layers or rights than its owner granted.
    #[error(
        "the ticket differs from its owner's: slot {slot} grants other blocks, layers or rights; ask for a new ticket"
    )]
    NotGranted {
        /// The slot.
        slot: u32,
    },
    /// The blocks cannot be leased for a use in this process.
    #[error(transparent)]
    Lease(#[from] BlockLeaseError),
}
