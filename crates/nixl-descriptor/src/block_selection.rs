//! Block selections: blocks of a layout in one region, by their ids instead of byte ranges.

use std::ops::Range;
use std::sync::Arc;

use crate::block_set::BlockIds;
use crate::extent::Extent;
use crate::strided::{StridedExtents, first_overlap};

/// Where the blocks of a layout lie in one region.
#[derive(Debug)]
pub(crate) enum BlockExtents {
    /// The layers of a block follow each other; this is layer 0.
    Contiguous(StridedExtents),
    /// The strided extents of each layer, by address; they do not overlap.
    PerLayer(Vec<(usize, StridedExtents)>),
}

impl BlockExtents {
    /// By address, without overlaps.
    fn strided(&self, layers: &Range<usize>) -> impl Iterator<Item = StridedExtents> {
        let (together, apart): (Option<StridedExtents>, &[(usize, StridedExtents)]) = match self {
            Self::Contiguous(first) => (Some(first.of_layers(layers)), &[]),
            Self::PerLayer(strided) => (None, strided),
        };
        let apart =
            apart.iter().filter(|(layer, _)| layers.contains(layer)).map(|(_, strided)| *strided);
        together.into_iter().chain(apart)
    }

    /// Those of all `layers` that may have some of these bytes, if there are `blocks` blocks. Does not walk the others.
    pub(crate) fn strided_near(
        &self,
        layers: usize,
        blocks: u64,
        bytes: Range<u64>,
    ) -> impl Iterator<Item = StridedExtents> {
        let (together, apart): (Option<StridedExtents>, &[(usize, StridedExtents)]) = match self {
            Self::Contiguous(first) => (Some(first.of_layers(&(0..layers))), &[]),
            Self::PerLayer(strided) => {
                let from = strided
                    .partition_point(|(_, strided)| strided.whole_span(blocks).end <= bytes.start);
                (None, &strided[from..])
            }
        };
        let apart = apart.iter().map(|(_, strided)| *strided);
        apart.take_while(move |strided| strided.start < bytes.end).chain(together)
    }

    /// Whether any of these layers is in the region.
    pub(crate) fn has(&self, layers: &Range<usize>) -> bool {
        self.strided(layers).next().is_some()
    }
}

/// Some layers of some blocks in one region.
#[derive(Clone, Debug)]
pub(crate) struct BlockSelection {
    /// The same for all uses of a layout in the region, and for no other layout.
    block_extents: Arc<BlockExtents>,
    layers: Range<usize>,
    blocks: Arc<BlockIds>,
}

impl BlockSelection {
    /// The blocks and layers exist.
    pub(crate) fn new(
        block_extents: Arc<BlockExtents>,
        layers: Range<usize>,
        blocks: Arc<BlockIds>,
    ) -> Self {
        Self { block_extents, layers, blocks }
    }

    /// Whether some of the bytes are in use.
    pub(crate) fn touches(&self, extent: Extent) -> bool {
        let bytes = extent.start as u64..extent.end as u64;
        self.strided().any(|strided| strided.block_in(self.blocks.set(), &bytes).is_some())
    }

    /// Whether all of the bytes are in use. Walks all pieces.
    pub(crate) fn contains(&self, extent: Extent) -> bool {
        let mut pieces: Vec<Extent> =
            self.extents().filter(|piece| piece.overlaps(extent)).collect();
        pieces.sort_unstable();
        let mut next = extent.start;
        for piece in pieces {
            if piece.start > next {
                return false;
            }
            next = next.max(piece.end);
        }
        next >= extent.end
    }

    /// Whether some of the bytes are in use; extents are sorted and do not overlap. Whichever are fewer are walked.
    pub(crate) fn touches_any(&self, extents: &[Extent]) -> bool {
        if extents.len() <= self.pieces() {
            return extents.iter().any(|extent| self.touches(*extent));
        }
        self.extents().any(|piece| {
            let at = extents.partition_point(|extent| extent.end <= piece.start);
            extents.get(at).is_some_and(|extent| extent.start < piece.end)
        })
    }

    /// Whether both use some byte.
    pub(crate) fn meets(&self, other: &Self) -> bool {
        if Arc::ptr_eq(&self.block_extents, &other.block_extents) {
            return self.layers.start < other.layers.end
                && other.layers.start < self.layers.end
                && self.blocks.set().common(other.blocks.set()).is_some();
        }
        first_overlap(self.strided(), self.blocks.set(), other.strided(), other.blocks.set())
            .is_some()
    }

    /// The bytes, piece by piece.
    pub(crate) fn extents(&self) -> impl Iterator<Item = Extent> {
        self.strided().flat_map(|strided| {
            self.blocks.set().iter().map(move |block| {
                let piece = strided.piece(block);
                // Inside a region, whose length is a `usize`.
                Extent { start: piece.start as usize, end: piece.end as usize }
            })
        })
    }

    /// The ids of the blocks, if they are of the layout that has this footprint.
    pub(crate) fn ids_in(&self, block_extents: &Arc<BlockExtents>) -> Option<&[u32]> {
        Arc::ptr_eq(&self.block_extents, block_extents).then(|| &**self.blocks.ids())
    }

    /// Number of extents.
    pub(crate) fn pieces(&self) -> usize {
        self.strided().count().saturating_mul(self.blocks.set().len())
    }

    /// Number of bytes.
    pub(crate) fn bytes(&self) -> u64 {
        self.strided().map(|strided| strided.len).sum::<u64>() * self.blocks.set().len() as u64
    }

    fn strided(&self) -> impl Iterator<Item = StridedExtents> {
        self.block_extents.strided(&self.layers)
    }
}
