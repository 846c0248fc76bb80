//! Operations whose engines are not quiet when their drain time is over.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use nixl_ops::{
    Execution, Next, OperationError, OperationOptions, OperationStatus, PathKind, PathReport,
    PeerMemory, ReadOperation, TransportError,
};

use crate::world::{DRAIN, Engine, Memory, World, config, now, timeout};

const SECOND: Duration = Duration::from_secs(1);

/// Turns the reactor as its thread would, for so long. Returns how often.
fn run_for(world: &mut World, time: Duration) -> usize {
    use nixl_ops::Clock as _;
    let end = world.clock.now() + time;
    let mut turns = 0;
    while world.clock.now() < end {
        turns += 1;
        let step = match world.reactor.turn() {
            Next::Spin => Duration::from_micros(1),
            Next::Sleep(sleep) => sleep,
            // Parked, it is woken when the next look at what is overdue is due: no sooner than a second after the last.
            Next::Park(_) => SECOND / 2,
            Next::Exit => panic!("it goes on"),
        };
        world.clock.advance(step.min(end - world.clock.now()));
    }
    turns
}

/// An operation that has outlived its deadline and its drain time.
fn overdue(world: &mut World, engine: &Arc<Engine>, memory: &Memory) {
    let mut read = world.read(engine, memory, timeout(SECOND)).unwrap();
    world.clock.advance(SECOND);
    world.reactor.turn();
    assert!(matches!(now(read.wait_for_completion()), Err(OperationError::TimedOut { .. })));
    world.clock.advance(DRAIN);
    world.reactor.turn();
    assert!(now(read.reclaim()).memory.is_none(), "its waiter is told");
}

#[test]
fn it_is_asked_on_seldom_and_its_memory_comes_back_when_its_engine_is_quiet() {
    let mut world = World::new();
    let (engine, memory) = (Engine::pending(), Memory::small());
    overdue(&mut world, &engine, &memory);
    let stats = world.driver.stats();
    assert_eq!((stats.active(), stats.overdue().operations(), stats.overdue().bytes()), (0, 1, 64));
    let before = engine.polls();
    let turns = run_for(&mut world, 1000 * SECOND);
    let polls = engine.polls() - before;
    assert!((250..=255).contains(&polls), "every 4 s in the end: {polls}");
    assert!(turns < 3000, "no ticks in between: {turns}");
    assert!(memory.is_leased());
    engine.end(Ok(()));
    run_for(&mut world, 5 * SECOND);
    assert!(!memory.is_leased() && engine.is_gone());
    assert_eq!(world.driver.stats().overdue(), nixl_ops::Overdue::default());
}

#[test]
fn an_engine_that_goes_on_is_asked_again_soon() {
    let mut world = World::new();
    let engine = Engine::pending();
    overdue(&mut world, &engine, &Memory::small());
    run_for(&mut world, 100 * SECOND);
    let before = engine.polls();
    let steps = Arc::clone(&engine);
    engine.aside(move || match steps.polls() - before {
        1..50 => steps.step(),
        50 => steps.end(Ok(())),
        _ => {}
    });
    run_for(&mut world, 30 * SECOND);
    assert!(engine.is_gone(), "{}", engine.polls() - before);
}

#[test]
fn it_takes_no_place_in_flight_and_delays_no_other() {
    let config = config().max_in_flight(1);
    let mut world = World::with(config);
    for number in 1..=3 {
        overdue(&mut world, &Engine::pending(), &Memory::small());
        assert_eq!(world.driver.stats().overdue().operations(), number);
    }
    let engine = Engine::pending();
    let read = world.read(&engine, &Memory::small(), OperationOptions::new()).unwrap();
    assert_eq!(world.reactor.turn(), Next::Spin, "the back-off is that of the new one");
    engine.end(Ok(()));
    assert!(matches!(world.reactor.turn(), Next::Sleep(_)));
    drop(read);
    world.clock.advance(SECOND / 100);
    assert!(matches!(world.reactor.turn(), Next::Park(_)));
}

#[test]
fn the_end_of_the_driver_leaks_it_at_once() {
    let mut world = World::new();
    let (quiet, engine) = (Engine::pending(), Engine::pending());
    let (returned, memory) = (Memory::small(), Memory::small());
    overdue(&mut world, &quiet, &returned);
    overdue(&mut world, &engine, &memory);
    // The last look finds the one that has become quiet since.
    quiet.end(Ok(()));
    drop(world.driver);
    assert_eq!(world.reactor.turn(), Next::Exit);
    assert!(!returned.is_leased());
    assert!(memory.is_leased() && engine.is_gone());
}

/// An execution that waits before its post.
struct Waiting {
    polled: Arc<AtomicUsize>,
}

impl Execution for Waiting {
    fn poll(&mut self, _: &mut Context<'_>) -> Poll<Result<(), TransportError>> {
        self.polled.fetch_add(1, Ordering::SeqCst);
        Poll::Pending
    }

    fn abandon(&mut self) -> bool {
        true
    }

    fn report(&self) -> PathReport {
        PathReport::new(PathKind::Direct, "waiting", 0, 1)
    }

    #[allow(unsafe_code, reason = "says what its peer's memory is")]
    fn peer_memory(&self) -> PeerMemory {
        // SAFETY: it accesses nothing.
        unsafe { PeerMemory::untouched() }
    }
}

#[test]
fn nothing_is_posted_late_by_an_execution_that_had_to_wait() {
    let mut world = World::new();
    let memory = Memory::small();
    let polled = Arc::new(AtomicUsize::new(0));
    let execution = Box::new(Waiting { polled: Arc::clone(&polled) });
    let options = OperationOptions::new().timeout(SECOND);
    let read = ReadOperation::begin(&world.driver, execution, memory.list(), options).unwrap();
    world.reactor.turn();
    let before = polled.load(Ordering::SeqCst);
    assert!(before > 0 && !read.status().is_terminal());
    world.clock.advance(SECOND);
    world.reactor.turn();
    assert_eq!(read.status(), OperationStatus::Errored);
    assert_eq!(polled.load(Ordering::SeqCst), before);
}
