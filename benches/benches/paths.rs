//! Choosing a path: what planning adds to an operation.
#![allow(missing_docs, reason = "criterion's macros make public items")]
#![allow(clippy::unwrap_used, reason = "a bench that cannot run has nothing to say")]

use std::hint::black_box;
use std::time::Duration;

use criterion::{Criterion, criterion_group, criterion_main};
use nixl_device::Device;
use nixl_executor::MemoryKind;
use nixl_executor::paths::{
    Engine, Health, LocalFacts, Offered, PathCosts, PathPlan, PeerFacts, Plans, Question, Standing,
    Subject,
};
use nixl_metadata::PeerInfo;
use nixl_ops::{OperationKind, PathKind, PathPolicy};

const PEER: &str = "worker-0-0123456789abcdef0123456789abcdef";

fn host_read() -> Question {
    Question {
        operation: OperationKind::Read,
        local: MemoryKind::Pageable,
        remote: Device::HOST,
        engine: Engine::Ucx,
        offered: Offered::default(),
        policy: PathPolicy::auto(),
    }
}

fn paths(c: &mut Criterion) {
    let here = LocalFacts::discover();
    let info = PeerInfo::new(PEER, 1, here.host.clone().unwrap()).unwrap();
    let info = here.describe(info.with_transports(["nixl/UCX"]).unwrap(), true);
    let peer = PeerFacts::new(&info, &here);
    let (plans, health) = (Plans::new(here.clone(), PathCosts::default()), Health::new());
    let subject = Subject { kind: PathKind::Direct, local: Device::HOST, remote: Device::HOST };
    health.succeeded(PEER, subject);

    let mut group = c.benchmark_group("paths");
    group.bench_function("plan", |b| {
        let costs = PathCosts::default();
        b.iter(|| PathPlan::new(black_box(host_read()), &here, &peer, &costs));
    });
    group.bench_function("kept plan", |b| {
        b.iter(|| plans.get(black_box(PEER), Some(&info), host_read()));
    });
    group.bench_function("choose", |b| {
        let (plan, standing) = (plans.get(PEER, Some(&info), host_read()), Standing::new());
        b.iter(|| plan.choose(black_box(4096), &standing).unwrap().estimate);
    });
    // All that a 4 KiB read of host memory pays: the plan, the health, the choice, the note of its success.
    group.bench_function("host read", |b| {
        b.iter(|| {
            let plan = plans.get(black_box(PEER), Some(&info), host_read());
            let standing =
                health.standing(PEER, Device::HOST, Device::HOST, Duration::from_secs(1));
            let kind = plan.choose(4096, &standing).unwrap().path.kind;
            health.succeeded(PEER, Subject { kind, ..subject });
            kind
        });
    });
    group.finish();
}

criterion_group!(benches, paths);
criterion_main!(benches);
