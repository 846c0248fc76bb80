//! The sources of regions, and their descriptions.
#![allow(unsafe_code)]

use std::collections::HashSet;
use std::ptr::{self, NonNull};

use bytes::{Bytes, BytesMut};
use memmap2::MmapMut;
use nixl_descriptor::{Access, AccessError, Region, RegionError};
use nixl_device::Device;
use proptest::prelude::*;

/// A region over made-up device memory.
pub(crate) fn device_region(address: usize, len: usize) -> Result<Region, RegionError> {
    let ptr = NonNull::new(ptr::without_provenance_mut(address)).unwrap();
    // SAFETY: memory of a device is only a number to this crate, and no engine gets to see this one.
    unsafe { Region::from_raw_parts(ptr, len, Device::cuda(1), Access::ReadWrite, ()) }
}

proptest! {
    #[test]
    fn every_source_keeps_its_bytes(bytes in proptest::collection::vec(any::<u8>(), 1..300), patch: u8) {
        let mut map = MmapMut::map_anon(bytes.len()).unwrap();
        map.copy_from_slice(&bytes);
        let writable = [
            Region::try_from(bytes.clone()).unwrap(),
            Region::try_from(bytes.clone().into_boxed_slice()).unwrap(),
            Region::try_from(BytesMut::from(&bytes[..])).unwrap(),
            Region::try_from(map).unwrap(),
        ];
        for region in &writable {
            prop_assert_eq!(region.access(), Access::ReadWrite);
            prop_assert_eq!(region.device(), Device::HOST);
            prop_assert_eq!(region.len(), bytes.len());
            prop_assert_eq!(region.to_vec().unwrap(), bytes.clone());
            region.copy_from_slice(bytes.len() - 1, &[patch]).unwrap();
        }
        let mut patched = bytes.clone();
        *patched.last_mut().unwrap() = patch;
        let [vec, boxed, bytes_mut, map] = writable;
        prop_assert_eq!(&vec.try_into_vec().unwrap(), &patched);
        prop_assert_eq!(&boxed.try_into_vec().unwrap(), &patched);
        prop_assert_eq!(&bytes_mut.try_into_bytes_mut().unwrap()[..], &patched[..]);
        prop_assert_eq!(&map.try_into_inner::<MmapMut>().unwrap()[..], &patched[..]);
    }

    #[test]
    #[cfg_attr(miri, ignore = "protects pages")]
    fn read_only_sources_are_never_written(bytes in proptest::collection::vec(any::<u8>(), 1..300)) {
        let mut map = MmapMut::map_anon(bytes.len()).unwrap();
        map.copy_from_slice(&bytes);
        let shared = Bytes::from(bytes.clone());
        let regions = [
            Region::try_from(shared.clone()).unwrap(),
            Region::try_from(map.make_read_only().unwrap()).unwrap(),
        ];
        let scratch = Region::zeroed(bytes.len()).unwrap();
        for region in &regions {
            prop_assert_eq!(region.access(), Access::ReadOnly);
            prop_assert_eq!(region.copy_from_slice(0, &[1]), Err(AccessError::ReadOnly));
            prop_assert_eq!(
                nixl_descriptor::copy(&scratch.whole(), &region.whole()),
                Err(AccessError::ReadOnly)
            );
            prop_assert_eq!(region.to_vec().unwrap(), bytes.clone());
        }
        let [region, _] = regions;
        prop_assert_eq!(region.try_into_inner::<Bytes>().unwrap(), shared);
    }

    #[test]
    fn typed_memory_keeps_its_values(values in proptest::collection::vec(any::<u32>(), 1..100)) {
        let region = Region::from_pod(values.clone()).unwrap();
        prop_assert_eq!(region.len(), values.len() * 4);
        prop_assert_eq!(region.address() % 4, 0);
        region.copy_from_slice(0, &7u32.to_ne_bytes()).unwrap();
        let back = region.try_into_pod::<u32>().unwrap();
        prop_assert_eq!(back[0], 7);
        prop_assert_eq!(&back[1..], &values[1..]);
    }
}

#[test]
fn zeroed_memory_is_zero_and_page_aligned() {
    let region = Region::zeroed(10_000).unwrap();
    assert_eq!(region.address() % 4096, 0);
    assert_eq!(region.to_vec().unwrap(), vec![0; 10_000]);
}

#[test]
fn empty_memory_is_refused() {
    let spare: Vec<u8> = Vec::with_capacity(8);
    assert_eq!(Region::try_from(spare).unwrap_err(), RegionError::Empty);
    assert_eq!(Region::try_from(Vec::new().into_boxed_slice()).unwrap_err(), RegionError::Empty);
    assert_eq!(Region::try_from(Bytes::new()).unwrap_err(), RegionError::Empty);
    assert_eq!(Region::try_from(BytesMut::with_capacity(8)).unwrap_err(), RegionError::Empty);
    assert_eq!(Region::from_pod(Vec::<u64>::new()).unwrap_err(), RegionError::Empty);
    assert_eq!(Region::zeroed(0).unwrap_err(), RegionError::Empty);
    assert_eq!(device_region(0x1000, 0).unwrap_err(), RegionError::Empty);
}

#[test]
fn memory_that_cannot_exist_is_refused() {
    assert!(matches!(
        Region::zeroed(usize::MAX),
        Err(RegionError::OutOfMemory { len: usize::MAX, .. })
    ));
    let end = usize::MAX - 9;
    assert_eq!(
        device_region(end, 10).unwrap_err(),
        RegionError::AddressOverflow { address: end as u64, len: 10 }
    );
    assert_eq!(device_region(end, 9).unwrap().len(), 9);
}

#[test]
fn the_host_cannot_copy_device_memory() {
    let device = device_region(0x7000_0000, 64).unwrap();
    let host = Region::zeroed(64).unwrap();
    let refused = Err(AccessError::NotHost { device: Device::cuda(1) });
    assert_eq!(device.copy_to_slice(0, &mut [0; 4]), refused);
    assert_eq!(device.copy_from_slice(0, &[0; 4]), refused);
    assert_eq!(device.to_vec().map(drop), refused);
    assert_eq!(nixl_descriptor::copy(&host.whole(), &device.whole()), refused);
    assert_eq!(nixl_descriptor::copy(&device.whole(), &host.whole()), refused);
}

#[test]
fn ids_are_not_reused() {
    let ids: HashSet<_> = (0..100).map(|_| Region::zeroed(1).unwrap().id()).collect();
    assert_eq!(ids.len(), 100);
}

#[test]
fn debug_shows_no_contents() {
    let region = Region::try_from(b"secret".to_vec()).unwrap();
    let shown = format!("{region:?} {:?}", region.whole());
    // Neither as text nor as numbers; one number alone may be in the region's id.
    assert!(!shown.contains("secret") && !shown.contains("115, 101"), "{shown}");
    assert!(shown.contains("len: 6"), "{shown}");
}
