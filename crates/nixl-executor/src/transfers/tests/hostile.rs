//! Hostile messages to a live session: each is an error that says what was wrong, and memory and slots come back.

use std::process::{Command, Stdio};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use bytes::Bytes;
use nixl_device::Device;
use nixl_metadata::{NotificationKey, OperationKind};
use nixl_ops::{OperationError, OperationOptions, OperationStatus, Received, TransportError};

use super::gpus;
use super::world::{Active, Memory, Mode, Passive, World, config, pattern};
use crate::messages::{CancelCopy, ExportedRange, Open, PresentedOffer, Proof, RemoteCopyRequest};
use crate::messages::{Message, SessionId, SlotGrant};
use crate::pinned_slots::StagingConfig;

const LEN: usize = 300;
const GPU: Device = Device::cuda(0);

/// A read by side 0 of side 1's memory, both on GPUs, in five chunks, with two slots granted and nothing written yet.
struct Scene {
    world: World,
    local: Memory,
    active: Active,
    passive: Passive,
    id: SessionId,
    /// The slots that the sink granted.
    slots: Vec<SlotGrant>,
}

impl Scene {
    fn new() -> Self {
        let mut world = World::new([config(2, 4), config(2, 4)]);
        let local = Memory::new(GPU, &[LEN], false);
        let remote = Memory::new(GPU, &[100, 200], false);
        let remote = Memory { list: vec![remote.region.descriptor(3..3 + LEN).unwrap()], ..remote };
        gpus::overwrite(&remote.region, &pattern(1, remote.region.len()));
        let options = OperationOptions::new().timeout(Duration::from_secs(5));
        let both = (&local, &remote);
        let (passive, active) =
            world.begin(OperationKind::Read, 0, both, Mode::TwoSided, (options, options));
        let active = active.unwrap();
        // The first message, which the test reads in the target's place before it hands it on.
        world.sides[0].reactor.turn();
        let (from, open) = world.messages(1).remove(0);
        let (id, message) = Message::decode(&open).unwrap();
        assert!(matches!(message, Message::Open(_)));
        let Received::Serve(mut served) = world.sides[1].services.receive(&from, &open) else {
            panic!("not served");
        };
        // Accepts.
        while world.sides[1].jobs.next() {}
        assert!(served.poll(&mut Context::from_waker(Waker::noop())).is_pending());
        std::mem::forget(served);
        world.sides[0].reactor.turn();
        world.sides[0].reactor.turn();
        let grants = world.messages(1);
        let slots =
            grants.iter().find_map(|(_, message)| match Message::decode(message).unwrap().1 {
                Message::Slots(slots) => Some(slots),
                _ => None,
            });
        Self { world, local, active, passive, id, slots: slots.unwrap() }
    }

    fn target(&self) -> String {
        self.world.sides[1].transport.agent_name().to_owned()
    }

    fn send(&self, message: &Message) -> Received {
        self.world.sides[0].services.receive(&self.target(), &message.encode(self.id))
    }

    /// After `messages`, the read fails for a reason that contains `reason`; and gives its memory and slots back when
    /// the peer says that it is quiet.
    fn refused(mut self, messages: &[Message], reason: &str) {
        for message in messages {
            assert!(matches!(self.send(message), Received::Taken), "{message:?}");
        }
        self.turn();
        assert_eq!(self.active.status(), OperationStatus::InProgress, "not yet quiet");
        assert!(self.local.is_leased());
        let told = self.world.messages(1);
        let stop = told.iter().find_map(|(_, l)| match Message::decode(l).unwrap().1 {
            Message::Stop { reason } => Some(reason),
            _ => None,
        });
        assert!(stop.is_some_and(|said| said.contains(reason)), "the peer is told {reason:?}");
        self.send(&Message::Stopped { reason: String::new() });
        self.turn();
        let error = self.outcome().unwrap_err();
        assert!(error.to_string().contains(reason), "{error}");
        self.returned();
    }

    fn turn(&mut self) {
        for _ in 0..4 {
            self.world.sides[0].gpus.run(usize::MAX);
            self.world.sides[0].reactor.turn();
        }
    }

