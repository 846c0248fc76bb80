//! Checksums of offers inside a process and between two, and refusals of a GPU's memory.
#![allow(clippy::unwrap_used, reason = "helpers of tests")]

#[path = "common/apart.rs"]
mod apart;

use std::sync::Arc;

use apart::Apart;
use nixl_connector::simulated::Fabric;
use nixl_connector::{Connector, ConnectorError};
use nixl_descriptor::{Descriptor, DescriptorList, Region};
use nixl_device::Device;
use nixl_executor::paths::LocalFacts;
use nixl_executor::{
    GpuBackend, GpuCapabilities, MemoryKind, PathExecutor, PathKind, SimulatedGpus,
};
use nixl_metadata::{Checksum, RdmaMetadata};
use nixl_ops::{Executor, OperationError, OperationOptions, SystemClock, TransportError};

struct World {
    gpus: Arc<SimulatedGpus>,
    target: Connector,
    initiator: Connector,
}

/// The relation of the two connectors.
#[derive(Clone, Copy)]
enum Relation {
    OneProcess,
    Strangers,
}

impl World {
    async fn new(relation: Relation) -> Self {
        let capabilities = GpuCapabilities::new(1).with_batch(true);
        let facts = LocalFacts::discover().as_ref().clone().with_simulated_gpus(&capabilities);
        let gpus = Arc::new(SimulatedGpus::new(capabilities).unwrap());
        let executor =
            PathExecutor::with(Arc::clone(&gpus) as Arc<dyn GpuBackend>, Arc::new(facts)).unwrap();
        let executor: Arc<dyn Executor> = Arc::new(executor);
        let executor = match relation {
            Relation::OneProcess => executor,
            Relation::Strangers => Arc::new(Apart { executor, poses: None }),
        };
        let fabric = Fabric::new(Arc::new(SystemClock::new()));
        let build = |name: &str| {
            let transport = fabric.transport(name);
            Connector::builder().transport(transport).executor(Arc::clone(&executor)).build()
        };
        let (target, initiator) =
            (build("target").await.unwrap(), build("initiator").await.unwrap());
        Self { gpus, target, initiator }
    }

    /// Three descriptors of a buffer, some bytes of which are in none.
    fn list(connector: &Connector, bytes: &[u8]) -> (Region, DescriptorList) {
        let region = connector.buffer(bytes.len()).unwrap();
        region.copy_from_slice(0, bytes).unwrap();
        let cuts = [1, bytes.len() / 3, bytes.len() / 2, bytes.len()];
        let part = |ends: &[usize]| region.descriptor(ends[0]..ends[1] - 1).unwrap();
        let parts: Vec<Descriptor> = cuts.windows(2).map(part).collect();
        (region.clone(), DescriptorList::try_from(parts).unwrap())
    }
}

fn options() -> OperationOptions {
    OperationOptions::new().checksum(true)
}

fn carried(metadata: &RdmaMetadata) -> RdmaMetadata {
    RdmaMetadata::decode(&metadata.to_native_bytes().unwrap()).unwrap()
}

#[tokio::test]
async fn reads_inside_a_process_and_between_two_are_verified() {
    for (relation, path) in
        [(Relation::OneProcess, PathKind::SameProcessCopy), (Relation::Strangers, PathKind::Direct)]
    {
        for len in [1000, 300_000] {
            let world = World::new(relation).await;
            let bytes: Vec<u8> = (0..len).map(|at| (at * 7 + at / 251) as u8).collect();
            for is_right in [true, false] {
                let (_, offered) = World::list(&world.target, &bytes);
                let (region, local) = World::list(&world.initiator, &vec![0; len]);
                let total = local.total_bytes();
                let offer = world.target.create_readable_with(offered, options()).await.unwrap();
                let remote = carried(offer.metadata());
                let checksum = remote.checksum().unwrap();
                let remote = match is_right {
                    true => remote,
                    false => remote.with_checksum(Checksum::xxh3(!checksum.value())).unwrap(),
                };
                let mut read = world.initiator.begin_read(&remote, local).await.unwrap();
                let ended = read.wait_for_completion().await;
                if is_right {
                    let ended = ended.unwrap();
                    let report = ended.path().unwrap();
                    assert!(report.kind() == path && report.has_verified_checksum(), "{report}");
                } else {
                    let corrupted = TransportError::Corrupted { bytes: total };
                    assert_eq!(ended, Err(OperationError::Transport(corrupted)), "{path:?}");
                }
                assert!(read.reclaim().await.memory.is_some());
                let arrived = region.to_vec().unwrap();
                assert_eq!(arrived[1..len / 3 - 1], bytes[1..len / 3 - 1]);
            }
        }
    }
}

#[tokio::test]
async fn memory_of_a_gpu_is_refused_at_both_ends() {
    let world = World::new(Relation::Strangers).await;
    let device = Device::cuda(0);
    let (region, gpu) =
        (world.target.buffer(64).unwrap(), world.gpus.region(MemoryKind::Gpu(0), 64).unwrap());
    let both = || DescriptorList::try_from(vec![region.whole(), gpu.whole()]).unwrap();
    let refused = world.target.create_readable_with(both(), options()).await.unwrap_err();
    assert_eq!(refused, ConnectorError::ChecksumOfDevice { index: 1, device });
    let hosts = DescriptorList::try_from(vec![region.whole(), region.whole()]).unwrap();
    let offer = world.target.create_readable_with(hosts, options()).await.unwrap();
    let local = world.initiator.buffer(64).unwrap();
    let local = DescriptorList::try_from(vec![local.whole(), gpu.whole()]).unwrap();
    let remote = carried(offer.metadata());
    let refused = world.initiator.begin_read(&remote, local).await.unwrap_err();
    assert_eq!(refused, ConnectorError::ChecksumIntoDevice { index: 1, device });
}
