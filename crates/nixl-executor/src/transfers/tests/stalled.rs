//! Peers that say nothing for so long that their transfers are given up: their slots come back when they go on, or are gone.

use std::sync::atomic::Ordering;
use std::time::Duration;

use nixl_device::Device;
use nixl_metadata::OperationKind;
use nixl_ops::{Clock as _, OperationOptions, OperationStatus};

use super::world::{Active, Memory, Mode, Passive, World, config};

const GPU: Device = Device::cuda(0);
const SLOTS: usize = 2;

/// A write from side 0 to side 1, both on GPUs, of which side 0 has stalled with every slot of side 1, for as long as it took
/// side 1 to give the transfer up.
struct Scene {
    world: World,
    _memory: [Memory; 2],
    active: Active,
    _passive: Passive,
}

/// Begins a write of 300 bytes from side 0 to side 1.
fn begun(world: &mut World) -> ([Memory; 2], Passive, Active) {
    let memory = [(); 2].map(|()| Memory::new(GPU, &[300], false));
    let options = OperationOptions::new().timeout(Duration::from_secs(3600));
    let (passive, active) = world.begin(
        OperationKind::Write,
        0,
        (&memory[0], &memory[1]),
        Mode::TwoSided,
        (options, options),
    );
    (memory, passive, active.unwrap())
}

impl Scene {
    fn new() -> Self {
        let mut world = World::new([config(SLOTS, 4), config(SLOTS, 4)]);
        let (memory, passive, active) = begun(&mut world);
        world.sides[0].reactor.turn();
        let silence = world.sides[1].services.sessions.config().silence;
        for _ in 0..8 {
            while world.sides[1].jobs.next() {}
            world.sides[1].reactor.turn();
        }
        let stats = world.sides[1].stats();
        assert_eq!((stats.incoming.free, stats.incoming.quarantined), (0, 0), "all are granted");
        for _ in 0..8 {
            world.clock.advance(silence / 2);
            world.sides[1].reactor.turn();
        }
        let scene = Self { world, _memory: memory, active, _passive: passive };
        let stats = scene.world.sides[1].stats();
        assert_eq!(
            (stats.incoming.free, stats.incoming.quarantined, stats.sessions),
            (0, SLOTS, 0)
        );
        scene
    }

    fn came_back(&self) {
        let side = &self.world.sides[1];
        let stats = side.stats();
        assert_eq!((stats.incoming.free, stats.incoming.quarantined), (SLOTS, 0));
        assert!(!side.services.sessions.has_stalled());
    }
}

#[test]
fn slots_come_back_when_the_peer_goes_on() {
    let mut scene = Scene::new();
    let sessions = &scene.world.sides[1].services.sessions;
    assert!(sessions.has_stalled() && sessions.len() == 0);
    assert_eq!(sessions.poll_interval(), Some(Duration::from_secs(1)), "for a late message");
    for _ in 0..20 {
        scene.world.turn();
    }
    scene.world.clock.advance(Duration::from_secs(1));
    scene.world.turn();
    assert!(!matches!(
        scene.active.status(),
        OperationStatus::InProgress | OperationStatus::Complete
    ));
    scene.came_back();
}

/// Peers may ask for an offer for two minutes after its end; then nothing is looked for any more.
#[test]
fn nothing_ticks_two_minutes_after_the_last_offer() {
    let mut world = World::new([config(SLOTS, 4), config(SLOTS, 4)]);
    assert_eq!(world.sides[1].services.sessions.poll_interval(), None, "nothing was offered");
    let (_memory, passive, active) = begun(&mut world);
    let often = Some(Duration::from_secs(1));
    assert_eq!(world.sides[1].services.sessions.poll_interval(), often);
    for _ in 0..1_000 {
        world.turn();
    }
    assert_eq!(active.status(), OperationStatus::Complete);
    drop((active, passive));
    for _ in 0..8 {
        world.turn();
    }
    let ended = world.clock.now();
    assert_eq!(world.sides[1].services.sessions.poll_interval(), often, "for a while");
    world.clock.advance(Duration::from_secs(121));
    assert_eq!(world.sides[1].services.sessions.poll_interval(), None, "offered until {ended:?}");
}