    fn outcome(&mut self) -> Result<(), OperationError> {
        let Active::Read(read) = &mut self.active else { panic!("it is a read") };
        super::now(read.wait_for_completion()).map(|_| ())
    }

    fn returned(self) {
        let stats = self.world.sides[0].stats();
        assert_eq!((stats.incoming.free, stats.sessions), (2, 0));
        assert!(!self.local.is_leased() && self.local.guards_hold());
        assert_eq!(self.passive.status(), OperationStatus::Initialized);
    }

    fn filled(&self, chunk: u64, slot: usize) -> Message {
        let slot = self.slots[slot];
        Message::Filled { chunk, slot: Some((slot.slot, slot.round)) }
    }
}

#[test]
fn chunks_are_counted() {
    let scene = Scene::new();
    let filled = scene.filled(5, 0);
    scene.refused(&[filled], "chunk 5 of 5");
    let scene = Scene::new();
    let filled = scene.filled(u64::MAX, 0);
    scene.refused(&[filled], "of 5");
}

#[test]
fn a_chunk_comes_once() {
    let scene = Scene::new();
    let twice = [scene.filled(3, 0), scene.filled(3, 1)];
    scene.refused(&twice, "chunk 3 twice");
}

#[test]
fn a_slot_is_filled_once_in_each_round() {
    let scene = Scene::new();
    let twice = [scene.filled(0, 0), scene.filled(1, 0)];
    scene.refused(&twice, "was not granted");
    for change in [(1, 0), (0, 1)] {
        let scene = Scene::new();
        let grant = scene.slots[0];
        let slot = Some((grant.slot + 40 * change.0, grant.round + change.1));
        scene.refused(&[Message::Filled { chunk: 0, slot }], "was not granted");
    }
    Scene::new().refused(&[Message::Filled { chunk: 0, slot: None }], "in no slot");
}

#[test]
fn only_a_source_is_granted_anything() {
    let grant = SlotGrant { slot: 0, round: 1, address: 4096, len: 64 };
    for message in [
        Message::Slots(vec![grant]),
        Message::Places { first: 0, addresses: vec![4096] },
        Message::Done,
        Message::Stop { reason: "no".to_owned() },
    ] {
        let name = message.name();
        Scene::new().refused(&[message], &format!("{name} to the side that receives"));
    }
}

#[test]
fn a_flood_is_dammed() {
    let scene = Scene::new();
    let flood = vec![Message::Accept; 5000];
    scene.refused(&flood, "more messages than");
}

#[test]
fn strangers_and_noise_change_nothing() {
    let mut scene = Scene::new();
    let done = Message::Stopped { reason: "gone".to_owned() };
    let filled = scene.filled(0, 0);
    let own = scene.world.sides[0].transport.agent_name().to_owned();
    for from in ["stranger-1", "", &own] {
        for message in [&done, &filled] {
            let received = scene.world.sides[0].services.receive(from, &message.encode(scene.id));
            assert!(matches!(received, Received::Ignored));
        }
    }
    let other = done.encode(SessionId::random());
    let peer = scene.target();
    for noise in
        [&other[..], b"", b"nxs\x01", b"nxs\x02", b"nxs\x03", &done.encode(scene.id)[..22], b"key"]
    {
        let received = scene.world.sides[0].services.receive(&peer, noise);
        assert!(matches!(received, Received::Ignored), "{noise:?}");
    }
    scene.turn();
    assert_eq!(scene.active.status(), OperationStatus::InProgress);
    let stopped = [Message::Stopped { reason: "over".to_owned() }];
    scene.send(&stopped[0]);
    scene.turn();
    assert!(scene.outcome().unwrap_err().to_string().contains("the peer gave up: over"));
    scene.returned();
}

/// What a holder of the metadata presents.
fn presented(passive: &Passive) -> PresentedOffer {
    let metadata = passive.metadata();
    let token = metadata.terms().unwrap().token().get();
    PresentedOffer { key: metadata.notification_key().clone(), proof: Proof::Token(token) }
}

