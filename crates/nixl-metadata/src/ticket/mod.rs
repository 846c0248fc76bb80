//! Tickets, which an export's owner makes for its grants and peers present.

mod codec;
mod digest;
mod rights;
mod stage;
mod terms;
mod varint;

use std::fmt;
use std::ops::Range;
use std::sync::Arc;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::{ExportId, Field, MetadataError, embed};

pub use rights::Rights;
pub use terms::TicketTerms;

use stage::Stage;

/// Leave to read or write some blocks of an export, until the owner ends it.
///
/// A reader compares the [generation](Self::generation) and the [digest](Self::digest) with the words of the ticket's slot after
/// it has the bytes. The token authenticates messages about the grant, so `Debug` does not show it. Clones share the blocks.
///
/// A ticket is 64 bytes and one to five more for each block. With serde it is base64 in formats for people and bytes in binary
/// ones.
///
/// ```
/// use nixl_metadata::{ExportId, Rights, Ticket, TicketTerms};
///
/// # fn main() -> Result<(), nixl_metadata::MetadataError> {
/// let terms = TicketTerms {
///     export: ExportId::new(0x5ca1_ab1e),
///     layout: 0,
///     layers: 0..80,
///     rights: Rights::Read,
///     slot: 7,
///     generation: 0x0123_4567_89ab_cdef,
///     token: [9; 16], // random, in a real one
///     expires_unix_millis: 1_900_000_000_000,
/// };
/// let ticket = Ticket::new(terms, vec![17, 18, 19, 4])?;
/// assert_eq!(ticket.encoded_len(), 64 + 4);
/// assert_eq!(Ticket::decode(&ticket.encode())?, ticket);
/// # Ok(())
/// # }
/// ```
#[derive(Clone, PartialEq, Eq)]
pub struct Ticket {
    terms: TicketTerms,
    stage: Stage,
    blocks: Arc<[u32]>,
    digest: u64,
}

impl Ticket {
    /// The most blocks of a ticket.
    pub const MAX_BLOCKS: usize = 1 << 20;

    /// The longest ticket, in bytes.
    pub(crate) const MAX_BYTES: usize = codec::HEADER_BYTES + Self::MAX_BLOCKS * varint::MAX_BYTES;

    /// Makes a ticket for these blocks, in this order, and computes its digest.
    ///
    /// # Errors
    ///
    /// [`MetadataError::EmptyLayers`], [`MetadataError::NoBlocks`], [`MetadataError::TooManyBlocks`] beyond
    /// [`MAX_BLOCKS`](Self::MAX_BLOCKS), or [`MetadataError::DuplicateBlock`].
    pub fn new(terms: TicketTerms, blocks: impl Into<Arc<[u32]>>) -> Result<Self, MetadataError> {
        Self::at(Stage::Filled, terms, blocks.into())
    }

    /// As [`new`](Self::new), for blocks to be read of which some layers are filled later: readers look at the words of the grant
    /// before they read, too. Builds without such tickets refuse it.
    ///
    /// # Errors
    ///
    /// As there, and [`MetadataError::UnsupportedTicketFlags`] for blocks to be written.
    pub fn new_unfilled(
        terms: TicketTerms,
        blocks: impl Into<Arc<[u32]>>,
    ) -> Result<Self, MetadataError> {
        if terms.rights == Rights::Write {
            let flags = terms.rights.to_flags() | Stage::Unfilled.to_flags();
            return Err(MetadataError::UnsupportedTicketFlags { flags });
        }
        Self::at(Stage::Unfilled, terms, blocks.into())
    }

    fn at(stage: Stage, terms: TicketTerms, blocks: Arc<[u32]>) -> Result<Self, MetadataError> {
        terms.check()?;
        check_count(blocks.len())?;
        check_distinct(&blocks)?;
        let header = codec::signed_header(&terms, stage, &blocks);
        let digest = digest::of(&header, &blocks, &terms.token);
        Ok(Self { terms, stage, blocks, digest })
    }

