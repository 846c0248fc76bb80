//! Each fault strikes where it was ordered, and the operations make the best of it.

use std::task::Poll;
use std::thread;
use std::time::Duration;

use nixl_connector::simulated::{Fault, MessageFault};
use nixl_descriptor::{Region, RegisterError};
use nixl_ops::{Clock, Next, OperationError, OperationStatus, PeerId, TransportError};

use crate::side::{DRAIN, Scene, TIMEOUT, World, is_leased, now, pattern};

const LEN: usize = 1000;

fn engine_failed(error: &OperationError) -> bool {
    matches!(error, OperationError::Transport(TransportError::Engine { engine: "simulated", .. }))
}

fn end_of(scene: &Scene, world: &World, fault: Fault) -> Result<(), OperationError> {
    world.faults_of(&scene.initiator).next([fault]);
    now(scene.read().unwrap().wait_for_completion()).map(|_| ())
}

#[test]
fn without_faults_both_sides_complete() {
    let world = World::new();
    let mut scene = world.scene(LEN);
    let mut read = scene.read().unwrap();
    assert_eq!(read.status(), OperationStatus::Complete, "inline");
    assert_eq!(now(read.wait_for_completion()).unwrap().bytes(), LEN as u64);
    assert_eq!(scene.arrived(), LEN);
    scene.turn();
    assert_eq!(scene.offer.status(), OperationStatus::Complete);
}

#[test]
fn a_delay_is_measured_on_the_clock() {
    let world = World::new();
    let mut scene = world.scene(LEN);
    let second = Duration::from_secs(1);
    world.fabric.faults().next([Fault::Delay(second)]);
    let read = scene.read().unwrap();
    world.clock.advance(second - Duration::from_nanos(1));
    scene.turn();
    assert_eq!(read.status(), OperationStatus::InProgress);
    world.clock.advance(Duration::from_nanos(1));
    scene.turn();
    assert_eq!(read.status(), OperationStatus::Complete);
    assert_eq!(scene.offer.status(), OperationStatus::Complete);
    assert_eq!(scene.arrived(), LEN);
}

#[test]
fn a_failed_post_moves_nothing_and_the_next_one_is_well() {
    let world = World::new();
    let scene = world.scene(LEN);
    assert!(engine_failed(&end_of(&scene, &world, Fault::PostFails).unwrap_err()));
    assert_eq!(scene.arrived(), 0);
    now(scene.read().unwrap().wait_for_completion()).unwrap();
    assert_eq!(scene.arrived(), LEN);
}

#[test]
fn a_failure_strikes_at_its_byte() {
    for after in [0, 1, 333, LEN] {
        let world = World::new();
        let scene = world.scene(LEN);
        let error = end_of(&scene, &world, Fault::Fails { after: after as u64 }).unwrap_err();
        assert!(engine_failed(&error));
        assert_eq!(scene.arrived(), after);
        assert!(!is_leased(&scene.local));
    }
}

#[test]
fn a_fault_beyond_the_end_strikes_before_the_notification() {
    let world = World::new();
    let mut scene = world.scene(LEN);
    assert!(end_of(&scene, &world, Fault::Fails { after: u64::MAX }).is_err());
    assert_eq!(scene.arrived(), LEN);
    scene.turn();
    assert_eq!(scene.offer.status(), OperationStatus::Initialized);
}

#[test]
fn a_lost_notification_leaves_the_target_to_its_deadline() {
    let world = World::new();
    let mut scene = world.scene(LEN);
    end_of(&scene, &world, Fault::NotificationLost).unwrap();
    assert_eq!(scene.arrived(), LEN);
    scene.turn();
    assert_eq!(scene.offer.status(), OperationStatus::Initialized);
    world.clock.advance(TIMEOUT);
    scene.turn();
    let timed_out = OperationError::TimedOut { after: TIMEOUT };
    assert_eq!(now(scene.offer.wait_for_completion()), Err(timed_out));
}

