//! What an offer tells other processes of this machine.

use nixl_descriptor::{Descriptor, DescriptorList, SharedName};
use nixl_device::DeviceKind;
use nixl_metadata::{Share, ShareKind};

use super::Foreign;
use crate::local::{Gpus, MemoryKind};

/// The memory under `list` that other processes can open: allocations of GPUs, and host memory
/// made for it. What cannot be shared is left out: peers then take another path.
pub(crate) fn shares(gpus: &dyn Gpus, list: &DescriptorList) -> Vec<Share> {
    let mut shares = Vec::new();
    let mut first = 0;
    // A region lies in one allocation.
    for run in list.as_slice().chunk_by(|a, b| a.region().id() == b.region().id()) {
        let range = first..first + run.len();
        first = range.end;
        if let Some((kind, offset)) = share(gpus, run) {
            shares.push(Share::new(range, kind, offset));
        }
    }
    shares
}

fn share(gpus: &dyn Gpus, run: &[Descriptor]) -> Option<(ShareKind, u64)> {
    let first = run.first()?;
    if first.device().is_host() {
        let SharedName { pid, fd, name, len } = first.region().shared_name()?;
        return Some((ShareKind::File { pid, fd, name, length: len }, first.offset() as u64));
    }
    if first.device().kind() != DeviceKind::Cuda {
        return None;
    }
    let shared = gpus.share(first.device().index(), first.address());
    let (handle, offset) =
        shared.inspect_err(|e| tracing::debug!(%e, "memory is not shared")).ok()?;
    let kind = ShareKind::CudaIpc { handle };
    let base = first.address().checked_sub(offset)?;
    let end = base.checked_add(kind.length())?;
    let inside = |d: &Descriptor| base <= d.address() && d.address() + d.len() as u64 <= end;
    // A foreign region may be longer than the allocation that its owner took it from.
    run.iter().all(inside).then_some((kind, offset))
}

/// What a share names, for `gpu` if it is a GPU's, and for copies from or to `local` memory here. `None` if that is not known
/// here.
pub(crate) fn foreign(kind: &ShareKind, gpu: u32, local: MemoryKind) -> Option<Foreign> {
    match *kind {
        ShareKind::CudaIpc { handle } => Some(Foreign::Gpu(gpu, handle)),
        ShareKind::File { pid, fd, name, length } => {
            let name = SharedName { pid, fd, name, len: length };
            Some(match local {
                MemoryKind::Gpu(_) => Foreign::Pinned(name),
                _ => Foreign::File(name),
            })
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use nixl_descriptor::Region;

    use super::*;
    use crate::local::{Abilities, SimulatedGpus};

    #[test]
    fn each_run_of_a_region_that_others_can_open_is_a_share() {
        let abilities = Abilities { gpus: 2, ..Abilities::default() };
        let gpus = SimulatedGpus::new(abilities).unwrap();
        let on = |gpu| gpus.region(MemoryKind::Gpu(gpu), 100).unwrap();
        let (a, b, host) = (on(0), on(1), Region::zeroed(100).unwrap());
        let file = Region::shared(100).unwrap();
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
}
