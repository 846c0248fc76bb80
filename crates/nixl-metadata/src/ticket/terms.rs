//! The terms of a ticket besides its blocks.

use std::fmt;
use std::ops::Range;

use super::{Rights, digest};
use crate::{ExportId, MetadataError};

/// The parts of a [`Ticket`](crate::Ticket) besides its blocks. `Debug` does not show the token.
#[derive(Clone, PartialEq, Eq)]
#[allow(clippy::exhaustive_structs, reason = "it is what peers send")]
pub struct TicketTerms {
    /// The export.
    pub export: ExportId,
    /// The position of the layout among those of the export.
    pub layout: u16,
    /// The layers, at least one.
    pub layers: Range<u16>,
    /// What the holder may do.
    pub rights: Rights,
    /// The slot of the grant among the export's words.
    pub slot: u32,
    /// The value of the slot's word while the grant stands.
    pub generation: u64,
    /// Random, drawn for this ticket alone; known to its holders only. For writing, [bound](Self::bound) to what is granted.
    pub token: [u8; 16],
    /// When the grant expires unless it is renewed, in milliseconds since 1970 by the owner's clock: its holder begins no use
    /// later.
    pub expires_unix_millis: u64,
}

impl TicketTerms {
    /// With the token of a ticket for writing: its last six bytes are a hash of the others and of the export, the layout, the
    /// layers, the rights and the blocks. The claim of the writer names the grant by all 16, so a ticket of other blocks claims none.
    #[must_use]
    pub fn bound(mut self, blocks: &[u32]) -> Self {
        self.token = digest::bound_token(&self, blocks);
        self
    }

    pub(super) fn check(&self) -> Result<(), MetadataError> {
        if self.layers.is_empty() {
            let Range { start, end } = self.layers;
            return Err(MetadataError::EmptyLayers { start, end });
        }
        Ok(())
    }
}

impl fmt::Debug for TicketTerms {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TicketTerms")
            .field("export", &format_args!("{}", self.export))
            .field("layout", &self.layout)
            .field("layers", &self.layers)
            .field("rights", &self.rights)
            .field("slot", &self.slot)
            .field("generation", &self.generation)
            .field("expires_unix_millis", &self.expires_unix_millis)
            .finish_non_exhaustive()
    }
}
