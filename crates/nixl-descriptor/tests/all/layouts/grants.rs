//! Grants of blocks keep away what leases to read the same bytes would, and nothing else.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::thread;

use nixl_descriptor::layout::{
    BlockGrant, BlockGrantError, BlockGrants, BlockLeaseError, Dimensions, Inner, Layout,
    LayoutGeometry,
};
use nixl_descriptor::{AccessError, LeaseError, LeaseMode, LeaseSet, Leases, Region, SharedMemory};
use proptest::prelude::*;

use super::leases::{Step, World, place, small, steps};

#[expect(dead_code, reason = "held until it is dropped")]
#[derive(Debug)]
enum Held {
    Grant(BlockGrant),
    Lease(LeaseSet),
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1000))]

    /// Two layouts over the same memory. Blocks with all their layers that are to be read are granted here and leased byte by
    /// byte there; others are leased on both sides.
    #[test]
    fn as_leases_of_the_same_bytes(
        (place, steps) in place().prop_flat_map(|place| { let steps = steps(&place); (Just(place), steps) }),
    ) {
        let (mut world, mut bytes) = (World::new(&place), World::new(&place));
        let grants = [0, 1].map(|layout: usize| world.layouts[layout].layout.grantable());
        let all = place.dimensions.layers;
        let mut held = Vec::new();
        for step in steps {
            match &step {
                Step::Blocks(mode, selection) => {
                    let (layout, ids, layers) = selection;
                    let expected = Leases::acquire(&bytes.chunks(&place.dimensions, selection), *mode);
                    let taken = if *mode == LeaseMode::Read && *layers == (0..all) {
                        let ids = ids.iter().map(|&id| id as u32).collect();
                        match grants[*layout].grant(ids) {
                            Ok(grant) => {
                                let used = grant.lease(0..all);
                                prop_assert!(used.is_ok(), "{:?}", used);
                                Ok(Held::Grant(grant))
                            }
                            Err(BlockGrantError::Leased { .. }) => Err(()),
                            Err(other) => return Err(TestCaseError::fail(other.to_string())),
                        }
                    } else {
                        match world.layouts[*layout].layout.lease(ids, layers.clone(), *mode) {
                            Ok(lease) => Ok(Held::Lease(lease)),
                            Err(BlockLeaseError::Lease(
                                LeaseError::Granted { .. } | LeaseError::Conflict { .. },
                            )) => Err(()),
                            Err(other) => return Err(TestCaseError::fail(other.to_string())),
                        }
                    };
                    prop_assert_eq!(taken.is_ok(), expected.is_ok(), "{:?}: {:?}", step, taken);
                    held.extend(taken);
                    bytes.held.extend(expected);
                }
                Step::Bytes(mode, list) => {
                    let (taken, expected) =
                        (world.lease_bytes(*mode, list), bytes.lease_bytes(*mode, list));
                    prop_assert_eq!(taken.is_ok(), expected.is_ok(), "{:?}", step);
                    held.extend(world.held.pop().map(Held::Lease));
                }
                Step::Release(index) if !held.is_empty() => {
                    let index = index.index(held.len());
                    drop(held.swap_remove(index));
                    drop(bytes.held.swap_remove(index));
                }
                Step::Release(_) => {}
                Step::Read(at) => {
                    let (taken, expected) =
                        (world.copy(LeaseMode::Read, at), bytes.copy(LeaseMode::Read, at));
                    prop_assert_eq!(taken, expected, "{:?}", step);
                }
                Step::Write(at) => {
                    let (taken, expected) =
                        (world.copy(LeaseMode::Write, at), bytes.copy(LeaseMode::Write, at));
                    prop_assert_eq!(taken, expected, "{:?}", step);
                }
            }
        }
        held.clear();
        prop_assert_eq!(grants.each_ref().map(BlockGrants::granted), [0, 0]);
        for region in &world.regions {
            prop_assert!(Leases::acquire(&[region.whole()], LeaseMode::Write).is_ok());
        }
    }
}

