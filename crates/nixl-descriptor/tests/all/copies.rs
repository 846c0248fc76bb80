//! Copies move the right bytes, heed leases, and threads do not see each other's half done.
#![allow(unsafe_code, reason = "engines copy between registrations regardless of leases")]

use std::sync::Arc;
use std::thread;

use nixl_descriptor::{
    AccessError, LeaseMode, LeaseUse, Leased, Leases, Region, RegionSpan, Registrar, Registration,
    copy, copy_range, copy_range_to_slice, copy_range_unchecked, copy_spans,
};
use proptest::prelude::*;

use crate::fake::{Engine, Log};

const LEN: usize = 40;

proptest! {
    #[test]
    fn a_copy_is_what_a_slice_would_do(
        same_region: bool, from in (0..LEN, 0..LEN), to in (0..LEN, 0..LEN),
        offsets in (0..LEN, 0..LEN), len in 0..LEN,
    ) {
        let (from, to) = (from.0..(from.0 + from.1 + 1).min(LEN), to.0..(to.0 + to.1 + 1).min(LEN));
        let source: Vec<u8> = (0..LEN as u8).collect();
        let mut expected = if same_region { source.clone() } else { vec![0xff; LEN] };
        let a = Region::try_from(source.clone()).unwrap();
        let b = if same_region { a.clone() } else { Region::try_from(expected.clone()).unwrap() };
        let (src, dst) = (a.descriptor(from.clone()).unwrap(), b.descriptor(to.clone()).unwrap());

        let read = source[from].get(offsets.0..offsets.0 + len);
        let written = expected[to].get_mut(offsets.1..offsets.1 + len);
        let fits = read.is_some() && written.is_some();
        if let (Some(read), Some(written)) = (read, written) {
            written.copy_from_slice(read);
        }
        let result = copy_range(&src, offsets.0, &dst, offsets.1, len, &[]);
        prop_assert_eq!(result.is_ok(), fits);
        let outside = matches!(result, Err(AccessError::OutOfBounds { .. }));
        prop_assert!(fits || outside);
        prop_assert_eq!(b.to_vec().unwrap(), expected);

        let whole = copy(&src, &dst);
        prop_assert_eq!(whole.is_ok(), src.len() == dst.len());
    }

    #[test]
    fn slices_must_fit(offset in prop_oneof![0..2 * LEN, Just(usize::MAX)], len in 0..2 * LEN) {
        let region = Region::try_from(vec![3; LEN]).unwrap();
        let fits = offset.checked_add(len).is_some_and(|end| end <= LEN);
        let mut target = vec![0; len];
        let outside = AccessError::OutOfBounds { offset, len, size: LEN };
        let expected = if fits { Ok(()) } else { Err(outside) };
        prop_assert_eq!(region.copy_to_slice(offset, &mut target), expected.clone());
        prop_assert_eq!(target, vec![if fits { 3 } else { 0 }; len]);
        prop_assert_eq!(region.copy_from_slice(offset, &vec![4; len]), expected);
    }
}

/// Copies in opposite directions neither deadlock nor tear: every copy writes one value everywhere.
#[test]
fn threads_see_whole_copies() {
    let (len, rounds) = if cfg!(miri) { (64, 10) } else { (4096, 2000) };
    let a = Region::try_from(vec![1; len]).unwrap();
    let b = Region::try_from(vec![2; len]).unwrap();
    let uniform = |region: &Region| {
        let bytes = region.to_vec().unwrap();
        assert!(bytes.iter().all(|byte| *byte == bytes[0]), "a copy was seen half done");
    };
    let (there, back) = ((a.whole(), b.whole()), (b.whole(), a.whole()));
    thread::scope(|scope| {
        for (source, target) in [&there, &back] {
            scope.spawn(move || (0..rounds).for_each(|_| copy(source, target).unwrap()));
        }
        scope
            .spawn(|| (0..rounds).for_each(|i| a.copy_from_slice(0, &vec![i as u8; len]).unwrap()));
        scope.spawn(|| {
            (0..rounds).for_each(|_| {
                uniform(&a);
                uniform(&b)
            })
        });
    });
}

/// Writers of disjoint halves do not disturb each other.
#[test]
fn threads_write_disjoint_parts() {
    let region = Arc::new(Region::zeroed(64).unwrap());
    thread::scope(|scope| {
        for part in 0..4u8 {
            let region = &region;
            scope.spawn(move || {
                for round in 0..50 {
                    region.copy_from_slice(16 * usize::from(part), &[part + round; 16]).unwrap();
                }
            });
        }
    });
    let bytes = region.to_vec().unwrap();
    let expected: Vec<u8> = (0..4u8).flat_map(|part| [part + 49; 16]).collect();
    assert_eq!(bytes, expected);
}

fn lease(region: &Region, mode: LeaseMode) -> Leased {
    Leases::acquire_list(region.whole().into(), mode).unwrap()
}

#[test]
fn a_copy_does_not_get_in_the_way_of_operations() {
    let (a, b) = (Region::zeroed(40).unwrap(), Region::zeroed(40).unwrap());
    let copies =
        || [copy(&a.whole(), &b.whole()), copy_range(&a.whole(), 3, &b.whole(), 0, 2, &[])];
    let refused = |mode| Err(AccessError::Leased { mode });
    for (region, mode, expected) in [
        (&b, LeaseMode::Write, refused(LeaseMode::Write)),
        (&b, LeaseMode::Read, refused(LeaseMode::Read)),
        (&a, LeaseMode::Write, refused(LeaseMode::Write)),
        (&a, LeaseMode::Read, Ok(())),
    ] {
        let leased = lease(region, mode);
        assert_eq!(copies(), [expected.clone(), expected]);
        drop(leased);
        assert_eq!(copies(), [Ok(()), Ok(())]);
    }
}

