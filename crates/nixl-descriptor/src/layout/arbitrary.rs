//! Small layouts of every kind, for tests of pairings.

use proptest::prelude::*;

use super::{Dimensions, Inner, LayerOrder, Layout, LayoutGeometry, LayoutKind};
use crate::region::Region;

/// The layers of [`layout`].
pub(super) const LAYERS: usize = 3;

/// A layout over memory of its own, with so many bytes between its blocks.
pub(super) fn layout(kind: LayoutKind, blocks: usize, outer: usize, padding: usize) -> Layout {
    let geometry = LayoutGeometry::try_from(Dimensions {
        blocks,
        layers: LAYERS,
        outer,
        page_size: 2,
        inner: Inner::Elements(3),
        element_width: 2,
    })
    .unwrap();
    let (least, times, parts) = match kind {
        LayoutKind::FullyContiguous => (geometry.block_len(), blocks, 1),
        LayoutKind::PerLayer(LayerOrder::BlockFirst) => (geometry.layer_len(), blocks, LAYERS),
        LayoutKind::PerLayer(LayerOrder::OuterFirst) => {
            (geometry.chunk_len(), outer * blocks, LAYERS)
        }
    };
    let stride = least + padding;
    let parts = (0..parts).map(|_| Region::zeroed(stride * times).unwrap().into()).collect();
    Layout::with_block_stride(geometry, kind, stride, parts).unwrap()
}

pub(super) fn kind() -> impl Strategy<Value = LayoutKind> {
    prop_oneof![
        Just(LayoutKind::FullyContiguous),
        Just(LayoutKind::PerLayer(LayerOrder::BlockFirst)),
        Just(LayoutKind::PerLayer(LayerOrder::OuterFirst)),
    ]
}
