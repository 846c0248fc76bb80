//! Memory as blocks of 4 KiB.

use anyhow::Result;
use nixl_executor::Region;
use nixl_executor::layout::{Dimensions, Inner, Layout, LayoutGeometry};
use nixl_memories::Memory;

/// Bytes of a block.
pub(crate) const BLOCK: usize = 4096;

/// Memory for at least so many bytes, as blocks.
pub(crate) fn blocks(memory: Memory, bytes: usize) -> Result<(Layout, Region)> {
    let blocks = bytes.div_ceil(BLOCK).max(1);
    let geometry = LayoutGeometry::try_from(Dimensions {
        blocks,
        layers: 1,
        outer: 1,
        page_size: 1,
        inner: Inner::Elements(BLOCK),
        element_width: 1,
    })?;
    let region = memory.allocate(geometry.bytes())?;
    Ok((Layout::fully_contiguous(geometry, region.clone())?, region))
}
