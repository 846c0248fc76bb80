//! Strided extents: the bytes of blocks at equal distances, and which blocks of two layouts overlap.

use std::ops::{Range, RangeInclusive};

use crate::block_set::BlockSet;

/// Where a piece of each block lies: block `b` has the bytes from `start + b * stride`, `len` of them. The pieces do not
/// overlap, and nothing wraps for blocks that exist.
#[derive(Clone, Copy, Debug)]
pub(crate) struct StridedExtents {
    pub(crate) start: u64,
    /// At least `len`, which is at least one.
    pub(crate) stride: u64,
    pub(crate) len: u64,
}

impl StridedExtents {
    pub(crate) fn piece(&self, block: u32) -> Range<u64> {
        let start = self.start + u64::from(block) * self.stride;
        start..start + self.len
    }

    /// What this is for some layers, if it is for layer 0 and layers follow each other in a block.
    pub(crate) fn of_layers(&self, layers: &Range<usize>) -> Self {
        Self {
            start: self.start + layers.start as u64 * self.len,
            stride: self.stride,
            len: layers.len() as u64 * self.len,
        }
    }

    /// From the first byte to the last of all blocks in the set.
    fn span(&self, blocks: &BlockSet) -> Range<u64> {
        self.piece(blocks.first()).start..self.piece(blocks.last()).end
    }

    /// The first block of the set with some of these bytes.
    pub(crate) fn block_in(&self, blocks: &BlockSet, bytes: &Range<u64>) -> Option<u32> {
        if !overlap(&self.span(blocks), bytes) {
            return None;
        }
        let (first, last) = self.numbers_in(bytes)?;
        blocks.any_in(first, last)
    }

    /// The blocks of `blocks` that have some of these bytes.
    pub(crate) fn blocks_in(&self, blocks: u64, bytes: &Range<u64>) -> Option<RangeInclusive<u32>> {
        let (first, last) = self.numbers_in(bytes)?;
        let last = last.min(blocks.checked_sub(1)?);
        // There are at most 2^32 blocks.
        (first <= last).then_some(first as u32..=last as u32)
    }

    /// From the first byte to the last of `blocks` blocks, at least one.
    pub(crate) fn whole_span(&self, blocks: u64) -> Range<u64> {
        self.start..self.start + blocks.saturating_sub(1) * self.stride + self.len
    }

    /// The first and the last number of a block with some of these bytes, if there were blocks without end. The first is
    /// larger if the bytes lie between two blocks.
    fn numbers_in(&self, bytes: &Range<u64>) -> Option<(u64, u64)> {
        let last = (bytes.end - 1).checked_sub(self.start)? / self.stride;
        let first = match bytes.start.checked_sub(self.start + self.len) {
            Some(past) => past / self.stride + 1,
            None => 0,
        };
        Some((first, last))
    }

    /// A block of each side that share bytes.
    fn first_overlap(
        &self,
        blocks: &BlockSet,
        other: &Self,
        other_blocks: &BlockSet,
    ) -> Option<(u32, u32)> {
        if blocks.len() <= other_blocks.len() {
            let find = |block| Some((block, other.block_in(other_blocks, &self.piece(block))?));
            blocks.iter().find_map(find)
        } else {
            let find = |block| Some((self.block_in(blocks, &other.piece(block))?, block));
            other_blocks.iter().find_map(find)
        }
    }
}

/// A block of each side that share bytes. On each side the strided extents follow each other without overlapping.
pub(crate) fn first_overlap(
    a: impl Iterator<Item = StridedExtents>,
    a_blocks: &BlockSet,
    b: impl Iterator<Item = StridedExtents>,
    b_blocks: &BlockSet,
) -> Option<(u32, u32)> {
    let (mut a, mut b) = (a.peekable(), b.peekable());
    loop {
        let (&x, &y) = (a.peek()?, b.peek()?);
        let (x_span, y_span) = (x.span(a_blocks), y.span(b_blocks));
        if overlap(&x_span, &y_span)
            && let Some(blocks) = x.first_overlap(a_blocks, &y, b_blocks)
        {
            return Some(blocks);
        }
        // The one that ends first cannot meet anything further on the other side.
        if x_span.end <= y_span.end {
            a.next();
        } else {
            b.next();
        }
    }
}

fn overlap(a: &Range<u64>, b: &Range<u64>) -> bool {
    a.start < b.end && b.start < a.end
}
