//! Placement of chunks, as numbers: the common part of local and remote layouts.
//!
//! Every kind of layout is the same linear map with other strides, so nothing after the constructor looks at the kind.

use std::ops::Range;
use std::sync::Arc;

use nixl_device::Device;
use serde::{Deserialize, Serialize};

use super::geometry::{GeometryError, LayoutGeometry};
use crate::block_set::BlockIds;
use crate::strided::StridedExtents;

/// How a layout arranges the chunks.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum LayoutKind {
    /// One part: `[block][layer][outer]` chunks.
    FullyContiguous,
    /// One part for each layer.
    PerLayer(LayerOrder),
}

/// How a layout with a part for each layer arranges the chunks of a layer.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum LayerOrder {
    /// `[block][outer]`: K and V of a block are neighbours.
    BlockFirst,
    /// `[outer][block]`: K of all blocks, then V of all blocks.
    OuterFirst,
}

/// Bytes of one part of a layout.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
#[expect(clippy::exhaustive_structs, reason = "it is these three numbers and will stay so")]
pub struct ByteSpan {
    /// Which part; the layer, if the layout has a part for each.
    pub part: usize,
    /// First byte, counted from the start of the part.
    pub offset: usize,
    /// Number of bytes.
    pub len: usize,
}

/// Why a layout cannot lie over the given memory.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum LayoutError {
    /// The sizes of the blocks are none.
    #[error(transparent)]
    Geometry(#[from] GeometryError),
    /// The number of parts is not that of the kind of layout.
    #[error("the layout has {parts} parts and needs {needed}: one, or one for each layer")]
    PartCount {
        /// Parts given.
        parts: usize,
        /// Parts needed.
        needed: usize,
    },
    /// Parts are on different devices.
    #[error("part {part} is on {device} and part 0 on {first}: a layout is on one device")]
    MixedDevices {
        /// The first part that differs.
        part: usize,
        /// Where it is.
        device: Device,
        /// Where part 0 is.
        first: Device,
    },
    /// A part does not hold all blocks.
    #[error("part {part} has {len} bytes and needs {needed} for all blocks")]
    TooShort {
        /// Which part.
        part: usize,
        /// Bytes it has.
        len: u64,
        /// Bytes it needs.
        needed: usize,
    },
    /// Blocks would overlap.
    #[error(
        "the block stride is {stride} bytes: it must be at least {least}, the bytes of a block in a part"
    )]
    BlockStride {
        /// What was given.
        stride: usize,
        /// Bytes of a block, or of one layer or chunk of it, that lie together.
        least: usize,
    },
    /// A part has more bytes, or a higher end, than can be addressed.
    #[error(
        "part {part} is larger than can be addressed: reduce the block stride or the number of blocks"
    )]
    Overflow {
        /// Which part.
        part: usize,
    },
    /// Two layers share bytes.
    #[error("parts {first} and {second} overlap: each layer needs memory of its own")]
    PartsOverlap {
        /// The one at the lower address.
        first: usize,
        /// The other.
        second: usize,
    },
    /// There are more blocks than ids.
    #[error("the layout has {blocks} blocks: at most 2^32 are possible")]
    TooManyBlocks {
        /// Number of blocks.
        blocks: usize,
    },
    /// An imported layout has more parts than this process accepts.
    #[error("the layout has {parts} parts: at most {most} are accepted")]
    TooManyParts {
        /// Parts given.
        parts: usize,
        /// Parts accepted.
        most: usize,
    },
}

/// Why there are no such blocks, layers or chunks in a layout.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum SelectionError {
    /// There is no such block.
    #[error("block {block} is out of range: the layout has {blocks} blocks")]
    Block {
        /// Requested block.
        block: usize,
        /// Number of blocks.
        blocks: usize,
    },
    /// There are no such layers, or none at all in the range.
    #[error("layers {start}..{end} are out of range or empty: the layout has {layers} layers")]
    Layers {
        /// First requested layer.
        start: usize,
        /// One past the last.
        end: usize,
        /// Number of layers.
        layers: usize,
    },
    /// There is no such outer part.
    #[error("outer index {outer} is out of range: the layout has {count}")]
    Outer {
        /// Requested index.
        outer: usize,
        /// 1 or 2.
        count: usize,
    },
    /// There are no such tokens in a block, or none at all in the range.
    #[error("tokens {start}..{end} are out of range or empty: a block has {page_size}")]
    Tokens {
        /// First requested token.
        start: usize,
        /// One past the last.
        end: usize,
        /// Tokens of a block.
        page_size: usize,
    },
    /// The chunks of a block's part cannot be cut into so many equal pieces.
    #[error("{chunks} chunks of each block cannot be cut into {pieces} pieces")]
    Pieces {
        /// Number of pieces.
        pieces: usize,
        /// Number of chunks.
        chunks: usize,
    },
    /// No block is selected.
    #[error("no blocks are selected: give at least one block id")]
    NoBlocks,
}

