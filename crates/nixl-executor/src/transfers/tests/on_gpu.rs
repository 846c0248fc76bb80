//! Transfers through slots on the source's GPU: which bytes arrive, what peers must not say, and when slots come back.

use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use nixl_device::Device;
use nixl_metadata::OperationKind;
use nixl_ops::{OperationError, OperationOptions, OperationStatus, PathKind, Received};

use super::gpus;
use super::world::{Active, Memory, Messages, Mode, Passive, World, config, pattern};
use crate::messages::{Message, ReadyChunk, SessionId};

const LEN: usize = 300;
const SLOTS: usize = 2;
const LIMIT: Duration = Duration::from_secs(30);
const KINDS: [OperationKind; 2] = [OperationKind::Read, OperationKind::Write];

/// An operation of side 0, both sides on GPUs, in five chunks.
struct Scene {
    world: World,
    kind: OperationKind,
    local: Memory,
    remote: Memory,
    stream: Vec<u8>,
    passive: Passive,
    active: Active,
}

impl Scene {
    fn new(kind: OperationKind, messages: Messages) -> Self {
        let world = World::with_messages([config(SLOTS, 4), config(SLOTS, 4)], messages);
        Self::of(world, kind, 1)
    }

    fn of(world: World, kind: OperationKind, seed: u64) -> Self {
        let local = Memory::new(Device::cuda(0), &[100, 100, 100], false);
        let remote = Memory::new(Device::cuda(1), &[100, 100, 100], true);
        let stream = pattern(seed, LEN);
        let from = if kind == OperationKind::Read { &remote } else { &local };
        gpus::overwrite(&from.region, &from.image(&stream));
        let options = OperationOptions::new();
        let sides = (&local, &remote);
        let (passive, active) = world.begin(kind, 0, sides, Mode::OnGpu, (options, options));
        Self { world, kind, local, remote, stream, passive, active: active.unwrap() }
    }

    /// The side that the bytes leave.
    fn source(&self) -> usize {
        usize::from(self.kind == OperationKind::Read)
    }

    /// The sides move on, but for `still`.
    fn turn_all_but(&mut self, still: Option<usize>) {
        for (index, side) in self.world.sides.iter_mut().enumerate() {
            if Some(index) != still {
                while side.jobs.next() {}
                side.gpus.run(usize::MAX);
                side.reactor.turn();
            }
        }
    }

    fn outcome(&mut self) -> Result<(), OperationError> {
        match &mut self.active {
            Active::Read(read) => super::now(read.wait_for_completion()).map(|_| ()),
            Active::Write(write) => super::now(write.wait_for_completion()).map(|_| ()),
        }
    }

    /// What arrives at a side, in its place.
    fn messages(&self, side: usize) -> Vec<(SessionId, Message)> {
        let messages = self.world.messages(side);
        messages.iter().filter_map(|(_, message)| Message::decode(message).ok()).collect()
    }

    /// Says something to a side in the other's place.
    fn say(&self, to: usize, id: SessionId, message: &Message) {
        let from = self.world.sides[1 - to].transport.agent_name();
        let received = self.world.sides[to].services.receive(from, &message.encode(id));
        assert!(matches!(received, Received::Taken), "{message:?}");
    }

    fn slots(&self) -> (usize, usize) {
        let stats = self.world.sides[self.source()].stats().on_gpus();
        (stats.free(), stats.quarantined())
    }
}

#[test]
fn the_bytes_bounce_once_and_every_slot_comes_back() {
    for kind in KINDS {
        for messages in [Messages::ByEngine, Messages::ByMailbox] {
            let mut world = World::with_messages([config(SLOTS, 4), config(SLOTS, 4)], messages);
            // The pages of the two sides are open from the second on.
            for round in 0..3 {
                let mut scene = Scene::of(world, kind, round);
                for _ in 0..100 {
                    scene.world.turn();
                }
                assert_eq!(scene.active.status(), OperationStatus::Complete, "{kind} {messages:?}");
                assert_eq!(scene.passive.status(), OperationStatus::Complete);
                scene.outcome().unwrap();
                let sink = if kind == OperationKind::Read { &scene.local } else { &scene.remote };
                assert_eq!(gpus::look(&sink.region), sink.image(&scene.stream), "{kind}");
                assert!(scene.local.guards_hold() && scene.remote.guards_hold());
                assert_eq!(scene.slots(), (SLOTS, 0));
                let (source, sink) = (scene.source(), 1 - scene.source());
                let (stats, idle) =
                    (scene.world.sides[source].stats(), scene.world.sides[sink].stats());
                assert_eq!((stats.on_gpus().gpu_bytes(), idle.on_gpus().gpu_bytes()), (128, 0));
                assert_eq!(scene.world.sides[sink].imports.held().0, 1);
                world = scene.world;
            }
        }
    }
}

