//! No byte is read and written, and no byte belongs to two layers, against sets of addresses.

use std::collections::HashSet;
use std::ops::Range;

use nixl_descriptor::layout::{ChunkPairError, Dimensions, LayoutError, pair_chunks};
use nixl_descriptor::{Descriptor, Region};
use proptest::prelude::*;
use proptest::sample::subsequence;

use super::model::{Built, Plan, build, chunk_len, dimensions, model, plan};
use crate::regions::device_region;

fn addresses(
    built: &Built,
    dimensions: &Dimensions,
    blocks: &[usize],
    layers: Range<usize>,
) -> HashSet<u64> {
    let mut all = HashSet::new();
    for &b in blocks {
        for l in layers.clone() {
            for o in 0..dimensions.outer {
                all.extend(built.addresses((b, l, o), chunk_len(dimensions)));
            }
        }
    }
    all
}

fn some_blocks(blocks: usize) -> impl Strategy<Value = Vec<usize>> {
    subsequence((0..blocks).collect::<Vec<_>>(), 1..=blocks).prop_shuffle()
}

/// A layout over one region whose parts begin at `starts`, if they do not overlap.
fn place(dimensions: &Dimensions, plan: &Plan, region: &Region, starts: &[usize]) -> Option<Built> {
    let model = model(dimensions, plan.kind, plan.pad);
    let part = |start: &usize| region.descriptor(*start..start + model.needed).unwrap();
    let parts = starts.iter().take(model.parts).map(part).collect();
    let layout = build(dimensions, plan.kind, model.stride, parts).ok()?;
    Some(Built { layout, model })
}

fn check(
    src: &Built,
    dst: &Built,
    dimensions: &Dimensions,
    (from, to): (&[usize], &[usize]),
    layers: Range<usize>,
) -> Result<(), TestCaseError> {
    let read = addresses(src, dimensions, from, layers.clone());
    let written = addresses(dst, dimensions, to, layers.clone());
    match pair_chunks(&src.layout, from, &dst.layout, to, layers.clone()) {
        Ok(_) => prop_assert!(read.is_disjoint(&written), "an overlap was not seen"),
        Err(ChunkPairError::Overlap { src: block, dst: other }) => {
            prop_assert!(from.contains(&block) && to.contains(&other));
            let read = addresses(src, dimensions, &[block], layers.clone());
            let written = addresses(dst, dimensions, &[other], layers);
            prop_assert!(!read.is_disjoint(&written), "the named blocks do not overlap");
        }
        Err(error) => return Err(TestCaseError::fail(error.to_string())),
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1000))]

    #[test]
    fn two_layouts_in_one_region(
        (dimensions, from, to, first) in dimensions().prop_flat_map(|d| {
            (Just(d), some_blocks(d.blocks), some_blocks(d.blocks), 0..d.layers)
        }),
        plans in (plan(), plan()),
        shift in 0..400usize,
        more in 0..4usize,
    ) {
        // Parts follow each other; the second layout begins somewhere inside the first.
        let room = |plan: &Plan| model(&dimensions, plan.kind, plan.pad).needed + plan.guard;
        let (a, b) = (room(&plans.0), room(&plans.1));
        let shift = shift % (a * 5);
        let region = Region::zeroed(5 * (a + b)).unwrap();
        let starts = |from: usize, room: usize| (0..4).map(|at| from + at * room).collect::<Vec<_>>();
        let src = place(&dimensions, &plans.0, &region, &starts(0, a)).unwrap();
        let dst = place(&dimensions, &plans.1, &region, &starts(shift, b)).unwrap();
        let count = from.len().min(to.len());
        let layers = first..first + 1 + more % (dimensions.layers - first);
        let ids = (&from[..count], &to[..count]);
        check(&src, &dst, &dimensions, ids, layers.clone())?;
        check(&dst, &src, &dimensions, ids, layers)?;
    }

    #[test]
    fn a_layout_and_itself(
        (dimensions, from, to) in dimensions().prop_flat_map(|d| {
            (Just(d), some_blocks(d.blocks), some_blocks(d.blocks))
        }),
        plan in plan(),
    ) {
        let built = Built::new(&dimensions, &plan);
        let count = from.len().min(to.len());
        let (from, to) = (&from[..count], &to[..count]);
        check(&built, &built, &dimensions, (from, to), 0..dimensions.layers)?;
        let meet = from.iter().any(|block| to.contains(block));
        let pairs = pair_chunks(&built.layout, from, &built.layout, to, 0..dimensions.layers);
        prop_assert_eq!(pairs.is_err(), meet);
    }

    #[test]
    fn parts_of_one_layout(
        dimensions in dimensions(), plan in plan(), starts in proptest::collection::vec(0..500usize, 4),
    ) {
        let model = model(&dimensions, plan.kind, plan.pad);
        let region = Region::zeroed(500 + model.needed).unwrap();
        let parts: Vec<Descriptor> = starts
            .iter()
            .take(model.parts)
            .map(|start| region.descriptor(*start..start + model.needed).unwrap())
            .collect();
        let share = |a: &Descriptor, b: &Descriptor| a.address().abs_diff(b.address()) < a.len() as u64;
        let apart = (0..parts.len()).all(|b| (0..b).all(|a| !share(&parts[a], &parts[b])));
        match build(&dimensions, plan.kind, model.stride, parts.clone()) {
            Ok(_) => prop_assert!(apart),
            Err(LayoutError::PartsOverlap { first, second }) => {
                prop_assert!(first != second && share(&parts[first], &parts[second]));
            }
            Err(error) => return Err(TestCaseError::fail(error.to_string())),
        }
    }
}

#[test]
fn equal_addresses_of_different_devices_do_not_overlap() {
    let dimensions = Dimensions {
        blocks: 1,
        layers: 1,
        outer: 1,
        page_size: 8,
        inner: nixl_descriptor::layout::Inner::Elements(8),
        element_width: 1,
    };
    let kind = nixl_descriptor::layout::LayoutKind::FullyContiguous;
    let host = Region::zeroed(64).unwrap();
    let gpu = device_region(host.address() as usize, 64).unwrap();
    let [host, gpu] =
        [host, gpu].map(|region| build(&dimensions, kind, 64, vec![region.whole()]).unwrap());
    assert!(pair_chunks(&host, &[0], &gpu, &[0], 0..1).is_ok());
    assert!(pair_chunks(&gpu, &[0], &gpu, &[0], 0..1).is_err());
}