/// What side 1 answers to a request that it does not serve.
fn refusal(world: &World, from: &str, request: &Message) -> String {
    let payload = request.encode(SessionId::random());
    let Received::Serve(mut served) = world.sides[1].services.receive(from, &payload) else {
        panic!("not answered: {request:?}");
    };
    while world.sides[1].jobs.next() {}
    assert!(served.poll(&mut Context::from_waker(Waker::noop())).is_ready());
    let (_, answer) = world.messages(0).remove(0);
    match Message::decode(&answer).unwrap().1 {
        Message::Stop { reason } | Message::Stopped { reason } => reason,
        other => panic!("{other:?}"),
    }
}

/// So are exported ranges: memory that does not exist is not copied.
#[test]
fn exported_ranges_are_checked_against_the_offer() {
    let world = World::new([config(2, 4), config(2, 4)]);
    let memory = Memory::new(Device::HOST, &[100, 50], false);
    let options = OperationOptions::new();
    let passive = world.sides[1].offer(OperationKind::Read, &memory, options);
    let initiator_metadata = world.sides[0].agent_metadata().compressed().clone();
    let blob = world.sides[1].agent_metadata().inflate(&Default::default()).unwrap();
    world.sides[0].transport.connect(&blob).unwrap();
    let from = world.sides[0].transport.agent_name().to_owned();
    let range = |length: u64, offsets: &[u64]| {
        let mut handle = [7; 72];
        handle[64..].copy_from_slice(&length.to_le_bytes());
        ExportedRange { handle, offsets: offsets.to_vec() }
    };
    let offer = presented(&passive);
    let ranges = vec![range(100, &[0]), range(60, &[10])];
    let good = RemoteCopyRequest {
        offer,
        kind: OperationKind::Read,
        process: None,
        gpu: [0; 16],
        ranges,
        initiator_metadata,
    };
    let with = |ranges: Vec<ExportedRange>| RemoteCopyRequest { ranges, ..good.clone() };
    let wrong = [
        (RemoteCopyRequest { kind: OperationKind::Write, ..good.clone() }, "not a WRITE"),
        (with(vec![]), "0 descriptors exported for 2 offered"),
        (with(vec![range(1000, &[0, 200, 300])]), "3 descriptors exported for 2 offered"),
        (with(vec![range(149, &[0, 100])]), "50 bytes exported from 100 on, of 149"),
        (
            with(vec![range(1000, &[u64::MAX, 0])]),
            "100 bytes exported from 18446744073709551615 on",
        ),
    ];
    for (copy_request, reason) in wrong {
        let said = refusal(&world, &from, &Message::RemoteCopyRequest(copy_request));
        assert!(said.contains(reason), "{said}");
    }
    assert_eq!(world.sides[1].stats().sessions, 0);
    assert_eq!(passive.status(), OperationStatus::Initialized);
}

/// The initiator of a remote copy accepts its end, and no other message.
#[test]
fn an_initiator_of_a_remote_copy_waits_for_the_peer_s_last_message() {
    let done = |message: &Message| matches!(message, Message::Done);
    for last in [Message::Done, Message::Stopped { reason: "out of paper".to_owned() }] {
        let mut world = World::new([config(2, 4), config(2, 4)]);
        let local = Memory::new(GPU, &[LEN], false);
        let remote = Memory::new(Device::HOST, &[LEN], false);
        let options = OperationOptions::new();
        let both = (&local, &remote);
        let (_passive, active) =
            world.begin(OperationKind::Read, 0, both, Mode::PeerCopies, (options, options));
        let mut active = active.unwrap();
        world.sides[0].reactor.turn();
        let (_, request) = world.messages(1).remove(0);
        let (id, message) = Message::decode(&request).unwrap();
        assert!(matches!(message, Message::RemoteCopyRequest(_)));
        let peer = world.sides[1].transport.agent_name().to_owned();
        let send = |world: &World, message: &Message| {
            world.sides[0].services.receive(&peer, &message.encode(id))
        };
        // Not its business: it gives up, and gives nothing back.
        assert!(matches!(send(&world, &Message::Accept), Received::Taken));
        world.sides[0].reactor.turn();
        world.sides[0].reactor.turn();
        assert!(local.is_leased());
        let (_, cancel) = world.messages(1).remove(0);
        assert!(matches!(Message::decode(&cancel).unwrap().1, Message::CancelCopy(_)));
        assert_eq!(active.status(), OperationStatus::InProgress);
        assert!(matches!(send(&world, &last), Received::Taken));
        world.sides[0].reactor.turn();
        assert!(!local.is_leased());
        let ended = match &mut active {
            Active::Read(read) => super::now(read.wait_for_completion()),
            Active::Write(_) => unreachable!(),
        };
        // What is complete is complete.
        assert_eq!(ended.is_ok(), done(&last), "{ended:?}");
    }
}

