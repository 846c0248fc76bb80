//! Arrangements of blocks in memory.

use std::fmt;

use anyhow::Result;
use nixl_descriptor::Region;
use nixl_descriptor::layout::{LayerOrder, Layout, LayoutGeometry};

use crate::memory::touch;

/// How the blocks lie in memory. In the file each is contiguous.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Arrangement {
    /// Each in one piece.
    Contiguous,
    /// A piece for each layer, and for K and V.
    PerLayer,
}

impl Arrangement {
    pub(super) const BOTH: [Self; 2] = [Self::Contiguous, Self::PerLayer];

    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Contiguous => "contiguous",
            Self::PerLayer => "per-layer",
        }
    }

    /// Memory for blocks of this shape, with all pages.
    pub(super) fn memory(self, geometry: LayoutGeometry) -> Result<Layout> {
        let lens = match self {
            Self::Contiguous => vec![geometry.bytes()],
            Self::PerLayer => vec![geometry.blocks() * geometry.layer_len(); geometry.layers()],
        };
        let regions = lens.into_iter().map(Region::zeroed).collect::<Result<Vec<_>, _>>()?;
        regions.iter().try_for_each(touch)?;
        let parts = regions.iter().map(Region::whole).collect();
        Ok(match self {
            Self::Contiguous => Layout::fully_contiguous(geometry, regions[0].whole())?,
            Self::PerLayer => Layout::per_layer(geometry, LayerOrder::OuterFirst, parts)?,
        })
    }
}

impl fmt::Display for Arrangement {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}
