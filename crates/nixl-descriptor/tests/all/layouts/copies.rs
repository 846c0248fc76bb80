//! Copies of blocks by the host move the chunks of one block, under the rules of leases.

use nixl_descriptor::layout::{
    BlockAccessError, Dimensions, Inner, LayerOrder, Layout, LayoutGeometry,
};
use nixl_descriptor::{AccessError, LeaseMode, Region};
use proptest::prelude::*;

use super::model::{Built, chunk_len, dimensions, plan};

const SIZES: Dimensions = Dimensions {
    blocks: 3,
    layers: 2,
    outer: 2,
    page_size: 2,
    inner: Inner::Elements(4),
    element_width: 1,
};

/// A region for each layer, and a layout over them.
fn cache() -> (Vec<Region>, Layout) {
    let geometry = LayoutGeometry::try_from(SIZES).unwrap();
    let len = geometry.blocks() * geometry.layer_len();
    let regions: Vec<_> = (0..geometry.layers()).map(|_| Region::zeroed(len).unwrap()).collect();
    let parts = regions.iter().map(Region::whole).collect();
    (regions, Layout::per_layer(geometry, LayerOrder::OuterFirst, parts).unwrap())
}

fn pattern(block: usize, len: usize) -> Vec<u8> {
    (0..len).map(|at| (1 + block * 31 + at) as u8).collect()
}

proptest! {
    #[test]
    fn a_block_has_its_chunks_in_order(dimensions in dimensions(), plan in plan()) {
        let layout = Built::new(&dimensions, &plan).layout;
        let len = layout.geometry().block_len();
        for block in 0..dimensions.blocks {
            layout.copy_block_from_slice(block, &pattern(block, len)).unwrap();
        }
        for block in 0..dimensions.blocks {
            let expected = pattern(block, len);
            prop_assert_eq!(&layout.block_to_vec(block).unwrap(), &expected);
            let mut chunks = expected.chunks(chunk_len(&dimensions));
            for layer in 0..dimensions.layers {
                for outer in 0..dimensions.outer {
                    let span = layout.chunk(block, layer, outer).unwrap();
                    let part = &layout.parts()[span.part];
                    let mut found = vec![0; span.len];
                    part.region().copy_to_slice(part.offset() + span.offset, &mut found).unwrap();
                    prop_assert_eq!(Some(&*found), chunks.next());
                }
            }
        }
    }
}

#[test]
fn leases_of_other_blocks_are_no_hindrance() {
    let (_, layout) = cache();
    let len = layout.geometry().block_len();
    let reading = layout.lease(&[1], 0..2, LeaseMode::Read).unwrap();
    let leased = |mode| BlockAccessError::Access(AccessError::Leased { mode });
    assert!(layout.block_to_vec(1).is_ok());
    let refused = layout.copy_block_from_slice(1, &pattern(1, len));
    assert_eq!(refused, Err(leased(LeaseMode::Read)));
    layout.copy_block_from_slice(0, &pattern(0, len)).unwrap();
    drop(reading);
    let writing = layout.lease(&[1], 0..2, LeaseMode::Write).unwrap();
    assert_eq!(layout.block_to_vec(1), Err(leased(LeaseMode::Write)));
    assert_eq!(layout.block_to_vec(0).unwrap(), pattern(0, len));
    drop(writing);
    layout.copy_block_from_slice(1, &pattern(1, len)).unwrap();
}

#[test]
fn all_of_a_block_is_written_or_nothing() {
    let (regions, layout) = cache();
    let len = layout.geometry().block_len();
    for layer in 0..2 {
        let _last = layout.lease(&[2], layer..layer + 1, LeaseMode::Read).unwrap();
        assert!(layout.copy_block_from_slice(2, &pattern(2, len)).is_err());
    }
    for wrong in [len - 1, len + 1] {
        let refused = layout.copy_block_from_slice(2, &pattern(2, wrong)).unwrap_err();
        let expected = AccessError::LengthMismatch { src: wrong, dst: len };
        assert_eq!(refused, BlockAccessError::Access(expected));
    }
    assert!(matches!(layout.block_to_vec(3), Err(BlockAccessError::Selection(_))));
    assert!(regions.iter().all(|region| region.to_vec().unwrap().iter().all(|byte| *byte == 0)));
}
