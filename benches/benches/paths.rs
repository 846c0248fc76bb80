//! Choosing a path: what planning adds to an operation.
#![allow(missing_docs, reason = "criterion's macros make public items")]
#![allow(clippy::unwrap_used, reason = "a bench that cannot run has nothing to say")]
#![allow(unsafe_code, reason = "implements traits that are trusted with memory")]

use std::hint::black_box;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use bytes::Bytes;
use criterion::{Criterion, criterion_group, criterion_main};
use nixl_connector::simulated::Fabric;
use nixl_descriptor::{
    CacheLimits, DescriptorList, LeaseMode, Leases, Region, Registrar, RegistrationCache,
};
use nixl_device::Device;
use nixl_executor::paths::{
    Engine, LocalFacts, OfferFacts, PathCosts, PathHealth, PathHistory, PathKey, PathPlan,
    PathQuery, PeerFacts, PlanCache,
};
use nixl_executor::{DirectExecutor, MemoryKind, PathExecutor};
use nixl_metadata::{AgentMetadata, NotificationKey, PeerInfo, RdmaMetadata, SerializedDescriptor};
use nixl_ops::{
    BlockingThread, Connected, ConnectionContext, Driver, DriverConfig, Executor, OperationKind,
    PathKind, PathPolicy, PeerId, SystemClock, Transfer, TransferRequest, TransferSpec, Transport,
    TransportError,
};

const PEER: &str = "worker-0-0123456789abcdef0123456789abcdef";

fn host_read() -> PathQuery {
    let memories = (MemoryKind::Pageable, Device::HOST);
    let (offered, policy) = (OfferFacts::default(), PathPolicy::auto());
    PathQuery::new(OperationKind::Read, memories, Engine::Ucx, offered, policy)
}

fn paths(c: &mut Criterion) {
    let here = LocalFacts::discover();
    let info = PeerInfo::new(PEER, 1, here.host().unwrap().clone()).unwrap();
    let info = here.describe(info.with_transports(["nixl/UCX"]).unwrap(), true);
    let peer = PeerFacts::new(&info, &here);
    let (mut plans, mut health, costs) =
        (PlanCache::new(), PathHealth::new(), PathCosts::default());
    let memories = host_read().memories();
    let subject = |kind| PathKey::new(kind, memories);
    health.succeeded(subject(PathKind::Direct));

    let mut group = c.benchmark_group("paths");
    group.bench_function("plan", |b| {
        b.iter(|| PathPlan::new(black_box(host_read()), &here, &peer, &costs));
    });
    group.bench_function("kept plan", |b| {
        b.iter(|| plans.get((&here, &costs), black_box(Some(&info)), host_read()));
    });
    group.bench_function("choose", |b| {
        let (plan, history) =
            (plans.get((&here, &costs), Some(&info), host_read()), PathHistory::new());
        b.iter(|| plan.choose(black_box(4096), &history).unwrap().estimate());
    });
    // All that a 4 KiB read of host memory pays: the plan, the health, the choice, the note of its success.
    group.bench_function("host read", |b| {
        b.iter(|| {
            let plan = plans.get((&here, &costs), black_box(Some(&info)), host_read());
            let history = health.history(memories, Duration::from_secs(1));
            let kind = plan.choose(4096, &history).unwrap().kind();
            health.succeeded(subject(kind));
            kind
        });
    });
    group.finish();
}

/// An engine that has done everything at once: what is left is what the executors cost.
#[derive(Debug)]
struct Instant;

// SAFETY: it touches no memory, and is never in flight.
unsafe impl Transfer for Instant {
    fn poll(&mut self, _: &mut Context<'_>) -> Poll<Result<(), TransportError>> {
        Poll::Ready(Ok(()))
    }

    fn in_flight(&self) -> bool {
        false
    }

    fn was_posted(&self) -> bool {
        true
    }

    fn descriptors(&self) -> usize {
        1
    }
}

