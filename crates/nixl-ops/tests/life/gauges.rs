//! Metrics of operations and offers, as recorders see them.

use std::collections::BTreeMap;
use std::future::poll_fn;
use std::pin::{Pin, pin};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use metrics::{
    Counter, Gauge, Histogram, HistogramFn, Key, KeyName, Metadata, Recorder, SharedString, Unit,
    with_local_recorder,
};
use nixl_descriptor::Region;
use nixl_descriptor::layout::{Dimensions, Inner, Layout, LayoutGeometry};
use nixl_ops::{
    CancelOutcome, ClaimDemand, Clock, GrantTable, GrantTableOptions, GrantTerms, ManualClock,
    OperationError, OperationOptions, OperationStatus, RevokeOutcome,
};

use crate::peer::PeerSlot;
use crate::world::{DRAIN, Engine, Memory, Offering, World, broken, now, timeout};

/// Keeps counters and gauges, by name and labels.
#[derive(Default)]
struct Recorded {
    values: Mutex<BTreeMap<String, Arc<AtomicU64>>>,
    look_ups: AtomicU64,
}

impl Recorded {
    fn of(&self, key: &Key) -> Arc<AtomicU64> {
        let labels: String = key.labels().map(|label| format!(" {}", label.value())).collect();
        let name = format!("{}{labels}", key.name());
        self.look_ups.fetch_add(1, Ordering::Relaxed);
        Arc::clone(self.values.lock().unwrap().entry(name).or_default())
    }

    fn value(&self, name: &str) -> Option<u64> {
        self.values.lock().unwrap().get(name).map(|value| value.load(Ordering::Relaxed))
    }

    /// The counters of this name that are not zero, with their labels.
    fn counted(&self, name: &str) -> Vec<(String, u64)> {
        let values = self.values.lock().unwrap();
        let of_name = values.iter().filter(|(key, _)| key.split(' ').next() == Some(name));
        let counted = of_name.map(|(key, value)| (key.clone(), value.load(Ordering::Relaxed)));
        counted.filter(|(_, value)| *value > 0).collect()
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
        let all = recorded.values.lock().unwrap().keys().cloned().collect::<Vec<_>>();
        assert_eq!(recorded.value(name), Some(value), "{name} among {all:?}");
    }
}