/// The initiator of a remote copy counts a peer as dead only if its process has ended.
#[test]
fn an_initiator_of_a_remote_copy_gets_its_memory_back_when_the_peer_s_process_ends() {
    let mut process = Command::new("cat").stdin(Stdio::piped()).spawn().unwrap();
    let mut world = World::new([config(2, 4), config(2, 4)]);
    world.sides[1].pid = process.id();
    let local = Memory::new(GPU, &[LEN], false);
    let remote = Memory::new(Device::HOST, &[LEN], false);
    let options = OperationOptions::new();
    let both = (&local, &remote);
    let copy_request = |world: &World| {
        world.begin(OperationKind::Read, 0, both, Mode::PeerCopies, (options, options))
    };
    let (passive, active) = copy_request(&world);
    let mut active = active.unwrap();
    world.sides[0].reactor.turn();
    assert!(world.fabric.kill(world.sides[1].transport.agent_name()));
    // To the engine the peer is gone. Its GPU may be busy all the same.
    world.clock.advance(StagingConfig::default().silence * 3);
    for _ in 0..5 {
        world.sides[0].reactor.turn();
    }
    assert!(local.is_leased());
    process.kill().unwrap();
    process.wait().unwrap();
    for _ in 0..5 {
        world.clock.advance(Duration::from_millis(20));
        world.sides[0].reactor.turn();
    }
    assert!(!local.is_leased());
    let Active::Read(read) = &mut active else { unreachable!() };
    let error = super::now(read.wait_for_completion()).unwrap_err();
    assert!(error.to_string().contains("no message from the peer"), "{error}");
    drop(passive);
}

/// A peer that knows nothing of a transfer says so, and takes no request for it afterwards.
#[test]
fn a_transfer_that_the_peer_knows_nothing_of_uses_no_memory() {
    let mut world = World::new([config(2, 4), config(2, 4)]);
    let local = Memory::new(GPU, &[LEN], false);
    let remote = Memory::new(Device::HOST, &[LEN], false);
    let options = OperationOptions::new();
    let both = (&local, &remote);
    let (passive, active) =
        world.begin(OperationKind::Write, 0, both, Mode::PeerCopies, (options, options));
    let mut active = active.unwrap();
    world.sides[0].reactor.turn();
    // The request comes late.
    let (from, request) = world.messages(1).remove(0);
    active.cancel();
    for _ in 0..20 {
        world.clock.advance(Duration::from_millis(100));
        world.turn();
    }
    assert!(!local.is_leased());
    let late = world.sides[1].services.receive(&from, &request);
    assert!(matches!(late, Received::Ignored));
    drop(passive);
    world.clock.advance(StagingConfig::default().silence);
    for _ in 0..5 {
        world.turn();
    }
    assert!(world.is_idle());
}

