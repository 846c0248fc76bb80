//! Encoding of the layouts of an export.

use serde::{Deserialize, Serialize};

use super::device;
use super::sequence::{each, sequence};
use crate::{
    ExportMetadata, ExportedInner, ExportedKind, ExportedLayout, ExportedPart, MetadataError,
};

/// The content of the section of layouts.
#[derive(Serialize, Deserialize)]
pub(super) struct Layouts<'a>(
    #[serde(borrow, deserialize_with = "sequence::<_, _, { ExportMetadata::MAX_LAYOUTS }>")]
    Vec<Layout<'a>>,
);

#[derive(Serialize, Deserialize)]
struct Layout<'a> {
    name: &'a str,
    /// 0 fully contiguous, 1 a part for each layer with blocks first, 2 the same with outer parts first.
    kind: u8,
    blocks: u64,
    layers: u16,
    outer: u8,
    page_size: u64,
    /// 0 if they are not distinguished.
    heads: u64,
    /// Elements of a head, or of a token if heads are not distinguished.
    inner: u64,
    element_width: u8,
    block_stride: u64,
    device_kind: u8,
    device_index: u32,
    #[serde(deserialize_with = "sequence::<_, _, { ExportMetadata::MAX_PARTS }>")]
    parts: Vec<Part>,
}

#[derive(Serialize, Deserialize)]
struct Part {
    address: u64,
    len: u64,
}

impl<'a> Layouts<'a> {
    pub(super) fn new(layouts: &'a [ExportedLayout]) -> Result<Self, MetadataError> {
        Ok(Self(each(layouts, Layout::new)?))
    }

    /// Makes what the program uses, of no more layouts and parts than an export has; the export checks the rest.
    pub(super) fn validate(self) -> Result<Vec<ExportedLayout>, MetadataError> {
        let Self(layouts) = self;
        ExportMetadata::check_counts(layouts.iter().map(|layout| layout.parts.len()))?;
        each(layouts, |index, wire| wire.validate(index))
    }
}

impl<'a> Layout<'a> {
    fn new(index: usize, layout: &'a ExportedLayout) -> Result<Self, MetadataError> {
        let (heads, inner) = match layout.inner {
            ExportedInner::Heads { heads, head_size } => (heads, head_size),
            ExportedInner::Elements(elements) => (0, elements),
        };
        let Some((device_kind, device_index)) = device::to_wire(layout.device) else {
            let ordinal = layout.device.index();
            return Err(MetadataError::UnsupportedLayoutDevice { layout: index, kind: 0, ordinal });
        };
        Ok(Self {
            name: &layout.name,
            kind: match layout.kind {
                ExportedKind::FullyContiguous => 0,
                ExportedKind::BlockFirst => 1,
                ExportedKind::OuterFirst => 2,
            },
            blocks: layout.blocks,
            layers: layout.layers,
            outer: layout.outer,
            page_size: layout.page_size,
            heads,
            inner,
            element_width: layout.element_width,
            block_stride: layout.block_stride,
            device_kind,
            device_index,
            parts: each(&layout.parts, |_, &ExportedPart { address, len }| {
                Ok(Part { address, len })
            })?,
        })
    }

    fn validate(self, index: usize) -> Result<ExportedLayout, MetadataError> {
        let (kind, ordinal) = (self.device_kind, self.device_index);
        let device = device::from_wire(kind, ordinal)
            .ok_or(MetadataError::UnsupportedLayoutDevice { layout: index, kind, ordinal })?;
        Ok(ExportedLayout {
            name: self.name.to_owned(),
            kind: match self.kind {
                0 => ExportedKind::FullyContiguous,
                1 => ExportedKind::BlockFirst,
                2 => ExportedKind::OuterFirst,
                kind => return Err(MetadataError::UnknownLayoutKind { layout: index, kind }),
            },
            blocks: self.blocks,
            layers: self.layers,
            outer: self.outer,
            page_size: self.page_size,
            inner: match self.heads {
                0 => ExportedInner::Elements(self.inner),
                heads => ExportedInner::Heads { heads, head_size: self.inner },
            },
            element_width: self.element_width,
            block_stride: self.block_stride,
            device,
            parts: each(self.parts, |_, Part { address, len }| Ok(ExportedPart { address, len }))?,
        })
    }
}