#[test]
fn blocks_that_cannot_be_granted_are_named_and_none_is() {
    let grants = small().grantable();
    let refused = |ids: &[u32]| grants.grant(ids.into()).unwrap_err();
    assert_eq!(refused(&[]), BlockGrantError::NoBlocks);
    assert_eq!(refused(&[1, 4]), BlockGrantError::OutOfRange { block: 4, blocks: 4 });
    assert_eq!(refused(&[u32::MAX]), BlockGrantError::OutOfRange { block: u32::MAX, blocks: 4 });
    assert_eq!(refused(&[0, 3, 1, 3]), BlockGrantError::Duplicate { block: 3 });
    assert_eq!(grants.granted(), 0);
    let held = grants.grant([2, 0].into()).unwrap();
    let again = grants.grant([0, 1].into()).unwrap();
    assert_eq!(grants.granted(), 3);
    assert_eq!(refused(&[3, 0, 3]), BlockGrantError::Duplicate { block: 3 });
    assert_eq!(grants.granted(), 3);
    assert_eq!(held.end()[..], [2, 0]);
    assert_eq!([0, 1, 2, 3, 4].map(|id| grants.is_granted(id)), [true, true, false, false, false]);
    // The grants of a table that is gone still hold.
    let layout = grants.layout().clone();
    drop(grants);
    let lease = |mode| layout.lease(&[1], 0..1, mode);
    let written = lease(LeaseMode::Write);
    assert!(matches!(written, Err(BlockLeaseError::Lease(LeaseError::Granted { block: 1, .. }))));
    assert!(lease(LeaseMode::Read).is_ok());
    drop(again);
    assert!(lease(LeaseMode::Write).is_ok());
}

#[test]
fn what_an_operation_writes_is_not_granted() {
    let layout = small();
    let grants = layout.grantable();
    let region = layout.parts()[1].region().id();
    let written = layout.lease(&[2], 1..2, LeaseMode::Write).unwrap();
    assert_eq!(grants.grant([1, 2].into()).unwrap_err(), BlockGrantError::Leased { region });
    assert_eq!(grants.granted(), 0);
    assert!(grants.grant([1].into()).is_ok());
    drop(written);
    let _read = layout.lease(&[2], 1..2, LeaseMode::Read).unwrap();
    assert!(grants.grant([1, 2].into()).is_ok());
}

#[test]
fn copies_are_refused_with_the_block_that_they_would_change() {
    let layout = small();
    let grants = layout.grantable();
    let (part, span) = (layout.parts()[1].region(), layout.chunk(2, 1, 0).unwrap());
    let mut bytes = vec![0; span.len];
    let read = grants.grant([1, 2].into()).unwrap();
    let refused = AccessError::Granted { block: 2 };
    assert_eq!(part.copy_from_slice(span.offset, &bytes), Err(refused));
    assert_eq!(part.copy_to_slice(span.offset, &mut bytes), Ok(()));
    assert_eq!(part.copy_from_slice(0, &bytes), Ok(()));
    drop(read);
    assert_eq!(part.copy_from_slice(span.offset, &bytes), Ok(()));
}

#[test]
fn read_only_memory_is_granted() {
    let geometry = *small().geometry();
    let region = Region::try_from(bytes::Bytes::from(vec![0u8; geometry.bytes()])).unwrap();
    let grants = Layout::fully_contiguous(geometry, region).unwrap().grantable();
    assert!(grants.grant([0].into()).is_ok());
}

/// A block does not change while it is granted, and is not granted while a copy changes it: seen from another mapping of the
/// same memory, as a peer sees it.
///
/// These made it fail: a grant that does not look for copies under way; a copy that looks for grants before it is counted.
#[test]
#[cfg_attr(miri, ignore = "opens files in memory")]
fn blocks_stand_still_while_they_are_granted() {
    const ROUNDS: usize = 20_000;
    let inner = Inner::Elements(2048);
    let dimensions =
        Dimensions { blocks: 2, layers: 2, outer: 1, page_size: 1, inner, element_width: 1 };
    let geometry = LayoutGeometry::try_from(dimensions).unwrap();
    let memory = SharedMemory::new(geometry.bytes()).unwrap();
    let peer = SharedMemory::open(&memory.name()).unwrap();
    let region = Region::try_from(memory).unwrap();
    let grants = Layout::fully_contiguous(geometry, region.clone()).unwrap().grantable();
    let block = geometry.block_len();
    let (done, written, refused) = (AtomicBool::new(false), AtomicU64::new(0), AtomicU64::new(0));
    thread::scope(|scope| {
        scope.spawn(|| {
            while !done.load(Relaxed) {
                let bytes = vec![written.load(Relaxed) as u8; block];
                let counter = match region.copy_from_slice(block, &bytes) {
                    Ok(()) => &written,
                    Err(AccessError::Granted { block: 1, .. }) => &refused,
                    Err(other) => panic!("{other}"),
                };
                counter.fetch_add(1, Relaxed);
            }
        });
        let mut rounds = 0;
        // Each of the two has its turns.
        while rounds < ROUNDS || written.load(Relaxed) == 0 || refused.load(Relaxed) == 0 {
            let grant = grants.grant([1].into()).unwrap();
            let word = |index: usize| peer.word(block / 8 + index).unwrap().load(Relaxed);
            let first = word(0);
            let still = (0..2).all(|_| (0..block / 8).all(|index| word(index) == first));
            done.store(!still, Relaxed);
            assert!(still);
            drop(grant);
            rounds += 1;
        }
        done.store(true, Relaxed);
    });
}
