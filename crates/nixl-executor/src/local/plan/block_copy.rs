//! Blocks to copy, as ids and chunks of one block: the form of plans and of the kernel, independent of the number of copies.

use std::ops::Range;
use std::sync::Arc;

use super::boundaries::AllocationBoundaries;

/// Bytes to copy from one address to another.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct CopyOp {
    pub(crate) src: u64,
    pub(crate) dst: u64,
    pub(crate) len: u64,
}

impl CopyOp {
    /// Adds a copy to a list, merged into the last one if it continues that on both sides in the same allocations.
    pub(crate) fn append(self, ops: &mut Vec<Self>, boundaries: &AllocationBoundaries) {
        match ops.last_mut() {
            Some(last)
                if last.src.wrapping_add(last.len) == self.src
                    && last.dst.wrapping_add(last.len) == self.dst
                    && !boundaries.is_at(self.src)
                    && !boundaries.is_at(self.dst) =>
            {
                last.len += self.len;
            }
            _ => ops.push(self),
        }
    }

    /// The source address.
    #[must_use]
    pub fn src(&self) -> u64 {
        self.src
    }

    /// The destination address.
    #[must_use]
    pub fn dst(&self) -> u64 {
        self.dst
    }

    /// The length.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.len
    }
}

/// A copy of every chunk of every block from one side to the other. All chunks have the same length, and no two destination
/// chunks overlap.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct BlockCopy {
    pub(crate) blocks: usize,
    pub(crate) src: BlockSide,
    pub(crate) dst: BlockSide,
    pub(crate) pieces: Vec<Piece>,
    pub(crate) len: u64,
    /// Starts of allocations, if chunks are to be merged: a chunk and that of the next id are in one allocation on each side.
    pub(crate) boundaries: AllocationBoundaries,
}

/// The addresses of blocks on one side: block `i` at `base + ids[i] * stride`, without ids at `base + i * stride`.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct BlockSide {
    pub(crate) base: u64,
    pub(crate) stride: u64,
    pub(crate) ids: Option<Arc<[u32]>>,
}

/// The offset of a chunk from the address of its block. Sums wrap, since chunks may be in separate memory.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[repr(C)]
pub struct Piece {
    pub(crate) src: u64,
    pub(crate) dst: u64,
}

impl Piece {
    /// In the source.
    #[must_use]
    pub fn src(&self) -> u64 {
        self.src
    }

    /// In the destination.
    #[must_use]
    pub fn dst(&self) -> u64 {
        self.dst
    }
}

impl BlockSide {
    /// Address of a block, by its index among the copied blocks.
    pub(crate) fn block(&self, index: usize) -> u64 {
        let id = self.ids.as_ref().map_or(index as u64, |ids| ids[index].into());
        self.base.wrapping_add(id.wrapping_mul(self.stride))
    }

    /// The number of blocks `i + 1` that are `step` ids after block `i`.
    fn steps(&self, blocks: usize, step: u64) -> usize {
        match &self.ids {
            Some(ids) => {
                let steps =
                    |pair: &&[u32]| u64::from(pair[0]).wrapping_add(step) == u64::from(pair[1]);
                ids.windows(2).filter(steps).count()
            }
            None if step == 1 => blocks - 1,
            None => 0,
        }
    }

    /// Address of the block with id 0.
    #[must_use]
    pub fn base(&self) -> u64 {
        self.base
    }

    /// Stride to the block with id 1.
    #[must_use]
    pub fn stride(&self) -> u64 {
        self.stride
    }

    /// One for each block.
    #[must_use]
    pub fn ids(&self) -> Option<&Arc<[u32]>> {
        self.ids.as_ref()
    }
}

impl BlockCopy {
    /// Copies of one length, at least one, with disjoint targets.
    pub(crate) fn of_ops(ops: &[CopyOp], boundaries: &AllocationBoundaries) -> Self {
        let first = ops.first().copied().unwrap_or(CopyOp { src: 0, dst: 0, len: 1 });
        debug_assert!(ops.iter().all(|op| op.len == first.len), "copies of one length");
        let piece = |op: &CopyOp| Piece {
            src: op.src.wrapping_sub(first.src),
            dst: op.dst.wrapping_sub(first.dst),
        };
        // One block of many chunks.
        let side = |base| BlockSide { base, stride: first.len, ids: None };
        Self {
            blocks: 1,
            src: side(first.src),
            dst: side(first.dst),
            pieces: ops.iter().map(piece).collect(),
            len: first.len,
            boundaries: boundaries.clone(),
        }
    }

