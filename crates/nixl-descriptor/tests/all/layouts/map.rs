//! Every byte of every chunk has a place of its own inside the memory.

use std::collections::HashSet;

use nixl_descriptor::Region;
use nixl_descriptor::layout::{
    Dimensions, Inner, LayoutError, LayoutGeometry, LayoutKind, SelectionError,
};
use nixl_device::Device;
use proptest::prelude::*;

use super::model::{Built, KINDS, Plan, build, chunk_len, dimensions, model, plan};
use crate::regions::device_region;

proptest! {
    #[test]
    fn chunks_are_where_a_walk_through_memory_finds_them(dimensions in dimensions(), plan in plan()) {
        let Built { layout, model } = Built::new(&dimensions, &plan);
        prop_assert_eq!(layout.kind(), plan.kind);
        prop_assert_eq!(layout.block_stride(), model.stride);
        let mut seen = HashSet::new();
        for b in 0..dimensions.blocks {
            for l in 0..dimensions.layers {
                for o in 0..dimensions.outer {
                    let span = layout.chunk(b, l, o).unwrap();
                    prop_assert_eq!((span.part, span.offset), model.chunks[&(b, l, o)]);
                    prop_assert_eq!(span.len, chunk_len(&dimensions));
                    prop_assert!(span.offset + span.len <= layout.parts()[span.part].len());
                    for at in span.offset..span.offset + span.len {
                        prop_assert!(seen.insert((span.part, at)), "{span:?} overlaps another");
                    }
                }
            }
        }
        prop_assert_eq!(seen.len(), layout.geometry().bytes());
    }

    #[test]
    fn descriptors_of_blocks_are_their_chunks_in_order(
        dimensions in dimensions(), plan in plan(), picks in prop::collection::vec(any::<usize>(), 1..6),
        first: usize, count: usize,
    ) {
        let layout = Built::new(&dimensions, &plan).layout;
        let blocks: Vec<_> = picks.iter().map(|pick| pick % dimensions.blocks).collect();
        let start = first % dimensions.layers;
        let end = start + 1 + count % (dimensions.layers - start);
        let list = layout.chunk_descriptors(&blocks, start..end).unwrap();
        let mut expected = Vec::new();
        for &block in &blocks {
            for layer in start..end {
                for outer in 0..dimensions.outer {
                    let span = layout.chunk(block, layer, outer).unwrap();
                    expected.push((layout.parts()[span.part].address() + span.offset as u64, span.len));
                }
            }
        }
        let places: Vec<_> = list.iter().map(|d| (d.address(), d.len())).collect();
        prop_assert_eq!(places, expected);
        prop_assert!(layout.chunk_descriptors(&[], start..end).is_err());
        prop_assert!(layout.chunk_descriptors(&[dimensions.blocks], start..end).is_err());
        prop_assert!(layout.chunk_descriptors(&blocks, 0..dimensions.layers + 1).is_err());
    }

    #[test]
    fn chunks_that_are_not_there_are_refused(
        dimensions in dimensions(), plan in plan(), far in prop_oneof![0..3usize, Just(usize::MAX / 2)],
    ) {
        let layout = Built::new(&dimensions, &plan).layout;
        let Dimensions { blocks, layers, outer, .. } = dimensions;
        let block = blocks + far;
        prop_assert_eq!(layout.chunk(block, 0, 0), Err(SelectionError::Block { block, blocks }));
        let start = layers + far;
        prop_assert_eq!(
            layout.chunk(0, start, 0),
            Err(SelectionError::Layers { start, end: start + 1, layers })
        );
        prop_assert_eq!(
            layout.chunk(0, 0, outer + far),
            Err(SelectionError::Outer { outer: outer + far, count: outer })
        );
        prop_assert!(layout.chunk(0, usize::MAX, 0).is_err());
    }

    #[test]
    fn memory_that_is_too_small_is_refused(dimensions in dimensions(), plan in plan(), which: usize) {
        let model = model(&dimensions, plan.kind, plan.pad);
        let which = which % model.parts;
        let part = |at: usize| {
            let len = model.needed - usize::from(at == which);
            (len > 0).then(|| Region::zeroed(len).unwrap().whole())
        };
        let Some(parts) = (0..model.parts).map(part).collect::<Option<Vec<_>>>() else {
            return Ok(());
        };
        let short = LayoutError::TooShort {
            part: which, len: model.needed as u64 - 1, needed: model.needed,
        };
        prop_assert_eq!(build(&dimensions, plan.kind, model.stride, parts).unwrap_err(), short);
    }

    #[test]
    fn the_number_of_parts_is_checked(dimensions in dimensions(), plan in plan(), parts in 0..6usize) {
        let model = model(&dimensions, plan.kind, plan.pad);
        let memory = (0..parts).map(|_| Region::zeroed(model.needed).unwrap().whole()).collect();
        let result = build(&dimensions, plan.kind, model.stride, memory);
        if parts == model.parts {
            prop_assert!(result.is_ok());
        } else {
            prop_assert_eq!(result.unwrap_err(), LayoutError::PartCount { parts, needed: model.parts });
        }
    }

    #[test]
    fn strides_below_the_block_or_beyond_memory_are_refused(dimensions in dimensions(), plan in plan()) {
        let layout = Built::new(&dimensions, &Plan { pad: 0, ..plan }).layout;
        let (geometry, parts) = (*layout.geometry(), layout.parts().to_vec());
        let with = |stride| {
            nixl_descriptor::layout::Layout::with_block_stride(geometry, plan.kind, stride, parts.clone())
        };
        let least = layout.block_stride();
        prop_assert_eq!(
            with(least - 1).unwrap_err(),
            LayoutError::BlockStride { stride: least - 1, least }
        );
        // One step is one too many for the memory; two make the arithmetic overflow.
        let times = match plan.kind {
            LayoutKind::PerLayer(nixl_descriptor::layout::LayerOrder::OuterFirst) => {
                dimensions.blocks * dimensions.outer
            }
            _ => dimensions.blocks,
        };
        let huge = usize::MAX / 2 + 1;
        match times {
            1 => prop_assert!(with(huge).is_ok()),
            2 => {
                let short = matches!(with(huge).unwrap_err(), LayoutError::TooShort { .. });
                prop_assert!(short);
            }
            _ => prop_assert_eq!(with(huge).unwrap_err(), LayoutError::Overflow { part: 0 }),
        }
    }
}

#[test]
fn a_layout_is_on_one_device() {
    let dimensions = Dimensions {
        blocks: 2,
        layers: 3,
        outer: 2,
        page_size: 4,
        inner: Inner::Elements(8),
        element_width: 1,
    };
    let geometry = LayoutGeometry::try_from(dimensions).unwrap();
    let gpu = |at: usize| device_region(0x1000 * (at + 1), geometry.bytes()).unwrap().whole();
    for kind in KINDS {
        let model = model(&dimensions, kind, 0);
        let mut parts: Vec<_> = (0..model.parts).map(gpu).collect();
        let layout = build(&dimensions, kind, model.stride, parts.clone()).unwrap();
        assert_eq!(layout.device(), Device::cuda(1));
        if model.parts > 1 {
            parts[2] = Region::zeroed(geometry.bytes()).unwrap().whole();
            let mixed =
                LayoutError::MixedDevices { part: 2, device: Device::HOST, first: Device::cuda(1) };
            assert_eq!(build(&dimensions, kind, model.stride, parts).unwrap_err(), mixed);
        }
    }
}
