//! The chunks of two layouts, in pieces as long as both allow.

use std::iter::FusedIterator;
use std::ops::Range;

use super::geometry::LayoutGeometry;
use super::order::by_second;
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
}

/// What to copy where, made by [`pair_chunks`](super::pair_chunks).
///
/// No two pairs could be merged into one. The order depends on nothing but the arguments: by layer, by outer, by the
/// destination's block id. Knows its length and does not allocate.
#[derive(Clone, Debug)]
#[must_use = "an iterator does nothing until it is used"]
pub struct ChunkPairs {
    src: Strides,
    dst: Strides,
    /// Every layer has the same.
    runs: Vec<Run>,
    /// The next run in layer `layers.start`.
    next: usize,
    layers: Range<usize>,
    bytes: usize,
}

/// Bytes that follow each other on both sides. The offsets are those of layer 0.
#[derive(Clone, Copy, Debug)]
struct Run {
    src: usize,
    dst: usize,
    len: usize,
}

impl ChunkPairs {
    /// `blocks` (source and destination) and `layers` exist on both sides, which have the same geometry.
    pub(super) fn new(
        src: &Placement,
        dst: &Placement,
        blocks: Vec<(usize, usize)>,
        layers: Range<usize>,
    ) -> Self {
        let geometry = &dst.geometry;
        let blocks = by_second(blocks, geometry.blocks());
        let bytes = blocks.len().saturating_mul(layers.len() * geometry.layer_len());
        let (src, dst) = (src.strides, dst.strides);
        let Fold { len, outers, layers } = Fold::new(geometry, [&src, &dst], layers);

        // In this order, everything that continues on both sides is a neighbour. Nothing continues from one layer to
        // the next, because one of the sides has other parts for it, or else both keep their layers together.
        let mut runs: Vec<Run> = Vec::with_capacity(blocks.len() * outers);
        for outer in 0..outers {
            for &(from, to) in &blocks {
                let run = Run { src: src.in_layer(from, outer), dst: dst.in_layer(to, outer), len };
                match runs.last_mut() {
                    Some(last) if last.continues_with(&run) => last.len += len,
                    _ => runs.push(run),
                }
            }
        }
        Self { src, dst, runs, next: 0, layers, bytes }
    }

    /// Number of bytes of all pairs, also of those already returned.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.bytes
    }
}

impl Run {
    fn continues_with(&self, next: &Self) -> bool {
        self.src + self.len == next.src && self.dst + self.len == next.dst
    }
}

impl Iterator for ChunkPairs {
    type Item = ChunkPair;

    fn next(&mut self) -> Option<ChunkPair> {
        if self.next == self.runs.len() {
            self.next = 0;
            self.layers.next();
        }
        if self.layers.is_empty() {
            return None;
        }
        let &Run { src, dst, len } = self.runs.get(self.next)?;
        self.next += 1;
        let span = |strides: &Strides, in_layer| {
            let (part, offset) = strides.of_layer(self.layers.start, in_layer);
            ByteSpan { part, offset, len }
        };
        Some(ChunkPair { src: span(&self.src, src), dst: span(&self.dst, dst) })
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        let left = (self.runs.len() * self.layers.len()).saturating_sub(self.next);
        (left, Some(left))
    }
}

impl ExactSizeIterator for ChunkPairs {}

impl FusedIterator for ChunkPairs {}

/// What both sides keep together.
struct Fold {
    /// Bytes of it.
    len: usize,
    /// Steps that are left over outers and layers.
    outers: usize,
    layers: Range<usize>,
}

impl Fold {
    fn new(geometry: &LayoutGeometry, sides: [&Strides; 2], layers: Range<usize>) -> Self {
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
}
