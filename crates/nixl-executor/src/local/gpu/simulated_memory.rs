//! The memory that simulated GPUs can access, as the CUDA driver would see it.
#![allow(unsafe_code, reason = "makes regions of memory that stands for a GPU's")]

use std::collections::BTreeMap;
use std::fmt;
use std::ptr::NonNull;
use std::sync::{Arc, Mutex, Weak};

use nixl_descriptor::{Access, AllocationKind, Region, RegionError};
use nixl_device::Device;
use nixl_device::locks::lock;

use crate::local::plan::strategy::GpuCapabilities;

/// All memory of simulated GPUs, with memory pinned or opened for them.
#[derive(Default)]
pub(crate) struct Memories(Mutex<List>);

/// By address, then by time: memory that is pinned twice is listed twice.
#[derive(Default)]
struct List {
    by_address: BTreeMap<(u64, u64), Listed>,
    last: u64,
}

/// Listed memory, removed on drop, since addresses are reused.
struct Listed {
    place: Place,
    made: Made,
    bytes: Weak<Region>,
}

/// How memory of a GPU was allocated, and its types of handle.
pub(crate) type Made = (AllocationKind, u32);

/// The access to memory.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Place {
    /// Host memory, for every GPU.
    Pinned,
    /// Allocated on this GPU, for it and its peers.
    Gpu(u32),
    /// Another process's memory, opened for this GPU alone.
    Opened(u32),
}

/// The reason why a GPU cannot reach a range.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Unreachable {
    /// Host memory that is not pinned, or no allocation.
    Pageable,
    /// The range leaves its allocation.
    Torn,
    /// Memory of a GPU that is no peer, or opened for another.
    NoPeer(Place),
}

impl fmt::Display for Unreachable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Pageable => f.write_str("no allocation of a GPU and no pinned memory is there"),
            Self::Torn => f.write_str("the range is not inside one allocation"),
            Self::NoPeer(Place::Opened(gpu)) => write!(f, "it is open for cuda:{gpu} alone"),
            Self::NoPeer(Place::Gpu(gpu)) => write!(f, "access to cuda:{gpu} is not enabled"),
            Self::NoPeer(Place::Pinned) => f.write_str("it is pinned for others"),
        }
    }
}

impl Memories {
    /// Memory of a device over the bytes of `inner`, which is listed for as long as it lives.
    pub(crate) fn list(
        &self,
        inner: Region,
        device: Device,
        place: Place,
    ) -> Result<Region, RegionError> {
        self.list_as(inner, device, place, (AllocationKind::Legacy, 0))
    }

    /// The same for memory of a GPU that was allocated so.
    pub(crate) fn list_as(
        &self,
        inner: Region,
        device: Device,
        place: Place,
        made: Made,
    ) -> Result<Region, RegionError> {
        let (inner, access) = (Arc::new(inner), Access::ReadWrite);
        let base = NonNull::new(inner.address() as *mut u8).ok_or(RegionError::Empty)?;
        let mut list = lock(&self.0);
        list.by_address.retain(|_, other| other.bytes.strong_count() > 0);
        list.last += 1;
        let key = (inner.address(), list.last);
        list.by_address.insert(key, Listed { place, made, bytes: Arc::downgrade(&inner) });
        // SAFETY: the inner region has these bytes as long as it lives, and nothing reaches them but by address, or by its
        // name as peers do.
        unsafe { Region::from_raw_parts(base, inner.len(), device, access, inner) }
    }

    /// The memory at an address.
    pub(crate) fn find(&self, address: u64) -> Option<(Arc<Region>, Place)> {
        self.find_made(address).map(|(bytes, place, _)| (bytes, place))
    }

    /// The memory at an address, and how it was allocated.
    pub(crate) fn find_made(&self, address: u64) -> Option<(Arc<Region>, Place, Made)> {
        let list = lock(&self.0);
        // Live memory does not overlap, so only the last entry before the address can contain it.
        let before = list.by_address.range(..=(address, u64::MAX)).rev();
        let living = |listed: &Listed| Some((listed.living()?, listed.made));
        let ((bytes, place), made) = before.map(|(_, listed)| listed).find_map(living)?;
        (end(&bytes) > address).then_some((bytes, place, made))
    }

    /// A snapshot, held until the drop.
    pub(crate) fn now(&self) -> Reach {
        let list = lock(&self.0);
        Reach(list.by_address.values().filter_map(Listed::living).collect())
    }
}

impl Listed {
    fn living(&self) -> Option<(Arc<Region>, Place)> {
        Some((self.bytes.upgrade()?, self.place))
    }
}

/// All listed memory at one time, by address.
pub(crate) struct Reach(Vec<(Arc<Region>, Place)>);

impl Reach {
    /// Whether `gpu` reaches all of a range that is not empty.
    pub(crate) fn check(
        &self,
        can: &GpuCapabilities,
        gpu: u32,
        address: u64,
        len: u64,
    ) -> Result<(), Unreachable> {
        let after = self.0.partition_point(|(bytes, _)| bytes.address() <= address);
        let (before, after) = self.0.split_at(after);
        let until = address.saturating_add(len);
        match before.last().filter(|(bytes, _)| end(bytes) > address) {
            Some((bytes, _)) if until > end(bytes) => Err(Unreachable::Torn),
            Some((_, Place::Pinned)) => Ok(()),
            Some((_, Place::Opened(by))) if *by == gpu => Ok(()),
            Some((_, Place::Gpu(of))) if *of == gpu || can.reach_each_other(*of, gpu) => Ok(()),
            Some((_, place)) => Err(Unreachable::NoPeer(*place)),
            None if after.first().is_some_and(|(next, _)| next.address() < until) => {
                Err(Unreachable::Torn)
            }
            None => Err(Unreachable::Pageable),
        }
    }
}

fn end(bytes: &Region) -> u64 {
    bytes.address() + bytes.len() as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_gpu_reaches_its_own_memory_that_of_peers_and_what_is_pinned_and_nothing_beyond() {
        let memories = Memories::default();
        let list =
            |device, place| memories.list(Region::zeroed(4096).unwrap(), device, place).unwrap();
        let own = list(Device::cuda(0), Place::Gpu(0));
        let peer = list(Device::cuda(1), Place::Gpu(1));
        let far = list(Device::cuda(2), Place::Gpu(2));
        let pinned = list(Device::HOST, Place::Pinned);
        let opened = list(Device::cuda(0), Place::Opened(0));
        let other = list(Device::cuda(1), Place::Opened(1));
        let pageable = Region::zeroed(4096).unwrap();
        let can = GpuCapabilities { gpus: 3, peers: vec![(0, 1)], ..GpuCapabilities::default() };
        let reach = memories.now();
        let check =
            |region: &Region, at: u64, len| reach.check(&can, 0, region.address() + at, len);
        for region in [&own, &peer, &pinned, &opened] {
            assert_eq!(check(region, 0, 4096), Ok(()));
            assert_eq!(check(region, 4000, 97), Err(Unreachable::Torn));
        }
        assert_eq!(check(&far, 0, 1), Err(Unreachable::NoPeer(Place::Gpu(2))));
        assert_eq!(check(&other, 0, 1), Err(Unreachable::NoPeer(Place::Opened(1))));
        assert_eq!(check(&pageable, 0, 4096), Err(Unreachable::Pageable));
        assert_eq!(reach.check(&can, 0, own.address() - 1, 2).unwrap_err(), Unreachable::Torn);
        // What is gone is not there any more.
        let address = own.address();
        drop((own, reach));
        assert_eq!(memories.now().check(&can, 0, address, 1), Err(Unreachable::Pageable));
    }
}