/// Where to find a chunk: linear in block, layer and outer.
#[derive(Clone, Copy, Debug)]
pub(super) struct Strides {
    pub(super) block: usize,
    /// Meaningless if layers have parts of their own.
    pub(super) layer: usize,
    pub(super) outer: usize,
    pub(super) part_per_layer: bool,
    /// Bytes of a chunk, and how many of them a layer has.
    chunk: usize,
    outers: usize,
}

impl Strides {
    /// Where a chunk is if it is in layer 0. Nothing wraps for what exists, here and below.
    pub(super) fn in_layer(&self, block: usize, outer: usize) -> usize {
        block * self.block + outer * self.outer
    }

    /// Part and offset of what is at `in_layer` in layer 0.
    pub(super) fn of_layer(&self, layer: usize, in_layer: usize) -> (usize, usize) {
        if self.part_per_layer { (layer, in_layer) } else { (0, in_layer + layer * self.layer) }
    }

    /// What blocks have in a part that begins at `start`, in ascending order: in a part for all layers, the first layer.
    pub(super) fn strided(self, start: u64) -> impl Iterator<Item = StridedExtents> {
        let (times, len) = match self.outer == self.chunk {
            true => (1, self.layer),
            false => (self.outers, self.chunk),
        };
        (0..times).map(move |outer| StridedExtents {
            start: start + (outer * self.outer) as u64,
            stride: self.block as u64,
            len: len as u64,
        })
    }
}

/// Addresses `start..end` in a part of a layout.
#[derive(Clone, Copy, Debug)]
struct Interval {
    start: u64,
    end: u64,
    part: usize,
}

#[derive(Debug)]
pub(super) struct Placement {
    pub(super) geometry: LayoutGeometry,
    pub(super) kind: LayoutKind,
    pub(super) device: Device,
    pub(super) strides: Strides,
    /// From the first to the last byte that a block may have in the part, sorted by address. They do not overlap.
    used: Vec<Interval>,
}

impl Placement {
    /// Checks that all blocks lie inside `parts` (address and length, all on `device`), and nothing overlaps. Without
    /// a block stride, blocks lie as close as they can.
    pub(super) fn new(
        geometry: LayoutGeometry,
        kind: LayoutKind,
        block_stride: Option<usize>,
        device: Device,
        parts: impl ExactSizeIterator<Item = (u64, u64)>,
    ) -> Result<Self, LayoutError> {
        let needed = match kind {
            LayoutKind::FullyContiguous => 1,
            LayoutKind::PerLayer(_) => geometry.layers(),
        };
        if parts.len() != needed {
            return Err(LayoutError::PartCount { parts: parts.len(), needed });
        }
        let (chunk, blocks) = (geometry.chunk_len(), geometry.blocks());
        if u32::try_from(blocks - 1).is_err() {
            return Err(LayoutError::TooManyBlocks { blocks });
        }
        // Bytes of a block that lie together, and how many times such bytes follow at the distance of the stride.
        let (least, times) = match kind {
            LayoutKind::FullyContiguous => (geometry.block_len(), blocks),
            LayoutKind::PerLayer(LayerOrder::BlockFirst) => (geometry.layer_len(), blocks),
            // Does not wrap: a product of some of the dimensions.
            LayoutKind::PerLayer(LayerOrder::OuterFirst) => (chunk, blocks * geometry.outer()),
        };
        let block = block_stride.unwrap_or(least);
        if block < least {
            return Err(LayoutError::BlockStride { stride: block, least });
        }
        let Some(extent) = (times - 1).checked_mul(block).and_then(|n| n.checked_add(least)) else {
            return Err(LayoutError::Overflow { part: 0 });
        };
        let outer = match kind {
            // Does not wrap: it is at most the start of the last chunk.
            LayoutKind::PerLayer(LayerOrder::OuterFirst) if geometry.outer() > 1 => blocks * block,
            _ => chunk,
        };
        let strides = Strides {
            block,
            layer: geometry.layer_len(),
            outer,
            part_per_layer: kind != LayoutKind::FullyContiguous,
            chunk,
            outers: geometry.outer(),
        };

        let mut used = Vec::with_capacity(needed);
        for (part, (start, len)) in parts.enumerate() {
            if len < extent as u64 {
                return Err(LayoutError::TooShort { part, len, needed: extent });
            }
            if start.checked_add(len).is_none() {
                return Err(LayoutError::Overflow { part });
            }
            used.push(Interval { start, end: start + extent as u64, part });
        }
        used.sort_unstable_by_key(|interval| interval.start);
        if let Some(pair) = used.windows(2).find(|pair| pair[1].start < pair[0].end) {
            return Err(LayoutError::PartsOverlap { first: pair[0].part, second: pair[1].part });
        }
        Ok(Self { geometry, kind, device, strides, used })
    }

