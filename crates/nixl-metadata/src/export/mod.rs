//! The metadata of an export: memory that is registered once, for peers that later present tickets.

mod file;
mod id;
mod layout;
mod words;

use std::fmt;
use std::sync::Arc;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::{
    AgentMetadata, Field, Limits, MetadataError, PeerInfo, SerializedDescriptor, Share,
    SlotAddress, TensorDescription, embed, native, share,
};

pub use file::SharedFile;
pub use id::ExportId;
pub use layout::{ExportedInner, ExportedKind, ExportedLayout, ExportedPart};
pub use words::WordsLocation;

/// An export: the layouts of memory that its owner registered, how to reach the owner, and where a reader checks that a
/// grant still stands.
///
/// Any number of peers may hold it, and for as long as the owner lives. It names memory, and over some paths its holder can
/// reach all of that memory without a ticket, so it is as secret as an offer: `Debug` shows no address and no agent metadata.
/// Clones share the lists.
///
/// It travels in the envelope of the native profile, with a magic of its own and sections like those of version 4. With
/// serde it is base64 in formats for people and bytes in binary ones; both are decoded within the default [`Limits`].
#[derive(Clone, PartialEq, Eq)]
pub struct ExportMetadata {
    export: ExportId,
    agent_metadata: AgentMetadata,
    peer: Arc<PeerInfo>,
    layouts: Arc<[ExportedLayout]>,
    shares: Arc<[Share]>,
    words: WordsLocation,
    claims: Option<SharedFile>,
    tensors: Arc<[(u16, TensorDescription)]>,
}

impl ExportMetadata {
    /// The most layouts in an export.
    pub const MAX_LAYOUTS: usize = 64;

    /// The most parts in all layouts of an export.
    pub const MAX_PARTS: usize = 16_384;

    /// The longest name of a layout, in bytes.
    pub const MAX_LAYOUT_NAME_BYTES: usize = 64;

    /// Describes an export whose memory no other process can open yet, and which takes no claims in shared memory.
    ///
    /// Checks each number of a layout by itself. Whether the numbers of a layout suit each other shows when they are
    /// made a layout.
    ///
    /// # Errors
    ///
    /// The first fault of the layouts: [`MetadataError::NoLayouts`], [`MetadataError::TooManyLayouts`],
    /// [`MetadataError::TooManyParts`]; of a name [`MetadataError::Empty`], [`MetadataError::TooLarge`],
    /// [`MetadataError::BadName`] or [`MetadataError::DuplicateLayout`]; [`MetadataError::ZeroDimension`],
    /// [`MetadataError::LayoutBlocks`], [`MetadataError::LayoutParts`] or [`MetadataError::BadPart`]. And
    /// [`MetadataError::BadWords`].
    pub fn new(
        export: ExportId,
        agent_metadata: AgentMetadata,
        peer: impl Into<Arc<PeerInfo>>,
        layouts: Vec<ExportedLayout>,
        words: WordsLocation,
    ) -> Result<Self, MetadataError> {
        Self::check_counts(layouts.iter().map(|layout| layout.parts.len()))?;
        layout::check(&layouts)?;
        words.check()?;
        Ok(Self {
            export,
            agent_metadata,
            peer: peer.into(),
            layouts: layouts.into(),
            shares: Arc::default(),
            words,
            claims: None,
            tensors: Arc::default(),
        })
    }

    /// Sets the memory that other processes of the host can open, in ascending order. The positions of a share count the
    /// parts of all layouts, those of the first layout first.
    ///
    /// # Errors
    ///
    /// [`MetadataError::TooManyShares`], [`MetadataError::ShareRange`], [`MetadataError::ShareOrder`],
    /// [`MetadataError::ShareDevice`] or [`MetadataError::ShareBounds`] if they do not suit the parts.
    pub fn with_shares(mut self, shares: Vec<Share>) -> Result<Self, MetadataError> {
        let parts = self.layouts.iter().enumerate().flat_map(|(index, layout)| {
            layout
                .parts
                .iter()
                .enumerate()
                .map(move |(part, range)| layout::descriptor(index, part, layout.device, range))
        });
        let parts = parts.collect::<Result<Vec<SerializedDescriptor>, _>>()?;
        share::check(&shares, &parts)?;
        self.shares = shares.into();
        Ok(self)
    }

    /// Sets the place at which processes of the host claim write grants: the page that the owner's [`SlotAddress`]s name.
    ///
    /// # Errors
    ///
    /// [`MetadataError::ShortClaims`] if the file has fewer words than a page has slots.
    pub fn with_claims(mut self, claims: SharedFile) -> Result<Self, MetadataError> {
        const WORD_BYTES: u64 = 8;
        let needed = WORD_BYTES * u64::from(SlotAddress::SLOTS);
        if claims.length < needed {
            return Err(MetadataError::ShortClaims { length: claims.length, needed });
        }
        self.claims = Some(claims);
        Ok(self)
    }

    /// Sets the tensors that the blocks of some layouts are, by the positions of the layouts in ascending order.
    ///
    /// # Errors
    ///
    /// [`MetadataError::TensorLayout`] for a position that is no layout's or not above the one before, and
    /// [`MetadataError::BlockTensorBytes`] for a tensor of more or fewer bytes than a block.
    pub fn with_tensors(
        mut self,
        tensors: Vec<(u16, TensorDescription)>,
    ) -> Result<Self, MetadataError> {
        let mut before = None;
        for (position, tensor) in &tensors {
            let index = usize::from(*position);
            let layout = self.layouts.get(index).filter(|_| before < Some(index));
            let layout = layout.ok_or(MetadataError::TensorLayout { index })?;
            let (described, block) = (tensor.byte_len(), layout.block_bytes());
            if Some(described) != block {
                let block = block.unwrap_or(u64::MAX);
                return Err(MetadataError::BlockTensorBytes { layout: index, described, block });
            }
            before = Some(index);
        }
        self.tensors = tensors.into();
        Ok(self)
    }

