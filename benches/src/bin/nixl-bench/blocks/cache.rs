//! The caches of both processes, and what their blocks hold.

use std::ops::Range;

use anyhow::{Context as _, Result};
use nixl_descriptor::Region;
use nixl_descriptor::layout::{Dimensions, Inner, LayerOrder, Layout, LayoutGeometry};
use nixl_executor::MemoryKind;

use crate::contents::{Contents, Piece};
use crate::gpus::Gpus;
use crate::pattern::{CHUNK, Pattern};

pub(crate) const LAYERS: usize = 80;
/// Bytes of a block in a layer: K and V, 16 tokens, 8 heads of 128, bf16.
pub(crate) const LAYER_BYTES: usize = 64 << 10;
/// Bytes of a block in all layers.
pub(crate) const BLOCK_BYTES: usize = LAYERS * LAYER_BYTES;
/// Blocks of the other layout of the export, a page each.
pub(crate) const SMALL_BLOCKS: usize = 64;
pub(crate) const SMALL_BYTES: usize = 4096;

/// How the reader's blocks lie.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Arrangement {
    PerLayer,
    Contiguous,
}

impl Arrangement {
    pub(crate) const BOTH: [Self; 2] = [Self::PerLayer, Self::Contiguous];

    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::PerLayer => "per-layer",
            Self::Contiguous => "contiguous",
        }
    }
}

/// Blocks and the memory they lie in.
pub(crate) struct Cache {
    pub(crate) layout: Layout,
    pub(crate) regions: Vec<Region>,
    /// Where blocks are told apart by what they hold.
    into: Arrangement,
    gpus: Gpus,
}

impl Cache {
    /// The owner's: a part for each layer, in files that processes of the host can map.
    pub(crate) fn shared(blocks: usize) -> Result<Self> {
        Self::new(blocks, Arrangement::PerLayer, |len| Ok(Region::shared(len)?))
    }

    /// The reader's, in memory of its own.
    pub(crate) fn private(blocks: usize, into: Arrangement) -> Result<Self> {
        Self::new(blocks, into, |len| Ok(Region::zeroed(len)?))
    }

    fn new(
        blocks: usize,
        into: Arrangement,
        region: impl Fn(usize) -> Result<Region>,
    ) -> Result<Self> {
        let geometry = geometry(blocks)?;
        let (count, len) = match into {
            Arrangement::PerLayer => (LAYERS, blocks * LAYER_BYTES),
            Arrangement::Contiguous => (1, blocks * BLOCK_BYTES),
        };
        let regions = (0..count).map(|_| region(len)).collect::<Result<Vec<_>>>();
        let regions = regions.with_context(|| format!("no memory for {blocks} blocks"))?;
        let layout = match into {
            Arrangement::PerLayer => {
                let parts = regions.iter().map(Region::whole).collect();
                Layout::per_layer(geometry, LayerOrder::BlockFirst, parts)?
            }
            Arrangement::Contiguous => Layout::fully_contiguous(geometry, regions[0].clone())?,
        };
        Ok(Self { layout, regions, into, gpus: Gpus::open(0)? })
    }

    /// Has these blocks hold what the blocks of these numbers hold; what no block holds without a seed.
    pub(crate) fn fill(&self, held: &[(usize, u32)], seed: Option<u64>) -> Result<()> {
        let pattern = seed.map(Pattern::new);
        self.each_region(held, pattern, |contents, window, pieces| contents.fill(window, pieces))
    }

    /// Whether these blocks hold what the blocks of these numbers held when they were filled.
    pub(crate) fn holds(&self, held: &[(usize, u32)], seed: u64) -> Result<bool> {
        let mut right = true;
        self.each_region(held, Some(Pattern::new(seed)), |contents, window, pieces| {
            right &= contents.first_wrong(window, pieces)?.is_none();
            Ok(())
        })?;
        Ok(right)
    }

