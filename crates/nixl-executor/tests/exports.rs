//! Exports of GPU memory that are read by another connector, between which the owner takes part.
#![allow(clippy::unwrap_used, unsafe_code, reason = "fills memory of simulated GPUs")]

#[path = "common/apart.rs"]
mod apart;
#[allow(dead_code, reason = "other tests use the rest")]
mod common;
#[path = "common/simulated.rs"]
mod simulated;

use std::sync::Arc;
use std::time::Duration;

use apart::Apart;
use common::Machine;
use nixl_connector::simulated::{Fabric, import_from_peer};
use nixl_connector::{
    BlockTransferOptions, Connector, ConnectorError, Export, GrantOptions, RemoteExport,
    TransferClass,
};
use nixl_descriptor::Region;
use nixl_descriptor::layout::{Dimensions, Inner, LayerOrder, Layout, LayoutGeometry};
use nixl_executor::paths::LocalFacts;
use nixl_executor::{
    GpuBackend, GpuCapabilities, MemoryKind, PathExecutor, PathKind, PathReport, SimulatedGpus,
    StagingConfig,
};
use nixl_ops::{Executor, OperationError, SystemClock, TransportError};

const GPU: MemoryKind = MemoryKind::Gpu(0);

fn geometry() -> LayoutGeometry {
    LayoutGeometry::try_from(Dimensions {
        blocks: 8,
        layers: 3,
        outer: 2,
        page_size: 16,
        inner: Inner::Elements(64),
        element_width: 2,
    })
    .unwrap()
}

struct World {
    gpus: Arc<SimulatedGpus>,
    owner: Connector,
    reader: Connector,
}

impl World {
    async fn new() -> Self {
        let capabilities = GpuCapabilities::new(1).with_batch(true);
        let facts = LocalFacts::discover().as_ref().clone().with_simulated_gpus(&capabilities);
        let gpus = Arc::new(SimulatedGpus::new(capabilities).unwrap());
        let backend = Arc::clone(&gpus) as Arc<dyn GpuBackend>;
        let paths = PathExecutor::with(backend, Arc::new(facts)).unwrap();
        let staging = StagingConfig::default().slot_bytes(4096).slots(4);
        let executor: Arc<dyn Executor> =
            Arc::new(Apart { executor: Arc::new(paths.staging(staging)), poses: None });
        let fabric = Fabric::new(Arc::new(SystemClock::new()));
        let build = |name: &str| {
            let transport = fabric.transport(name);
            Connector::builder().transport(transport).executor(Arc::clone(&executor)).build()
        };
        Self { gpus, owner: build("owner").await.unwrap(), reader: build("reader").await.unwrap() }
    }

    /// A cache on the GPU, a region for each layer. Each byte names its block and layer.
    fn cache(&self) -> (Layout, Vec<Region>) {
        let geometry = geometry();
        let bytes = geometry.blocks() * geometry.layer_len();
        let layers: Vec<_> =
            (0..geometry.layers()).map(|_| Machine::region(&*self.gpus, GPU, bytes)).collect();
        for (layer, region) in layers.iter().enumerate() {
            let filling: Vec<u8> =
                (0..bytes).map(|at| (at / geometry.layer_len() * 16 + layer) as u8).collect();
            self.gpus.upload(region, &filling);
        }
        let parts = layers.iter().map(Region::whole).collect();
        (Layout::per_layer(geometry, LayerOrder::BlockFirst, parts).unwrap(), layers)
    }

    async fn exported(&self) -> (Export, RemoteExport) {
        let export = self.owner.export([("cache", self.cache().0)]).await.unwrap();
        let import = import_from_peer(&self.reader, export.metadata()).await.unwrap();
        (export, import)
    }
}

#[tokio::test]
async fn the_owner_stages_blocks_that_the_reader_cannot_reach() {
    let world = World::new().await;
    let (export, import) = world.exported().await;
    let geometry = geometry();
    for kind in [GPU, MemoryKind::Pageable] {
        let target = Machine::region(&*world.gpus, kind, geometry.bytes());
        let local = Layout::fully_contiguous(geometry, target.clone()).unwrap();
        let staged = match kind {
            GPU => PathKind::StagedBothSides,
            _ => PathKind::StagedOneSide,
        };
        let planned = import.path_to("cache", &local).await.unwrap();
        assert_eq!(planned.kind(), staged, "{planned}");
        let grant = export.grant(0, &[5, 2], GrantOptions::new()).unwrap();
        let ticket = grant.ticket().clone();
        let done = import.read_blocks(&ticket, &local, &[0, 7]).await.unwrap();
        let path = done.path().unwrap();
        assert!(path.kind() == staged && path.is_checked_by_owner(), "{path}");
        let bytes = world.gpus.download(&target);
        for (granted, block) in [(5, 0), (2, 7)] {
            let found = &bytes[block * geometry.block_len()..][..geometry.block_len()];
            for layer in 0..geometry.layers() {
                let found = &found[layer * geometry.layer_len()..][..geometry.layer_len()];
                assert!(found.iter().all(|byte| *byte == (granted * 16 + layer) as u8));
            }
        }
        // A part of them.
        let part = BlockTransferOptions::new().layers(1..2).tokens(3..5);
        let done = import.read_blocks_with(&ticket, &local, &[0, 7], part).await.unwrap();
        assert!(done.path().is_some_and(PathReport::is_checked_by_owner));
        // One that leaves others their turn, too.
        let bulk = BlockTransferOptions::new().class(TransferClass::Bulk);
        let done = import.read_blocks_with(&ticket, &local, &[0, 7], bulk).await.unwrap();
        assert!(done.path().is_some_and(PathReport::is_checked_by_owner));
        assert!(grant.end());
        let error = import.read_blocks(&ticket, &local, &[0, 7]).await.unwrap_err();
        let stale = [
            ConnectorError::Transport(TransportError::Stale),
            ConnectorError::Operation(OperationError::Transport(TransportError::Stale)),
        ];
        assert!(stale.contains(error.cause()), "{error}");
        import.done(&ticket).await.unwrap();
    }
    assert_eq!(export.stats().alive(), 0);
    assert!(export.close(Duration::from_secs(30)).await);
}
