//! A layout over memory of this process.

use std::ops::Range;
use std::sync::Arc;

use nixl_device::Device;

use super::chunks::ChunkPairs;
use super::geometry::LayoutGeometry;
use super::placement::{ByteSpan, LayerOrder, LayoutError, LayoutKind, Placement, SelectionError};
use crate::descriptor::Descriptor;

/// Where the bytes of blocks lie in memory of this process, which it keeps alive. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Layout(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    placement: Placement,
    parts: Vec<Descriptor>,
}

impl Layout {
    /// Blocks one after the other in one part: `[block][layer][outer]` chunks.
    ///
    /// The part may be longer than [`LayoutGeometry::bytes`]; the rest is not used. Panics: never.
    ///
    /// # Errors
    /// [`LayoutError::TooShort`].
    pub fn fully_contiguous(
        geometry: LayoutGeometry,
        part: impl Into<Descriptor>,
    ) -> Result<Self, LayoutError> {
        Self::new(geometry, LayoutKind::FullyContiguous, None, vec![part.into()])
    }

    /// A part for each layer, in the order of the layers. Parts may be longer than needed. Panics: never.
    ///
    /// # Errors
    /// [`LayoutError`]: not one part for each layer, parts on different devices, too short or overlapping.
    pub fn per_layer(
        geometry: LayoutGeometry,
        order: LayerOrder,
        parts: Vec<Descriptor>,
    ) -> Result<Self, LayoutError> {
        Self::new(geometry, LayoutKind::PerLayer(order), None, parts)
    }

    /// A layout of any kind whose blocks begin `block_stride` bytes apart in a part, for frameworks that pad blocks.
    ///
    /// With [`LayerOrder::OuterFirst`] that is the distance from K to K of the next block, and V of block 0 begins
    /// where K of a block after the last would. The last block needs no padding after it. Panics: never.
    ///
    /// # Errors
    /// As [`per_layer`](Self::per_layer), and [`LayoutError::BlockStride`] if blocks would overlap,
    /// [`LayoutError::Overflow`] if they do not fit into an address space.
    pub fn with_block_stride(
        geometry: LayoutGeometry,
        kind: LayoutKind,
        block_stride: usize,
        parts: Vec<Descriptor>,
    ) -> Result<Self, LayoutError> {
        Self::new(geometry, kind, Some(block_stride), parts)
    }

    fn new(
        geometry: LayoutGeometry,
        kind: LayoutKind,
        block_stride: Option<usize>,
        parts: Vec<Descriptor>,
    ) -> Result<Self, LayoutError> {
        let device = parts.first().map_or(Device::HOST, Descriptor::device);
        if let Some((part, other)) = parts.iter().enumerate().find(|(_, d)| d.device() != device) {
            return Err(LayoutError::MixedDevices { part, device: other.device(), first: device });
        }
        let ranges = parts.iter().map(|part| (part.address(), part.len() as u64));
        let placement = Placement::new(geometry, kind, block_stride, device, ranges)?;
        Ok(Self(Arc::new(Inner { placement, parts })))
    }

    /// The shape of the blocks and their number.
    #[must_use]
    pub fn geometry(&self) -> &LayoutGeometry {
        &self.0.placement.geometry
    }

    /// How the chunks are arranged.
    #[must_use]
    pub fn kind(&self) -> LayoutKind {
        self.0.placement.kind
    }

    /// Bytes from the start of a block to the start of the next one in a part.
    #[must_use]
    pub fn block_stride(&self) -> usize {
        self.0.placement.strides.block
    }

    /// Where all the memory is.
    #[must_use]
    pub fn device(&self) -> Device {
        self.0.placement.device
    }

    /// The memory: one part, or one for each layer. [`ByteSpan::part`] is an index into it.
    #[must_use]
    pub fn parts(&self) -> &[Descriptor] {
        &self.0.parts
    }

    /// Where one chunk lies. Panics: never.
    ///
    /// # Errors
    /// [`SelectionError`] if there is no such block, layer or outer index.
    pub fn chunk(
        &self,
        block: usize,
        layer: usize,
        outer: usize,
    ) -> Result<ByteSpan, SelectionError> {
        self.0.placement.chunk(block, layer, outer)
    }

    /// The memory of some blocks and layers, to be leased: disjoint descriptors, as few as possible, in a fixed order.
    ///
    /// A block id that is there more than once counts once. Panics: never.
    ///
    /// # Errors
    /// [`SelectionError`] if there is no such block or layer, or none is asked for.
    pub fn block_descriptors(
        &self,
        blocks: &[usize],
        layers: Range<usize>,
    ) -> Result<Vec<Descriptor>, SelectionError> {
        let Inner { placement, parts } = &*self.0;
        placement.check_blocks(blocks)?;
        placement.check_layers(&layers)?;
        // Sorted, and each id once, by the walk.
        let pairs: Vec<_> = blocks.iter().map(|&block| (block, block)).collect();
        // A layout paired with itself has its own runs. They lie inside the parts, which the constructor checked.
        let runs = ChunkPairs::new(placement, placement, pairs, layers);
        Ok(runs.map(|run| parts[run.src.part].part(run.src.offset, run.src.len)).collect())
    }

    pub(super) fn placement(&self) -> &Placement {
        &self.0.placement
    }
}