/// A write whose end is not heard of must not be tried by other means, unless the peer says that it is not complete.
#[test]
fn a_write_knows_whether_its_target_may_have_been_told() {
    for (device, mode) in [(GPU, Mode::TwoSided), (Device::HOST, Mode::PeerCopies)] {
        for answered in [false, true] {
            let mut world = World::new([config(2, 4), config(2, 4)]);
            let (local, remote) =
                (Memory::new(GPU, &[LEN], false), Memory::new(device, &[LEN], false));
            let options = OperationOptions::new();
            let passive = world.sides[1].offer(OperationKind::Write, &remote, options);
            let metadata = passive.metadata();
            let mut execution =
                world.sides[0].execution(OperationKind::Write, &metadata, &local, mode).unwrap();
            if answered {
                world.sides[1].gpus.lose();
            }
            let mut error = None;
            for _ in 0..400 {
                if let Poll::Ready(ended) = execution.poll(&mut Context::from_waker(Waker::noop()))
                {
                    error = ended.err();
                    break;
                }
                world.sides[0].gpus.run(usize::MAX);
                while world.sides[0].jobs.next() {}
                while world.sides[1].jobs.next() {}
                world.sides[1].gpus.run(usize::MAX);
                world.sides[1].reactor.turn();
                for (from, message) in world.messages(0) {
                    // The good news is lost.
                    if !matches!(Message::decode(&message).unwrap().1, Message::Done) {
                        world.sides[0].services.receive(&from, &message);
                    }
                }
                world.clock.advance(Duration::from_millis(500));
            }
            let error = error.unwrap_or_else(|| panic!("{mode:?} {answered}")).to_string();
            assert_eq!(execution.target_told(), !answered, "{mode:?} {error}");
            let complete = passive.status() == OperationStatus::Complete;
            assert_eq!(complete, !answered, "{mode:?} {error}");
        }
    }
}

/// Requests that cannot be served are answered, and claim nothing.
#[test]
fn requests_are_checked_against_the_offer() {
    let world = World::new([config(2, 4), config(2, 4)]);
    let memory = Memory::new(GPU, &[LEN], false);
    let options = OperationOptions::new();
    let passive = world.sides[1].offer(OperationKind::Read, &memory, options);
    let offer = presented(&passive);
    let initiator_metadata = world.sides[0].agent_metadata().compressed().clone();
    let blob = world.sides[1].agent_metadata().inflate(&Default::default()).unwrap();
    world.sides[0].transport.connect(&blob).unwrap();
    let from = world.sides[0].transport.agent_name().to_owned();
    let good = Open {
        offer,
        kind: OperationKind::Read,
        chunk_bytes: 64,
        initiator_metadata,
        on_gpu_by: None,
    };
    let wrong = [
        (Open { kind: OperationKind::Write, ..good.clone() }, "not a WRITE"),
        (Open { chunk_bytes: 65, ..good.clone() }, "do not fit"),
        (Open { chunk_bytes: 0, ..good.clone() }, "cannot be cut"),
    ];
    for (open, reason) in wrong {
        let said = refusal(&world, &from, &Message::Open(open));
        assert!(said.contains(reason), "{said}");
    }
    // Metadata of another agent is not answered: the answer would reach that agent.
    let forged = world.sides[1].agent_metadata().compressed().clone();
    let open = Message::Open(Open { initiator_metadata: forged, ..good.clone() });
    let received = world.sides[1].services.receive(&from, &open.encode(SessionId::random()));
    let Received::Serve(mut served) = received else { panic!("not tried") };
    while world.sides[1].jobs.next() {}
    let refused = served.poll(&mut Context::from_waker(Waker::noop()));
    assert!(
        matches!(&refused, Poll::Ready(Err(TransportError::BadMetadata { .. }))),
        "{refused:?}"
    );
    drop(served);
    // The offer is as free as before.
    let open = Message::Open(good).encode(SessionId::random());
    let Received::Serve(served) = world.sides[1].services.receive(&from, &open) else {
        panic!("not served");
    };
    drop(served);
    assert_eq!(world.sides[1].stats().sessions, 0);
    assert_eq!(passive.status(), OperationStatus::Initialized);
}

