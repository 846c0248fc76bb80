//! Layouts as an export names them: plain numbers.

use std::fmt;

use nixl_device::Device;

use crate::{ExportMetadata, Field, MetadataError, SerializedDescriptor, name};

/// A layout of KV-cache blocks, as numbers that its owner states.
///
/// [`ExportMetadata`] checks what is wrong by itself. What the numbers mean together is checked where they are made a layout.
#[derive(Clone, Debug, PartialEq, Eq)]
#[allow(clippy::exhaustive_structs, reason = "it is what peers send")]
pub struct ExportedLayout {
    /// What the layout is called, such as `full` or `window`: at most 64 bytes without control characters.
    pub name: String,
    /// How the chunks are arranged.
    pub kind: ExportedKind,
    /// Number of blocks, at most 2^32.
    pub blocks: u64,
    /// Layers of a block.
    pub layers: u16,
    /// Parts of a layer: 2 for K and V, 1 for a fused one.
    pub outer: u8,
    /// Tokens of a block.
    pub page_size: u64,
    /// Elements of a token.
    pub inner: ExportedInner,
    /// Bytes of an element.
    pub element_width: u8,
    /// Bytes from the start of a block to the start of the next one in a part.
    pub block_stride: u64,
    /// Where all the memory is, as the owner counts its devices.
    pub device: Device,
    /// The memory: one part, or one for each layer.
    pub parts: Vec<ExportedPart>,
}

/// The arrangement of the chunks of a layout.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[allow(clippy::exhaustive_enums, reason = "it is what peers send")]
pub enum ExportedKind {
    /// One part: `[block][layer][outer]` chunks.
    FullyContiguous,
    /// A part for each layer: `[block][outer]` chunks.
    BlockFirst,
    /// A part for each layer: `[outer][block]` chunks.
    OuterFirst,
}

/// The elements of one token in one layer and one outer part.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[allow(clippy::exhaustive_enums, reason = "it is what peers send")]
pub enum ExportedInner {
    /// So many attention heads of so many elements each.
    Heads {
        /// Number of KV heads.
        heads: u64,
        /// Elements of a head.
        head_size: u64,
    },
    /// So many elements, of which nothing more is known.
    Elements(u64),
}

/// One part of an exported layout. `Debug` shows the offset in the page instead of the address.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
#[allow(clippy::exhaustive_structs, reason = "it is what peers send")]
pub struct ExportedPart {
    /// Address of the first byte in the owner's address space.
    pub address: u64,
    /// Number of bytes.
    pub len: u64,
}

impl fmt::Debug for ExportedPart {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ExportedPart")
            .field("address", &format_args!("0x…{:03x}", self.address & 0xfff))
            .field("len", &self.len)
            .finish()
    }
}

/// The part as a range of memory, which is not empty and does not wrap around.
pub(super) fn descriptor(
    layout: usize,
    part: usize,
    device: Device,
    range: &ExportedPart,
) -> Result<SerializedDescriptor, MetadataError> {
    SerializedDescriptor::new(device, range.address, range.len)
        .map_err(|_| MetadataError::BadPart { layout, part })
}

/// Checks each layout by itself, and that no two have one name.
pub(super) fn check(layouts: &[ExportedLayout]) -> Result<(), MetadataError> {
    for (index, layout) in layouts.iter().enumerate() {
        let field = Field::LayoutName(index);
        name::check(field, &layout.name, ExportMetadata::MAX_LAYOUT_NAME_BYTES)?;
        if layouts[..index].iter().any(|before| before.name == layout.name) {
            return Err(MetadataError::DuplicateLayout { index });
        }
        layout.check(index)?;
    }
    Ok(())
}

impl ExportedLayout {
    /// The bytes of a block without gaps; `None` if 64 bits cannot count them.
    pub(super) fn block_bytes(&self) -> Option<u64> {
        let token = match self.inner {
            ExportedInner::Heads { heads, head_size } => heads.checked_mul(head_size)?,
            ExportedInner::Elements(elements) => elements,
        };
        let sizes =
            [self.layers.into(), self.outer.into(), self.page_size, self.element_width.into()];
        sizes.into_iter().try_fold(token, u64::checked_mul)
    }

    fn check(&self, layout: usize) -> Result<(), MetadataError> {
        const MOST_BLOCKS: u64 = 1 << 32;
        let (heads, elements) = match self.inner {
            ExportedInner::Heads { heads, head_size } => (heads, head_size),
            ExportedInner::Elements(elements) => (1, elements),
        };
        let dimensions = [
            ("blocks", self.blocks),
            ("layers", self.layers.into()),
            ("outer", self.outer.into()),
            ("page_size", self.page_size),
            ("heads", heads),
            ("inner", elements),
            ("element_width", self.element_width.into()),
            ("block_stride", self.block_stride),
        ];
        if let Some(&(dimension, _)) = dimensions.iter().find(|(_, size)| *size == 0) {
            return Err(MetadataError::ZeroDimension { layout, dimension });
        }
        if self.blocks > MOST_BLOCKS {
            return Err(MetadataError::LayoutBlocks { layout, blocks: self.blocks });
        }
        let needed = match self.kind {
            ExportedKind::FullyContiguous => 1,
            ExportedKind::BlockFirst | ExportedKind::OuterFirst => self.layers.into(),
        };
        if self.parts.len() != needed {
            let parts = self.parts.len();
            return Err(MetadataError::LayoutParts { layout, parts, needed });
        }
        for (part, range) in self.parts.iter().enumerate() {
            descriptor(layout, part, self.device, range)?;
        }
        Ok(())
    }
}