#[test]
fn an_early_notification_comes_before_the_bytes() {
    let world = World::new();
    let mut scene = world.scene(LEN);
    let delay = Duration::from_secs(1);
    world.fabric.faults().next([Fault::NotificationEarly, Fault::Delay(delay)]);
    let read = scene.read().unwrap();
    scene.turn();
    assert_eq!(scene.offer.status(), OperationStatus::Complete);
    assert_eq!(read.status(), OperationStatus::InProgress);
    world.clock.advance(delay);
    scene.turn();
    assert_eq!(read.status(), OperationStatus::Complete);
    let mut told = 0;
    scene.target.transport.take_notifications(&mut |_, _| told += 1).unwrap();
    assert_eq!(told, 0, "once is enough");
}

#[test]
fn a_repeated_notification_completes_once() {
    let world = World::new();
    let mut scene = world.scene(LEN);
    end_of(&scene, &world, Fault::NotificationTwice).unwrap();
    scene.turn();
    now(scene.offer.wait_for_completion()).unwrap();
    scene.turn();
    assert_eq!(scene.target.driver.stats().passive(), 0);
}

#[test]
fn a_failed_notification_is_told_apart_from_a_failed_transfer() {
    let world = World::new();
    let mut scene = world.scene(LEN);
    let error = end_of(&scene, &world, Fault::NotificationFails).unwrap_err();
    let failed = TransportError::NotificationFailed { reason: "a fault was ordered".into() };
    assert_eq!(error, OperationError::Transport(failed));
    assert_eq!(scene.arrived(), LEN, "the bytes are in place");
    scene.turn();
    assert_eq!(scene.offer.status(), OperationStatus::Initialized);
}

#[test]
fn a_dying_peer_takes_every_transfer_with_it() {
    let world = World::new();
    let mut scene = world.scene(LEN);
    let name = scene.target.transport.agent_name().to_owned();
    let gone = TransportError::PeerGone { name };
    world.fabric.faults().next([Fault::Stalls { after: 10 }]);
    let other_local = Region::zeroed(LEN).unwrap();
    let mut other =
        scene.initiator.read(scene.offer.metadata(), &other_local, Default::default()).unwrap();
    let error = end_of(&scene, &world, Fault::PeerDies { after: 100 }).unwrap_err();
    assert_eq!(error, OperationError::Transport(gone.clone()));
    assert_eq!(scene.arrived(), 100);
    scene.turn();
    assert_eq!(now(other.wait_for_completion()), Err(OperationError::Transport(gone.clone())));
    assert_eq!(scene.read().unwrap_err(), gone);
    assert!(!world.fabric.kill(scene.target.transport.agent_name()), "it is dead already");
}

#[test]
fn a_killed_agent_moves_and_registers_nothing() {
    let world = World::new();
    let mut scene = world.scene(LEN);
    world.fabric.faults().next([Fault::Stalls { after: 0 }]);
    let mut read = scene.read().unwrap();
    assert!(world.fabric.kill(scene.initiator.transport.agent_name()));
    scene.turn();
    let closed = OperationError::Transport(TransportError::Closed);
    assert_eq!(now(read.wait_for_completion()), Err(closed));
    let refused = scene.initiator.register(&Region::zeroed(8).unwrap()).unwrap_err();
    assert!(matches!(refused, RegisterError::Engine { .. }));
    assert_eq!(scene.initiator.transport.local_metadata(), Err(TransportError::Closed));
}

#[test]
fn a_stalled_transfer_goes_on_when_it_is_released() {
    let world = World::new();
    let mut scene = world.scene(LEN);
    let faults = world.faults_of(&scene.initiator);
    faults.next([Fault::Stalls { after: 400 }]);
    let read = scene.read().unwrap();
    scene.turn();
    assert_eq!(read.status(), OperationStatus::InProgress);
    faults.release();
    scene.turn();
    assert_eq!(read.status(), OperationStatus::Complete);
    assert_eq!(scene.offer.status(), OperationStatus::Complete);
    assert_eq!(scene.arrived(), LEN);
    faults.next([Fault::Stalls { after: 0 }]);
    assert_eq!(
        scene.read().unwrap().status(),
        OperationStatus::InProgress,
        "only what was stalled"
    );
}

