//! Metrics of operations and offers, as recorders see them.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use metrics::{
    Counter, Gauge, Histogram, HistogramFn, Key, KeyName, Metadata, Recorder, SharedString, Unit,
    with_local_recorder,
};
use nixl_ops::{ClaimDemand, OperationOptions, RevokeOutcome};

use crate::peer::PeerSlot;
use crate::world::{Engine, Memory, Offering, World, broken, now};

/// Keeps counters and gauges, by name and labels.
#[derive(Default)]
struct Recorded(Mutex<BTreeMap<String, Arc<AtomicU64>>>);

impl Recorded {
    fn of(&self, key: &Key) -> Arc<AtomicU64> {
        let labels: String = key.labels().map(|label| format!(" {}", label.value())).collect();
        let name = format!("{}{labels}", key.name());
        Arc::clone(self.0.lock().unwrap().entry(name).or_default())
    }

    fn value(&self, name: &str) -> Option<u64> {
        self.0.lock().unwrap().get(name).map(|value| value.load(Ordering::Relaxed))
    }

    /// Offers that are held, and their bytes.
    fn held(&self, why: &str) -> Option<(f64, f64)> {
        let gauge = |name| self.value(&format!("{name} {why}")).map(f64::from_bits);
        gauge("nixl_held_offers").zip(gauge("nixl_held_bytes"))
    }
}

impl Recorder for Recorded {
    fn describe_counter(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}
    fn describe_gauge(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}
    fn describe_histogram(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}

    fn register_counter(&self, key: &Key, _: &Metadata<'_>) -> Counter {
        Counter::from_arc(self.of(key))
    }

    fn register_gauge(&self, key: &Key, _: &Metadata<'_>) -> Gauge {
        Gauge::from_arc(self.of(key))
    }

    fn register_histogram(&self, key: &Key, _: &Metadata<'_>) -> Histogram {
        Histogram::from_arc(Arc::new(Count(self.of(key))))
    }
}

/// Counts what a histogram records.
struct Count(Arc<AtomicU64>);

impl HistogramFn for Count {
    fn record(&self, _: f64) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }
}

#[test]
fn operations_of_both_sides_are_counted_by_a_recorder_that_is_installed_late() {
    let mut world = World::new();
    let read = |world: &World, engine: &Arc<Engine>| {
        world.read(engine, &Memory::small(), OperationOptions::new()).unwrap()
    };
    drop(read(&world, &Engine::ready(Ok(()))));
    let before = Engine::pending();
    let mut begun_before = read(&world, &before);
    let recorded = Recorded::default();
    with_local_recorder(&recorded, || {
        let gauge = |name| recorded.value(name).map(f64::from_bits);
        before.end(Ok(()));
        now(begun_before.wait_for_completion()).unwrap();
        let engine = Engine::pending();
        let mut fails = read(&world, &engine);
        assert_eq!(gauge("nixl_requests_in_flight"), Some(1.0));
        engine.end(Err(broken()));
        now(fails.wait_for_completion()).unwrap_err();
        assert_eq!(gauge("nixl_requests_in_flight"), Some(0.0));

        let mut offer = world.offer(Offering::writable(), &Memory::small());
        assert_eq!(gauge("nixl_offers"), Some(1.0));
        world.inbox.push(offer.metadata().notification_key().as_bytes());
        world.reactor.turn();
        now(offer.wait_for_completion()).unwrap();
        assert_eq!(gauge("nixl_offers"), Some(0.0));
        world.offer(Offering::writable(), &Memory::small()).revoke();
    });
    let expected = [
        ("nixl_requests_total direct other ok", 1),
        ("nixl_bytes_total direct other", 64),
        ("nixl_request_duration_seconds direct other", 1),
        ("nixl_requests_total direct other peer-gone", 1),
        ("nixl_offers_ended_total write ok", 1),
        ("nixl_offers_ended_total write cancelled", 1),
        ("nixl_offer_bytes_total write", 64),
        ("nixl_offer_duration_seconds write", 1),
    ];
    for (name, value) in expected {
        let all = recorded.0.lock().unwrap().keys().cloned().collect::<Vec<_>>();
        assert_eq!(recorded.value(name), Some(value), "{name} among {all:?}");
    }
}

#[test]
fn what_is_held_for_peers_is_in_the_gauges_until_it_comes_back() {
    let recorded = Recorded::default();
    with_local_recorder(&recorded, || {
        let mut world = World::new();
        let claimed = Offering::writable().claims(ClaimDemand::Everywhere).with_slot();
        let (memory, _region) = Memory::over(vec![0; 8]);
        let mut writable = world.offer(claimed, &memory);
        let peer = PeerSlot::of(writable.metadata());
        assert!(peer.claim());
        assert_eq!(recorded.held("quarantined"), None);
        assert_eq!(writable.revoke(), RevokeOutcome::Held);
        assert_eq!(recorded.held("quarantined"), Some((1.0, 8.0)));
        assert!(peer.written(true));
        world.reactor.turn();
        assert_eq!(recorded.held("quarantined"), Some((0.0, 0.0)));

        let mut without_terms = world.offer(Offering::writable(), &Memory::over(vec![0; 16]).0);
        without_terms.metadata();
        assert_eq!(without_terms.revoke(), RevokeOutcome::Held);
        assert_eq!(recorded.held("quarantined-without-terms"), Some((1.0, 16.0)));
        let again = without_terms.metadata().notification_key().clone();

        let memory = Memory::over(vec![0; 24]).0;
        let mut readable = world.readable(Offering::readable().readers(1), &memory);
        let read = readable.metadata().notification_key().clone();
        readable.revoke();
        assert_eq!(recorded.held("retained"), Some((1.0, 24.0)));
        // Whom the driver listens for.
        let memory = Memory::over(vec![0; 8]).0;
        let other = world.offer(Offering::writable(), &memory);
        other.metadata();
        for key in [read, again.clone(), again] {
            world.inbox.push(key.as_bytes());
            world.reactor.turn();
        }
        assert_eq!(recorded.held("retained"), Some((0.0, 0.0)));
        assert_eq!(recorded.held("quarantined-without-terms"), Some((0.0, 0.0)));
        assert_eq!(recorded.value("nixl_second_completions_total"), Some(1));
    });
}

#[test]
fn what_a_connection_leaks_at_its_end_is_not_held_any_more() {
    let recorded = Recorded::default();
    with_local_recorder(&recorded, || {
        let world = World::new();
        let memory = Memory::over(vec![0; 8]).0;
        let mut writable = world.offer(Offering::writable(), &memory);
        writable.metadata();
        assert_eq!(writable.revoke(), RevokeOutcome::Held);
        let readable = world.readable(Offering::readable(), &Memory::over(vec![0; 8]).0);
        readable.metadata();
        drop((readable, writable));
        assert_eq!(recorded.held("retained"), Some((1.0, 8.0)));
        drop(world);
        assert_eq!(recorded.held("retained"), Some((0.0, 0.0)));
        assert_eq!(recorded.held("quarantined-without-terms"), Some((0.0, 0.0)));
    });
}
