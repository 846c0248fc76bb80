//! Bytes of descriptors and lists, against a model that is a vector.

use nixl_descriptor::{AccessError, Descriptor, DescriptorList, LeaseMode, Leases, Region};
use proptest::prelude::*;

const LEN: usize = 64;

fn region() -> (Region, Vec<u8>) {
    let bytes: Vec<u8> = (0..LEN as u8).collect();
    (Region::try_from(bytes.clone()).unwrap(), bytes)
}

fn range() -> impl Strategy<Value = (usize, usize)> {
    (0..LEN).prop_flat_map(|start| (Just(start), start + 1..=LEN))
}

proptest! {
    #[test]
    fn a_descriptor_is_a_part_of_its_region((start, end) in range(), offset in 0..LEN + 2, len in 0..LEN + 2) {
        let (region, mut model) = region();
        let part = region.descriptor(start..end).unwrap();
        prop_assert_eq!(part.to_vec().unwrap(), &model[start..end]);

        let size = end - start;
        let refused = AccessError::OutOfBounds { offset, len, size };
        let mut read = vec![0; len];
        let written = vec![0xAB; len];
        if offset + len <= size {
            part.copy_to_slice(offset, &mut read).unwrap();
            prop_assert_eq!(&read, &model[start + offset..start + offset + len]);
            part.copy_from_slice(offset, &written).unwrap();
            model[start + offset..start + offset + len].copy_from_slice(&written);
        } else {
            prop_assert_eq!(part.copy_to_slice(offset, &mut read), Err(refused.clone()));
            prop_assert_eq!(part.copy_from_slice(offset, &written), Err(refused));
        }
        prop_assert_eq!(region.to_vec().unwrap(), model);
    }

    #[test]
    fn a_list_is_its_descriptors_one_after_the_other(ranges in prop::collection::vec(range(), 1..6)) {
        let (region, mut model) = region();
        let parts: Result<Vec<Descriptor>, _> =
            ranges.iter().map(|(start, end)| region.descriptor(*start..*end)).collect();
        let list = DescriptorList::try_from(parts.unwrap()).unwrap();
        let bytes: Vec<u8> =
            ranges.iter().flat_map(|(start, end)| model[*start..*end].to_vec()).collect();
        prop_assert_eq!(list.to_vec().unwrap(), &*bytes);

        let source: Vec<u8> = bytes.iter().map(|byte| !byte).collect();
        list.copy_from_slice(&source).unwrap();
        let mut at = 0;
        for (start, end) in ranges {
            let len = end - start;
            model[start..end].copy_from_slice(&source[at..at + len]);
            at += len;
        }
        prop_assert_eq!(region.to_vec().unwrap(), model);

        let short = list.copy_from_slice(&source[1..]);
        let mismatch = AccessError::LengthMismatch { src: source.len() - 1, dst: source.len() };
        prop_assert_eq!(short, Err(mismatch));
    }
}

#[test]
fn a_lease_keeps_copies_away() {
    let (region, _) = region();
    let list = DescriptorList::from(region.descriptor(8..16).unwrap());
    let leased = Leases::acquire(list.as_slice(), LeaseMode::Write).unwrap();
    let refused = AccessError::Leased { mode: LeaseMode::Write };
    assert_eq!(list.to_vec(), Err(refused.clone()));
    assert_eq!(list.copy_from_slice(&[0; 8]), Err(refused));
    region.descriptor(..8).unwrap().copy_from_slice(0, &[1; 8]).unwrap();
    drop(leased);
    assert_eq!(list.to_vec().unwrap(), (8..16).collect::<Vec<u8>>());
}
