//! Ranges are checked, never clamped.

use std::ops::Bound;

use nixl_descriptor::{Descriptor, DescriptorError, DescriptorList, Region};
use proptest::prelude::*;

use crate::regions::device_region;

const LEN: usize = 50;

fn bound() -> impl Strategy<Value = Bound<usize>> {
    let position = prop_oneof![8 => 0..LEN + 5, 1 => Just(usize::MAX)];
    (0..3, position).prop_map(|(kind, at)| match kind {
        0 => Bound::Included(at),
        1 => Bound::Excluded(at),
        _ => Bound::Unbounded,
    })
}

/// What the standard library makes of the range.
fn expected(bytes: &[u8], range: (Bound<usize>, Bound<usize>)) -> Option<&[u8]> {
    bytes.get(range).filter(|part| !part.is_empty())
}

proptest! {
    #[test]
    fn a_range_is_what_a_slice_would_give(outer in (bound(), bound()), inner in (bound(), bound())) {
        let bytes: Vec<u8> = (0..LEN as u8).collect();
        let region = Region::try_from(bytes.clone()).unwrap();
        let read = |descriptor: &Descriptor| {
            let mut target = vec![0; descriptor.len()];
            region.copy_to_slice(descriptor.offset(), &mut target).unwrap();
            target
        };

        let descriptor = region.descriptor(outer);
        let part = expected(&bytes, outer);
        prop_assert_eq!(descriptor.as_ref().ok().map(read), part.map(<[u8]>::to_vec));

        if let (Ok(descriptor), Some(part)) = (descriptor, part) {
            prop_assert_eq!(descriptor.address(), region.address() + descriptor.offset() as u64);
            prop_assert_eq!(
                descriptor.slice(inner).as_ref().ok().map(read),
                expected(part, inner).map(<[u8]>::to_vec)
            );
        }
    }

    #[test]
    fn a_list_adds_up(ranges in proptest::collection::vec((0..LEN, 1..LEN), 1..20)) {
        let region = Region::zeroed(2 * LEN).unwrap();
        let descriptors: Vec<_> =
            ranges.iter().map(|&(start, len)| region.descriptor(start..start + len).unwrap()).collect();
        let list = DescriptorList::try_from(descriptors).unwrap();
        prop_assert_eq!(list.len(), ranges.len());
        prop_assert_eq!(list.total_bytes(), ranges.iter().map(|&(_, len)| len as u64).sum::<u64>());
        let back: Vec<_> = list.iter().map(|d| (d.offset(), d.len())).collect();
        prop_assert_eq!(back, ranges);
    }
}

#[test]
fn errors_tell_empty_from_outside() {
    let region = Region::zeroed(8).unwrap();
    assert_eq!(
        region.descriptor(3..3).unwrap_err(),
        DescriptorError::ZeroLength { start: 3, end: 3 }
    );
    assert_eq!(
        region.descriptor(8..).unwrap_err(),
        DescriptorError::ZeroLength { start: 8, end: 8 }
    );
    assert_eq!(
        region.descriptor(..9).unwrap_err(),
        DescriptorError::OutOfBounds { start: 0, end: 9, len: 8 }
    );
    assert_eq!(
        region.descriptor(2..=usize::MAX).unwrap_err(),
        DescriptorError::OutOfBounds { start: 2, end: usize::MAX, len: 8 }
    );
}

#[test]
fn a_list_is_not_empty() {
    assert_eq!(DescriptorList::try_from(Vec::new()).unwrap_err(), DescriptorError::EmptyList);
}

#[test]
fn a_total_beyond_64_bits_is_refused() {
    let huge = device_region(1, isize::MAX as usize).unwrap().whole();
    assert!(DescriptorList::try_from(vec![huge.clone(); 2]).is_ok());
    assert_eq!(
        DescriptorList::try_from(vec![huge; 3]).unwrap_err(),
        DescriptorError::TotalOverflow
    );
}

#[test]
fn descriptors_keep_the_region() {
    let region = Region::try_from(vec![9; 4]).unwrap();
    let descriptor = region.descriptor(1..).unwrap();
    drop(region);
    assert_eq!(descriptor.region().to_vec().unwrap(), [9; 4]);
}