    /// Encodes it. The same bytes for the same value.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        codec::encode(self)
    }

    /// How many bytes [`encode`](Self::encode) returns.
    #[must_use]
    pub fn encoded_len(&self) -> usize {
        codec::encoded_len(self)
    }

    /// Decodes a ticket. Allocates at most eight bytes for each that arrived, also if it claims more blocks.
    ///
    /// # Errors
    ///
    /// The [`MetadataError`] that names the first fault; [`MetadataError::TicketAltered`] if all of it can be read and is not
    /// what the digest was computed of. Panics: never.
    pub fn decode(bytes: &[u8]) -> Result<Self, MetadataError> {
        codec::decode(bytes)
    }

    /// The export.
    #[must_use]
    pub const fn export(&self) -> ExportId {
        self.terms.export
    }

    /// The position of the layout among those of the export.
    #[must_use]
    pub const fn layout(&self) -> u16 {
        self.terms.layout
    }

    /// The layers, at least one.
    #[must_use]
    pub fn layers(&self) -> Range<u16> {
        self.terms.layers.clone()
    }

    /// What the holder may do.
    #[must_use]
    pub const fn rights(&self) -> Rights {
        self.terms.rights
    }

    /// Whether some layers of the blocks were still to be filled when it was made.
    #[must_use]
    pub fn is_unfilled(&self) -> bool {
        self.stage == Stage::Unfilled
    }

    /// The slot of the grant among the export's words.
    #[must_use]
    pub const fn slot(&self) -> u32 {
        self.terms.slot
    }

    /// The value of the slot's word while the grant stands.
    #[must_use]
    pub const fn generation(&self) -> u64 {
        self.terms.generation
    }

    /// The secret that authenticates messages about the grant.
    #[must_use]
    pub const fn token(&self) -> &[u8; 16] {
        &self.terms.token
    }

    /// The token as a ticket for writing these blocks has it: see [`TicketTerms::bound`]. With this a writer claims the grant.
    #[must_use]
    pub fn bound_token(&self) -> [u8; 16] {
        digest::bound_token(&self.terms, &self.blocks)
    }

    /// When the grant expires unless it is renewed, in milliseconds since 1970 by the owner's clock.
    #[must_use]
    pub const fn expires_unix_millis(&self) -> u64 {
        self.terms.expires_unix_millis
    }

    /// The blocks, at least one and none twice, in the order in which they were granted.
    #[must_use]
    pub fn blocks(&self) -> &[u32] {
        &self.blocks
    }

    /// The XXH3 of what was granted, which the owner publishes beside the word: with 64 bits, the first half of the token (little
    /// endian) as its seed, over the 56 bytes of the ticket before the digest and the blocks in 4 bytes each.
    #[must_use]
    pub const fn digest(&self) -> u64 {
        self.digest
    }
}

fn check_count(count: usize) -> Result<(), MetadataError> {
    match count {
        0 => Err(MetadataError::NoBlocks),
        1..=Ticket::MAX_BLOCKS => Ok(()),
        _ => Err(MetadataError::TooManyBlocks { count, limit: Ticket::MAX_BLOCKS }),
    }
}

fn check_distinct(blocks: &[u32]) -> Result<(), MetadataError> {
    if blocks.is_sorted_by(|a, b| a < b) {
        return Ok(());
    }
    let mut sorted = blocks.to_vec();
    sorted.sort_unstable();
    match sorted.windows(2).find(|pair| pair[0] == pair[1]) {
        Some(pair) => Err(MetadataError::DuplicateBlock { block: pair[0] }),
        None => Ok(()),
    }
}

impl fmt::Debug for Ticket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Ticket")
            .field("terms", &self.terms)
            .field("blocks", &self.blocks.len())
            .field("stage", &self.stage)
            .finish_non_exhaustive()
    }
}

impl Serialize for Ticket {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        embed::serialize(Ok(self.encode()), serializer)
    }
}

impl<'de> Deserialize<'de> for Ticket {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        embed::deserialize(deserializer, Field::Ticket, Self::MAX_BYTES, Self::decode)
    }
}