    /// Which export it is.
    #[must_use]
    pub const fn export(&self) -> ExportId {
        self.export
    }

    /// The metadata of the owner's engine.
    #[must_use]
    pub const fn agent_metadata(&self) -> &AgentMetadata {
        &self.agent_metadata
    }

    /// The owner.
    #[must_use]
    pub fn peer(&self) -> &Arc<PeerInfo> {
        &self.peer
    }

    /// The layouts, at least one, each with a name of its own. Tickets name them by position.
    #[must_use]
    pub fn layouts(&self) -> &[ExportedLayout] {
        &self.layouts
    }

    /// What other processes of the owner's host can open: runs of parts, counted over all layouts, ascending and disjoint.
    #[must_use]
    pub fn shares(&self) -> &[Share] {
        &self.shares
    }

    /// The share that a part of a layout belongs to, and how many bytes into the shared memory the part begins. None if it is
    /// not shared, or there is no such part.
    #[must_use]
    pub fn share_of(&self, layout: usize, part: usize) -> Option<(&Share, u64)> {
        let before = self.layouts.get(..layout)?.iter().map(|layout| layout.parts.len());
        let here = self.layouts.get(layout)?.parts.get(part)?;
        let position = before.sum::<usize>() + part;
        let after = self.shares.partition_point(|share| share.descriptors().start <= position);
        let share = self.shares.get(after.checked_sub(1)?)?;
        if !share.descriptors().contains(&position) {
            return None;
        }
        let first = self.part_at(share.descriptors().start)?;
        Some((share, share.place_of(first.address, here.address)?))
    }

    /// Where the words of the grants are.
    #[must_use]
    pub const fn words(&self) -> &WordsLocation {
        &self.words
    }

    /// Where processes of the owner's host claim write grants, if they can.
    #[must_use]
    pub const fn claims(&self) -> Option<&SharedFile> {
        self.claims.as_ref()
    }

    /// The tensors that blocks are, with the positions of their layouts, ascending.
    #[must_use]
    pub fn tensors(&self) -> &[(u16, TensorDescription)] {
        &self.tensors
    }

    /// The tensor that each block of the layout at a position is; none if the owner stated none.
    #[must_use]
    pub fn tensor(&self, layout: usize) -> Option<&TensorDescription> {
        let of_layout = |(at, _): &&(u16, TensorDescription)| usize::from(*at) == layout;
        self.tensors.iter().find(of_layout).map(|(_, tensor)| tensor)
    }

    /// Encodes it. The same bytes for the same value.
    ///
    /// # Errors
    ///
    /// [`MetadataError::TooLarge`] beyond 4 GiB, and [`MetadataError::UnsupportedLayoutDevice`] for a kind of device that the
    /// profile does not know yet.
    pub fn encode(&self) -> Result<Vec<u8>, MetadataError> {
        native::encode_export(self)
    }

    /// Decodes it within the default [`Limits`].
    ///
    /// # Errors
    ///
    /// The [`MetadataError`] that names the first fault. Panics: never.
    pub fn decode(bytes: &[u8]) -> Result<Self, MetadataError> {
        Self::decode_with(bytes, &Limits::default())
    }

    /// [`decode`](Self::decode) within limits of your own. That of descriptors bounds the parts.
    ///
    /// # Errors
    ///
    /// As there.
    pub fn decode_with(bytes: &[u8], limits: &Limits) -> Result<Self, MetadataError> {
        native::decode_export(bytes, limits)
    }

    /// Refuses no layouts, too many, and too many parts in all, by the number of parts of each.
    pub(crate) fn check_counts(
        parts: impl ExactSizeIterator<Item = usize>,
    ) -> Result<(), MetadataError> {
        if parts.len() == 0 {
            return Err(MetadataError::NoLayouts);
        }
        if parts.len() > Self::MAX_LAYOUTS {
            return Err(MetadataError::TooManyLayouts { limit: Self::MAX_LAYOUTS });
        }
        if parts.fold(0usize, usize::saturating_add) > Self::MAX_PARTS {
            return Err(MetadataError::TooManyParts { limit: Self::MAX_PARTS });
        }
        Ok(())
    }

    fn part_at(&self, position: usize) -> Option<&ExportedPart> {
        self.layouts.iter().flat_map(|layout| &layout.parts).nth(position)
    }
}

impl fmt::Debug for ExportMetadata {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ExportMetadata")
            .field("export", &self.export)
            .field("agent_metadata", &self.agent_metadata)
            .field("peer", &self.peer)
            .field("layouts", &self.layouts)
            .field("shares", &self.shares)
            .field("words", &self.words)
            .field("claims", &self.claims)
            .field("tensors", &self.tensors)
            .finish()
    }
}

impl Serialize for ExportMetadata {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        embed::serialize(self.encode(), serializer)
    }
}

impl<'de> Deserialize<'de> for ExportMetadata {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let most = Limits::default().encoded_bytes;
        embed::deserialize(deserializer, Field::Document, most, Self::decode)
    }
}
