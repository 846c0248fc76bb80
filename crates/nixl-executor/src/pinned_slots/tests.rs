//! Tests of pools, of their users and of their memory.

use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use metrics::{
    Counter, Gauge, Histogram, Key, KeyName, Metadata, Recorder, SharedString, Unit,
    with_local_recorder,
};
use nixl_connector::simulated::Fabric;
use nixl_descriptor::{CacheLimits, RegistrationCache};
use nixl_ops::{SystemClock, Transport};

use super::{RegisteredSlots, SlotPools, SlotStats, StagingConfig};
use crate::local::{GpuBackend, GpuCapabilities, SimulatedGpus};

struct Connection {
    slots: Arc<RegisteredSlots>,
    registrations: RegistrationCache,
    _transport: Arc<dyn Transport>,
}

impl Connection {
    fn new(pools: &SlotPools, name: &str) -> Self {
        let transport = Fabric::new(Arc::new(SystemClock::new())).transport(name);
        let registrations = RegistrationCache::new(transport.registrar(), CacheLimits::default());
        let slots = RegisteredSlots::new(&pools.incoming);
        Self { slots, registrations, _transport: transport }
    }

    fn make_ready(&self, gpus: &dyn GpuBackend) {
        self.slots.make_ready(gpus, 0, &self.registrations, Duration::ZERO);
        assert!(self.slots.is_ready());
    }
}

/// Keeps the one gauge of pinned memory.
#[derive(Default)]
struct PinnedGauge(Arc<AtomicU64>);

impl Recorder for PinnedGauge {
    fn describe_counter(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}
    fn describe_gauge(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}
    fn describe_histogram(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}

    fn register_counter(&self, _: &Key, _: &Metadata<'_>) -> Counter {
        Counter::noop()
    }

    fn register_gauge(&self, key: &Key, _: &Metadata<'_>) -> Gauge {
        assert_eq!(key.name(), "nixl_pinned_bytes");
        Gauge::from_arc(Arc::clone(&self.0))
    }

    fn register_histogram(&self, _: &Key, _: &Metadata<'_>) -> Histogram {
        Histogram::noop()
    }
}

#[test]
fn slots_count_as_pinned_until_their_last_user_has_gone() {
    let gauge = PinnedGauge::default();
    let pinned = Arc::clone(&gauge.0);
    let pinned = || f64::from_bits(pinned.load(Relaxed));
    with_local_recorder(&gauge, || {
        let gpus = GpuCapabilities { gpus: 1, ..GpuCapabilities::default() };
        let gpus = SimulatedGpus::new(gpus).unwrap();
        let mut config = StagingConfig::default();
        (config.slot_bytes, config.slots) = (64, 2);
        let pools = SlotPools::new(config);
        let [one, other] = ["one", "other"].map(|name| Connection::new(&pools, name));
        one.make_ready(&gpus);
        let len = pools.incoming.stats().pinned_bytes as f64;
        assert!(len >= 128.0);
        assert_eq!(pinned(), len);
        other.make_ready(&gpus);
        assert_eq!(pinned(), len, "shared, so counted once");
        one.slots.release();
        pools.release();
        assert_eq!(pinned(), len, "the other connection keeps it");
        other.slots.release();
        assert_eq!(pinned(), 0.0);
    });
}

#[test]
fn connections_share_the_memory_and_idle_memory_goes_back() {
    let gpus =
        SimulatedGpus::new(GpuCapabilities { gpus: 1, ..GpuCapabilities::default() }).unwrap();
    let mut config = StagingConfig::default();
    (config.slot_bytes, config.slots) = (64, 2);
    let pools = SlotPools::new(config);
    let [one, other] = ["one", "other"].map(|name| Connection::new(&pools, name));
    one.make_ready(&gpus);
    other.make_ready(&gpus);
    let slots = [&one, &other].map(|connection| connection.slots.join());
    let [a, b] = slots.each_ref().map(|member| member.take().unwrap().unwrap());
    assert_eq!(a.address().abs_diff(b.address()), 64, "slots of one piece of memory");
    assert_eq!(pools.incoming.stats().pinned_bytes, 128);
    assert!(!pools.are_idle(), "it was used since it was last looked at");
    assert!(pools.are_idle());
    // Not while a session may write to it.
    pools.release();
    assert_eq!(pools.incoming.stats().pinned_bytes, 128);
    a.release();
    b.release();
    drop(slots);
    one.slots.release();
    other.slots.release();
    pools.release();
    assert_eq!(pools.incoming.stats(), SlotStats { free: 2, ..SlotStats::default() });
    assert!(!pools.are_allocated() && !one.slots.is_ready());
    one.make_ready(&gpus);
    assert!(one.slots.join().take().unwrap().is_some());
}

#[test]
fn no_other_thread_waits_for_memory_that_is_being_pinned() {
    let pools = SlotPools::new(StagingConfig::default());
    let pinning = pools.incoming.memory();
    let (asked, answers) = std::sync::mpsc::channel();
    let others = pools.clone();
    let asking = std::thread::spawn(move || {
        let bytes = others.incoming.stats().pinned_bytes;
        asked.send((others.are_allocated(), bytes)).unwrap();
    });
    assert_eq!(answers.recv_timeout(Duration::from_secs(10)), Ok((false, 0)));
    drop(pinning);
    asking.join().unwrap();
}

#[test]
fn memory_that_a_peer_may_write_to_is_not_given_back() {
    let gpus =
        SimulatedGpus::new(GpuCapabilities { gpus: 1, ..GpuCapabilities::default() }).unwrap();
    let pools = SlotPools::new(StagingConfig::default());
    let connection = Connection::new(&pools, "one");
    connection.make_ready(&gpus);
    let mut slot = connection.slots.join().take().unwrap().unwrap();
    slot.quarantine();
    let stats = pools.incoming.stats();
    assert_eq!((stats.free, stats.quarantined), (15, 1));
    pools.release();
    assert!(pools.are_allocated());
    slot.release();
    assert_eq!(pools.incoming.stats().free, 16);
    pools.release();
    assert!(!pools.are_allocated());
}