#[test]
fn the_report_says_that_a_gpu_has_staged() {
    let mut scene = Scene::new(OperationKind::Write, Messages::ByEngine);
    for _ in 0..100 {
        scene.world.turn();
    }
    let Active::Write(write) = &mut scene.active else { panic!("it is a write") };
    let completion = super::now(write.wait_for_completion()).unwrap();
    let path = completion.path().unwrap();
    assert_eq!((path.kind(), path.chunks(), path.bytes()), (PathKind::StagedOnGpu, 5, LEN as u64));
    assert_eq!(path.hops()[0].name(), "gpu to slot");
}

/// A sink checks what is exported to it.
#[test]
fn exported_chunks_are_checked() {
    let handle = |len: u64| {
        let mut handle = [7; 72];
        handle[64..].copy_from_slice(&len.to_le_bytes());
        handle
    };
    let good = ReadyChunk { chunk: 0, slot: 3, round: 1, handle: handle(1000), offset: 936 };
    let wrong: [(&[ReadyChunk], &str); 7] = [
        (&[ReadyChunk { chunk: 5, ..good }], "chunk 5 of 5"),
        (&[ReadyChunk { chunk: u64::MAX, ..good }], "of 5"),
        (&[good, ReadyChunk { slot: 4, ..good }], "chunk 0 twice"),
        (&[good, ReadyChunk { chunk: 1, ..good }], "slot 3 exported twice"),
        (&[ReadyChunk { offset: 937, ..good }], "64 bytes exported from 937 on, of 1000"),
        (&[ReadyChunk { offset: u64::MAX, ..good }], "bytes exported from"),
        (
            &[good, ReadyChunk { chunk: 1, slot: 4, handle: handle(1001), ..good }],
            "several pieces of memory",
        ),
    ];
    for (exported, reason) in wrong {
        let mut scene = Scene::new(OperationKind::Read, Messages::ByEngine);
        scene.world.sides[0].reactor.turn();
        let (id, open) = scene.messages(1).remove(0);
        assert!(matches!(open, Message::Open(_)));
        for ready in exported {
            scene.say(0, id, &Message::Ready(*ready));
        }
        // Nothing of it is opened: the jobs stand still.
        scene.world.sides[0].reactor.turn();
        assert_eq!(scene.active.status(), OperationStatus::InProgress, "the offer is the peer's");
        scene.say(0, id, &Message::Stopped { reason: String::new() });
        scene.world.sides[0].reactor.turn();
        let error = scene.outcome().unwrap_err().to_string();
        assert!(error.contains(reason), "{error}");
        assert!(!scene.local.is_leased() && scene.local.guards_hold());
        let told = scene.messages(1);
        assert!(told.iter().any(|(_, message)| matches!(message, Message::Stop { .. })));
        assert_eq!(scene.world.sides[0].stats().sessions, 0);
    }
}

/// A source checks what it gets back.
#[test]
fn slots_that_are_given_back_are_checked() {
    for (message, reason) in [
        (Message::Taken { slot: 0, round: 2 }, "which is not exported"),
        (Message::Taken { slot: 9, round: 1 }, "which is not exported"),
        (Message::Done, "done before all was sent"),
        (Message::Slots(Vec::new()), "slots to the side that sends"),
    ] {
        let mut scene = Scene::new(OperationKind::Write, Messages::ByEngine);
        let exported = export(&mut scene);
        scene.say(0, exported.0, &message);
        scene.turn_all_but(Some(1));
        scene.turn_all_but(Some(1));
        assert_eq!(scene.slots(), (0, 0), "the peer's GPU may read them");
        scene.say(0, exported.0, &Message::Stop { reason: String::new() });
        scene.turn_all_but(Some(1));
        let error = scene.outcome().unwrap_err().to_string();
        assert!(error.contains(reason), "{error}");
        assert!(!scene.local.is_leased());
        assert_eq!(scene.slots(), (SLOTS, 0));
    }
}

/// The write's first two chunks are exported to side 1, which has said nothing but that it takes part.
fn export(scene: &mut Scene) -> (SessionId, Vec<ReadyChunk>) {
    scene.turn_all_but(Some(1));
    let (id, _) = scene.messages(1).remove(0);
    scene.say(0, id, &Message::Accept);
    for _ in 0..4 {
        scene.turn_all_but(Some(1));
    }
    let exported: Vec<_> = scene
        .messages(1)
        .into_iter()
        .filter_map(|(_, message)| match message {
            Message::Ready(ready) => Some(ready),
            _ => None,
        })
        .collect();
    assert_eq!(exported.len(), SLOTS);
    (id, exported)
}