/// A request without an offer is dropped early: its initiator metadata is not read, and nothing is begun for it.
#[test]
fn strangers_are_not_introduced() {
    let mut world = World::new([config(2, 4), config(2, 4)]);
    let memory = Memory::new(GPU, &[LEN], false);
    let passive = world.sides[1].offer(OperationKind::Read, &memory, OperationOptions::new());
    let held = presented(&passive);
    let from = world.sides[0].transport.agent_name().to_owned();
    let unknown = NotificationKey::random();
    let Proof::Token(token) = held.proof else { unreachable!() };
    let strangers = [
        PresentedOffer { key: unknown.clone(), proof: Proof::Key },
        PresentedOffer { key: unknown, proof: held.proof },
        PresentedOffer { key: held.key.clone(), proof: Proof::Token(0) },
        PresentedOffer { key: held.key.clone(), proof: Proof::Token(token ^ 1 << 63) },
    ];
    let initiator_metadata = Bytes::from_static(b"what UCX would fall over");
    let kind = OperationKind::Read;
    let mut sent = 0;
    for offer in &strangers {
        let initiator_metadata = initiator_metadata.clone();
        let open = Open {
            offer: offer.clone(),
            kind,
            chunk_bytes: 64,
            initiator_metadata,
            on_gpu_by: None,
        };
        let (offer, initiator_metadata) = (offer.clone(), open.initiator_metadata.clone());
        let cancel = CancelCopy { offer, initiator_metadata, reason: String::new() };
        let (offer, initiator_metadata) = (cancel.offer.clone(), cancel.initiator_metadata.clone());
        let (process, gpu, ranges) = (Some(1), [0; 16], Vec::new());
        let copy_request =
            RemoteCopyRequest { offer, kind, process, gpu, ranges, initiator_metadata };
        for message in [
            Message::Open(open),
            Message::RemoteCopyRequest(copy_request),
            Message::CancelCopy(cancel),
        ] {
            let payload = message.encode(SessionId::random());
            let received = world.sides[1].services.receive(&from, &payload);
            assert!(matches!(received, Received::Ignored), "{message:?}");
            assert!(!world.sides[1].jobs.next(), "nothing is to be met for {message:?}");
            sent += 1;
        }
    }
    let stats = world.sides[1].stats();
    assert_eq!((stats.sessions, stats.strangers), (0, sent));
    // A holder is heard, whether it speaks this version or the one before, and after the offer has ended, too.
    let initiator_metadata = world.sides[0].agent_metadata().compressed().clone();
    let blob = world.sides[1].agent_metadata().inflate(&Default::default()).unwrap();
    world.sides[0].transport.connect(&blob).unwrap();
    drop(passive);
    world.turn();
    for proof in [held.proof, Proof::Key] {
        let offer = PresentedOffer { key: held.key.clone(), proof };
        let initiator_metadata = initiator_metadata.clone();
        let open = Open { offer, kind, chunk_bytes: 64, initiator_metadata, on_gpu_by: None };
        let said = refusal(&world, &from, &Message::Open(open));
        assert!(said.contains("has ended"), "{said}");
    }
    assert_eq!(world.sides[1].stats().strangers, sent);
}

/// An offer of the second side, and a request for it.
fn asked() -> (World, Passive, Message) {
    let world = World::new([config(2, 4), config(2, 4)]);
    let memory = Memory::new(GPU, &[LEN], false);
    let passive = world.sides[1].offer(OperationKind::Read, &memory, OperationOptions::new());
    let initiator_metadata = world.sides[0].agent_metadata().compressed().clone();
    let offer = presented(&passive);
    let open = Open {
        offer,
        kind: OperationKind::Read,
        chunk_bytes: 64,
        initiator_metadata,
        on_gpu_by: None,
    };
    (world, passive, Message::Open(open))
}

/// Names of senders are unproven: an offer connects no more agents than it has readers, and eight.
#[test]
fn a_holder_introduces_no_crowd() {
    let (world, _passive, open) = asked();
    let mut served = Vec::new();
    for ghost in 0..1000 {
        let payload = open.encode(SessionId::random());
        match world.sides[1].services.receive(&format!("ghost-{ghost}"), &payload) {
            Received::Serve(execution) => served.push(execution),
            other => assert!(matches!(other, Received::Ignored)),
        }
    }
    assert_eq!(served.len(), 9);
    let mut jobs = 0;
    while world.sides[1].jobs.next() {
        jobs += 1;
    }
    assert_eq!((jobs, world.sides[1].stats().sessions), (9, 9));
    // Known agents may request often, up to the bound on sessions of an offer.
    for _ in 0..1000 {
        let payload = open.encode(SessionId::random());
        if let Received::Serve(execution) = world.sides[1].services.receive("ghost-0", &payload) {
            served.push(execution);
        }
    }
    assert_eq!(world.sides[1].stats().sessions, 256);
    drop(served);
    assert_eq!(world.sides[1].stats().sessions, 0);
    let payload = open.encode(SessionId::random());
    let again = world.sides[1].services.receive("ghost-0", &payload);
    assert!(matches!(again, Received::Serve(_)), "sessions that are over count no more");
}