    /// The copies, by chunk and then by block. Blocks that are contiguous on both sides are one copy.
    pub fn ops(&self) -> impl Iterator<Item = CopyOp> {
        self.pieces.iter().flat_map(move |piece| {
            let mut next = 0;
            std::iter::from_fn(move || {
                let first = next;
                if first == self.blocks {
                    return None;
                }
                next += 1;
                while next < self.blocks && self.follows(next) {
                    next += 1;
                }
                Some(CopyOp {
                    src: self.src.block(first).wrapping_add(piece.src),
                    dst: self.dst.block(first).wrapping_add(piece.dst),
                    len: (next - first) as u64 * self.len,
                })
            })
        })
    }

    /// Number of [`ops`](Self::ops).
    pub(crate) fn op_count(&self) -> usize {
        let merged = match (&self.src.ids, &self.dst.ids) {
            _ if !self.is_dense() => 0,
            (Some(src), Some(dst)) => {
                // Without branches: there may be tens of thousands. The highest id before the lowest, on both sides, counts as
                // one copy instead of two: this affects only an estimate.
                let next = |pair: &[u32]| pair[1].wrapping_sub(pair[0]) == 1;
                let pairs = src.windows(2).zip(dst.windows(2));
                let merged = pairs.map(|(src, dst)| u32::from(next(src) & next(dst))).sum::<u32>();
                merged as usize
            }
            (Some(_), None) => self.src.steps(self.blocks, 1),
            (None, _) => self.dst.steps(self.blocks, 1),
        };
        (self.blocks - merged).saturating_mul(self.pieces.len())
    }

    /// Bytes of a block.
    pub(crate) fn block_bytes(&self) -> u64 {
        self.len * self.pieces.len() as u64
    }

    /// Bytes of all blocks.
    pub(crate) fn bytes(&self) -> u64 {
        self.block_bytes() * self.blocks as u64
    }

    /// The number of contiguous runs of one side, with blocks in order, each with all its chunks. Runs that touch at an
    /// allocation boundary count as one: this affects only an estimate.
    pub(crate) fn runs(&self, side: Direction) -> usize {
        let (blocks, offset) = self.side(side);
        let (Some(first), Some(last)) = (self.pieces.first(), self.pieces.last()) else { return 0 };
        let joined = |pair: &&[Piece]| offset(&pair[0]).wrapping_add(self.len) == offset(&pair[1]);
        let runs = self.pieces.len() - self.pieces.windows(2).filter(joined).count();
        // From the first chunk of a block to the end of its last one, where the next block would continue.
        let whole = offset(last).wrapping_add(self.len).wrapping_sub(offset(first));
        let between = match blocks.stride {
            stride if stride > 0 && whole.is_multiple_of(stride) => {
                blocks.steps(self.blocks, whole / stride)
            }
            _ => 0,
        };
        self.blocks.saturating_mul(runs) - between
    }

    /// The copy with dense memory at `address` in place of one side: block after block, each with all its chunks.
    pub(crate) fn with_dense(&self, side: Direction, address: u64) -> Self {
        let mut copy = self.clone();
        let dense = BlockSide { base: address, stride: self.block_bytes(), ids: None };
        let offsets = (0u64..).map(|index| index * self.len);
        match side {
            Direction::Source => {
                copy.src = dense;
                copy.pieces.iter_mut().zip(offsets).for_each(|(piece, at)| piece.src = at);
            }
            Direction::Destination => {
                copy.dst = dense;
                copy.pieces.iter_mut().zip(offsets).for_each(|(piece, at)| piece.dst = at);
            }
        }
        copy
    }

    /// The copy of a range of these blocks, by their index: at least one.
    pub(crate) fn slice(&self, blocks: Range<usize>) -> Self {
        let side = |side: &BlockSide| match &side.ids {
            Some(ids) => BlockSide { ids: Some(ids[blocks.clone()].into()), ..side.clone() },
            None => BlockSide { base: side.block(blocks.start), stride: side.stride, ids: None },
        };
        let (src, dst) = (side(&self.src), side(&self.dst));
        let (pieces, boundaries) = (self.pieces.clone(), self.boundaries.clone());
        Self { blocks: blocks.len(), src, dst, pieces, len: self.len, boundaries }
    }

