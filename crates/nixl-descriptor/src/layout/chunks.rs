//! The walk over the chunks of two layouts, in pieces as long as both allow.

use std::ops::Range;

use super::geometry::LayoutGeometry;
use super::placement::{ByteSpan, Placement, Strides};

/// The same bytes of a block in two layouts; both spans are equally long.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
#[non_exhaustive]
pub struct ChunkPair {
    /// Where they are read.
    pub src: ByteSpan,
    /// Where they are written.
    pub dst: ByteSpan,
}

impl ChunkPair {
    /// Number of bytes, at least one.
    #[must_use]
    #[expect(clippy::len_without_is_empty, reason = "a pair is never empty")]
    pub fn len(&self) -> usize {
        self.src.len
    }

    /// Appends `next`, if it continues this pair on both sides.
    fn join(&mut self, next: &Self) -> bool {
        let continues =
            |a: &ByteSpan, b: &ByteSpan| a.part == b.part && a.offset + a.len == b.offset;
        let joined = continues(&self.src, &next.src) && continues(&self.dst, &next.dst);
        if joined {
            self.src.len += next.src.len;
            self.dst.len += next.dst.len;
        }
        joined
    }
}

/// What to copy where, made by [`pair_chunks`](super::pair_chunks).
///
/// No two pairs could be merged into one. The order depends on nothing but the arguments: by layer, by outer, by the
/// destination's block id. An iterator that does not allocate; cloning it copies the block ids.
#[derive(Clone, Debug)]
#[must_use = "an iterator does nothing until it is used"]
pub struct ChunkPairs {
    src: Strides,
    dst: Strides,
    /// Source and destination, sorted by destination.
    blocks: Vec<(usize, usize)>,
    /// Bytes that both sides keep together.
    unit: usize,
    /// Steps over layers and outers; what is inside a unit is one step.
    layers: Range<usize>,
    outers: usize,
    /// The next outer and block to visit in `layers.start`.
    outer: usize,
    block: usize,
    /// Visited, and not part of what was returned last.
    pending: Option<ChunkPair>,
    bytes: usize,
}

impl ChunkPairs {
    /// `blocks` and `layers` exist on both sides, which have the same geometry.
    pub(super) fn new(
        src: &Placement,
        dst: &Placement,
        mut blocks: Vec<(usize, usize)>,
        layers: Range<usize>,
    ) -> Self {
        blocks.sort_unstable_by_key(|&(_, dst)| dst);
        let geometry = &dst.geometry;
        let bytes = blocks.len().saturating_mul(layers.len() * geometry.layer_len());
        let (src, dst) = (src.strides, dst.strides);
        let (unit, layers, outers) = fold(geometry, [&src, &dst], layers);
        Self { src, dst, blocks, unit, layers, outers, outer: 0, block: 0, pending: None, bytes }
    }

    /// Number of bytes of all pairs, also of those already returned.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// The next unit of the walk: blocks innermost, because their order may continue on both sides.
    fn step(&mut self) -> Option<ChunkPair> {
        if self.block == self.blocks.len() {
            self.block = 0;
            self.outer += 1;
            if self.outer == self.outers {
                self.outer = 0;
                self.layers.start += 1;
            }
        }
        if self.layers.is_empty() {
            return None;
        }
        let &(src, dst) = self.blocks.get(self.block)?;
        self.block += 1;
        let span = |strides: &Strides, block| {
            let (part, offset) = strides.locate(block, self.layers.start, self.outer);
            ByteSpan { part, offset, len: self.unit }
        };
        Some(ChunkPair { src: span(&self.src, src), dst: span(&self.dst, dst) })
    }
}

impl Iterator for ChunkPairs {
    type Item = ChunkPair;

    fn next(&mut self) -> Option<ChunkPair> {
        let mut pair = self.pending.take().or_else(|| self.step())?;
        while let Some(next) = self.step() {
            if !pair.join(&next) {
                self.pending = Some(next);
                break;
            }
        }
        Some(pair)
    }
}

impl std::iter::FusedIterator for ChunkPairs {}

/// The bytes that both sides keep together, and the steps over layers and outers that are left.
fn fold(
    geometry: &LayoutGeometry,
    sides: [&Strides; 2],
    layers: Range<usize>,
) -> (usize, Range<usize>, usize) {
    let chunk = geometry.chunk_len();
    if geometry.outer() > 1 && sides.iter().any(|side| side.outer != chunk) {
        return (chunk, layers, geometry.outer());
    }
    if sides.iter().any(|side| side.part_per_layer) {
        return (geometry.layer_len(), layers, 1);
    }
    // No part per layer on either side: the layers of a block follow each other.
    (geometry.layer_len() * layers.len(), layers.start..layers.start + 1, 1)
}
