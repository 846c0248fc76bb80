//! Polls by the waiter of an operation: closely at first, and again when the end is near.

use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::Poll;
use std::time::Duration;

use nixl_ops::{DriverConfig, Next, OperationOptions, OperationStatus};
use proptest::prelude::*;

use crate::world::{Engine, Memory, Wakes, World, config, is_pending, poll};

const MICRO: Duration = Duration::from_micros(1);
/// How long before the expected end a waiter is woken.
const LEAD: Duration = Duration::from_micros(200);

fn looking() -> DriverConfig {
    config().inline_spin(250 * MICRO)
}

#[test]
fn a_close_look_lasts_as_long_as_the_clock_says() {
    let world = World::with(looking());
    let engine = Engine::slow(&world.clock, Duration::from_nanos(100));
    let mut read = world.read(&engine, &Memory::small(), OperationOptions::new()).unwrap();
    let mut wait = pin!(read.wait_for_completion());
    let wakes = Arc::new(Wakes::default());
    // One poll posts. Then neighbours have their turn after every 50 us.
    for yields in 1..5 {
        assert!(poll(&mut wait, &wakes).is_pending());
        assert_eq!((engine.polls(), wakes.count()), (1 + yields * 500, yields));
    }
    assert!(poll(&mut wait, &wakes).is_pending());
    // 2,500 fill the time, one comes after it.
    assert_eq!((engine.polls(), wakes.count()), (2502, 4));
}

#[test]
fn a_close_look_ends_on_a_clock_that_stands_still() {
    let world = World::with(looking());
    let engine = Engine::pending();
    let mut read = world.read(&engine, &Memory::small(), OperationOptions::new()).unwrap();
    assert!(is_pending(read.wait_for_completion()));
    assert!((2..1000).contains(&engine.polls()), "{}", engine.polls());
}

#[test]
fn while_the_waiter_looks_closely_the_driver_does_not() {
    let mut world = World::with(looking());
    let engine = Engine::pending();
    let mut read = world.read(&engine, &Memory::small(), OperationOptions::new()).unwrap();
    world.reactor.turn();
    // The head start that callers have ends.
    world.clock.advance(250 * MICRO);
    assert_eq!(world.reactor.turn(), Next::Spin);
    let turns = Arc::new(AtomicUsize::new(0));
    let (mut reactor, count) = (world.reactor, Arc::clone(&turns));
    let polls_before = engine.polls();
    engine.aside(move || {
        if count.fetch_add(1, Ordering::Relaxed) == 0 {
            assert_eq!(reactor.turn(), Next::Sleep(250 * MICRO));
        }
    });
    assert!(is_pending(read.wait_for_completion()));
    assert_eq!(engine.polls() - polls_before, turns.load(Ordering::Relaxed));
}

/// Turns the reactor as its thread would, until `wakes` is more than zero. Returns the time.
fn turn_until_woken(world: &mut World, wakes: &Wakes) -> Duration {
    use nixl_ops::Clock as _;
    for _ in 0..100_000 {
        let next = world.reactor.turn();
        if wakes.count() > 0 {
            return world.clock.now();
        }
        match next {
            Next::Spin => world.clock.advance(MICRO / 10),
            Next::Sleep(time) => world.clock.advance(time),
            Next::Park(_) | Next::Exit => panic!("there is one in flight"),
        }
    }
    panic!("never woken");
}

/// Polls until it neither is ready nor asks to be polled again at once. Says how often.
fn poll_out<F: Future + Unpin>(wait: &mut F) -> (Poll<F::Output>, usize) {
    let wakes = Arc::new(Wakes::default());
    let mut polls = 0;
    loop {
        let polled = poll(wait, &wakes);
        polls += 1;
        if polled.is_ready() || wakes.count() < polls {
            return (polled, polls);
        }
    }
}

