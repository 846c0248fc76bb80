//! Blocks of a layout in one region, as an operation uses them: known by their ids, not byte by byte.

use std::ops::Range;
use std::sync::Arc;

use crate::block_set::BlockIds;
use crate::comb::{Comb, meeting};
use crate::extent::Extent;

/// Where the blocks of a layout lie in one region.
#[derive(Debug)]
pub(crate) enum Footprint {
    /// The layers of a block follow each other; this is layer 0.
    Together(Comb),
    /// The combs of each layer, by address; they do not overlap.
    Apart(Vec<(usize, Comb)>),
}

impl Footprint {
    /// By address, without overlaps.
    fn combs(&self, layers: &Range<usize>) -> impl Iterator<Item = Comb> {
        let (together, apart): (Option<Comb>, &[(usize, Comb)]) = match self {
            Self::Together(first) => (Some(first.of_layers(layers)), &[]),
            Self::Apart(combs) => (None, combs),
        };
        let apart = apart.iter().filter(|(layer, _)| layers.contains(layer)).map(|(_, comb)| *comb);
        together.into_iter().chain(apart)
    }

    /// Those of all `layers` that may have some of these bytes, if there are `blocks` blocks. Does not walk the others.
    pub(crate) fn combs_near(
        &self,
        layers: usize,
        blocks: u64,
        bytes: Range<u64>,
    ) -> impl Iterator<Item = Comb> {
        let (together, apart): (Option<Comb>, &[(usize, Comb)]) = match self {
            Self::Together(first) => (Some(first.of_layers(&(0..layers))), &[]),
            Self::Apart(combs) => {
                let from =
                    combs.partition_point(|(_, comb)| comb.whole_span(blocks).end <= bytes.start);
                (None, &combs[from..])
            }
        };
        let apart = apart.iter().map(|(_, comb)| *comb);
        apart.take_while(move |comb| comb.start < bytes.end).chain(together)
    }

    /// Whether any of these layers is in the region.
    pub(crate) fn has(&self, layers: &Range<usize>) -> bool {
        self.combs(layers).next().is_some()
    }
}

/// Some layers of some blocks in one region.
#[derive(Clone, Debug)]
pub(crate) struct BlockUse {
    /// The same for all uses of a layout in the region, and for no other layout.
    footprint: Arc<Footprint>,
    layers: Range<usize>,
    blocks: Arc<BlockIds>,
}

impl BlockUse {
    /// The blocks and layers exist.
    pub(crate) fn new(
        footprint: Arc<Footprint>,
        layers: Range<usize>,
        blocks: Arc<BlockIds>,
    ) -> Self {
        Self { footprint, layers, blocks }
    }

    /// Whether some of the bytes are in use.
    pub(crate) fn touches(&self, extent: Extent) -> bool {
        let bytes = extent.start as u64..extent.end as u64;
        self.combs().any(|comb| comb.block_in(self.blocks.set(), &bytes).is_some())
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
        if Arc::ptr_eq(&self.footprint, &other.footprint) {
            return self.layers.start < other.layers.end
                && other.layers.start < self.layers.end
                && self.blocks.set().common(other.blocks.set()).is_some();
        }
        meeting(self.combs(), self.blocks.set(), other.combs(), other.blocks.set()).is_some()
    }

    /// The bytes, piece by piece.
    pub(crate) fn extents(&self) -> impl Iterator<Item = Extent> {
        self.combs().flat_map(|comb| {
            self.blocks.set().iter().map(move |block| {
                let piece = comb.piece(block);
                // Inside a region, whose length is a `usize`.
                Extent { start: piece.start as usize, end: piece.end as usize }
            })
        })
    }

    /// The ids of the blocks, if they are of the layout that has this footprint.
    pub(crate) fn ids_in(&self, footprint: &Arc<Footprint>) -> Option<&[u32]> {
        Arc::ptr_eq(&self.footprint, footprint).then(|| &**self.blocks.ids())
    }

    /// Number of extents.
    pub(crate) fn pieces(&self) -> usize {
        self.combs().count().saturating_mul(self.blocks.set().len())
    }

    /// Number of bytes.
    pub(crate) fn bytes(&self) -> u64 {
        self.combs().map(|comb| comb.len).sum::<u64>() * self.blocks.set().len() as u64
    }

    fn combs(&self) -> impl Iterator<Item = Comb> {
        self.footprint.combs(&self.layers)
    }
}