    fn each_region(
        &self,
        held: &[(usize, u32)],
        pattern: Option<Pattern>,
        mut work: impl FnMut(&Contents<'_>, &Range<usize>, &[Piece]) -> Result<()>,
    ) -> Result<()> {
        for (part, region) in self.regions.iter().enumerate() {
            let layers = match self.into {
                Arrangement::PerLayer => part..part + 1,
                Arrangement::Contiguous => 0..LAYERS,
            };
            let mut pieces = Vec::new();
            for &(here, there) in held {
                for layer in layers.clone() {
                    let at = match self.into {
                        Arrangement::PerLayer => here * LAYER_BYTES,
                        Arrangement::Contiguous => here * BLOCK_BYTES + layer * LAYER_BYTES,
                    };
                    let address = there as usize * BLOCK_BYTES + layer * LAYER_BYTES;
                    pieces.extend((0..LAYER_BYTES).step_by(CHUNK).map(|offset| Piece {
                        at: at + offset,
                        len: CHUNK,
                        address: address + offset,
                        pattern,
                    }));
                }
            }
            let (gpus, kind) = (&self.gpus, MemoryKind::Pageable);
            work(&Contents { gpus, kind, region }, &(0..region.len()), &pieces)?;
        }
        Ok(())
    }
}

/// Blocks of one page, in one region.
pub(crate) struct SmallCache {
    pub(crate) layout: Layout,
    pub(crate) region: Region,
}

impl SmallCache {
    pub(crate) fn shared() -> Result<Self> {
        Self::of(Region::shared(SMALL_BLOCKS * SMALL_BYTES)?)
    }

    pub(crate) fn private() -> Result<Self> {
        Self::of(Region::zeroed(SMALL_BLOCKS * SMALL_BYTES)?)
    }

    fn of(region: Region) -> Result<Self> {
        let geometry = LayoutGeometry::try_from(Dimensions {
            blocks: SMALL_BLOCKS,
            layers: 1,
            outer: 1,
            page_size: 16,
            inner: Inner::Elements(128),
            element_width: 2,
        })?;
        Ok(Self { layout: Layout::fully_contiguous(geometry, region.clone())?, region })
    }

    pub(crate) fn fill(&self, seed: Option<u64>) -> Result<()> {
        let mut bytes = vec![crate::gpus::POISON; self.region.len()];
        if let Some(seed) = seed {
            Pattern::new(seed).fill(0, &mut bytes);
        }
        Ok(self.region.copy_from_slice(0, &bytes)?)
    }

    pub(crate) fn holds(&self, seed: u64) -> Result<bool> {
        Ok(Pattern::new(seed).matches(0, &self.region.to_vec()?))
    }
}

fn geometry(blocks: usize) -> Result<LayoutGeometry> {
    Ok(LayoutGeometry::try_from(Dimensions {
        blocks,
        layers: LAYERS,
        outer: 2,
        page_size: 16,
        inner: Inner::Heads { heads: 8, head_size: 128 },
        element_width: 2,
    })?)
}

/// So many different numbers below `of`, in an order that looks random and is the same in every run.
pub(crate) fn some_of(of: usize, count: usize, seed: u64) -> Vec<usize> {
    let mut all: Vec<usize> = (0..of).collect();
    let mut state = seed;
    for at in (1..of).rev() {
        state =
            state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        all.swap(at, ((state >> 33) as usize) % (at + 1));
    }
    all.truncate(count);
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_are_told_apart_however_they_lie() {
        let held = [(0, 5), (2, 1)];
        for into in Arrangement::BOTH {
            let cache = Cache::private(3, into).unwrap();
            assert_eq!(cache.layout.geometry().block_len(), BLOCK_BYTES);
            cache.fill(&held, Some(7)).unwrap();
            assert!(cache.holds(&held, 7).unwrap());
            assert!(!cache.holds(&[(0, 1), (2, 5)], 7).unwrap());
            cache.fill(&held[1..], None).unwrap();
            assert!(cache.holds(&held[..1], 7).unwrap());
            assert!(!cache.holds(&held, 7).unwrap());
        }
    }

    #[test]
    fn some_of_many_are_different() {
        let mut some = some_of(100, 30, 3);
        assert_ne!(some, (0..30).collect::<Vec<_>>());
        some.sort_unstable();
        some.dedup();
        assert!(some.len() == 30 && some.iter().all(|id| *id < 100));
    }
}