/// Has side 1 look for proofs, which it finds or not.
fn look(world: &World, quiet: bool) {
    let side = &world.sides[1];
    side.quiet.store(quiet, Ordering::SeqCst);
    side.services.sessions.look_for_stalled();
    while side.jobs.next() {}
}

/// That a peer cannot be reached says nothing of what it has sent.
#[test]
fn slots_come_back_when_a_peer_that_is_gone_is_proven_quiet() {
    let scene = Scene::new();
    let sessions = &scene.world.sides[1].services.sessions;
    let peer = scene.world.sides[0].transport.agent_name().to_owned();
    let quarantined = || scene.world.sides[1].stats().incoming.quarantined;
    sessions.peer_gone("another");
    look(&scene.world, true);
    assert_eq!(quarantined(), SLOTS, "a peer that is there may go on");
    scene.world.sides[1].quiet.store(false, Ordering::SeqCst);
    sessions.peer_gone(&peer);
    look(&scene.world, false);
    assert!(sessions.has_stalled());
    assert_eq!(quarantined(), SLOTS);
    look(&scene.world, true);
    scene.came_back();
}

/// A read into host memory, of which the owner has the addresses and says nothing more.
#[test]
fn memory_that_a_peer_writes_in_place_comes_back_when_it_is_proven_quiet() {
    let mut world = World::new([config(SLOTS, 4), config(SLOTS, 4)]);
    let (host, gpu) = (Memory::new(Device::HOST, &[300], false), Memory::new(GPU, &[300], false));
    let options = OperationOptions::new().timeout(Duration::from_secs(3600));
    let (_passive, active) =
        world.begin(OperationKind::Read, 1, (&host, &gpu), Mode::TwoSided, (options, options));
    let active = active.unwrap();
    // The owner accepts, and is granted the places.
    for _ in 0..4 {
        for side in [1, 0, 1] {
            while world.sides[side].jobs.next() {}
            world.sides[side].reactor.turn();
        }
    }
    let owner = world.sides[0].transport.agent_name().to_owned();
    world.sides[1].services.sessions.peer_gone(&owner);
    let turns = |world: &mut World, quiet| {
        for _ in 0..4 {
            look(world, quiet);
            world.sides[1].reactor.turn();
        }
    };
    turns(&mut world, false);
    assert_eq!(active.status(), OperationStatus::InProgress, "the owner may be writing");
    assert!(host.region.to_vec().is_err(), "it is leased");
    turns(&mut world, true);
    assert_eq!(active.status(), OperationStatus::Errored);
    assert!(!world.sides[1].services.sessions.has_stalled());
}

#[test]
fn a_peer_that_stalled_is_asked_less_and_less_often() {
    let scene = Scene::new();
    let sessions = &scene.world.sides[1].services.sessions;
    scene.world.messages(0);
    let is_asked = || {
        sessions.look_for_stalled();
        !scene.world.messages(0).is_empty()
    };
    let asked = (0..1000).filter(|_| is_asked()).count();
    assert!((10..30).contains(&asked), "{asked}");
}

/// What waits for a slot that will not come back soon takes another path instead.
#[test]
fn without_a_usable_slot_there_is_a_reason() {
    let scene = Scene::new();
    let memory = Memory::new(GPU, &[300], false).descriptors();
    let staging = &scene.world.sides[1].services.staging;
    let reason = staging.why_not(&memory, OperationKind::Read).unwrap();
    assert!(reason.contains("stalled"), "{reason}");
    assert_eq!(staging.why_not(&memory, OperationKind::Write), None);
}