#[test]
fn a_slot_that_is_exported_comes_back_by_the_peers_message_alone() {
    let mut scene = Scene::new(OperationKind::Write, Messages::ByEngine);
    let (id, exported) = export(&mut scene);
    scene.active.cancel();
    for _ in 0..4 {
        scene.turn_all_but(Some(1));
    }
    assert_eq!(scene.slots(), (0, SLOTS));
    assert!(!scene.local.is_leased());
    // The loss of the connection says nothing of the peer's GPU.
    let peer = scene.world.sides[1].transport.agent_name().to_owned();
    scene.world.sides[0].services.sessions.peer_gone(&peer);
    scene.world.sides[0].services.sessions.look_for_stalled();
    assert_eq!(scene.slots(), (0, SLOTS));
    let ReadyChunk { slot, round, .. } = exported[0];
    scene.say(0, id, &Message::Taken { slot, round: round + 1 });
    assert_eq!(scene.slots(), (0, SLOTS), "of another round");
    scene.say(0, id, &Message::Taken { slot, round });
    assert_eq!(scene.slots(), (1, 1));
    scene.say(0, id, &Message::Stop { reason: String::new() });
    assert_eq!(scene.slots(), (SLOTS, 0));
    assert!(!scene.world.sides[0].services.sessions.has_stalled());
}

/// A process that stands for the peer's, and ends with the test.
struct Process(Child);

impl Process {
    fn start() -> Self {
        Self(Command::new("cat").stdin(Stdio::piped()).spawn().unwrap())
    }

    fn kill(&mut self) {
        self.0.kill().unwrap();
        self.0.wait().unwrap();
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn a_slot_that_is_exported_comes_back_when_the_peers_process_ends() {
    let mut process = Process::start();
    let mut world = World::new([config(SLOTS, 4), config(SLOTS, 4)]);
    world.sides[1].pid = process.0.id();
    let mut scene = Scene::of(world, OperationKind::Write, 1);
    export(&mut scene);
    scene.active.cancel();
    for _ in 0..4 {
        scene.turn_all_but(Some(1));
    }
    let sessions = &scene.world.sides[0].services.sessions;
    sessions.look_for_stalled();
    assert_eq!(scene.slots(), (0, SLOTS), "it lives");
    process.kill();
    let began = Instant::now();
    while scene.slots() != (SLOTS, 0) {
        assert!(began.elapsed() < LIMIT);
        sessions.look_for_stalled();
    }
    assert!(!sessions.has_stalled());
}

/// Without a process to watch no slot is exported.
#[test]
fn nothing_is_exported_to_a_peer_whose_process_is_not_there() {
    let mut process = Process::start();
    let mut world = World::new([config(SLOTS, 4), config(SLOTS, 4)]);
    world.sides[1].pid = process.0.id();
    process.kill();
    let local = Memory::new(Device::cuda(0), &[LEN], false);
    let remote = Memory::new(Device::cuda(1), &[LEN], false);
    let none = OperationOptions::new();
    let (_passive, active) =
        world.begin(OperationKind::Write, 0, (&local, &remote), Mode::OnGpu, (none, none));
    let error = active.err().unwrap().to_string();
    assert!(error.contains("cannot be watched"), "{error}");
}

/// What the GPU has no memory for is said.
#[test]
fn slots_that_cannot_be_allocated_are_a_reason() {
    for kind in KINDS {
        let mut scene = Scene::new(kind, Messages::ByEngine);
        let source = scene.source();
        scene.world.sides[source].gpus.lose_slots();
        for _ in 0..100 {
            scene.world.turn();
        }
        let error = scene.outcome().unwrap_err().to_string();
        assert!(
            error.contains("no slots on the GPU: out of device memory: none is left"),
            "{kind}: {error}"
        );
        assert!(!scene.local.is_leased());
        // A read touched nothing of the offer, a write may have.
        let expected = match kind {
            OperationKind::Read => OperationStatus::Initialized,
            OperationKind::Write => OperationStatus::Errored,
        };
        assert_eq!(scene.passive.status(), expected, "{kind}");
        let staging = &scene.world.sides[source].services.staging;
        let reason = staging.why_not_on_gpu(&scene.local.descriptors(), OperationKind::Write);
        assert_eq!(reason.is_some(), kind == OperationKind::Write, "{reason:?}");
    }
}
