//! Pages of peers' memory that are mapped ahead of the first copies.

use std::ops::Range;
use std::sync::Arc;

use nixl_descriptor::{Region, SharedName};
use nixl_metadata::{RdmaMetadata, ShareKind};
use nixl_ops::{Prefault, PrefaultStep};

use super::import_cache::ImportCache;

/// Bytes that one step looks at: a few milliseconds.
const STEP: u64 = 64 << 20;

/// Steps through what is offered of files that are open here. Pinned memory needs none.
pub(crate) fn prefault(
    imports: &Arc<ImportCache>,
    remote: &RdmaMetadata,
    at_most: u64,
) -> Option<Prefault> {
    let is_file = |kind: &ShareKind| matches!(kind, ShareKind::File { .. });
    if at_most == 0 || !remote.shares().iter().any(|share| is_file(share.kind())) {
        return None;
    }
    let (imports, remote) = (Arc::clone(imports), remote.clone());
    Some(Box::new(Steps { imports, remote, share: 0, examined: 0, left: at_most }))
}

struct Steps {
    imports: Arc<ImportCache>,
    remote: RdmaMetadata,
    /// The share that is next, or under way.
    share: usize,
    /// Bytes of this share that were looked at.
    examined: u64,
    /// Bytes that may still be looked at.
    left: u64,
}

impl Steps {
    /// What is left of the share, in bytes of the file. `None` if that is nothing, or the file is not open, or no more.
    fn rest(&self) -> Option<(Region, Range<u64>)> {
        let share = self.remote.shares().get(self.share)?;
        let ShareKind::File { pid, fd, name, length } = *share.kind() else { return None };
        let region = self.imports.mapped_region(&SharedName { pid, fd, name, len: length })?;
        let descriptors = self.remote.descriptors().get(share.descriptors())?;
        let bytes = descriptors.iter().fold(0, |sum: u64, part| sum.saturating_add(part.size()));
        let end = share.offset().saturating_add(bytes).min(region.len() as u64);
        let start = share.offset().saturating_add(self.examined);
        (start < end).then_some((region, start..end))
    }

    fn next_share(&mut self) {
        self.share += 1;
        self.examined = 0;
    }
}

impl Iterator for Steps {
    type Item = PrefaultStep;

    fn next(&mut self) -> Option<PrefaultStep> {
        let mut step = PrefaultStep::default();
        while self.share < self.remote.shares().len() {
            let at_most = self.left.min(STEP - step.examined);
            if at_most == 0 {
                break;
            }
            let Some((region, Range { start, end })) = self.rest() else {
                self.next_share();
                continue;
            };
            let end = end.min(start.saturating_add(at_most));
            let examined = end - start;
            self.examined += examined;
            self.left -= examined;
            step.examined += examined;
            match nixl_descriptor::prefault(&region, start as usize..end as usize) {
                Ok(mapped) => step.mapped += mapped as u64,
                Err(error) => {
                    tracing::debug!(%error, "pages of a share are not mapped ahead");
                    self.next_share();
                }
            }
        }
        (step.examined > 0).then_some(step)
    }
}

#[cfg(test)]
mod tests {
    use std::iter;
    use std::sync::Arc;

    use nixl_descriptor::SharedMemory;
    use nixl_device::Device;
    use nixl_metadata::{
        AgentMetadata, NotificationKey, OperationKind, SerializedDescriptor, Share,
    };

    use super::super::{Now, OwnerId, RemoteMemoryKey};
    use super::*;
    use crate::local::{GpuCapabilities, SimulatedGpus};

    const PAGE: u64 = 4096;

    /// A file of this process that is offered in parts, each in bytes of it.
    struct World {
        memory: Region,
        name: SharedName,
        imports: Arc<ImportCache>,
        remote: RdmaMetadata,
    }

    impl World {
        fn new(len: u64, parts: impl IntoIterator<Item = Range<u64>>) -> Self {
            let gpus = Arc::new(SimulatedGpus::new(GpuCapabilities::default()).unwrap());
            let imports = ImportCache::new(gpus, Now::here());
            let memory: Region = SharedMemory::new(len as usize).unwrap().try_into().unwrap();
            let name = memory.shared_name().unwrap();
            let SharedName { pid, fd, name: random, len: length } = name;
            let (mut descriptors, mut shares) = (Vec::new(), Vec::new());
            for (index, Range { start, end }) in parts.into_iter().enumerate() {
                let address = memory.address() + start;
                let part = SerializedDescriptor::new(Device::HOST, address, end - start).unwrap();
                descriptors.push(part);
                let kind = ShareKind::File { pid, fd, name: random, length };
                shares.push(Share::new(index..index + 1, kind, start));
            }
            let agent = AgentMetadata::compress(b"agent").unwrap();
            let key = NotificationKey::random();
            let remote = RdmaMetadata::new(OperationKind::Read, descriptors, agent, key).unwrap();
            let remote = remote.with_shares(shares).unwrap();
            Self { memory, name, imports, remote }
        }

        fn touch(&self, at: u64) {
            self.memory.copy_from_slice(at as usize, &[1; PAGE as usize]).unwrap();
        }

        fn open(&self) {
            let by = OwnerId { peer: "peer", pid: None };
            self.imports.open(&RemoteMemoryKey::File(self.name), by).unwrap();
        }

        /// What each step looks at and maps.
        fn steps(&self, at_most: u64) -> Vec<(u64, u64)> {
            let steps = prefault(&self.imports, &self.remote, at_most);
            steps.into_iter().flatten().map(|step| (step.examined, step.mapped)).collect()
        }
    }

    #[test]
    fn what_is_open_is_mapped_in_steps_and_what_is_not_is_left() {
        let len = STEP + 2 * PAGE;
        let world = World::new(len, iter::once(0..len));
        world.touch(0);
        world.touch(len - PAGE);
        assert_eq!(world.steps(u64::MAX), []);
        world.open();
        assert_eq!(world.steps(u64::MAX), [(STEP, PAGE), (2 * PAGE, PAGE)]);
        assert_eq!(world.steps(len - PAGE), [(STEP, PAGE), (PAGE, 0)]);
        assert_eq!(world.steps(0), []);
    }

    #[test]
    fn holes_and_parts_that_overlap_count() {
        const PARTS: usize = 4096;
        const LIMIT: u64 = 5 * STEP / 2;
        let world = World::new(STEP, vec![0..STEP; PARTS]);
        world.open();
        assert_eq!(world.steps(LIMIT), [(STEP, 0), (STEP, 0), (STEP / 2, 0)]);
    }

    #[test]
    fn small_parts_share_a_step() {
        let parts = (0..64).map(|index| index * PAGE..(index + 1) * PAGE);
        let world = World::new(64 * PAGE, parts);
        world.open();
        world.touch(3 * PAGE);
        world.touch(60 * PAGE);
        assert_eq!(world.steps(u64::MAX), [(64 * PAGE, 2 * PAGE)]);
        assert_eq!(world.steps(10 * PAGE), [(10 * PAGE, PAGE)]);
    }
}