    /// The copies with one dense side: one for each of the other side's [`runs`](Self::runs), and one more for each allocation
    /// boundary inside a run.
    pub(crate) fn block_ops(&self) -> Vec<CopyOp> {
        let mut ops: Vec<CopyOp> = Vec::new();
        for index in 0..self.blocks {
            let (src, dst) = (self.src.block(index), self.dst.block(index));
            for piece in &self.pieces {
                let (src, dst) = (src.wrapping_add(piece.src), dst.wrapping_add(piece.dst));
                CopyOp { src, dst, len: self.len }.append(&mut ops, &self.boundaries);
            }
        }
        ops
    }

    fn side(&self, side: Direction) -> (&BlockSide, fn(&Piece) -> u64) {
        match side {
            Direction::Source => (&self.src, |piece| piece.src),
            Direction::Destination => (&self.dst, |piece| piece.dst),
        }
    }

    /// Whether a chunk of a block ends at the start of the next id's chunk, on both sides.
    fn is_dense(&self) -> bool {
        self.src.stride == self.len && self.dst.stride == self.len
    }

    /// Whether any block is contiguous with the one before it on both sides.
    fn follows(&self, index: usize) -> bool {
        let follows = |side: &BlockSide| match &side.ids {
            Some(ids) => u64::from(ids[index - 1]) + 1 == u64::from(ids[index]),
            None => true,
        };
        self.is_dense() && follows(&self.src) && follows(&self.dst)
    }

    /// Number of blocks, at least one.
    #[must_use]
    pub fn blocks(&self) -> usize {
        self.blocks
    }

    /// The source of the blocks.
    #[must_use]
    pub fn src(&self) -> &BlockSide {
        &self.src
    }

    /// The destination of the blocks.
    #[must_use]
    pub fn dst(&self) -> &BlockSide {
        &self.dst
    }

    /// The chunks of a block, at least one.
    #[must_use]
    pub fn pieces(&self) -> &[Piece] {
        &self.pieces
    }

    /// Bytes of a chunk, at least one.
    #[must_use]
    pub fn piece_bytes(&self) -> u64 {
        self.len
    }
}

/// One of the two sides.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Direction {
    Source,
    Destination,
}