// SAFETY: its transfers touch no memory.
unsafe impl Transport for Instant {
    fn name(&self) -> &'static str {
        "nixl/UCX"
    }

    fn agent_name(&self) -> &str {
        "unknown"
    }

    fn registrar(&self) -> Arc<dyn Registrar> {
        Fabric::new(Arc::new(SystemClock::new())).transport("unknown").registrar()
    }

    fn local_metadata(&self) -> Result<Bytes, TransportError> {
        Err(TransportError::Closed)
    }

    fn connect(&self, _: &[u8]) -> Result<Connected, TransportError> {
        Err(TransportError::Closed)
    }

    fn disconnect(&self, _: &PeerId) -> Result<(), TransportError> {
        Ok(())
    }

    fn prepare(&self, _: TransferSpec<'_>) -> Result<Box<dyn Transfer>, TransportError> {
        Ok(Box::new(Self))
    }

    fn notify(&self, _: &PeerId, _: &[u8]) -> Poll<Result<(), TransportError>> {
        Poll::Ready(Ok(()))
    }

    fn take_notifications(&self, _: &mut dyn FnMut(&str, &[u8])) -> Result<(), TransportError> {
        Ok(())
    }
}

#[derive(Debug)]
struct Nowhere;

impl BlockingThread for Nowhere {
    fn run(&self, _: Box<dyn FnOnce() + Send>) {}
}

/// A 4 KiB read of host memory by either executor, as a connector calls it: the difference is what choosing costs.
fn executors(c: &mut Criterion) {
    let here = LocalFacts::discover();
    let info = PeerInfo::new(PEER, 1, here.host().unwrap().clone()).unwrap();
    let info = here.describe(info.with_transports(["nixl/UCX"]).unwrap(), true);
    let transport: Arc<dyn Transport> = Arc::new(Instant);
    let cache = RegistrationCache::new(transport.registrar(), CacheLimits::default());
    let (clock, waker) = (Arc::new(SystemClock::new()), Waker::noop().clone());
    let config = DriverConfig::default();
    let (driver, _) = Driver::manual(Arc::clone(&transport), Arc::new(SystemClock::new()), config);
    let mailboxes = driver.mailboxes(&Arc::default());
    let (cache, nowhere) = (Arc::new(cache), Arc::new(Nowhere));
    let link =
        ConnectionContext::new(Arc::clone(&transport), cache, nowhere, clock, waker, mailboxes);
    let direct = DirectExecutor::new().connect(link.clone());
    let choosing = PathExecutor::new().unwrap().connect(link);

    let local = DescriptorList::from(Region::zeroed(4096).unwrap().whole());
    let leased = Leases::acquire_list(local.clone(), LeaseMode::Write).unwrap();
    let theirs = SerializedDescriptor::new(Device::HOST, 4096, 4096).unwrap();
    let agent = AgentMetadata::compress(b"agent").unwrap();
    let (kind, key) = (OperationKind::Read, NotificationKey::random());
    let remote = RdmaMetadata::new(kind, vec![theirs], agent, key).unwrap().with_peer(info);
    let peer = PeerId::new(PEER);

    let mut group = c.benchmark_group("executors");
    for (name, executor) in [("direct", direct), ("choosing", choosing)] {
        group.bench_function(name, |b| {
            b.iter(|| {
                assert!(!executor.is_local(&local, &remote));
                assert!(executor.prepare(&local, Some(&remote)).is_none());
                assert!(!executor.needs_local_metadata(&local, &remote));
                let (memory, to) = ((&local, &leased), (&transport, &peer));
                let request =
                    TransferRequest::inter_process(kind, memory, &remote, to.0, to.1, Vec::new());
                let mut execution = executor.execute(request).unwrap();
                let _ = black_box((execution.posts_quickly(), execution.expected()));
                assert!(execution.poll(&mut Context::from_waker(Waker::noop())).is_ready());
                execution.report()
            });
        });
    }
    group.finish();
}

criterion_group!(benches, paths, executors);
criterion_main!(benches);
