//! Errors of tickets and of block reads.

use std::fmt;

use nixl_descriptor::layout::{ChunkPairError, SelectionError};
use nixl_descriptor::{AccessError, LeaseError};
use nixl_metadata::ExportId;
use thiserror::Error;

use crate::ConnectorError;

/// Why a ticket cannot be used. No byte was moved.
#[derive(Clone, Debug, Eq, Error, PartialEq)]
#[non_exhaustive]
pub enum TicketError {
    /// It is for another export.
    #[error("the ticket is for export {ticket}, and this is export {import}: import that one")]
    OtherExport {
        /// The ticket's.
        ticket: ExportId,
        /// The one that was imported.
        import: ExportId,
    },
    /// A write of only some outer parts or tokens of a layer.
    #[error("a write is of whole layers: select outer parts and tokens for reads only")]
    PartOfLayers,
    /// It is for a layout that the export does not have.
    #[error("the ticket is for layout {layout}, and the export has {layouts}: it was forged")]
    NoSuchLayout {
        /// The ticket's.
        layout: u16,
        /// How many the export has.
        layouts: usize,
    },
    /// It is for a slot that the export does not have.
    #[error("the ticket is for slot {slot}, and the export has {slots}: it was forged")]
    NoSuchSlot {
        /// The ticket's.
        slot: u32,
        /// How many the export has.
        slots: u32,
    },
    /// It grants the other access.
    #[error("the ticket grants {}, which does not cover the request: ask the owner for a ticket that does", granted(*.writing))]
    OtherRights {
        /// Whether it is one for writing.
        writing: bool,
    },
    /// It does not grant the requested layers.
    #[error(
        "layers {start}..{end} are requested, and the ticket grants {first}..{last}: request some of these, or ask the owner for another ticket"
    )]
    Layers {
        /// First requested layer.
        start: usize,
        /// End of the requested layers.
        end: usize,
        /// First layer granted.
        first: u16,
        /// End of the layers granted.
        last: u16,
    },
    /// Its time is over.
    #[error("the ticket has expired; ask its owner for a new one, or renew it in time")]
    Expired,
    /// The blocks or layouts do not fit together. `source` is the export's side, `destination` the local one.
    #[error(transparent)]
    Pairing(#[from] ChunkPairError),
    /// Blocks or layers that one side does not have.
    #[error(transparent)]
    Selection(#[from] SelectionError),
    /// The local memory is in use, or both sides are one process's and the grant's is.
    #[error(transparent)]
    Lease(#[from] LeaseError),
    /// Both sides are memory of this process, and it could not be copied.
    #[error("both sides are memory of this process, which could not be copied: {0}")]
    Local(#[from] AccessError),
}

fn granted(writing: bool) -> &'static str {
    if writing { "writing" } else { "reading" }
}

/// Why blocks were not read, and which local blocks must therefore not be used: their bytes are undefined until they are written
/// again.
#[derive(Clone, Debug, Error, PartialEq)]
#[error("local blocks {} must not be used: {cause}", Few(.blocks))]
pub struct BlockReadError {
    /// The destination blocks of the read, all of them.
    pub(super) blocks: Vec<usize>,
    #[source]
    pub(super) cause: ConnectorError,
}

impl BlockReadError {
    /// The destination blocks, whose bytes are undefined.
    #[must_use]
    pub fn blocks(&self) -> &[usize] {
        &self.blocks
    }

    /// What went wrong.
    #[must_use]
    pub fn cause(&self) -> &ConnectorError {
        &self.cause
    }
}

/// Why blocks were not written, and which of the owner's blocks may have been written in part: their bytes are undefined until
/// they are written again.
#[derive(Clone, Debug, Error, PartialEq)]
#[error("{}: {cause}", Undefined(.blocks))]
pub struct BlockWriteError {
    /// The blocks of the ticket, if the write had begun.
    pub(super) blocks: Vec<u32>,
    #[source]
    pub(super) cause: ConnectorError,
}

impl BlockWriteError {
    /// The owner's blocks whose bytes are undefined: those of the ticket, or none if the write was refused before it began.
    #[must_use]
    pub fn blocks(&self) -> &[u32] {
        &self.blocks
    }

    /// What went wrong.
    #[must_use]
    pub fn cause(&self) -> &ConnectorError {
        &self.cause
    }
}

/// What a failed write has done to the owner's blocks.
struct Undefined<'a>(&'a [u32]);

impl fmt::Display for Undefined<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            [] => f.write_str("nothing was written"),
            blocks => write!(f, "blocks {} of the owner must not be used", Few(blocks)),
        }
    }
}

/// The first few of a list of blocks.
struct Few<'a, B>(&'a [B]);

impl<B: fmt::Debug> fmt::Display for Few<'_, B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const SHOWN: usize = 8;
        let shown = &self.0[..self.0.len().min(SHOWN)];
        write!(f, "{shown:?}")?;
        match self.0.len() - shown.len() {
            0 => Ok(()),
            more => write!(f, " and {more} more"),
        }
    }
}

#[cfg(test)]
mod tests {
    use nixl_ops::{Advice, TransportError};

    use super::*;

    #[test]
    fn a_transfer_of_blocks_has_the_advice_of_its_cause() {
        for (cause, advice) in [
            (ConnectorError::Transport(TransportError::Stale), Advice::AskAgain),
            (ConnectorError::Draining, Advice::GiveUp),
        ] {
            let read = BlockReadError { blocks: vec![1], cause: cause.clone() };
            assert_eq!(read.advice(), advice);
            assert_eq!(BlockWriteError { blocks: vec![1], cause }.advice(), advice);
        }
    }

    #[test]
    fn a_failed_write_says_which_blocks_are_undefined() {
        let text = |blocks| BlockWriteError { blocks, cause: ConnectorError::Draining }.to_string();
        assert!(text(vec![3, 9]).starts_with("blocks [3, 9] of the owner must not be used: "));
        assert!(text(Vec::new()).starts_with("nothing was written: "));
    }
}
