//! Exports of GPU memory that are read in their owner's process.
#![allow(clippy::unwrap_used, unsafe_code, reason = "fills memory of simulated GPUs")]

#[allow(dead_code, reason = "other tests use the rest")]
mod common;
#[path = "common/simulated.rs"]
mod simulated;

use std::future::Future;
use std::sync::Arc;
use std::task::Poll;

use common::Machine;
use nixl_connector::simulated::Fabric;
use nixl_connector::{Connector, ConnectorError, GrantOptions};
use nixl_descriptor::Region;
use nixl_descriptor::layout::{Dimensions, Inner, LayerOrder, Layout, LayoutGeometry};
use nixl_executor::paths::LocalFacts;
use nixl_executor::{
    GpuBackend, GpuCapabilities, MemoryKind, PathExecutor, PathKind, SimulatedGpus,
};
use nixl_ops::{OperationError, SystemClock, TransportError};

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
    connector: Connector,
}

impl World {
    async fn new() -> Self {
        let capabilities = GpuCapabilities::new(1).with_batch(true);
        let facts = LocalFacts::discover().as_ref().clone().with_simulated_gpus(&capabilities);
        let gpus = Arc::new(SimulatedGpus::new(capabilities).unwrap());
        let backend = Arc::clone(&gpus) as Arc<dyn GpuBackend>;
        let executor = Arc::new(PathExecutor::with(backend, Arc::new(facts)).unwrap());
        let transport = Fabric::new(Arc::new(SystemClock::new())).transport("owner");
        let builder = Connector::builder().transport(transport).executor(executor);
        Self { gpus, connector: builder.build().await.unwrap() }
    }
}

#[tokio::test]
async fn blocks_on_a_gpu_are_read_in_their_owners_process() {
    let world = World::new().await;
    let geometry = geometry();
    let layer_bytes = geometry.blocks() * geometry.layer_len();
    for (of_owner, of_reader) in
        [(GPU, MemoryKind::Pageable), (MemoryKind::Pageable, GPU), (GPU, GPU)]
    {
        let layers: Vec<_> = (0..geometry.layers())
            .map(|_| Machine::region(&*world.gpus, of_owner, layer_bytes))
            .collect();
        for (layer, region) in layers.iter().enumerate() {
            let filling: Vec<u8> =
                (0..layer_bytes).map(|at| (at / geometry.layer_len() * 16 + layer) as u8).collect();
            world.gpus.upload(region, &filling);
        }
        let parts = layers.iter().map(Region::whole).collect();
        let cache = Layout::per_layer(geometry, LayerOrder::BlockFirst, parts).unwrap();
        let export = world.connector.export([("cache", cache)]).await.unwrap();
        let import = world.connector.import(export.metadata()).await.unwrap();
        let target = Machine::region(&*world.gpus, of_reader, geometry.bytes());
        let local = Layout::fully_contiguous(geometry, target.clone()).unwrap();
        let planned = import.path_to("cache", &local).await.unwrap();
        let grant = export.grant(0, &[5, 2], GrantOptions::new()).unwrap();
        let done = import.read_blocks(grant.ticket(), &local, &[0, 7]).await.unwrap();
        assert_eq!(done.bytes(), 2 * geometry.block_len() as u64);
        for path in [&planned, done.path().unwrap()] {
            assert!(matches!(path.kind(), PathKind::Local(_)), "{path:?}");
        }
        let bytes = world.gpus.download(&target);
        for (granted, block) in [(5, 0), (2, 7)] {
            let found = &bytes[block * geometry.block_len()..][..geometry.block_len()];
            for layer in 0..geometry.layers() {
                let found = &found[layer * geometry.layer_len()..][..geometry.layer_len()];
                assert!(found.iter().all(|byte| *byte == (granted * 16 + layer) as u8));
            }
        }
        let ticket = grant.ticket().clone();
        assert!(grant.end());
        let error = import.read_blocks(&ticket, &local, &[0, 7]).await.unwrap_err();
        let stale = [
            ConnectorError::Transport(TransportError::Stale),
            ConnectorError::Operation(OperationError::Transport(TransportError::Stale)),
        ];
        assert!(stale.contains(error.cause()), "{error}");
    }
}

/// Kernels ask for no lease: the blocks are not free before the copy has ended, and its bytes count only if the grant stands then.
#[tokio::test]
async fn a_read_in_the_owners_process_is_stale_once_its_grant_has_ended() {
    let world = World::new().await;
    let geometry = geometry();
    for of_reader in [GPU, MemoryKind::Pageable] {
        let region = Machine::region(&*world.gpus, GPU, geometry.bytes());
        let cache = Layout::fully_contiguous(geometry, region).unwrap();
        let export = world.connector.export([("cache", cache)]).await.unwrap();
        let import = world.connector.import(export.metadata()).await.unwrap();
        let target = Machine::region(&*world.gpus, of_reader, geometry.bytes());
        let local = Layout::fully_contiguous(geometry, target).unwrap();
        let grant = export.grant(0, &[5], GrantOptions::new()).unwrap();
        let ticket = grant.ticket().clone();
        let asked = world.gpus.asked();
        let paused = world.gpus.pause();
        let read = tokio::spawn({
            let (import, local) = (import.clone(), local.clone());
            async move { import.read_blocks(&ticket, &local, &[0]).await }
        });
        while world.gpus.asked() == asked {
            tokio::task::yield_now().await;
        }
        assert!(grant.end());
        let mut free = Box::pin(export.free_blocks(0, &[5]).unwrap());
        let polled = std::future::poll_fn(|cx| Poll::Ready(free.as_mut().poll(cx)));
        assert!(polled.await.is_pending(), "the copy reads the block");
        drop(paused);
        let error = read.await.unwrap().unwrap_err();
        assert_eq!(error.cause(), &ConnectorError::Transport(TransportError::Stale));
        free.await;
    }
}
