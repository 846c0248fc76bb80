//! Cost of the life of an operation over an engine that costs nothing: states, leases, completion, wake-ups.
#![allow(missing_docs, reason = "criterion's macros make public items")]
#![allow(clippy::unwrap_used, reason = "a bench that cannot run has nothing to say")]
#![allow(unsafe_code, reason = "implements traits that are trusted with memory")]

use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Poll, Wake, Waker};
use std::thread::{self, Thread};

use bytes::Bytes;
use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use nixl_descriptor::{DescriptorList, LeaseMode, Leased, Leases, Region, Registrar};
use nixl_metadata::{
    AgentMetadata, NotificationKey, OperationKind, RdmaMetadata, SerializedDescriptor,
};
use nixl_ops::{
    Connected, Driver, DriverConfig, Execution, OfferSpec, OperationOptions, OperationStatus,
    PathKind, PathReport, PeerId, ReadOperation, ReadableOperation, SystemClock, Transfer,
    TransferSpec, Transport, TransportError, TransportExecutor,
};

/// Ends at its first poll. Owns the proof that its memory is leased, as every execution does.
struct Instantly {
    _leased: Leased,
}

impl Execution for Instantly {
    fn poll(&mut self, _: &mut Context<'_>) -> Poll<Result<(), TransportError>> {
        Poll::Ready(Ok(()))
    }

    fn abandon(&mut self) -> bool {
        true
    }

    fn report(&self) -> PathReport {
        PathReport::new(PathKind::Direct, "nothing", 4096, 1)
    }
}

/// Reaches no peer and receives nothing.
#[derive(Debug)]
struct Nowhere;

// SAFETY: it prepares no transfer, and registers nothing.
unsafe impl Transport for Nowhere {
    fn name(&self) -> &'static str {
        "nowhere"
    }

    fn agent_name(&self) -> &str {
        "unknown"
    }

    fn registrar(&self) -> Arc<dyn Registrar> {
        unreachable!("nothing is registered here")
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
        Err(TransportError::Closed)
    }

    fn notify(&self, _: &PeerId, _: &[u8]) -> Poll<Result<(), TransportError>> {
        Poll::Ready(Err(TransportError::Closed))
    }

    fn take_notifications(&self, _: &mut dyn FnMut(&str, &[u8])) -> Result<(), TransportError> {
        Ok(())
    }
}

struct Unpark(Thread);

impl Wake for Unpark {
    fn wake(self: Arc<Self>) {
        self.0.unpark();
    }
}

fn block_on<F: Future>(future: F) -> F::Output {
    let waker = Waker::from(Arc::new(Unpark(thread::current())));
    let mut future = pin!(future);
    loop {
        match future.as_mut().poll(&mut Context::from_waker(&waker)) {
            Poll::Ready(output) => return output,
            Poll::Pending => thread::park(),
        }
    }
}

fn driver(config: DriverConfig) -> Arc<Driver> {
    Arc::new(Driver::spawn(Arc::new(Nowhere), Arc::new(SystemClock::new()), config).unwrap())
}

fn states(c: &mut Criterion) {
    let mut group = c.benchmark_group("operation_status");
    group.throughput(Throughput::Elements(3));
    group.bench_function("advance_to_the_end", |b| {
        b.iter(|| {
            let status = std::hint::black_box(OperationStatus::Uninitialized);
            let status = status.advance(OperationStatus::Initialized).unwrap();
            let status = status.advance(OperationStatus::InProgress).unwrap();
            status.advance(OperationStatus::Complete).unwrap()
        });
    });
    group.finish();
}

/// From leases to the awaited result: on the caller's thread, and by way of the driver's.
fn active(c: &mut Criterion) {
    let mut group = c.benchmark_group("active_operation");
    let list = DescriptorList::from(Region::zeroed(4096).unwrap());
    let by_driver = DriverConfig::default().inline_bytes(0);
    for (name, config) in [("inline", DriverConfig::default()), ("by_driver", by_driver)] {
        let driver = driver(config);
        group.throughput(Throughput::Elements(1));
        group.bench_function(name, |b| {
            b.iter(|| {
                let leases = Leases::acquire(list.as_slice(), LeaseMode::Write).unwrap();
                let execution = Box::new(Instantly { _leased: Leased::from(leases) });
                let options = OperationOptions::new();
                let mut read =
                    ReadOperation::begin(&driver, execution, list.clone(), options).unwrap();
                block_on(read.wait_for_completion()).unwrap()
            });
        });
    }
    group.finish();
}

/// Offered and withdrawn, with so many others waiting.
fn passive(c: &mut Criterion) {
    let mut group = c.benchmark_group("passive_operation");
    let driver = driver(DriverConfig::default());
    let executor: Arc<dyn nixl_ops::ConnectionExecutor> = Arc::new(TransportExecutor);
    let agent = AgentMetadata::compress(b"unknown").unwrap();
    let region = Region::zeroed(4096).unwrap();
    let offer = || {
        let list = DescriptorList::from(region.clone());
        let there = SerializedDescriptor::new(region.device(), region.address(), 4096).unwrap();
        let key = NotificationKey::random();
        let metadata =
            RdmaMetadata::new(OperationKind::Read, vec![there], agent.clone(), key).unwrap();
        let leases = Leases::acquire(list.as_slice(), LeaseMode::Read).unwrap();
        let spec = OfferSpec::new(metadata, list, Leased::from(leases), Vec::new());
        ReadableOperation::offer(&driver, &executor, spec, OperationOptions::new()).unwrap()
    };
    let mut waiting = Vec::new();
    for others in [0, 1000] {
        waiting.resize_with(others, offer);
        group.throughput(Throughput::Elements(1));
        group.bench_function(format!("offer_and_withdraw/{others}"), |b| b.iter(|| drop(offer())));
    }
    group.finish();
}

criterion_group!(benches, states, active, passive);
criterion_main!(benches);
