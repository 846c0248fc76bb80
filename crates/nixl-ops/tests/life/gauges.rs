//! What recorders of metrics see of offers that were given up.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use metrics::{
    Counter, Gauge, Histogram, Key, KeyName, Metadata, Recorder, SharedString, Unit,
    with_local_recorder,
};
use nixl_ops::{ClaimDemand, RevokeOutcome};

use crate::peer::PeerSlot;
use crate::world::{Memory, Offering, World};

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

    fn register_histogram(&self, _: &Key, _: &Metadata<'_>) -> Histogram {
        Histogram::noop()
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