#[test]
fn what_comes_before_an_operation_is_counted_if_it_fails() {
    let recorded = Recorded::default();
    with_local_recorder(&recorded, || {
        let mut world = World::new();
        let driver = Arc::clone(&world.driver);
        let after = Duration::from_secs(1);
        let mut poll = |step: Pin<&mut dyn Future<Output = bool>>| {
            world.reactor.turn();
            step.poll(&mut Context::from_waker(Waker::noop()))
        };
        // A step that succeeds, later than at once, and one that is given up.
        let gate = AtomicU64::new(0);
        let open = || match gate.load(Ordering::Relaxed) {
            0 => Poll::Pending,
            _ => Poll::Ready(()),
        };
        for is_awaited in [true, false] {
            gate.store(0, Ordering::Relaxed);
            let step =
                async { driver.with_timeout(timeout(after), poll_fn(|_| open())).await.is_ok() };
            let mut step = pin!(step);
            assert!(poll(step.as_mut()).is_pending());
            gate.store(1, Ordering::Relaxed);
            if is_awaited {
                assert_eq!(poll(step.as_mut()), Poll::Ready(true));
            }
        }
        assert_eq!(recorded.counted("nixl_requests_total"), []);
        driver.note_unbegun("timed-out");
    });
    let expected = [("nixl_requests_total none other timed-out".to_owned(), 1)];
    assert_eq!(recorded.counted("nixl_requests_total"), expected);
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
fn an_unmetered_operation_is_not_counted() {
    let recorded = Recorded::default();
    with_local_recorder(&recorded, || {
        let world = World::new();
        for result in [Ok(()), Err(broken())] {
            let options = OperationOptions::new().unmetered();
            drop(world.read(&Engine::ready(result), &Memory::small(), options).unwrap());
        }
        let cancelled = OperationOptions::new().unmetered();
        world.read(&Engine::pending(), &Memory::small(), cancelled).unwrap().cancel();
    });
    assert_eq!(recorded.counted("nixl_requests_total"), []);
    assert_eq!(recorded.counted("nixl_bytes_total"), []);
}

#[test]
fn grants_are_in_the_gauges_until_they_end_and_are_counted_by_why() {
    let recorded = Recorded::default();
    with_local_recorder(&recorded, || {
        let live = || {
            let gauge = |name| recorded.value(&format!("{name} read")).map(f64::from_bits);
            gauge("nixl_grants").zip(gauge("nixl_granted_blocks"))
        };
        let inner = Inner::Elements(8);
        let dimensions =
            Dimensions { blocks: 8, layers: 1, outer: 1, page_size: 1, inner, element_width: 1 };
        let geometry = LayoutGeometry::try_from(dimensions).unwrap();
        let region = Region::zeroed(geometry.bytes()).unwrap();
        let layout = Layout::fully_contiguous(geometry, region).unwrap();
        let clock = Arc::new(ManualClock::new());
        let options = GrantTableOptions::default();
        let table = GrantTable::new(&[layout], options, clock.clone()).unwrap();
        let grant = |blocks: &[u32]| {
            let terms = GrantTerms::new(0).for_time(Duration::from_secs(1));
            table.grant(&terms, blocks).unwrap()
        };
        let revoked = grant(&[0, 1]);
        let done = grant(&[1, 2, 3]);
        // Refused, and in no gauge.
        table.grant(&GrantTerms::new(0), &[8]).unwrap_err();
        assert_eq!(live(), Some((2.0, 5.0)));
        assert!(table.end(revoked.slot(), revoked.generation()));
        assert!(!table.end(revoked.slot(), revoked.generation()));
        table.done(done.slot(), done.generation(), &done.token(), [1; 16]).unwrap();
        assert_eq!(live(), Some((0.0, 0.0)));
        grant(&[4]);
        clock.advance(Duration::from_secs(1));
        assert_eq!(table.expire(clock.now()), 1);
        grant(&[5]);
        grant(&[6]);
        assert_eq!(live(), Some((2.0, 2.0)));
        drop(table);
        assert_eq!(live(), Some((0.0, 0.0)));
    });
    let ended = [("closed", 2), ("done", 1), ("expired", 1), ("revoked", 1)];
    let ended = ended.map(|(why, count)| (format!("nixl_grants_ended_total {why}"), count));
    assert_eq!(recorded.counted("nixl_grants_ended_total"), ended);
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

/// `name labels` and its value.
fn once(counter: &str) -> Vec<(String, u64)> {
    vec![(counter.to_owned(), 1)]
}

#[test]
fn an_operation_that_ended_before_its_engine_is_counted_as_its_caller_saw_it() {
    for engine_ends in [Ok(()), Err(broken())] {
        for is_cancelled in [true, false] {
            let recorded = Recorded::default();
            with_local_recorder(&recorded, || {
                let mut world = World::new();
                let (engine, memory) = (Engine::pending(), Memory::small());
                let after = Duration::from_secs(1);
                let mut read = world.read(&engine, &memory, timeout(after)).unwrap();
                world.reactor.turn();
                assert!(engine.in_flight());
                let error = if is_cancelled {
                    assert_eq!(read.cancel(), CancelOutcome::Cancelled);
                    OperationError::Cancelled
                } else {
                    world.clock.advance(after);
                    world.reactor.turn();
                    OperationError::TimedOut { after }
                };
                assert_eq!(now(read.wait_for_completion()), Err(error));
                engine.end(engine_ends.clone());
                world.reactor.turn();
                assert!(!memory.is_leased(), "the engine is quiet");
            });
            let outcome = if is_cancelled { "cancelled" } else { "timed-out" };
            let expected = once(&format!("nixl_requests_total direct other {outcome}"));
            assert_eq!(recorded.counted("nixl_requests_total"), expected);
            assert_eq!(recorded.counted("nixl_bytes_total"), []);
            assert_eq!(recorded.counted("nixl_request_duration_seconds"), []);
        }
    }
}

#[test]
fn operations_that_their_driver_gives_up_are_counted() {
    let recorded = Recorded::default();
    with_local_recorder(&recorded, || {
        let world = World::new();
        let read = world.read(&Engine::pending(), &Memory::small(), OperationOptions::new());
        drop(world.reactor);
        assert_eq!(read.unwrap().status(), OperationStatus::Errored);
    });
    assert_eq!(
        recorded.counted("nixl_requests_total"),
        once("nixl_requests_total none other failed")
    );

    let recorded = Recorded::default();
    with_local_recorder(&recorded, || {
        let mut world = World::new();
        let engine = Engine::pending();
        let mut read = world.read(&engine, &Memory::small(), OperationOptions::new()).unwrap();
        world.reactor.turn();
        read.cancel();
        world.reactor.turn();
        world.clock.advance(DRAIN);
        world.reactor.turn();
        assert_eq!(recorded.counted("nixl_requests_total"), [], "its engine has not ended");
        drop(world.reactor);
    });
    assert_eq!(
        recorded.counted("nixl_requests_total"),
        once("nixl_requests_total none other cancelled")
    );
}

#[test]
fn an_offer_that_was_given_up_is_counted_once() {
    for has_written in [true, false] {
        let recorded = Recorded::default();
        with_local_recorder(&recorded, || {
            let mut world = World::new();
            let claimed = Offering::writable().claims(ClaimDemand::Everywhere).with_slot();
            let memory = Memory::over(vec![0; 8]).0;
            let mut writable = world.offer(claimed, &memory);
            let peer = PeerSlot::of(writable.metadata());
            assert!(peer.claim());
            assert_eq!(writable.revoke(), RevokeOutcome::Held);
            assert!(peer.written(has_written));
            world.reactor.turn();
            assert_eq!(recorded.held("quarantined"), Some((0.0, 0.0)), "the peer is done");
        });
        let expected = once("nixl_offers_ended_total write cancelled");
        assert_eq!(recorded.counted("nixl_offers_ended_total"), expected);
        assert_eq!(recorded.counted("nixl_offer_bytes_total"), []);
    }
}

#[test]
fn metrics_are_looked_up_once_for_each_recorder() {
    let recorded = Recorded::default();
    with_local_recorder(&recorded, || {
        let mut world = World::new();
        let mut round = || {
            for result in [Ok(()), Err(broken())] {
                let engine = Engine::ready(result);
                drop(world.read(&engine, &Memory::small(), OperationOptions::new()).unwrap());
            }
            let mut complete = world.offer(Offering::writable(), &Memory::small());
            world.inbox.push(complete.metadata().notification_key().as_bytes());
            world.reactor.turn();
            now(complete.wait_for_completion()).unwrap();
            let mut quarantined = world.offer(Offering::writable(), &Memory::small());
            quarantined.metadata();
            assert_eq!(quarantined.revoke(), RevokeOutcome::Held);
            let readable = world.readable(Offering::readable(), &Memory::small());
            readable.metadata();
            drop(readable);
            recorded.look_ups.load(Ordering::Relaxed)
        };
        let first = round();
        assert!(first > 0);
        assert_eq!(round(), first);
    });
    assert_eq!(recorded.value("nixl_offers_ended_total write ok"), Some(2));
    assert_eq!(recorded.value("nixl_requests_total direct other peer-gone"), Some(2));
    assert_eq!(recorded.held("retained").map(|(offers, _)| offers), Some(0.0));
}
