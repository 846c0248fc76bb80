//! Pairs of chunks of a block copy: ids and pieces, and the chunks that they amount to.

use std::iter::FusedIterator;
use std::ops::Range;
use std::sync::Arc;

use super::geometry::LayoutGeometry;
use super::local::Layout;
use super::placement::{ByteSpan, Strides};
use crate::block_set::BlockIds;
use crate::lease::{LeaseError, LeaseMode, LeaseSet};

/// The same bytes of a block in two layouts; both spans are equally long.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub struct ChunkPair {
    pub(crate) src: ByteSpan,
    pub(crate) dst: ByteSpan,
}

impl ChunkPair {
    /// Number of bytes, at least one.
    #[must_use]
    #[expect(clippy::len_without_is_empty, reason = "a pair is never empty")]
    pub fn len(&self) -> usize {
        self.src.len
    }

    /// Where they are read.
    #[must_use]
    pub fn src(&self) -> ByteSpan {
        self.src
    }

    /// Where they are written.
    #[must_use]
    pub fn dst(&self) -> ByteSpan {
        self.dst
    }
}

/// Blocks of one layout paired with those of another, made by [`pair_chunks`](super::pair_chunks). Keeps the memory of
/// both alive.
///
/// A copy is every block times every piece: a piece is what both layouts keep together of a block, be that a chunk, a
/// layer or a whole block, and all pieces are equally long. Hence it takes no more room than the ids.
#[derive(Clone, Debug)]
pub struct BlockPairs {
    src: BlockSide,
    dst: BlockSide,
    layers: Range<usize>,
    fold: Fold,
}

/// One side of paired blocks.
#[derive(Clone, Debug)]
pub(super) struct BlockSide {
    pub(super) layout: Layout,
    pub(super) blocks: Arc<BlockIds>,
}

impl BlockSide {
    fn strides(&self) -> Strides {
        self.layout.placement().strides
    }
}

impl BlockPairs {
    /// There are as many ids on both sides, at least one; they and the layers exist, and the geometry is the same.
    pub(super) fn new(src: BlockSide, dst: BlockSide, layers: Range<usize>) -> Self {
        let fold = Fold::new(dst.layout.geometry(), [src.strides(), dst.strides()], layers.clone());
        Self { src, dst, layers, fold }
    }

    /// The blocks that are read, in the order given.
    #[must_use]
    pub fn src_ids(&self) -> &Arc<[u32]> {
        self.src.blocks.ids()
    }

    /// The blocks that are written, in the order given, each once.
    #[must_use]
    pub fn dst_ids(&self) -> &Arc<[u32]> {
        self.dst.blocks.ids()
    }

    /// Bytes of a piece, at least one.
    #[must_use]
    pub fn piece_len(&self) -> usize {
        self.fold.len
    }

    /// The pieces of block 0 of both layouts, by layer and outer. Those of block `i` lie `i` times
    /// [`Layout::block_stride`] further on each side.
    pub fn pieces(&self) -> impl ExactSizeIterator<Item = ChunkPair> {
        (0..self.fold.pieces()).map(|index| self.piece(index, 0, 0, self.fold.len))
    }

    /// Number of bytes of all pairs.
    #[must_use]
    pub fn bytes(&self) -> usize {
        let layers = self.layers.len() * self.dst.layout.geometry().layer_len();
        self.dst.blocks.ids().len().saturating_mul(layers)
    }

