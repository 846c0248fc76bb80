//! Leases against a model that looks at every byte.

use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;

use bytes::Bytes;
use nixl_descriptor::{AccessError, LeaseError, LeaseMode, LeaseSet, Leases, Region};
use proptest::prelude::*;

const REGIONS: usize = 3;
const LEN: usize = 24;

/// A region and a range in it.
type Range = (usize, usize, usize);

#[derive(Clone, Debug)]
enum Step {
    Acquire(LeaseMode, Vec<Range>),
    Release(prop::sample::Index),
    Read(Range),
    Write(Range),
}

fn range() -> impl Strategy<Value = Range> {
    (0..REGIONS, 0..LEN, 1..6usize)
        .prop_map(|(region, start, len)| (region, start, (start + len).min(LEN)))
}

fn step() -> impl Strategy<Value = Step> {
    let mode = prop_oneof![Just(LeaseMode::Read), Just(LeaseMode::Write)];
    prop_oneof![
        3 => (mode, prop::collection::vec(range(), 1..6)).prop_map(|(mode, list)| Step::Acquire(mode, list)),
        2 => any::<prop::sample::Index>().prop_map(Step::Release),
        1 => range().prop_map(Step::Read),
        1 => range().prop_map(Step::Write),
    ]
}

fn in_range(ranges: &[Range], region: usize, byte: usize) -> usize {
    ranges.iter().filter(|(r, start, end)| *r == region && (*start..*end).contains(&byte)).count()
}

fn all_bytes() -> impl Iterator<Item = (usize, usize)> {
    (0..REGIONS).flat_map(|region| (0..LEN).map(move |byte| (region, byte)))
}

fn conflict(held: &[(LeaseMode, Vec<Range>)], mode: LeaseMode, ranges: &[Range]) -> bool {
    all_bytes().any(|(region, byte)| {
        in_range(ranges, region, byte) > 0
            && held.iter().any(|(other, list)| {
                (mode == LeaseMode::Write || *other == LeaseMode::Write)
                    && in_range(list, region, byte) > 0
            })
    })
}

proptest! {
    #[test]
    fn leases_agree_with_the_model(steps in prop::collection::vec(step(), 1..60)) {
        let regions: Vec<Region> = (0..REGIONS).map(|_| Region::try_from(vec![0; LEN]).unwrap()).collect();
        let mut model: Vec<(LeaseMode, Vec<Range>)> = Vec::new();
        let mut held: Vec<LeaseSet> = Vec::new();
        for step in steps {
            match step {
                Step::Acquire(mode, list) => {
                    let descriptors: Vec<_> =
                        list.iter().map(|&(r, start, end)| regions[r].descriptor(start..end).unwrap()).collect();
                    let overlaps = mode == LeaseMode::Write
                        && all_bytes().any(|(region, byte)| in_range(&list, region, byte) > 1);
                    match Leases::acquire(&descriptors, mode) {
                        Ok(set) => {
                            prop_assert!(!overlaps && !conflict(&model, mode, &list));
                            held.push(set);
                            model.push((mode, list));
                        }
                        Err(LeaseError::Overlap { .. }) => prop_assert!(overlaps),
                        Err(LeaseError::Conflict { .. }) => prop_assert!(conflict(&model, mode, &list)),
                        Err(other) => prop_assert!(false, "{other}"),
                    }
                }
                Step::Release(index) if !held.is_empty() => {
                    let index = index.index(held.len());
                    drop(held.swap_remove(index));
                    model.swap_remove(index);
                }
                Step::Release(_) => {}
                Step::Read((region, start, end)) => {
                    let blocked = conflict(&model, LeaseMode::Read, &[(region, start, end)]);
                    let result = regions[region].copy_to_slice(start, &mut vec![0; end - start]);
                    let expected = if blocked { Err(AccessError::Leased { mode: LeaseMode::Write }) } else { Ok(()) };
                    prop_assert_eq!(result, expected);
                }
                Step::Write((region, start, end)) => {
                    let blocked = conflict(&model, LeaseMode::Write, &[(region, start, end)]);
                    let result = regions[region].copy_from_slice(start, &vec![0; end - start]);
                    prop_assert_eq!(result.is_err(), blocked);
                    let leased = matches!(result, Err(AccessError::Leased { .. }));
                    prop_assert!(!blocked || leased);
                }
            }
        }
        // Everything is released at the end, also by attempts that failed half-way.
        held.clear();
        for region in &regions {
            prop_assert!(Leases::acquire(&[region.whole()], LeaseMode::Write).is_ok());
        }
    }
}

#[test]
fn an_empty_list_is_refused() {
    assert_eq!(Leases::acquire(&[], LeaseMode::Read).unwrap_err(), LeaseError::Empty);
}

#[test]
fn read_only_memory_is_not_leased_for_writing() {
    let region = Region::try_from(Bytes::from_static(b"constant")).unwrap();
    assert_eq!(
        Leases::acquire(&[region.whole()], LeaseMode::Write).unwrap_err(),
        LeaseError::ReadOnly { region: region.id() }
    );
    let held = Leases::acquire(&[region.whole()], LeaseMode::Read).unwrap();
    assert_eq!(held.mode(), LeaseMode::Read);
}

#[test]
fn a_lease_keeps_the_region() {
    let region = Region::zeroed(8).unwrap();
    let lease = Leases::acquire(&[region.whole()], LeaseMode::Read).unwrap();
    let refused = region.try_into_inner::<memmap2::MmapMut>().unwrap_err();
    drop(lease);
    assert!(refused.into_region().try_into_inner::<memmap2::MmapMut>().is_ok());
}

/// Of threads that want to write the same bytes, at most one has the lease at any time.
#[test]
fn write_leases_exclude_each_other_between_threads() {
    let rounds = if cfg!(miri) { 20 } else { 5000 };
    let regions = [Region::zeroed(8).unwrap(), Region::zeroed(8).unwrap()];
    let holders = AtomicU32::new(0);
    thread::scope(|scope| {
        for flip in [false, true, false] {
            let (regions, holders) = (&regions, &holders);
            scope.spawn(move || {
                let mut list = regions.each_ref().map(Region::whole);
                if flip {
                    list.reverse();
                }
                for _ in 0..rounds {
                    let Ok(lease) = Leases::acquire(&list, LeaseMode::Write) else { continue };
                    assert_eq!(holders.fetch_add(1, Ordering::SeqCst), 0);
                    holders.fetch_sub(1, Ordering::SeqCst);
                    drop(lease);
                }
            });
        }
    });
    assert!(Leases::acquire(&regions.each_ref().map(Region::whole), LeaseMode::Write).is_ok());
}