    pub(super) fn chunk(
        &self,
        block: usize,
        layer: usize,
        outer: usize,
    ) -> Result<ByteSpan, SelectionError> {
        self.check_block(block)?;
        self.check_layers(&(layer..layer.saturating_add(1)))?;
        let count = self.geometry.outer();
        if outer >= count {
            return Err(SelectionError::Outer { outer, count });
        }
        let (part, offset) = self.strides.of_layer(layer, self.strides.in_layer(block, outer));
        Ok(ByteSpan { part, offset, len: self.geometry.chunk_len() })
    }

    pub(super) fn check_block(&self, block: usize) -> Result<(), SelectionError> {
        let blocks = self.geometry.blocks();
        if block >= blocks {
            return Err(SelectionError::Block { block, blocks });
        }
        Ok(())
    }

    /// The ids, which exist.
    pub(super) fn select(&self, ids: &[usize]) -> Result<BlockIds, SelectionError> {
        let blocks = self.geometry.blocks();
        if ids.is_empty() {
            return Err(SelectionError::NoBlocks);
        }
        let missing = || {
            let block = ids.iter().copied().find(|&block| block >= blocks).unwrap_or(blocks);
            SelectionError::Block { block, blocks }
        };
        // There are at most 2^32 blocks, so what exists keeps its value. These loops take less than one that does all.
        if u32::try_from(ids.iter().fold(0, |all, id| all | id)).is_err() {
            return Err(missing());
        }
        let narrowed: Arc<[u32]> = ids.iter().map(|&id| id as u32).collect();
        // At least one block exists, and none has a number that does not fit.
        let last = u32::try_from(blocks - 1).unwrap_or(u32::MAX);
        if narrowed.iter().fold(false, |beyond, &id| beyond | (id > last)) {
            return Err(missing());
        }
        Ok(BlockIds::new(narrowed, blocks as u64))
    }

    pub(super) fn check_layers(&self, range: &Range<usize>) -> Result<(), SelectionError> {
        let layers = self.geometry.layers();
        if range.is_empty() || range.end > layers {
            return Err(SelectionError::Layers { start: range.start, end: range.end, layers });
        }
        Ok(())
    }

    /// Whether parts of both could share bytes, if they are on one device.
    pub(super) fn may_overlap(&self, other: &Self) -> bool {
        let (Some(first), Some(last)) = (self.used.first(), self.used.last()) else { return false };
        let (Some(start), Some(end)) = (other.used.first(), other.used.last()) else {
            return false;
        };
        first.start < end.end && start.start < last.end
    }

    /// What blocks have of `layers`, by address; nothing overlaps.
    pub(super) fn strided(&self, layers: &Range<usize>) -> impl Iterator<Item = StridedExtents> {
        let (strides, layers) = (self.strides, layers.clone());
        self.used.iter().flat_map(move |used| {
            let there = !strides.part_per_layer || layers.contains(&used.part);
            let strided = there.then(|| strides.strided(used.start)).into_iter().flatten();
            let layers = layers.clone();
            strided.map(move |strided| match strides.part_per_layer {
                true => strided,
                false => strided.of_layers(&layers),
            })
        })
    }
}
