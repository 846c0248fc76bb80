//! Pages of peers' memory that are mapped ahead of the first copies.

use std::sync::Arc;

use nixl_descriptor::{SharedName, prefault};
use nixl_metadata::{RdmaMetadata, ShareKind};
use nixl_ops::Prefault;

use super::import_cache::ImportCache;

/// Bytes of one job: a few milliseconds.
const SLICE: u64 = 64 << 20;

/// Jobs for what is offered of files that are open here. Pinned memory needs none.
pub(crate) fn prefaults(imports: &Arc<ImportCache>, remote: &RdmaMetadata) -> Vec<Prefault> {
    let mut jobs: Vec<Prefault> = Vec::new();
    for share in remote.shares() {
        let ShareKind::File { pid, fd, name, length } = *share.kind() else { continue };
        let name = SharedName { pid, fd, name, len: length };
        let Some(descriptors) = remote.descriptors().get(share.descriptors()) else { continue };
        let bytes: u64 = descriptors.iter().map(|descriptor| descriptor.size()).sum();
        let end = share.offset().saturating_add(bytes).min(length);
        let mut at = share.offset();
        while at < end {
            let range = at as usize..end.min(at.saturating_add(SLICE)) as usize;
            at = range.end as u64;
            let imports = Arc::clone(imports);
            jobs.push(Box::new(move || {
                // It may have been closed since.
                let Some(region) = imports.mapped_region(&name) else { return 0 };
                let mapped = prefault(&region, range);
                let told =
                    mapped.inspect_err(|error| tracing::debug!(%error, "no page is mapped ahead"));
                told.unwrap_or(0) as u64
            }));
        }
    }
    jobs
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use nixl_descriptor::{Region, SharedMemory};
    use nixl_device::Device;
    use nixl_metadata::{
        AgentMetadata, NotificationKey, OperationKind, SerializedDescriptor, Share,
    };

    use super::super::{Now, OwnerId, RemoteMemoryKey};
    use super::*;
    use crate::local::{GpuCapabilities, SimulatedGpus};

    #[test]
    fn what_is_open_is_mapped_in_slices_and_what_is_not_is_left() {
        let gpus = Arc::new(SimulatedGpus::new(GpuCapabilities::default()).unwrap());
        let imports = ImportCache::new(gpus, Now::here());
        let len = SLICE as usize + 8192;
        let memory: Region = SharedMemory::new(len).unwrap().try_into().unwrap();
        let name = memory.shared_name().unwrap();
        memory.copy_from_slice(0, &[1; 4096]).unwrap();
        memory.copy_from_slice(len - 4096, &[1; 4096]).unwrap();
        let SharedName { pid, fd, name: random, len: length } = name;
        let kind = ShareKind::File { pid, fd, name: random, length };
        let part = SerializedDescriptor::new(Device::HOST, memory.address(), len as u64).unwrap();
        let agent = AgentMetadata::compress(b"agent").unwrap();
        let key = NotificationKey::random();
        let remote = RdmaMetadata::new(OperationKind::Read, vec![part], agent, key).unwrap();
        let remote = remote.with_shares(vec![Share::new(0..1, kind, 0)]).unwrap();
        let run = || prefaults(&imports, &remote).into_iter().map(|job| job()).collect::<Vec<_>>();
        assert_eq!(run(), [0, 0]);
        let by = OwnerId { peer: "peer", pid: None };
        imports.open(&RemoteMemoryKey::File(name), by).unwrap();
        assert_eq!(run(), [4096, 4096]);
    }
}
