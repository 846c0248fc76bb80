//! Last messages that the engine loses: each is said again, and memory and slots come back.

use std::time::Duration;

use nixl_connector::simulated::{Fault, MessageFault};
use nixl_device::Device;
use nixl_metadata::OperationKind;
use nixl_ops::{OperationOptions, OperationStatus};

use super::world::{Active, Memory, Mode, Passive, World, config};

const GPU: Device = Device::cuda(0);
const LEN: usize = 300;
const CHUNKS: usize = LEN.div_ceil(64);

/// A read by side 1, whose memory is the host's: side 0 has written every chunk there, and the last one's notification is lost.
struct Scene {
    world: World,
    local: Memory,
    active: Active,
    _passive: Passive,
}

impl Scene {
    fn new() -> Self {
        let world = World::new([config(2, 4), config(2, 4)]);
        let (local, remote) =
            (Memory::new(Device::HOST, &[LEN], false), Memory::new(GPU, &[LEN], false));
        let options = OperationOptions::new().timeout(Duration::from_secs(3600));
        let both = (&local, &remote);
        let (passive, active) =
            world.begin(OperationKind::Read, 1, both, Mode::TwoSided, (options, options));
        (1..CHUNKS).for_each(|_| world.fabric.faults().next(None));
        world.fabric.faults().next([Fault::NotificationLost]);
        let mut scene = Self { world, local, active: active.unwrap(), _passive: passive };
        scene.turns();
        assert_eq!(scene.world.fabric.faults().left(), 0, "all chunks were written");
        assert_eq!(
            (scene.active.status(), scene.sessions()),
            (OperationStatus::InProgress, [1; 2])
        );
        scene
    }

    fn turns(&mut self) {
        (0..20).for_each(|_| self.world.turn());
    }

    /// Time in which neither side gives up a silent peer.
    fn ping(&mut self) {
        self.world.clock.advance(self.world.sides[1].services.sessions.config().ping);
        self.turns();
    }

    fn sessions(&self) -> [usize; 2] {
        [0, 1].map(|side| self.world.sides[side].stats().sessions)
    }

    /// Cancels the read, with these faults of the messages that are sent then.
    fn cancel(&mut self, faults: &[Option<MessageFault>]) {
        self.world.fabric.faults().messages(faults.iter().copied());
        self.active.cancel();
        self.turns();
        assert!(self.local.is_leased(), "the source may be writing");
    }

    fn came_back(&self) {
        assert_eq!(self.sessions(), [0; 2]);
        assert!(!self.local.is_leased());
        let side = &self.world.sides[0];
        assert_eq!((side.driver.stats().active(), side.stats().outgoing.free), (0, 2));
    }
}

#[test]
fn a_stop_that_is_lost_is_said_again() {
    let mut scene = Scene::new();
    scene.cancel(&[Some(MessageFault::Lost)]);
    assert_eq!(scene.sessions(), [1; 2]);
    scene.ping();
    scene.came_back();
}

#[test]
fn a_source_whose_last_message_is_lost_says_it_again() {
    let mut scene = Scene::new();
    scene.cancel(&[None, Some(MessageFault::Lost)]);
    assert_eq!(scene.sessions(), [0, 1], "the source has ended");
    scene.ping();
    scene.came_back();
}

/// Slots that were granted for a write, of a transfer that has ended on both sides.
#[test]
fn slots_of_a_source_whose_last_message_is_lost_come_back() {
    let mut world = World::new([config(2, 4), config(2, 4)]);
    let memory = [(); 2].map(|()| Memory::new(GPU, &[LEN], false));
    let options = OperationOptions::new().timeout(Duration::from_secs(3600));
    let both = (&memory[0], &memory[1]);
    let (_passive, active) =
        world.begin(OperationKind::Write, 0, both, Mode::TwoSided, (options, options));
    let mut active = active.unwrap();
    world.sides[0].reactor.turn();
    for _ in 0..8 {
        while world.sides[1].jobs.next() {}
        world.sides[1].reactor.turn();
    }
    let slots = |world: &World| {
        let stats = world.sides[1].stats();
        (stats.incoming.free, stats.incoming.quarantined)
    };
    assert_eq!(slots(&world), (0, 0), "all are granted");
    // `Stopped`, the only message that follows, is lost.
    world.fabric.faults().messages([Some(MessageFault::Lost)]);
    active.cancel();
    world.sides[0].reactor.turn();
    assert_eq!(world.sides[0].stats().sessions, 0);
    let silence = world.sides[1].services.sessions.config().silence;
    for _ in 0..8 {
        world.clock.advance(silence / 2);
        world.sides[1].reactor.turn();
    }
    assert_eq!(slots(&world), (0, 2));
    // What the transfer said while it lived is not heard.
    world.messages(0);
    world.sides[1].services.sessions.look_for_stalled();
    for _ in 0..4 {
        world.turn();
    }
    assert_eq!(slots(&world), (2, 0));
}
