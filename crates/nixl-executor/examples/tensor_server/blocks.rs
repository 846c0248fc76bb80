//! Memory as blocks of 4 KiB.

use anyhow::{Context as _, Result};
use nixl_executor::Region;
use nixl_executor::layout::{Dimensions, Inner, Layout, LayoutGeometry};

/// Bytes of a block.
pub(crate) const BLOCK: usize = 4096;

/// Fresh memory that processes of the host can map, for at least so many bytes, as blocks.
pub(crate) fn blocks(bytes: usize) -> Result<(Layout, Region)> {
    let blocks = bytes.div_ceil(BLOCK).max(1);
    let geometry = LayoutGeometry::try_from(Dimensions {
        blocks,
        layers: 1,
        outer: 1,
        page_size: 1,
        inner: Inner::Elements(BLOCK),
        element_width: 1,
    })?;
    let region = Region::shared(geometry.bytes()).context("no memory")?;
    Ok((Layout::fully_contiguous(geometry, region.clone())?, region))
}