/// The engine writes after the wait has ended; until it is quiet the memory stays leased.
#[test]
fn a_late_write_meets_leased_memory_after_a_timeout() {
    let world = World::new();
    let mut scene = world.scene(LEN);
    world.fabric.faults().next([Fault::Stalls { after: 400 }]);
    let read = scene.read().unwrap();
    world.clock.advance(TIMEOUT);
    scene.turn();
    assert_eq!(read.status(), OperationStatus::Errored);
    assert!(scene.local.to_vec().is_err(), "leased");
    drop(read);
    scene.turn();
    assert!(is_leased(&scene.local));
    world.fabric.faults().release();
    scene.turn();
    assert_eq!(scene.arrived(), LEN, "the late write happened, and only then the lease ended");
}

/// A partition that outlasts deadline and drain time: the engine is asked on, and when it is over the memory comes back and
/// the peer can be used and forgotten.
#[test]
fn after_a_partition_memory_and_peer_come_back() {
    let world = World::new();
    let mut scene = world.scene(3 << 20);
    let peer = PeerId::new(scene.target.transport.agent_name());
    world.fabric.faults().next([Fault::Stalls { after: 400 }]);
    let mut read = scene.read().unwrap();
    for time in [TIMEOUT, DRAIN, 1000 * DRAIN] {
        scene.turn();
        world.clock.advance(time);
    }
    scene.turn();
    assert!(matches!(now(read.wait_for_completion()), Err(OperationError::TimedOut { .. })));
    assert!(now(read.reclaim()).memory.is_none());
    let stats = scene.initiator.driver.stats();
    assert_eq!((stats.active(), stats.overdue().operations()), (0, 1));
    let busy = scene.initiator.transport.disconnect(&peer);
    assert!(matches!(busy, Err(TransportError::PeerBusy { .. })));
    assert!(is_leased(&scene.local));
    world.fabric.faults().release();
    // Each look moves a part; they are at most 4 s apart.
    for _ in 0..5 {
        world.clock.advance(Duration::from_secs(4));
        scene.turn();
    }
    assert_eq!(scene.arrived(), 3 << 20, "the late write happened, and only then the lease ended");
    assert_eq!(scene.initiator.driver.stats().overdue().operations(), 0);
    assert_eq!(scene.target.driver.stats().retained().offers(), 0, "the target was told");
    assert_eq!(scene.initiator.transport.disconnect(&peer), Ok(()));
}

/// The engine writes after the connection's end, which waits for no more than the drain time: the memory is leaked, and never
/// handed out again.
#[test]
fn a_late_write_meets_leaked_memory_after_the_connections_end() {
    let world = World::new();
    let mut scene = world.scene(3 << 20);
    world.fabric.faults().next([Fault::Stalls { after: 400 }]);
    let read = scene.read().unwrap();
    scene.turn();
    drop(read);
    scene.turn();
    world.clock.advance(DRAIN);
    scene.turn();
    assert_eq!(scene.initiator.driver.stats().overdue().operations(), 1);
    let target = scene.target.driver.stats();
    assert!(!is_leased(&scene.source), "no peer writes what was offered to be read");
    assert_eq!(target.retained().offers(), 1, "it stays allocated");
    let before = nixl_descriptor::leaked();
    drop(scene.initiator.driver);
    assert_eq!(scene.initiator.reactor.turn(), Next::Exit);
    assert!(nixl_descriptor::leaked().leases() > before.leases());
    world.fabric.faults().release();
    // Now and then it looks whether the reader has said that it is done.
    world.clock.advance(Duration::from_secs(1));
    scene.target.reactor.turn();
    let target = scene.target.driver.stats();
    assert_eq!(target.retained().offers(), 0, "the engine went on without us");
    assert!(is_leased(&scene.local), "for ever");
    assert!(scene.local.try_into_vec().is_err());
}

/// Told too early, the target takes its memory back: what has not moved by then never does.
#[test]
fn a_transfer_from_deregistered_memory_fails() {
    let world = World::new();
    let mut scene = world.scene(LEN);
    world.fabric.faults().next([Fault::NotificationEarly, Fault::Stalls { after: 400 }]);
    let mut read = scene.read().unwrap();
    scene.target.reactor.turn();
    let reclaimed = now(scene.offer.reclaim());
    assert!(reclaimed.outcome.is_ok());
    drop(reclaimed);
    assert_eq!(scene.source.try_into_vec().unwrap(), pattern(LEN));
    world.fabric.faults().release();
    scene.initiator.reactor.turn();
    let error = now(read.wait_for_completion()).unwrap_err();
    assert!(engine_failed(&error), "{error}");
    let image = scene.local.to_vec().unwrap();
    assert_eq!(image[..400], pattern(LEN)[..400]);
    assert_eq!(image[400..], [0; LEN - 400]);
}