#[test]
fn an_operation_copies_what_it_has_leased_itself() {
    let a = Region::try_from(vec![7; 40]).unwrap();
    let b = Region::zeroed(40).unwrap();
    let (reads, writes) = (lease(&a, LeaseMode::Read), lease(&b, LeaseMode::Write));
    let (reading, writing) = (reads.begin_use().unwrap(), writes.begin_use().unwrap());
    let (a, b) = (a.whole(), b.whole());
    let refused = |mode| Err(AccessError::Leased { mode });
    assert_eq!(copy_range(&a, 0, &b, 30, 10, &[&reading, &writing]), Ok(()));
    // What a lease to read covers may be read without it, and not be written with it.
    assert_eq!(copy_range(&a, 0, &b, 20, 10, &[&writing]), Ok(()));
    assert_eq!(copy_range(&a, 0, &b, 0, 10, &[&reading]), refused(LeaseMode::Write));
    assert_eq!(copy_range(&b, 0, &a, 0, 10, &[&reading, &writing]), refused(LeaseMode::Read));
    // SAFETY: nothing else uses this test's memory.
    assert_eq!(unsafe { copy_range_unchecked(&a, 0, &b, 10, 10) }, Ok(()));
    drop((reads, writes, reading, writing));
    assert_eq!(b.region().to_vec().unwrap()[..], [[0; 10], [7; 10], [7; 10], [7; 10]].concat());
}

#[test]
fn an_operation_looks_at_what_it_has_leased_itself() {
    let region = Region::try_from((0..40).collect::<Vec<u8>>()).unwrap();
    let descriptor = region.descriptor(10..30).unwrap();
    let look = |offset, len, held: &[&LeaseUse]| {
        let mut bytes = vec![0xee; len];
        copy_range_to_slice(&descriptor, offset, &mut bytes, held).map(|()| bytes)
    };
    let outside = |offset, len| Err(AccessError::OutOfBounds { offset, len, size: 20 });
    assert_eq!(look(17, 4, &[]), outside(17, 4));
    assert_eq!(look(usize::MAX, 2, &[]), outside(usize::MAX, 2));
    assert_eq!(look(20, 0, &[]), Ok(vec![]));
    let part = region.descriptor(..25).unwrap();
    let writes = Leases::acquire_list(part.into(), LeaseMode::Write).unwrap();
    let writing = writes.begin_use().unwrap();
    assert_eq!(look(12, 3, &[&writing]), Ok(vec![22, 23, 24]));
    let refused = Err(AccessError::Leased { mode: LeaseMode::Write });
    assert_eq!(look(12, 3, &[]), refused);
    assert_eq!(look(12, 4, &[&writing]), refused, "it has leased a part of them");
    assert_eq!(look(15, 3, &[]), Ok(vec![25, 26, 27]));
}

#[test]
fn a_lease_of_a_part_is_no_proof_for_the_whole() {
    let (a, b) = (Region::zeroed(40).unwrap(), Region::zeroed(40).unwrap());
    let part = b.descriptor(..20).unwrap();
    let own = Leases::acquire_list(part.into(), LeaseMode::Write).unwrap();
    let other = Leases::acquire(&[b.descriptor(20..).unwrap()], LeaseMode::Write).unwrap();
    let used = own.begin_use().unwrap();
    let (a, b) = (a.whole(), b.whole());
    assert_eq!(copy_range(&a, 0, &b, 0, 20, &[&used]), Ok(()));
    let refused = Err(AccessError::Leased { mode: LeaseMode::Write });
    assert_eq!(copy_range(&a, 0, &b, 10, 20, &[&used]), refused);
    drop(other);
}

#[test]
fn engines_copy_between_registrations_within_bounds() {
    let registrar: Arc<dyn Registrar> = Engine::new(&Log::default());
    let source = Region::try_from((0..40).collect::<Vec<u8>>()).unwrap();
    let target = Region::zeroed(40).unwrap();
    let read_only = Region::try_from(bytes::Bytes::from_static(&[9; 40])).unwrap();
    let [from, to, fixed] =
        [&source, &target, &read_only].map(|region| Registration::new(&registrar, region).unwrap());
    let copy_spans = |from: &RegionSpan, a, to: &RegionSpan, b, len| {
        // SAFETY: nothing else uses this test's memory.
        unsafe { copy_spans(from, a, to, b, len) }
    };
    copy_spans(from.span(), 10, to.span(), 2, 3).unwrap();
    assert_eq!(target.to_vec().unwrap()[..6], [0, 0, 10, 11, 12, 0]);
    copy_spans(from.span(), 0, from.span(), 1, 39).unwrap();
    assert_eq!(source.to_vec().unwrap()[..4], [0, 0, 1, 2]);
    for (a, b, len) in [(1, 0, 40), (0, 1, 40), (usize::MAX, 0, 1), (0, 0, usize::MAX)] {
        let refused = copy_spans(from.span(), a, to.span(), b, len);
        assert!(matches!(refused, Err(AccessError::OutOfBounds { .. })));
    }
    assert_eq!(copy_spans(from.span(), 0, fixed.span(), 0, 1), Err(AccessError::ReadOnly));
}