    /// The chunks one by one: by layer, by outer, and then in the order of the ids given.
    ///
    /// Blocks that are neighbours in that order and follow each other on both sides are one chunk. Nothing is sorted:
    /// for the fewest chunks give the ids in ascending order.
    pub fn chunks(&self) -> ChunkPairs<'_> {
        let len = self.fold.len;
        let dense = [&self.src, &self.dst].into_iter().all(|side| side.strides().block == len);
        ChunkPairs { pairs: self, dense, piece: 0, at: 0 }
    }

    /// Leases the source for reading and the destination for writing, each for itself.
    ///
    /// May wait for a host copy of the same bytes, as [`Leases::acquire`](crate::Leases::acquire). Panics: never.
    ///
    /// # Errors
    /// [`LeaseError`]: another operation's lease conflicts, or the destination is read-only. Then nothing is leased.
    pub fn lease(&self) -> Result<[LeaseSet; 2], LeaseError> {
        let lease = |side: &BlockSide, mode| {
            side.layout.lease_set(Arc::clone(&side.blocks), self.layers.clone(), mode)
        };
        Ok([lease(&self.src, LeaseMode::Read)?, lease(&self.dst, LeaseMode::Write)?])
    }

    fn piece(&self, index: usize, src: u32, dst: u32, len: usize) -> ChunkPair {
        let (layer, outer) = self.fold.piece(index);
        let span = |side: &BlockSide, block: u32| {
            let strides = side.strides();
            let (part, offset) = strides.of_layer(layer, strides.in_layer(block as usize, outer));
            ByteSpan { part, offset, len }
        };
        ChunkPair { src: span(&self.src, src), dst: span(&self.dst, dst) }
    }
}

/// The chunks of [`BlockPairs`].
#[derive(Clone, Debug)]
#[must_use = "an iterator does nothing until it is used"]
pub struct ChunkPairs<'a> {
    pairs: &'a BlockPairs,
    /// Blocks whose ids follow each other follow each other in memory, on both sides.
    dense: bool,
    /// The next chunk.
    piece: usize,
    at: usize,
}

impl Iterator for ChunkPairs<'_> {
    type Item = ChunkPair;

    fn next(&mut self) -> Option<ChunkPair> {
        let (src, dst) = (self.pairs.src.blocks.ids(), self.pairs.dst.blocks.ids());
        if self.at == src.len() {
            self.at = 0;
            self.piece += 1;
        }
        if self.piece >= self.pairs.fold.pieces() {
            return None;
        }
        let first = self.at;
        self.at = run_end(src, dst, first, self.dense);
        let len = (self.at - first) * self.pairs.fold.len;
        Some(self.pairs.piece(self.piece, src[first], dst[first], len))
    }
}

impl FusedIterator for ChunkPairs<'_> {}

/// Where the run of blocks ends that begins at position `first`: those that are adjacent on both sides, if such blocks touch.
pub(super) fn run_end(src: &[u32], dst: &[u32], first: usize, dense: bool) -> usize {
    let follows = |ids: &[u32], at: usize| ids[at - 1].checked_add(1) == Some(ids[at]);
    let mut end = first + 1;
    while dense && end < src.len() && follows(src, end) && follows(dst, end) {
        end += 1;
    }
    end
}

/// What both sides keep together.
#[derive(Clone, Debug)]
pub(super) struct Fold {
    /// Bytes of it.
    pub(super) len: usize,
    /// Steps that are left over outers and layers.
    outers: usize,
    layers: Range<usize>,
}

impl Fold {
    pub(super) fn new(
        geometry: &LayoutGeometry,
        sides: [Strides; 2],
        layers: Range<usize>,
    ) -> Self {
        let chunk = geometry.chunk_len();
        if geometry.outer() > 1 && sides.iter().any(|side| side.outer != chunk) {
            return Self { len: chunk, outers: geometry.outer(), layers };
        }
        if sides.iter().any(|side| side.part_per_layer) {
            return Self { len: geometry.layer_len(), outers: 1, layers };
        }
        let len = geometry.layer_len() * layers.len();
        Self { len, outers: 1, layers: layers.start..layers.start + 1 }
    }

    /// Number of pieces of a block.
    pub(super) fn pieces(&self) -> usize {
        self.layers.len() * self.outers
    }

    /// Pieces of a layer.
    pub(super) fn outers(&self) -> usize {
        self.outers
    }

    /// Layer and outer index of a piece.
    pub(super) fn piece(&self, index: usize) -> (usize, usize) {
        (self.layers.start + index / self.outers, index % self.outers)
    }
}