/// What waits for all sessions together is bounded, and a flood to one costs no other its messages.
#[test]
fn a_flood_to_many_sessions_is_dammed() {
    let (world, _passive, open) = asked();
    let mut sessions = Vec::new();
    for _ in 0..30 {
        let id = SessionId::random();
        let received = world.sides[1].services.receive("ghost", &open.encode(id));
        let Received::Serve(execution) = received else { panic!("not served") };
        sessions.push((id, execution));
    }
    let send = |id| world.sides[1].services.receive("ghost", &Message::Accept.encode(id));
    let (last, flooded) = sessions.split_last().unwrap();
    for (id, _) in flooded {
        for _ in 0..4000 {
            send(*id);
        }
    }
    let waiting = world.sides[1].stats().waiting_messages;
    assert!((1 << 16..1 << 17).contains(&waiting), "{waiting}");
    assert!(matches!(send(last.0), Received::Taken));
    assert_eq!(world.sides[1].stats().waiting_messages, waiting + 1);
    drop(sessions);
    assert_eq!(world.sides[1].stats().waiting_messages, 0);
}

/// A source checks what it is granted, too.
#[test]
fn grants_are_checked() {
    let good = SlotGrant { slot: 3, round: 2, address: 1 << 20, len: 64 };
    let bad = [
        (Message::Slots(vec![SlotGrant { len: 63, ..good }]), "a slot of 63 bytes"),
        (Message::Slots(vec![SlotGrant { address: 0, ..good }]), "an impossible slot"),
        (Message::Slots(vec![SlotGrant { address: u64::MAX, ..good }]), "an impossible slot"),
        (Message::Slots(vec![good, good]), "round 2 after round 2"),
        (Message::Slots(vec![good, SlotGrant { round: 1, ..good }]), "round 1 after round 2"),
        (Message::Places { first: 1, addresses: vec![1] }, "descriptor 1 of 1"),
        (Message::Places { first: u32::MAX, addresses: vec![1] }, "of 1"),
        (Message::Places { first: 0, addresses: vec![0] }, "no address"),
        (Message::Done, "done before all was sent"),
        (Message::Filled { chunk: 0, slot: None }, "filled to the side that sends"),
    ];
    for (message, reason) in bad {
        let mut world = World::new([config(2, 4), config(2, 4)]);
        let (local, remote) = (Memory::new(GPU, &[LEN], false), Memory::new(GPU, &[LEN], false));
        let none = OperationOptions::new();
        let both = (&local, &remote);
        let (_passive, active) =
            world.begin(OperationKind::Write, 0, both, Mode::TwoSided, (none, none));
        let Active::Write(mut write) = active.unwrap() else { panic!("it is a write") };
        world.sides[0].reactor.turn();
        let (_, open) = world.messages(1).remove(0);
        let (id, _) = Message::decode(&open).unwrap();
        let from = world.sides[1].transport.agent_name().to_owned();
        let received = world.sides[0].services.receive(&from, &message.encode(id));
        assert!(matches!(received, Received::Taken));
        for _ in 0..4 {
            world.sides[0].gpus.run(usize::MAX);
            world.sides[0].reactor.turn();
        }
        let error = super::now(write.wait_for_completion()).unwrap_err();
        assert!(error.to_string().contains(reason), "{error}");
        let stats = world.sides[0].stats();
        assert_eq!((stats.outgoing.free, stats.sessions), (2, 0));
        assert!(!local.is_leased());
    }
}
