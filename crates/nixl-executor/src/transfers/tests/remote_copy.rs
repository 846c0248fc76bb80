//! Tests of remote copies: exported GPU memory is closed when the peer's process ends.

use std::process::{Command, Stdio};
use std::task::{Context, Waker};
use std::time::{Duration, Instant};

use nixl_device::Device;
use nixl_metadata::OperationKind;
use nixl_ops::{OperationOptions, OperationStatus, Received};

use super::gpus;
use super::world::{Memory, Messages, Mode, World, config, pattern};
use crate::local::GpuBackend;
use crate::messages::{ExportedRange, PresentedOffer, Proof, RemoteCopyRequest};
use crate::messages::{Message, SessionId};

const LIMIT: Duration = Duration::from_secs(30);

#[test]
fn what_a_process_exported_is_closed_when_it_is_killed() {
    let world = World::new([config(2, 4), config(2, 4)]);
    let (initiator, target) = (&world.sides[0], &world.sides[1]);
    let mut process = Command::new("cat").stdin(Stdio::piped()).spawn().unwrap();
    let memory = Memory::new(Device::HOST, &[100], false);
    let passive = target.offer(OperationKind::Read, &memory, OperationOptions::new());
    let exported = Memory::new(Device::cuda(0), &[100], false);
    let address = exported.list[0].address();
    let allocation = initiator.gpus.allocation(0, address).unwrap();
    let (handle, offset) = (*allocation.ipc_handle().unwrap(), address - allocation.base());
    let copy_request = Message::RemoteCopyRequest(RemoteCopyRequest {
        offer: PresentedOffer {
            key: passive.metadata().notification_key().clone(),
            proof: Proof::Key,
        },
        kind: OperationKind::Read,
        process: Some(process.id()),
        gpu: [0; 16],
        ranges: vec![ExportedRange { handle, offsets: vec![offset] }],
        initiator_metadata: initiator.agent_metadata().compressed().clone(),
    });
    let payload = copy_request.encode(SessionId::random());
    let Received::Serve(mut served) =
        target.services.receive(initiator.transport.agent_name(), &payload)
    else {
        panic!("not served")
    };
    for _ in 0..8 {
        while target.jobs.next() {}
        target.gpus.run(usize::MAX);
        if served.poll(&mut Context::from_waker(Waker::noop())).is_ready() {
            break;
        }
    }
    assert_eq!(target.imports.held().0, 1);
    process.kill().unwrap();
    let began = Instant::now();
    while target.imports.held().0 > 0 {
        assert!(began.elapsed() < LIMIT);
        while target.jobs.next() {}
        std::thread::yield_now();
    }
    process.wait().unwrap();
}

/// Between processes of one host the engine carries no message, and the peer need not be connected: the second time, once both pages
/// are open.
#[test]
fn remote_copies_send_nothing_by_the_engine_where_there_are_mailboxes() {
    let mut world = World::with_messages([config(2, 4), config(2, 4)], Messages::ByMailbox);
    for round in 0..3 {
        let local = Memory::new(Device::cuda(0), &[100], false);
        let target = Memory::new(Device::HOST, &[100], false);
        let stream = pattern(round, 100);
        gpus::overwrite(&target.region, &target.image(&stream));
        let sides = (&local, &target);
        let options = (OperationOptions::new(), OperationOptions::new());
        let (passive, active) =
            world.begin(OperationKind::Read, 0, sides, Mode::PeerCopies, options);
        let active = active.unwrap();
        let mut messages = 0;
        for _ in 0..100 {
            if round > 0 {
                messages += world.messages(0).len() + world.messages(1).len();
            }
            world.turn();
        }
        assert_eq!(messages, 0);
        assert_eq!(active.status(), OperationStatus::Complete);
        assert_eq!(passive.status(), OperationStatus::Complete);
        assert_eq!(gpus::look(&local.region), local.image(&stream));
    }
}

/// Nothing orders a mailbox with the engine: where the first message is too long for the mailbox, no later one overtakes it there.
#[test]
fn a_conversation_that_begins_by_the_engine_goes_on_by_it() {
    let mut world = World::with_messages([config(2, 4), config(2, 4)], Messages::ByMailbox);
    let lens = [1; 1200];
    let (local, target) =
        (Memory::new(Device::cuda(0), &lens, false), Memory::new(Device::HOST, &lens, false));
    let options = (OperationOptions::new(), OperationOptions::new());
    let (_passive, active) =
        world.begin(OperationKind::Read, 0, (&local, &target), Mode::PeerCopies, options);
    let mut active = active.unwrap();
    world.sides[0].reactor.turn();
    active.cancel();
    world.sides[0].reactor.turn();
    let said: Vec<_> = world
        .messages(1)
        .iter()
        .map(|(_, payload)| Message::decode(payload).unwrap().1.name())
        .collect();
    assert_eq!(said, ["copy request", "copy cancellation"]);
}
