//! The proof of a lease: what it covers, how long it holds, and who may use it.

use nixl_descriptor::layout::{Dimensions, Inner, Layout, LayoutGeometry};
use nixl_descriptor::{
    AccessError, Descriptor, DescriptorList, LeaseError, LeaseMode, Leased, Leases, Region,
};
use proptest::prelude::*;

const LEN: usize = 40;

fn lease(list: Vec<Descriptor>, mode: LeaseMode) -> Leased {
    Leases::acquire_list(DescriptorList::try_from(list).unwrap(), mode).unwrap()
}

fn range() -> impl Strategy<Value = (usize, usize, usize)> {
    (0..2usize, 0..LEN, 1..12usize).prop_map(|(r, start, len)| (r, start, (start + len).min(LEN)))
}

proptest! {
    #[test]
    fn it_covers_what_every_byte_of_is_in_the_list(
        list in prop::collection::vec(range(), 1..6), asked in range(),
    ) {
        let regions = [Region::zeroed(LEN).unwrap(), Region::zeroed(LEN).unwrap()];
        let descriptor = |(r, start, end): (usize, usize, usize)| -> Descriptor {
            regions[r].descriptor(start..end).unwrap()
        };
        let leased = lease(list.iter().copied().map(descriptor).collect(), LeaseMode::Read);
        let (region, start, end) = asked;
        let expected = (start..end).all(|byte| {
            list.iter().any(|(r, start, end)| *r == region && (*start..*end).contains(&byte))
        });
        prop_assert_eq!(leased.covers(&descriptor(asked)), expected);
        prop_assert_eq!(leased.descriptors().unwrap().len(), list.len());
    }

    #[test]
    fn it_covers_what_every_byte_of_is_in_the_blocks(
        blocks in prop::sample::subsequence((0..5usize).collect::<Vec<_>>(), 1..=5),
        (start, len) in (0..60usize, 1..30usize), pad in 0..3usize,
    ) {
        let geometry = LayoutGeometry::try_from(Dimensions {
            blocks: 5, layers: 2, outer: 1, page_size: 2, inner: Inner::Elements(2), element_width: 1,
        }).unwrap();
        let region = Region::zeroed(100).unwrap();
        let stride = geometry.block_len() + pad;
        let kind = nixl_descriptor::layout::LayoutKind::FullyContiguous;
        let layout = Layout::with_block_stride(geometry, kind, stride, vec![region.whole()]).unwrap();
        // The second layer only.
        let leased = Leased::from(layout.lease(&blocks, 1..2, LeaseMode::Write).unwrap());
        let expected = (start..start + len).all(|byte| {
            blocks.contains(&(byte / stride)) && (4..8).contains(&(byte % stride))
        });
        prop_assert_eq!(leased.covers(&region.descriptor(start..start + len).unwrap()), expected);
        prop_assert!(leased.descriptors().is_none());
    }
}

#[test]
fn the_lease_is_held_until_the_last_clone_is_gone() {
    let region = Region::zeroed(LEN).unwrap();
    let leased = lease(vec![region.whole()], LeaseMode::Write);
    let clone = leased.clone();
    assert!(leased.is_same(&clone) && leased.mode() == LeaseMode::Write);
    drop(leased);
    let refused = AccessError::Leased { mode: LeaseMode::Write };
    assert_eq!(region.copy_from_slice(0, &[1]), Err(refused));
    drop(clone);
    assert_eq!(region.copy_from_slice(0, &[1]), Ok(()));
}

#[test]
fn a_refused_list_leases_nothing() {
    let region = Region::zeroed(LEN).unwrap();
    let held = lease(vec![region.descriptor(..8).unwrap()], LeaseMode::Read);
    let both = vec![region.descriptor(20..).unwrap(), region.descriptor(4..10).unwrap()];
    let refused = Leases::acquire_list(both.try_into().unwrap(), LeaseMode::Write).unwrap_err();
    assert_eq!(refused, LeaseError::Conflict { region: region.id(), held: LeaseMode::Read });
    assert_eq!(region.copy_from_slice(20, &[1]), Ok(()));
    drop(held);
}

#[test]
fn what_is_written_has_one_use_at_a_time_and_what_is_read_has_many() {
    let region = Region::zeroed(LEN).unwrap();
    let writing = lease(vec![region.descriptor(..8).unwrap()], LeaseMode::Write);
    let first = writing.begin_use().unwrap();
    assert_eq!(writing.clone().begin_use().unwrap_err(), LeaseError::InUse);
    assert!(first.leased().is_same(&writing));
    drop(first);
    assert!(writing.begin_use().is_ok());

    let reading = lease(vec![region.descriptor(8..).unwrap()], LeaseMode::Read);
    let uses = [reading.begin_use().unwrap(), reading.begin_use().unwrap()];
    drop(uses);
}

#[test]
fn a_use_keeps_the_lease() {
    let region = Region::zeroed(LEN).unwrap();
    let leased = lease(vec![region.whole()], LeaseMode::Read);
    let used = leased.begin_use().unwrap();
    drop(leased);
    assert!(Leases::acquire(&[region.whole()], LeaseMode::Write).is_err());
    drop(used);
    assert!(Leases::acquire(&[region.whole()], LeaseMode::Write).is_ok());
}
