//! Pairing of blocks of two layouts into chunks to copy.

use std::ops::Range;
use std::sync::Arc;

use super::chunks::{BlockPairs, BlockSide};
use super::geometry::{GeometryMismatch, same_geometry};
use super::lease::duplicate;
use super::local::Layout;
use super::placement::SelectionError;
use crate::strided::first_overlap;

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
/// A piece of a block is as long as both layouts allow: the whole block if both are contiguous and all layers are asked
/// for. Takes some nanoseconds for each block; where the layouts share memory, some ten. Whether the destination may be
/// written is for [`BlockPairs::lease`] to say. Panics: never.
///
/// # Errors
/// [`ChunkPairError`]; with an error nothing is returned that could be copied.
pub fn pair_chunks(
    src: &Layout,
    src_blocks: &[usize],
    dst: &Layout,
    dst_blocks: &[usize],
    layers: Range<usize>,
) -> Result<BlockPairs, ChunkPairError> {
    same_geometry(src.geometry(), dst.geometry())?;
    if src_blocks.len() != dst_blocks.len() {
        return Err(ChunkPairError::Count { src: src_blocks.len(), dst: dst_blocks.len() });
    }
    let side = |layout: &Layout, blocks| {
        let blocks = Arc::new(layout.placement().select(blocks)?);
        Ok(BlockSide { layout: layout.clone(), blocks })
    };
    let src = side(src, src_blocks).map_err(ChunkPairError::Source)?;
    let dst = side(dst, dst_blocks).map_err(ChunkPairError::Destination)?;
    // Both have the same layers.
    src.layout.placement().check_layers(&layers).map_err(ChunkPairError::Source)?;
    if dst.blocks.set().len() < dst.blocks.ids().len() {
        return Err(ChunkPairError::Duplicate { block: duplicate(dst_blocks) });
    }
    if let Some((src, dst)) = overlap(&src, &dst, &layers) {
        return Err(ChunkPairError::Overlap { src: src as usize, dst: dst as usize });
    }
    Ok(BlockPairs::new(src, dst, layers))
}

/// Blocks of source and destination that share bytes of `layers`.
fn overlap(src: &BlockSide, dst: &BlockSide, layers: &Range<usize>) -> Option<(u32, u32)> {
    if src.layout.is(&dst.layout) {
        return src.blocks.set().common(dst.blocks.set()).map(|block| (block, block));
    }
    let (a, b) = (src.layout.placement(), dst.layout.placement());
    if a.device != b.device || !a.may_overlap(b) {
        return None;
    }
    first_overlap(a.strided(layers), src.blocks.set(), b.strided(layers), dst.blocks.set())
}