/// Waits as an async task does, whose thread has many neighbours. No poll of its operations holds the thread for
/// more than 50 us, and those that saw no end hold it for at most 5 % of any 10 ms.
#[test]
fn looks_that_see_no_end_leave_the_thread_to_its_neighbours() {
    use nixl_ops::Clock as _;
    let world = World::with(looking());
    let mut missed = Vec::new();
    for round in 0..1000u32 {
        let engine = Engine::slow(&world.clock, Duration::from_nanos(500));
        let options = OperationOptions::new();
        let mut read = world.read(&engine, &Memory::small(), options).unwrap();
        // One in seven ends while it is looked at.
        if round % 7 == 0 {
            let ended = Arc::clone(&engine);
            engine.aside(move || {
                if ended.polls() == 60 {
                    ended.end(Ok(()));
                }
            });
        }
        let wakes = Arc::new(Wakes::default());
        let mut wait = pin!(read.wait_for_completion());
        let mut looks = Vec::new();
        loop {
            let (begun, woken) = (world.clock.now(), wakes.count());
            let ready = poll(&mut wait, &wakes).is_ready();
            let took = world.clock.now() - begun;
            assert!(took <= 52 * MICRO, "{took:?}");
            looks.push((begun, took));
            if ready {
                looks.clear();
            }
            if ready || wakes.count() == woken {
                break;
            }
            world.clock.advance(MICRO);
        }
        // The two polls outside of looks: the post, and the one before the waiter sleeps.
        missed.extend(looks.into_iter().filter(|(_, took)| *took > MICRO));
        world.clock.advance(10 * MICRO);
    }
    for (first, _) in &missed {
        let end = *first + 10_000 * MICRO;
        let within = missed.iter().filter(|(begun, _)| begun >= first && *begun < end);
        let sum: Duration = within.map(|(_, took)| *took).sum();
        assert!(sum <= 510 * MICRO, "{sum:?} from {first:?} on");
    }
    assert!(missed.len() > 5, "it looked");
}

#[test]
fn a_look_that_was_asked_for_lasts_as_long_and_counts_for_nothing() {
    let world = World::with(looking());
    for _ in 0..5 {
        let engine = Engine::slow(&world.clock, MICRO);
        let options = OperationOptions::new().spin(2000 * MICRO);
        let mut read = world.read(&engine, &Memory::small(), options).unwrap();
        assert!(is_pending(read.wait_for_completion()));
        assert_eq!(engine.polls(), 2002);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]

    #[test]
    fn the_waiter_is_woken_shortly_before_the_expected_end_and_the_driver_does_not_oversleep(
        // What ends sooner is looked at all along.
        expected in 451u64..100_000,
    ) {
        let mut world = World::with(looking());
        let engine = Engine::pending();
        let expected = Duration::from_micros(expected);
        engine.expect(expected);
        let mut read = world.read(&engine, &Memory::small(), OperationOptions::new()).unwrap();
        let wakes = Arc::new(Wakes::default());
        let mut wait = pin!(read.wait_for_completion());
        prop_assert!(poll(&mut wait, &wakes).is_pending());
        let woken = turn_until_woken(&mut world, &wakes);
        let due = expected.saturating_sub(LEAD);
        prop_assert!(woken >= due && woken <= due + MICRO, "{woken:?} for {due:?}");
        engine.end(Ok(()));
        let seen = poll(&mut wait, &wakes);
        prop_assert!(matches!(seen, Poll::Ready(Ok(_))), "it looks without the driver");
        prop_assert_eq!(wakes.count(), 1);
    }
}

#[test]
fn what_is_to_end_soon_after_the_close_look_is_looked_at_until_then() {
    let world = World::with(looking());
    let engine = Engine::pending();
    engine.expect(260 * MICRO);
    let mut read = world.read(&engine, &Memory::small(), OperationOptions::new()).unwrap();
    // Ends at 440 us: later than the look of 250 us, sooner than 200 us after the expected end.
    let (clock, ended) = (Arc::clone(&world.clock), Arc::clone(&engine));
    engine.aside(move || {
        clock.advance(MICRO);
        if ended.polls() == 440 {
            ended.end(Ok(()));
        }
    });
    assert!(matches!(poll_out(&mut pin!(read.wait_for_completion())).0, Poll::Ready(Ok(_))));
    assert_eq!(engine.polls(), 440);
}

#[test]
fn what_posts_quickly_is_posted_at_once_however_large() {
    for quick in [false, true] {
        let mut world = World::with(looking());
        let engine = Engine::pending();
        engine.set_quick(quick);
        let read = world.read(&engine, &Memory::large(), OperationOptions::new()).unwrap();
        assert_eq!(engine.was_posted(), quick);
        world.reactor.turn();
        world.clock.advance(251 * MICRO);
        world.reactor.turn();
        assert!(engine.was_posted(), "by the driver at the latest");
        engine.end(Ok(()));
        drop(read);
    }
}

