//! Which bytes go where when blocks are copied between layouts.

use std::ops::Range;

use super::chunks::ChunkPairs;
use super::geometry::{GeometryMismatch, same_geometry};
use super::local::Layout;
use super::order::by_second;
use super::overlap::{Interval, overlapping};
use super::placement::{Placement, SelectionError};

/// Why blocks cannot be copied between two layouts.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum ChunkPairError {
    /// The blocks have different shapes.
    #[error(transparent)]
    Geometry(#[from] GeometryMismatch),
    /// Different numbers of blocks.
    #[error("{src} source blocks cannot go to {dst} destination blocks: the counts must be equal")]
    Count {
        /// Number of source blocks.
        src: usize,
        /// Number of destination blocks.
        dst: usize,
    },
    /// The source has no such blocks or layers.
    #[error("source: {0}")]
    Source(#[source] SelectionError),
    /// The destination has no such blocks.
    #[error("destination: {0}")]
    Destination(#[source] SelectionError),
    /// A block would be written twice.
    #[error("block {block} is a destination more than once: give each destination block once")]
    Duplicate {
        /// Which block of the destination.
        block: usize,
    },
    /// A byte would be read and written.
    #[error(
        "source block {src} and destination block {dst} share memory: copy through other blocks, or at another time"
    )]
    Overlap {
        /// A block of the source.
        src: usize,
        /// The block of the destination it overlaps; not always the one it was to be copied to.
        dst: usize,
    },
}

/// Pairs the bytes of `src_blocks` with those of `dst_blocks`, block by block in the order given, for `layers` of each.
///
/// Every pair is as long as both layouts allow: a whole block if both are contiguous and all layers are asked for,
/// several blocks if their ids follow each other on both sides. Takes a microsecond or two; where the layouts share
/// memory, about a hundred for ten thousand pairs. Whether the destination may be written is for
/// [`Leases`](crate::Leases) to say. Panics: never.
///
/// # Errors
/// [`ChunkPairError`]; whatever is wrong, nothing is returned that could be copied.
pub fn pair_chunks(
    src: &Layout,
    src_blocks: &[usize],
    dst: &Layout,
    dst_blocks: &[usize],
    layers: Range<usize>,
) -> Result<ChunkPairs, ChunkPairError> {
    let (src, dst) = (src.placement(), dst.placement());
    same_geometry(&src.geometry, &dst.geometry)?;
    if src_blocks.len() != dst_blocks.len() {
        return Err(ChunkPairError::Count { src: src_blocks.len(), dst: dst_blocks.len() });
    }
    src.check_blocks(src_blocks).map_err(ChunkPairError::Source)?;
    dst.check_blocks(dst_blocks).map_err(ChunkPairError::Destination)?;
    // Both have the same layers.
    src.check_layers(&layers).map_err(ChunkPairError::Source)?;

    let blocks: Vec<_> = src_blocks.iter().copied().zip(dst_blocks.iter().copied()).collect();
    let blocks = by_second(blocks, dst.geometry.blocks());
    if blocks.len() < dst_blocks.len() {
        return Err(ChunkPairError::Duplicate { block: duplicate(dst_blocks) });
    }
    if let Some((src, dst)) = first_overlap(src, src_blocks, dst, &blocks, &layers) {
        return Err(ChunkPairError::Overlap { src, dst });
    }
    Ok(ChunkPairs::new(src, dst, blocks, layers))
}

/// The lowest of the ids that are there more than once.
fn duplicate(ids: &[usize]) -> usize {
    let mut sorted = ids.to_vec();
    sorted.sort_unstable();
    sorted.windows(2).find(|pair| pair[0] == pair[1]).map_or(0, |pair| pair[0])
}

/// Blocks of source and destination that share bytes of `layers`.
fn first_overlap(
    src: &Placement,
    src_blocks: &[usize],
    dst: &Placement,
    blocks: &[(usize, usize)],
    layers: &Range<usize>,
) -> Option<(usize, usize)> {
    let mut shared = src.shared_parts(dst, layers).peekable();
    // Nearly always, no part of one layout is in the memory of the other.
    shared.peek()?;
    // Sorted once, and not for every part.
    let mut read = src_blocks.to_vec();
    read.sort_unstable();
    let written: Vec<_> = blocks.iter().map(|&(_, dst)| dst).collect();
    shared.find_map(|(from, to)| {
        let read = runs(src, from, &read, layers);
        let written = runs(dst, to, &written, layers);
        let (read, written) = overlapping(read, written).next()?;
        let address = read.start.max(written.start);
        let block = |layout: &Placement, part: Interval| {
            layout.block_at((address - part.start) as usize) // Inside a part, hence a `usize`.
        };
        Some((block(src, from), block(dst, to)))
    })
}

/// The addresses of `blocks` and `layers` in one part, in ascending order of starts and ends.
fn runs(
    layout: &Placement,
    part: Interval,
    blocks: &[usize],
    layers: &Range<usize>,
) -> impl Iterator<Item = Interval> {
    let layers = match layout.strides.part_per_layer {
        true => part.part..part.part + 1,
        false => layers.clone(),
    };
    let blocks = blocks.iter().map(|&block| (block, block)).collect();
    // A layout paired with itself has its own runs.
    ChunkPairs::new(layout, layout, blocks, layers).map(move |pair| {
        let start = part.start + pair.src.offset as u64;
        Interval { start, end: start + pair.len() as u64, part: part.part }
    })
}