#[cfg(test)]
pub(crate) mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Any blocks whose pieces do not overlap, often with ids that follow each other.
    pub(crate) fn copies() -> impl Strategy<Value = BlockCopy> {
        let ids = || {
            prop_oneof![
                2 => prop::collection::vec(0..60u32, 12).prop_map(Some),
                2 => (0..40u32).prop_map(|first| Some((first..first + 12).collect())),
                1 => Just(None),
            ]
        };
        let side = || (ids(), 0..5u64, 1u64..1 << 40);
        (side(), side(), 1..12usize, 1..5usize, 1..40u64, any::<[bool; 2]>()).prop_map(
            |(src, dst, blocks, pieces, len, together)| {
                let side = |(ids, pad, base): (Option<Vec<u32>>, u64, u64), together: bool| {
                    let width = if together { len * pieces as u64 } else { len };
                    let ids = ids.map(|ids| ids[..blocks].into());
                    BlockSide { base, stride: width + pad, ids }
                };
                let offset = |index: usize, together: bool| match together {
                    true => index as u64 * len,
                    // In the other order, and so far apart that nothing else comes there.
                    false => 0u64.wrapping_sub(index as u64 * (1 << 41)),
                };
                let piece = |index| Piece {
                    src: offset(index, together[0]),
                    dst: offset(index, together[1]),
                };
                BlockCopy {
                    blocks,
                    src: side(src, together[0]),
                    dst: side(dst, together[1]),
                    pieces: (0..pieces).map(piece).collect(),
                    len,
                    boundaries: AllocationBoundaries::default(),
                }
            },
        )
    }

    /// Source and destination of every piece, one by one: by piece, or block by block.
    pub(crate) fn places(copy: &BlockCopy, by_piece: bool) -> Vec<(u64, u64)> {
        let place = |block: usize, piece: usize| {
            let at = |side: &BlockSide, offset: u64| {
                let id = side.ids.as_ref().map_or(block as u64, |ids| ids[block].into());
                (side.base + id * side.stride).wrapping_add(offset)
            };
            let piece = copy.pieces[piece];
            (at(&copy.src, piece.src), at(&copy.dst, piece.dst))
        };
        let (blocks, pieces) = (copy.blocks, copy.pieces.len());
        match by_piece {
            true => (0..pieces).flat_map(|p| (0..blocks).map(move |b| place(b, p))).collect(),
            false => (0..blocks).flat_map(|b| (0..pieces).map(move |p| place(b, p))).collect(),
        }
    }

    /// The pieces that copies are made of, source and destination of each.
    pub(crate) fn cut(ops: &[CopyOp], len: u64) -> Vec<(u64, u64)> {
        let pieces = |op: &CopyOp| {
            let (src, dst) = (op.src, op.dst);
            (0..op.len / len).map(move |at| (src + at * len, dst + at * len))
        };
        ops.iter().flat_map(pieces).collect()
    }

    proptest! {
        #[test]
        fn the_ops_are_all_pieces_and_counted_rightly(copy in copies()) {
            let ops: Vec<_> = copy.ops().collect();
            prop_assert_eq!(ops.len(), copy.op_count());
            prop_assert_eq!(ops.iter().map(|op| op.len).sum::<u64>(), copy.bytes());
            prop_assert_eq!(cut(&ops, copy.len), places(&copy, true));
        }

        #[test]
        fn a_dense_side_takes_as_many_copies_as_the_other_has_runs(copy in copies(), source: bool) {
            let (dense, other) = match source {
                true => (Direction::Source, Direction::Destination),
                false => (Direction::Destination, Direction::Source),
            };
            let packed = copy.with_dense(dense, 1 << 50);
            let ops = packed.block_ops();
            prop_assert_eq!(ops.len(), copy.runs(other));
            let all = places(&copy, false);
            let expected: Vec<_> = (0u64..)
                .zip(&all)
                .map(|(at, (src, dst))| match source {
                    true => ((1 << 50) + at * copy.len, *dst),
                    false => (*src, (1 << 50) + at * copy.len),
                })
                .collect();
            prop_assert_eq!(&places(&packed, false), &expected);
            prop_assert_eq!(cut(&ops, copy.len), expected);
        }
    }

    proptest! {
        #[test]
        fn no_copy_runs_over_a_seam(
            copy in copies(), source: bool, chosen in prop::collection::vec(any::<prop::sample::Index>(), 0..6),
        ) {
            let dense = if source { Direction::Source } else { Direction::Destination };
            let mut packed = copy.with_dense(dense, 1 << 50);
            let all = places(&packed, false);
            let at = |(src, dst): &(u64, u64)| if source { *dst } else { *src };
            packed.boundaries = AllocationBoundaries::of(chosen.iter().map(|index| at(index.get(&all))));
            let ops = packed.block_ops();
            prop_assert_eq!(cut(&ops, copy.len), all);
            for op in &ops {
                let inside = (1..op.len / copy.len).map(|n| at(&(op.src, op.dst)) + n * copy.len);
                prop_assert!(inside.into_iter().all(|address| !packed.boundaries.is_at(address)));
            }
        }
    }

    proptest! {
        #[test]
        fn slices_together_are_the_whole(
            copy in copies(), cuts in prop::collection::btree_set(1..12usize, 0..5),
            dense in prop_oneof![Just(None), Just(Some(Direction::Source)), Just(Some(Direction::Destination))],
        ) {
            let copy = dense.map_or(copy.clone(), |side| copy.with_dense(side, 1 << 50));
            let cuts = cuts.into_iter().filter(|at| *at < copy.blocks);
            let ends: Vec<_> = [0].into_iter().chain(cuts).chain([copy.blocks]).collect();
            let mut together = Vec::new();
            for ends in ends.windows(2) {
                let slice = copy.slice(ends[0]..ends[1]);
                prop_assert_eq!(slice.blocks, ends[1] - ends[0]);
                for ids in [&slice.src.ids, &slice.dst.ids].into_iter().flatten() {
                    prop_assert_eq!(ids.len(), slice.blocks);
                }
                together.extend(places(&slice, false));
            }
            prop_assert_eq!(together, places(&copy, false));
        }
    }

    #[test]
    fn blocks_in_a_row_are_one_copy() {
        let side = |base, ids: &[u32]| BlockSide { base, stride: 64, ids: Some(ids.into()) };
        let copy = BlockCopy {
            blocks: 5,
            src: side(1 << 20, &[3, 4, 5, 9, 10]),
            dst: side(1 << 30, &[0, 1, 2, 3, 5]),
            pieces: vec![Piece { src: 0, dst: 0 }],
            len: 64,
            boundaries: AllocationBoundaries::default(),
        };
        let lens: Vec<_> = copy.ops().map(|op| op.len).collect();
        assert_eq!(lens, [192, 64, 64]);
    }
}