#[test]
fn orders_are_served_in_turn_and_an_agents_come_first() {
    let world = World::new();
    let scene = world.scene(LEN);
    let own = world.faults_of(&scene.initiator);
    world.fabric.faults().next([Fault::Fails { after: 3 }]);
    own.next([Fault::Fails { after: 1 }]);
    own.next([]);
    own.next([Fault::Fails { after: 2 }]);
    let mut outcomes = Vec::new();
    for _ in 0..5 {
        scene.local.copy_from_slice(0, &[0; LEN]).unwrap();
        drop(scene.read().unwrap());
        outcomes.push(scene.arrived());
    }
    assert_eq!(outcomes, [1, LEN, 2, 3, LEN]);
}

#[test]
fn standing_orders_strike_until_they_are_replaced() {
    let world = World::new();
    let scene = world.scene(LEN);
    let faults = world.fabric.faults();
    faults.always([Fault::Fails { after: 5 }]);
    for _ in 0..3 {
        assert!(now(scene.read().unwrap().wait_for_completion()).is_err());
    }
    // What is ordered for one comes on top.
    assert!(engine_failed(&end_of(&scene, &world, Fault::Fails { after: 2 }).unwrap_err()));
    faults.always([]);
    assert!(now(scene.read().unwrap().wait_for_completion()).is_ok());
}

#[test]
fn registrations_can_be_refused() {
    let world = World::new();
    let (side, other) = (world.side("a"), world.side("b"));
    let region = Region::zeroed(64).unwrap();
    let faults = world.faults_of(&side);
    faults.refuse_registrations(true);
    let refused = side.register(&region).unwrap_err();
    assert!(matches!(refused, RegisterError::OutOfResources { .. }));
    assert!(other.register(&region).is_ok(), "only of this agent");
    faults.refuse_registrations(false);
    assert!(side.register(&region).is_ok());
    world.fabric.faults().refuse_registrations(true);
    assert!(side.register(&region).is_err() && other.register(&region).is_err());
}

#[test]
fn registrations_can_be_slow() {
    let world = World::new();
    let side = world.side("a");
    let delay = Duration::from_secs(3);
    world.fabric.faults().delay_registrations(delay);
    let region = Region::zeroed(64).unwrap();
    thread::scope(|scope| {
        let registering = scope.spawn(|| side.register(&region).map(|_| world.clock.now()));
        while !registering.is_finished() {
            world.clock.advance(Duration::from_millis(100));
            thread::yield_now();
        }
        assert!(registering.join().unwrap().unwrap() >= delay);
    });
}

#[test]
fn messages_are_lost_repeated_and_overtaken_as_ordered() {
    let world = World::new();
    let scene = world.scene(1);
    let peer = PeerId::new(scene.target.transport.agent_name());
    let send = |text: &str| {
        let sent = scene.initiator.transport.notify(&peer, text.as_bytes());
        assert_eq!(sent, Poll::Ready(Ok(())), "the sender sees nothing of it");
    };
    let arrived = || {
        let mut texts = Vec::new();
        let mut take = |_: &str, text: &[u8]| texts.push(String::from_utf8(text.to_vec()).unwrap());
        scene.target.transport.take_notifications(&mut take).unwrap();
        texts
    };
    let second = Duration::from_secs(1);
    world.faults_of(&scene.initiator).messages([
        Some(MessageFault::Delayed(second)),
        Some(MessageFault::Lost),
        None,
        Some(MessageFault::Twice),
    ]);
    ["late", "lost", "spared", "twice", "after"].into_iter().for_each(send);
    assert_eq!(arrived(), ["spared", "twice", "twice", "after"]);
    world.clock.advance(second - Duration::from_nanos(1));
    assert!(arrived().is_empty());
    world.clock.advance(Duration::from_nanos(1));
    assert_eq!(arrived(), ["late"]);
}
