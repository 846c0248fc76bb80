//! The shares that an offer names to other processes of this host.

use nixl_descriptor::{Descriptor, DescriptorList, GpuAllocation, Region, SharedName};
use nixl_device::DeviceKind;
use nixl_metadata::{Share, ShareKind};

use super::RemoteMemoryKey;
use crate::local::{GpuBackend, MemoryKind, SharedHandle, allocation_of};
use crate::planner::Export;

/// The memory under `list` that other processes can open: allocations of GPUs, and host memory
/// made for it. What cannot be shared is left out: peers then take another path.
pub(crate) fn shares(gpus: &dyn GpuBackend, list: &DescriptorList) -> Vec<Share> {
    let mut shares = Vec::new();
    let mut first = 0;
    for run in list.as_slice().chunk_by(|a, b| is_one_share(a.region(), b.region())) {
        let range = first..first + run.len();
        first = range.end;
        if let Some((kind, offset)) = share(gpus, run) {
            shares.push(Share::new(range, kind, offset));
        }
    }
    shares
}

/// Whether both lie in one allocation, or in one file.
fn is_one_share(a: &Region, b: &Region) -> bool {
    a.id() == b.id() || a.shared_name().is_some_and(|name| b.shared_name() == Some(name))
}

fn share(gpus: &dyn GpuBackend, run: &[Descriptor]) -> Option<(ShareKind, u64)> {
    let first = run.first()?;
    if first.device().is_host() {
        let SharedName { pid, fd, name, len } = first.region().shared_name()?;
        let offset = first.region().shared_offset() + first.offset() as u64;
        return Some((ShareKind::File { pid, fd, name, length: len }, offset));
    }
    if first.device().kind() != DeviceKind::Cuda {
        return None;
    }
    let allocation = allocation_of(gpus, first.region())?;
    let kind = ShareKind::CudaIpc { handle: *exported(allocation, run)? };
    Some((kind, first.address() - allocation.base()))
}

/// The handle of an allocation, if all of a run of descriptors lies in it.
fn exported<'a>(allocation: &'a GpuAllocation, run: &[Descriptor]) -> Option<&'a SharedHandle> {
    let handle = allocation.ipc_handle()?;
    let region = run.first()?.region();
    // A foreign region may be longer than the allocation that its owner took it from.
    let inside = |d: &Descriptor| allocation.contains(d.address(), d.len() as u64);
    let is_inside = allocation.contains(region.address(), region.len() as u64);
    (is_inside || run.iter().all(inside)).then_some(handle)
}

/// Whether other processes can open all of a list, which is GPU memory, and whether its GPU may only read some of it.
pub(crate) fn export(gpus: &dyn GpuBackend, list: &DescriptorList) -> (Export, bool) {
    let (mut export, mut is_read_only) = (Export::ByHandle, false);
    for run in list.as_slice().chunk_by(|a, b| a.region().id() == b.region().id()) {
        let Some(first) = run.first() else { continue };
        let Some(allocation) = allocation_of(gpus, first.region()) else {
            export = Export::Unknown;
            continue;
        };
        is_read_only |= allocation.is_read_only();
        export = match (exported(allocation, run).is_some(), export) {
            (true, Export::ByHandle) if allocation.is_in_pieces() => Export::ByPieces,
            (true, known) => known,
            (false, Export::ByHandle | Export::ByPieces) => Export::Without(allocation.kind()),
            (false, known) => known,
        };
    }
    (export, is_read_only)
}

/// What a share names, for `gpu` if it is a GPU's, and for copies from or to `local` memory here. `None` if that is not known
/// here.
pub(crate) fn memory_key(kind: &ShareKind, gpu: u32, local: MemoryKind) -> Option<RemoteMemoryKey> {
    match *kind {
        ShareKind::CudaIpc { handle } => Some(RemoteMemoryKey::Gpu(gpu, handle)),
        ShareKind::File { pid, fd, name, length } => {
            let name = SharedName { pid, fd, name, len: length };
            Some(match local {
                MemoryKind::Gpu(_) => RemoteMemoryKey::Pinned(name),
                _ => RemoteMemoryKey::File(name),
            })
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use nixl_descriptor::SharedMemory;

    use super::*;
    use crate::local::{GpuCapabilities, SimulatedGpus};

    #[test]
    fn each_run_of_a_region_that_others_can_open_is_a_share() {
        let capabilities = GpuCapabilities { gpus: 2, ..GpuCapabilities::default() };
        let gpus = SimulatedGpus::new(capabilities).unwrap();
        let on = |gpu| gpus.region(MemoryKind::Gpu(gpu), 100).unwrap();
        let (a, b, host) = (on(0), on(1), Region::zeroed(100).unwrap());
        let file = Region::try_from(SharedMemory::new(100).unwrap()).unwrap();
        let part = |region: &Region, at: usize| region.descriptor(at..at + 10).unwrap();
        let list = vec![
            part(&a, 30),
            part(&a, 0),
            part(&host, 0),
            part(&b, 5),
            part(&a, 50),
            part(&file, 20),
            part(&file, 90),
        ];
        let list = DescriptorList::try_from(list).unwrap();
        let shares = shares(&gpus, &list);
        let places: Vec<_> = shares.iter().map(|s| (s.descriptors(), s.offset())).collect();
        assert_eq!(places, [(0..2, 30), (3..4, 5), (4..5, 50), (5..7, 20)]);
        assert!(shares.iter().all(|s| s.kind().length() == 100));
    }

    #[test]
    fn buffers_of_one_slab_are_one_share() {
        let gpus = SimulatedGpus::new(GpuCapabilities::default()).unwrap();
        let buffers: Vec<_> = (0..20).map(|_| Region::shared(5000).unwrap()).collect();
        let alone = Region::try_from(SharedMemory::new(5000).unwrap()).unwrap();
        let part = |region: &Region| region.descriptor(7..100).unwrap();
        let list = buffers.iter().chain([&alone]).map(part).collect::<Vec<_>>();
        let list = DescriptorList::try_from(list).unwrap();
        let shares = shares(&gpus, &list);
        // Two, or one more if the buffers come from two slabs.
        assert!(matches!(shares.len(), 2 | 3), "{shares:?}");
        for share in shares {
            let first = &list.as_slice()[share.descriptors().start];
            let place = first.region().shared_offset() + 7;
            assert_eq!(share.offset(), place);
            let ShareKind::File { name, .. } = *share.kind() else { panic!("{share:?}") };
            let run = &list.as_slice()[share.descriptors()];
            assert!(run.iter().all(|d| d.region().shared_name().unwrap().name == name));
        }
    }
}
