//! The two caches, and what their blocks hold.

use anyhow::Result;
use nixl_executor::Region;
use nixl_executor::layout::{Dimensions, Inner, LayerOrder, Layout, LayoutGeometry};
use nixl_memories::Memory;

const LAYERS: usize = 8;

fn geometry(blocks: usize) -> Result<LayoutGeometry> {
    Ok(LayoutGeometry::try_from(Dimensions {
        blocks,
        layers: LAYERS,
        outer: 2,
        page_size: 16,
        inner: Inner::Heads { heads: 8, head_size: 64 },
        element_width: 2,
    })?)
}

/// The prefill side's: a region for each layer.
pub(crate) struct PerLayer {
    pub(crate) layout: Layout,
    layers: Vec<Region>,
}

impl PerLayer {
    pub(crate) fn new(memory: Memory, blocks: usize) -> Result<Self> {
        let geometry = geometry(blocks)?;
        let layer = || memory.allocate(blocks * geometry.layer_len());
        let layers = (0..LAYERS).map(|_| layer()).collect::<Result<Vec<_>, _>>()?;
        let parts = layers.iter().map(Region::whole).collect();
        Ok(Self { layout: Layout::per_layer(geometry, LayerOrder::BlockFirst, parts)?, layers })
    }

    /// What a model would compute for the block.
    pub(crate) fn fill(&self, block: u32, seed: u64) -> Result<()> {
        let len = self.layout.geometry().layer_len();
        for (index, layer) in self.layers.iter().enumerate() {
            nixl_memories::write(layer, block as usize * len, &bytes(seed, index, len))?;
        }
        Ok(())
    }
}

/// The decode side's: one region.
pub(crate) struct Contiguous {
    pub(crate) layout: Layout,
    region: Region,
}

impl Contiguous {
    pub(crate) fn new(memory: Memory, blocks: usize) -> Result<Self> {
        let geometry = geometry(blocks)?;
        let region = memory.allocate(geometry.bytes())?;
        Ok(Self { layout: Layout::fully_contiguous(geometry, region.clone())?, region })
    }

    /// Whether the block is what the prefill side filled in.
    pub(crate) fn holds(&self, block: usize, seed: u64) -> Result<bool> {
        let geometry = self.layout.geometry();
        let len = geometry.block_len();
        let found = nixl_memories::read(&self.region, block * len..(block + 1) * len)?;
        let mut layers = found.chunks(geometry.layer_len()).enumerate();
        Ok(layers.all(|(index, layer)| layer == bytes(seed, index, layer.len())))
    }
}

/// Bytes that differ between seeds, layers and places.
fn bytes(seed: u64, layer: usize, len: usize) -> Vec<u8> {
    let mut state = seed ^ (layer as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    let mut bytes = Vec::with_capacity(len + 8);
    while bytes.len() < len {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        bytes.extend((state ^ (state >> 33)).to_le_bytes());
    }
    bytes.truncate(len);
    bytes
}
