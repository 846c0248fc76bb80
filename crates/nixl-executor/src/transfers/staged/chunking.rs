//! Chunking of an operation's bytes. Both sides compute the same chunks from the same lengths.

use nixl_descriptor::DescriptorList;

/// The descriptors of an operation as one stream of bytes, and the stream as chunks of one size; the last may be
/// shorter.
#[derive(Clone, Debug)]
pub(crate) struct Chunking {
    /// Where each descriptor begins in the stream, and at the end where the stream ends.
    starts: Vec<u64>,
    chunk_bytes: u64,
}

/// A part of one descriptor.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct ChunkPiece {
    /// Which descriptor.
    pub(crate) index: usize,
    /// Where in it.
    pub(crate) offset: u64,
    /// How many bytes, at least one.
    pub(crate) len: u64,
}

impl Chunking {
    /// The most chunks of an operation: 16 TiB of the default size.
    const MAX_CHUNKS: u64 = 1 << 24;

    /// `None` if there would be no chunks, or too many.
    pub(crate) fn new(list: &DescriptorList, chunk_bytes: u64) -> Option<Self> {
        Self::of(list.iter().map(|d| d.len() as u64), chunk_bytes)
    }

    fn of(lens: impl Iterator<Item = u64>, chunk_bytes: u64) -> Option<Self> {
        let mut starts = vec![0u64];
        let mut end = 0u64;
        for len in lens {
            end = end.checked_add(len)?;
            starts.push(end);
        }
        if chunk_bytes == 0 || end == 0 || end.div_ceil(chunk_bytes) > Self::MAX_CHUNKS {
            return None;
        }
        Some(Self { starts, chunk_bytes })
    }

    /// Bytes of the stream.
    pub(crate) fn total(&self) -> u64 {
        self.starts.last().copied().unwrap_or(0)
    }

    /// Descriptors of the stream.
    pub(crate) fn descriptors(&self) -> usize {
        self.starts.len() - 1
    }

    /// Chunks of the stream.
    pub(crate) fn count(&self) -> u64 {
        self.total().div_ceil(self.chunk_bytes)
    }

    /// Bytes of the longest chunk.
    pub(crate) fn longest(&self) -> u64 {
        self.chunk_bytes.min(self.total())
    }

    /// Bytes of a chunk.
    pub(crate) fn len(&self, chunk: u64) -> u64 {
        let start = chunk.saturating_mul(self.chunk_bytes).min(self.total());
        self.chunk_bytes.min(self.total() - start)
    }

    /// The descriptor in which a chunk ends.
    pub(crate) fn last_descriptor(&self, chunk: u64) -> usize {
        let end = chunk.saturating_mul(self.chunk_bytes).saturating_add(self.len(chunk));
        self.starts.partition_point(|start| *start < end).saturating_sub(1)
    }

    /// The parts of descriptors that make up a chunk, in order.
    pub(crate) fn pieces(&self, chunk: u64) -> impl Iterator<Item = ChunkPiece> + '_ {
        let mut at = chunk.saturating_mul(self.chunk_bytes).min(self.total());
        let end = at + self.len(chunk);
        let mut index = self.starts.partition_point(|start| *start <= at).saturating_sub(1);
        std::iter::from_fn(move || {
            if at >= end {
                return None;
            }
            let (start, next) = (*self.starts.get(index)?, *self.starts.get(index + 1)?);
            let piece = ChunkPiece { index, offset: at - start, len: next.min(end) - at };
            at += piece.len;
            index += 1;
            Some(piece)
        })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn chunks_are_full_and_miss_nothing(
            lens in proptest::collection::vec(1u64..2000, 1..40), chunk_bytes in 1u64..5000,
        ) {
            let chunking = Chunking::of(lens.iter().copied(), chunk_bytes).unwrap();
            let mut done = vec![0u64; lens.len()];
            for chunk in 0..chunking.count() {
                let pieces: Vec<_> = chunking.pieces(chunk).collect();
                prop_assert_eq!(pieces.iter().map(|p| p.len).sum::<u64>(), chunking.len(chunk));
                prop_assert_eq!(pieces.last().unwrap().index, chunking.last_descriptor(chunk));
                let full = chunk + 1 < chunking.count() || chunking.total().is_multiple_of(chunk_bytes);
                prop_assert_eq!(chunking.len(chunk) == chunk_bytes, full);
                for piece in pieces {
                    prop_assert_eq!(piece.offset, done[piece.index]);
                    prop_assert!(done[..piece.index].iter().zip(&lens).all(|(d, l)| d == l));
                    done[piece.index] += piece.len;
                }
            }
            prop_assert_eq!(done, lens);
            prop_assert_eq!(chunking.len(chunking.count()), 0);
        }
    }

    #[test]
    fn absurd_cuts_are_refused() {
        assert!(Chunking::of([1].into_iter(), 0).is_none());
        assert!(Chunking::of([1 << 60].into_iter(), 1).is_none());
        assert!(Chunking::of([u64::MAX, 2].into_iter(), 1 << 50).is_none());
    }
}
