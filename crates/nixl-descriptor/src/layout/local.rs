//! A layout over memory of this process.

use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use nixl_device::Device;

use super::geometry::{Dimensions, Inner as ElementsOf, LayoutGeometry};
use super::placement::{ByteSpan, LayerOrder, LayoutError, LayoutKind, Placement, SelectionError};
use crate::block_selection::{BlockExtents, BlockSelection};
use crate::block_set::BlockIds;
use crate::descriptor::Descriptor;
use crate::lease::{LeaseError, LeaseMode, LeaseSet};
use crate::region::Region;

/// Where the bytes of blocks lie in memory of this process, which it keeps alive. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Layout(Arc<Inner>);

/// Names a layout of this process and its clones, and no other, then or later.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub struct LayoutId(u64);

#[derive(Debug)]
struct Inner {
    id: LayoutId,
    placement: Placement,
    parts: Vec<Descriptor>,
    /// What lies where, by region.
    footprints: Vec<(Region, Arc<BlockExtents>)>,
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

    /// A part as blocks of `block_len` bytes, of which nothing more is known: for memory that is no KV cache. It holds as many whole
    /// blocks as fit; what is left after them is not used. Panics: never.
    ///
    /// ```
    /// use nixl_descriptor::Region;
    /// use nixl_descriptor::layout::Layout;
    ///
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let pages = Layout::of_blocks(Region::zeroed(10_000)?, 4096)?;
    /// assert_eq!(pages.geometry().blocks(), 2);
    /// assert_eq!(pages.geometry().block_len(), 4096);
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// [`LayoutError::Geometry`] if blocks have no bytes, or none fits.
    pub fn of_blocks(part: impl Into<Descriptor>, block_len: usize) -> Result<Self, LayoutError> {
        let part = part.into();
        let geometry = LayoutGeometry::try_from(Dimensions {
            blocks: part.len().checked_div(block_len).unwrap_or(0),
            layers: 1,
            outer: 1,
            page_size: 1,
            inner: ElementsOf::Elements(block_len),
            element_width: 1,
        })?;
        Self::fully_contiguous(geometry, part)
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
        static LAST: AtomicU64 = AtomicU64::new(0);
        let device = parts.first().map_or(Device::HOST, Descriptor::device);
        if let Some((part, other)) = parts.iter().enumerate().find(|(_, d)| d.device() != device) {
            return Err(LayoutError::MixedDevices { part, device: other.device(), first: device });
        }
        let ranges = parts.iter().map(|part| (part.address(), part.len() as u64));
        let placement = Placement::new(geometry, kind, block_stride, device, ranges)?;
        let footprints = footprints(&placement, &parts);
        let id = LayoutId(LAST.fetch_add(1, Relaxed));
        Ok(Self(Arc::new(Inner { id, placement, parts, footprints })))
    }

    /// Its name, which clones have too.
    #[must_use]
    pub fn id(&self) -> LayoutId {
        self.0.id
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

    /// The memory of blocks, chunk by chunk: by block in the order given, by layer, by outer.
    ///
    /// For transfers between processes: one side offers these blocks, the other reads or writes its own, and the two
    /// lists pair however each side arranges its chunks, since the chunks of equal geometries are equally long. A
    /// [`RemoteLayout`](super::RemoteLayout) checks the geometries. Neighbours are not merged here; a caller that
    /// carries them does that. Panics: never.
    ///
    /// # Errors
    /// [`SelectionError`] if there is no such block or layer, or none is requested.
    pub fn chunk_descriptors(
        &self,
        blocks: &[usize],
        layers: Range<usize>,
    ) -> Result<Vec<Descriptor>, SelectionError> {
        let Inner { placement, parts, .. } = &*self.0;
        let ids = placement.select(blocks)?;
        placement.check_layers(&layers)?;
        let outers = placement.geometry.outer();
        let mut list = Vec::with_capacity(ids.ids().len().saturating_mul(layers.len() * outers));
        for &block in ids.ids().iter() {
            for layer in layers.clone() {
                for outer in 0..outers {
                    let span = placement.chunk(block as usize, layer, outer)?;
                    // Inside its part, as the constructor checked.
                    list.push(parts[span.part].part(span.offset, span.len));
                }
            }
        }
        Ok(list)
    }

    /// Leases blocks and layers that exist, or nothing.
    pub(super) fn lease_set(
        &self,
        blocks: Arc<BlockIds>,
        layers: Range<usize>,
        mode: LeaseMode,
    ) -> Result<LeaseSet, LeaseError> {
        let footprints = &self.0.footprints;
        let mut leases = LeaseSet::empty(mode, footprints.len().min(layers.len()));
        for (region, block_extents) in footprints.iter().filter(|(_, there)| there.has(&layers)) {
            let used =
                BlockSelection::new(Arc::clone(block_extents), layers.clone(), Arc::clone(&blocks));
            // On failure, dropping `leases` releases the regions before this one.
            leases.add_blocks(region, used)?;
        }
        Ok(leases)
    }

    /// What blocks have in each region.
    pub(super) fn footprints(&self) -> &[(Region, Arc<BlockExtents>)] {
        &self.0.footprints
    }

    /// Whether this is a clone of the other.
    pub(super) fn is(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }

    pub(super) fn placement(&self) -> &Placement {
        &self.0.placement
    }
}

/// What blocks have in each region, counted from its start, in the order of the regions.
fn footprints(placement: &Placement, parts: &[Descriptor]) -> Vec<(Region, Arc<BlockExtents>)> {
    let strides = placement.strides;
    let mut sorted: Vec<_> = parts.iter().enumerate().collect();
    sorted.sort_unstable_by_key(|(_, part)| (part.region().id(), part.offset()));
    let of_region = |group: &[(usize, &Descriptor)]| {
        let strided = group.iter().flat_map(|&(layer, part)| {
            strides.strided(part.offset() as u64).map(move |strided| (layer, strided))
        });
        let strided: Vec<_> = strided.collect();
        match strided[..] {
            [(_, first)] if !strides.part_per_layer => BlockExtents::Contiguous(first),
            _ => BlockExtents::PerLayer(strided),
        }
    };
    sorted
        .chunk_by(|(_, a), (_, b)| a.region().id() == b.region().id())
        .map(|group| (group[0].1.region().clone(), Arc::new(of_region(group))))
        .collect()
}
