//! Grants against a model, with readers on other threads, and at their limits.
#![allow(clippy::unwrap_used, reason = "a failed test says where")]

mod copies;
mod limits;
mod model;
mod readers;
mod waits;

use std::num::NonZeroU32;
use std::sync::Arc;

use nixl_descriptor::Region;
use nixl_descriptor::layout::{Dimensions, Inner, LayerOrder, Layout, LayoutGeometry};

use super::{GrantTable, GrantTableOptions, Granted};
use crate::ManualClock;

fn geometry(blocks: usize, layers: usize, bytes: usize) -> LayoutGeometry {
    let inner = Inner::Elements(bytes);
    let dimensions = Dimensions { blocks, layers, outer: 1, page_size: 1, inner, element_width: 1 };
    LayoutGeometry::try_from(dimensions).unwrap()
}

/// Blocks in one piece.
fn contiguous(blocks: usize) -> Layout {
    let geometry = geometry(blocks, 2, 8);
    Layout::fully_contiguous(geometry, Region::zeroed(geometry.bytes()).unwrap()).unwrap()
}

/// Blocks with a region for each layer.
fn per_layer(blocks: usize) -> Layout {
    let geometry = geometry(blocks, 3, 8);
    let layer = blocks * geometry.layer_len();
    let parts = (0..3).map(|_| Region::zeroed(layer).unwrap().into()).collect();
    Layout::per_layer(geometry, LayerOrder::BlockFirst, parts).unwrap()
}

fn slots(slots: u32) -> GrantTableOptions {
    GrantTableOptions::default().with_slots(NonZeroU32::new(slots).unwrap())
}

fn table(layouts: &[Layout], most: u32) -> (Arc<GrantTable>, Arc<ManualClock>) {
    let clock = Arc::new(ManualClock::new());
    let table = GrantTable::new(layouts, slots(most), Arc::clone(&clock) as _).unwrap();
    (Arc::new(table), clock)
}

/// Slot and generation.
fn key(granted: &Granted) -> (u32, u64) {
    (granted.slot, granted.generation)
}