/// An engine that copies in its posts, as UCX's CMA does.
#[test]
fn long_copies_in_posts_are_made_by_those_who_wait_or_by_the_driver() {
    let mut world = World::with(looking());
    let memory = Memory::small();
    let copying = |takes: u32| {
        let engine = Engine::slow(&world.clock, takes * MICRO);
        engine.take_turns();
        engine.end(Ok(()));
        engine
    };
    let begin = |engine: &Arc<_>| world.read(engine, &memory, OperationOptions::new()).unwrap();
    // Short ones are posted where they are begun, also by an engine that is known to copy.
    for _ in 0..50 {
        let engine = copying(10);
        let _read = begin(&engine);
        assert!(engine.was_posted());
    }
    // Until enough were long, those are, too.
    let long = |_: &u32| {
        let engine = copying(100);
        let mut read = begin(&engine);
        let was_posted = engine.was_posted();
        assert!(matches!(poll_out(&mut pin!(read.wait_for_completion())).0, Poll::Ready(Ok(_))));
        assert_eq!(engine.polls(), 1);
        !was_posted
    };
    assert!((1..50).find(long).is_some_and(|count| count > 1));
    // What is not awaited is posted by the driver, which leaves it to a waiter for a millisecond.
    let engine = copying(100);
    let read = begin(&engine);
    assert!(!engine.was_posted());
    let turns = (0..12).find(|_| {
        world.reactor.turn();
        world.clock.advance(100 * MICRO);
        engine.was_posted()
    });
    assert!(turns.is_some() && read.status() == OperationStatus::Complete);
}

#[test]
fn what_takes_longer_than_expected_is_awaited_asleep() {
    let mut world = World::with(looking());
    let engine = Engine::pending();
    engine.expect(2000 * MICRO);
    let mut read = world.read(&engine, &Memory::small(), OperationOptions::new()).unwrap();
    let wakes = Arc::new(Wakes::default());
    let mut wait = pin!(read.wait_for_completion());
    assert!(poll(&mut wait, &wakes).is_pending());
    turn_until_woken(&mut world, &wakes);
    // From 1,800 to 2,200 us, in steps of one, and one more look.
    let clock = Arc::clone(&world.clock);
    engine.aside(move || clock.advance(MICRO));
    let before = engine.polls();
    assert!(poll_out(&mut wait).0.is_pending());
    assert!(engine.polls() - before <= 402, "{}", engine.polls() - before);
    let wakes = Arc::new(Wakes::default());
    assert!(poll(&mut wait, &wakes).is_pending());
    for _ in 0..10 {
        world.clock.advance(1000 * MICRO);
        world.reactor.turn();
        assert_eq!(wakes.count(), 0, "once is enough");
    }
    engine.end(Ok(()));
    world.reactor.turn();
    assert_eq!(wakes.count(), 1);
    assert!(matches!(poll(&mut wait, &wakes), Poll::Ready(Ok(_))));
}

#[test]
fn the_driver_looks_closely_for_what_ends_by_a_word() {
    for told in [false, true] {
        let mut world = World::with(looking());
        let engine = Engine::pending();
        engine.set_told(told);
        engine.expect(5000 * MICRO);
        let mut read = world.read(&engine, &Memory::small(), OperationOptions::new()).unwrap();
        let wakes = Arc::new(Wakes::default());
        let mut wait = pin!(read.wait_for_completion());
        assert!(poll(&mut wait, &wakes).is_pending());
        let woken = turn_until_woken(&mut world, &wakes);
        assert!(woken <= (5000 - 200 + 1) * MICRO);
        let mut spins = 0;
        while world.reactor.turn() == Next::Spin {
            spins += 1;
            world.clock.advance(MICRO);
        }
        // 400 us, in steps of one.
        assert_eq!(spins >= 399, told, "{spins}");
        engine.end(Ok(()));
    }
}

#[test]
fn operations_without_a_waiter_end_as_before() {
    let mut world = World::with(looking());
    let (engine, memory) = (Engine::pending(), Memory::small());
    engine.expect(1000 * MICRO);
    let read = world.read(&engine, &memory, OperationOptions::new()).unwrap();
    for _ in 0..40 {
        world.reactor.turn();
        world.clock.advance(100 * MICRO);
    }
    engine.end(Ok(()));
    world.reactor.turn();
    assert!(!memory.is_leased());
    drop(read);
    world.clock.advance(2000 * MICRO);
    assert!(matches!(world.reactor.turn(), Next::Park(_)));
}
