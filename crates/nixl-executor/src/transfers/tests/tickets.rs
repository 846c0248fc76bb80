//! Reads of granted blocks in which their owner takes part: the bytes that were granted, or an error.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use nixl_descriptor::layout::{
    BlockPart, Dimensions, Inner, LayerOrder, Layout, LayoutDescription, LayoutGeometry,
    LayoutKind, RemoteLayout, pair_remote_parts,
};
use nixl_descriptor::{LeaseMode, Leases, Region};
use nixl_device::Device;
use nixl_metadata::{ExportId, Rights, SerializedDescriptor, Ticket, TicketTerms};
use nixl_ops::{
    Completion, FreeBlocks, GrantTable, GrantTableOptions, GrantTerms, Granted, OperationError,
    OperationStatus, PathReport, ReadOperation, Received, TicketRead, TransportError,
};
use proptest::prelude::*;

use super::gpus;
use super::world::{World, config, pattern};
use crate::messages::{GrantRefusal, Message, OpenTicket, SessionId};
use crate::transfers::StagingMode;

const EXPORT: u64 = 77;
const SLOTS: usize = 2;
const BLOCKS: usize = 6;
const LAYERS: u16 = 3;
const MODES: [(StagingMode, Device); 3] = [
    (StagingMode::TwoSided, Device::cuda(0)),
    (StagingMode::TwoSided, Device::HOST),
    (StagingMode::OnGpu, Device::cuda(0)),
];

/// A cache on a device, and its regions.
struct Cache {
    layout: Layout,
    regions: Vec<Region>,
}

impl Cache {
    fn new(kind: LayoutKind, device: Device) -> Self {
        let geometry = LayoutGeometry::try_from(Dimensions {
            blocks: BLOCKS,
            layers: LAYERS.into(),
            outer: 2,
            page_size: 4,
            inner: Inner::Elements(5),
            element_width: 2,
        })
        .unwrap();
        let (parts, len) = match kind {
            LayoutKind::FullyContiguous => (1, geometry.bytes()),
            _ => (usize::from(LAYERS), BLOCKS * geometry.layer_len()),
        };
        let regions: Vec<_> = (0..parts).map(|_| gpus::region(device, len)).collect();
        let whole = regions.iter().map(Region::whole).collect::<Vec<_>>();
        let layout = match kind {
            LayoutKind::PerLayer(order) => Layout::per_layer(geometry, order, whole).unwrap(),
            _ => Layout::fully_contiguous(geometry, whole[0].clone()).unwrap(),
        };
        Self { layout, regions }
    }

    /// Fills every region: another use of the cache for each seed.
    fn fill(&self, seed: u64) {
        for (at, region) in (seed << 8..).zip(&self.regions) {
            gpus::overwrite(region, &pattern(at, region.len()));
        }
    }

    /// The bytes of a part of a block.
    fn bytes(&self, block: usize, part: &BlockPart) -> Vec<u8> {
        let tokens = part.token_range().cloned().unwrap_or(0..4);
        let mut bytes = Vec::new();
        for layer in part.layers().clone() {
            for outer in part.outer_parts().cloned().unwrap_or(0..2) {
                let chunk = self.layout.chunk(block, layer, outer).unwrap();
                let token = chunk.len / 4;
                let all = gpus::look(&self.regions[chunk.part]);
                let at = chunk.offset;
                bytes.extend(&all[at + tokens.start * token..at + tokens.end * token]);
            }
        }
        bytes
    }
}

/// Side 1 has exported a cache on its GPU, side 0 reads.
struct Scene {
    world: World,
    table: Arc<GrantTable>,
    theirs: Cache,
    ours: Cache,
    mode: StagingMode,
}

impl Scene {
    fn new(mode: StagingMode, device: Device) -> Self {
        let kinds = (LayoutKind::PerLayer(LayerOrder::BlockFirst), LayoutKind::FullyContiguous);
        Self::of(kinds, mode, device)
    }

    fn of(kinds: (LayoutKind, LayoutKind), mode: StagingMode, device: Device) -> Self {
        let world = World::new([config(SLOTS, 4), config(SLOTS, 4)]);
        let (theirs, ours) = (Cache::new(kinds.0, Device::cuda(1)), Cache::new(kinds.1, device));
        theirs.fill(1);
        let options = GrantTableOptions::default();
        let layouts = [theirs.layout.clone()];
        let table = GrantTable::new(&layouts, options, world.clock.clone()).unwrap();
        let table = Arc::new(table);
        table.open(EXPORT);
        world.sides[1].services.sessions.export_opened(ExportId::new(EXPORT), &table);
        Self { world, table, theirs, ours, mode }
    }

    fn grant(&self, blocks: &[u32]) -> (Granted, Ticket) {
        let terms = GrantTerms::new(0).of_layers_below(LAYERS.into());
        let granted = self.table.grant(&terms.for_time(Duration::from_secs(60)), blocks).unwrap();
        let ticket = Ticket::new(terms_of(&granted), blocks).unwrap();
        let (slot, generation) = (granted.slot(), granted.generation());
        self.table.publish(slot, generation, ticket.digest(), LAYERS.into()).unwrap();
        (granted, ticket)
    }

    /// Begins to read a part of the blocks of a ticket into those from 0 on.
    fn begin(&self, ticket: &Ticket, part: &BlockPart) -> ReadOperation {
        let description = LayoutDescription::from(&self.theirs.layout);
        let remote = RemoteLayout::try_from(&description).unwrap();
        let theirs: Vec<_> = ticket.blocks().iter().map(|&block| block as usize).collect();
        let ours: Vec<_> = (0..theirs.len()).collect();
        let pairs = pair_remote_parts(&remote, &theirs, &self.ours.layout, &ours, part).unwrap();
        let read = TicketRead::new(ticket.clone(), part.clone(), pairs.pieces());
        let there = pairs.remote().iter();
        let there = there.map(|s| SerializedDescriptor::new(s.device, s.address, s.len).unwrap());
        let there = there.collect();
        let [reader, owner] = &self.world.sides;
        reader.read_by_ticket(owner, &read, (pairs.into_local(), there), self.mode).unwrap()
    }

    fn turn(&mut self) {
        self.pass();
        self.world.turn();
    }

    /// The owner, which awaits nothing, looks for messages after a while.
    fn pass(&self) {
        self.world.clock.advance(Duration::from_millis(5));
    }

    /// Turns until the read has ended and all is idle.
    fn run(&mut self, read: &mut ReadOperation) -> Result<Completion, OperationError> {
        for _ in 0..400 {
            self.turn();
            if read.status() != OperationStatus::InProgress && self.world.is_idle() {
                break;
            }
        }
        // The last messages.
        for _ in 0..200 {
            self.turn();
        }
        super::now(read.wait_for_completion())
    }

    fn end(&self, granted: &Granted) {
        assert!(self.table.end(granted.slot(), granted.generation()));
    }

    /// All slots are free, no session is left, and no memory is leased.
    fn check_idle(&self) {
        assert!(self.world.is_idle());
        for side in &self.world.sides {
            let stats = side.stats();
            let slots = [stats.outgoing(), stats.incoming(), stats.on_gpus()];
            assert!(slots.iter().all(|slots| slots.quarantined() == 0), "{stats:?}");
            assert!(slots.iter().all(|s| s.free() == SLOTS || s.free() == 0), "{stats:?}");
        }
        for region in self.theirs.regions.iter().chain(&self.ours.regions) {
            assert!(Leases::acquire(&[region.whole()], LeaseMode::Read).is_ok());
        }
        let ours: Vec<_> = self.ours.regions.iter().map(Region::whole).collect();
        assert!(Leases::acquire(&ours, LeaseMode::Write).is_ok());
    }
}

fn terms_of(granted: &Granted) -> TicketTerms {
    TicketTerms {
        export: ExportId::new(EXPORT),
        layout: 0,
        layers: 0..LAYERS,
        rights: Rights::Read,
        slot: granted.slot(),
        generation: granted.generation(),
        token: granted.token(),
        expires_unix_millis: granted.end().unix_millis(),
    }
}

fn all() -> BlockPart {
    BlockPart::of_layers(0..LAYERS.into())
}

fn poll(free: &mut FreeBlocks) -> Poll<()> {
    Pin::new(free).poll(&mut Context::from_waker(Waker::noop()))
}

fn refused(ended: Result<Completion, OperationError>) -> TransportError {
    match ended {
        Err(OperationError::Transport(error)) => error,
        other => panic!("{other:?}"),
    }
}

#[test]
fn the_owner_copies_the_blocks_that_the_ticket_names() {
    let kinds = [
        LayoutKind::FullyContiguous,
        LayoutKind::PerLayer(LayerOrder::BlockFirst),
        LayoutKind::PerLayer(LayerOrder::OuterFirst),
    ];
    let parts = [all(), BlockPart::of_layers(1..2).outer(1..2), all().tokens(1..3)];
    for (mode, device) in MODES {
        for theirs in kinds {
            for ours in kinds {
                for part in &parts {
                    let mut scene = Scene::of((theirs, ours), mode, device);
                    let (_, ticket) = scene.grant(&[4, 1, 2]);
                    let mut read = scene.begin(&ticket, part);
                    let done = scene.run(&mut read).unwrap();
                    assert!(done.path().is_some_and(PathReport::is_checked_by_owner));
                    for (into, &block) in ticket.blocks().iter().enumerate() {
                        let found = scene.ours.bytes(into, part);
                        assert_eq!(found, scene.theirs.bytes(block as usize, part), "{mode:?}");
                    }
                    scene.check_idle();
                }
            }
        }
    }
}

#[test]
fn a_ticket_that_is_altered_moves_nothing() {
    for (mode, device) in MODES {
        let mut scene = Scene::new(mode, device);
        let (granted, ticket) = scene.grant(&[4, 1]);
        let with = |terms: TicketTerms, blocks: &[u32]| Ticket::new(terms, blocks).unwrap();
        let terms = || terms_of(&granted);
        let forged = TicketTerms { token: [7; 16], ..terms() };
        let of_another_slot = TicketTerms { slot: 9, ..terms() };
        let later = TicketTerms { generation: terms().generation + 1, ..terms() };
        for (ticket, error) in [
            (with(terms(), &[4, 2]), TransportError::NotGranted),
            (with(terms(), &[4, 1, 0]), TransportError::NotGranted),
            (with(forged, &[4, 1]), TransportError::NotGranted),
            (with(of_another_slot, &[4, 1]), TransportError::Stale),
            (with(later, &[4, 1]), TransportError::Stale),
        ] {
            let before: Vec<_> = scene.ours.regions.iter().map(gpus::look).collect();
            let mut read = scene.begin(&ticket, &all());
            assert_eq!(refused(scene.run(&mut read)), error, "{ticket:?}");
            let after: Vec<_> = scene.ours.regions.iter().map(gpus::look).collect();
            assert_eq!(before, after);
            scene.check_idle();
        }
        assert!(scene.run(&mut scene.begin(&ticket, &all())).is_ok());
    }
}

/// The digest is no signature: a holder may find other blocks of the same digest.
#[test]
fn the_blocks_are_compared_and_not_their_digest_alone() {
    let scene = Scene::new(StagingMode::TwoSided, Device::HOST);
    let terms = GrantTerms::new(0).of_layers_below(LAYERS.into());
    let granted = scene.table.grant(&terms, &[4, 1]).unwrap();
    let altered = Ticket::new(terms_of(&granted), [4, 2]).unwrap();
    let (slot, generation) = (granted.slot(), granted.generation());
    scene.table.publish(slot, generation, altered.digest(), LAYERS.into()).unwrap();
    let mut scene = scene;
    let mut read = scene.begin(&altered, &all());
    assert_eq!(refused(scene.run(&mut read)), TransportError::NotGranted);
    scene.check_idle();
}

#[test]
fn layers_that_are_not_ready_are_refused() {
    for (mode, device) in MODES {
        let mut scene = Scene::new(mode, device);
        let terms = GrantTerms::new(0).of_layers_below(LAYERS.into());
        let granted = scene.table.grant(&terms, &[3]).unwrap();
        let ticket = Ticket::new_unfilled(terms_of(&granted), [3]).unwrap();
        let (slot, generation) = (granted.slot(), granted.generation());
        scene.table.publish(slot, generation, ticket.digest(), 1).unwrap();
        let mut read = scene.begin(&ticket, &all());
        let not_ready = TransportError::NotReady { ready: 1, asked: LAYERS.into() };
        assert_eq!(refused(scene.run(&mut read)), not_ready);
        let first = BlockPart::of_layers(0..1);
        scene.run(&mut scene.begin(&ticket, &first)).unwrap();
        assert_eq!(scene.ours.bytes(0, &first), scene.theirs.bytes(3, &first));
        scene.table.ready_through(slot, generation, LAYERS.into()).unwrap();
        scene.run(&mut scene.begin(&ticket, &all())).unwrap();
        assert_eq!(scene.ours.bytes(0, &all()), scene.theirs.bytes(3, &all()));
        scene.check_idle();
    }
}

/// The grant's time is over, also where the driver has not ended it.
#[test]
fn a_ticket_whose_time_is_over_is_stale() {
    let mut scene = Scene::new(StagingMode::TwoSided, Device::cuda(0));
    let (_, ticket) = scene.grant(&[3]);
    scene.world.clock.advance(Duration::from_secs(61));
    let mut read = scene.begin(&ticket, &all());
    assert_eq!(refused(scene.run(&mut read)), TransportError::Stale);
    scene.check_idle();
}

/// A late reader gets an answer, and waits for no time-out.
#[test]
fn a_ticket_of_a_closed_export_is_stale() {
    for (mode, device) in MODES {
        let mut scene = Scene::new(mode, device);
        let (_, ticket) = scene.grant(&[3]);
        let options = GrantTableOptions::default();
        let other = GrantTable::new(&[], options, scene.world.clock.clone()).unwrap();
        drop(std::mem::replace(&mut scene.table, Arc::new(other)));
        let mut read = scene.begin(&ticket, &all());
        assert_eq!(refused(scene.run(&mut read)), TransportError::Stale);
        scene.check_idle();
    }
}

/// What happens between two steps of the transfer.
#[derive(Clone, Copy, Debug)]
enum Step {
    Turn(usize),
    Copies(usize, usize),
    Job(usize),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        6 => (0usize..2).prop_map(Step::Turn),
        4 => (0usize..2, 1usize..12).prop_map(|(side, count)| Step::Copies(side, count)),
        2 => (0usize..2).prop_map(Step::Job),
    ]
}

impl Scene {
    fn step(&mut self, step: Step) {
        match step {
            Step::Turn(side) => {
                self.pass();
                self.world.sides[side].reactor.turn();
            }
            Step::Copies(side, count) => self.world.sides[side].gpus.run(count),
            Step::Job(side) => _ = self.world.sides[side].jobs.next(),
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    /// The grant ends at any step of the read, and its blocks are used anew at once.
    #[test]
    fn a_grant_that_ends_during_the_read_is_stale_and_no_byte_is_wrong(
        (mode, device) in prop::sample::select(MODES.to_vec()),
        before in proptest::collection::vec(step(), 0..60),
        after in proptest::collection::vec(step(), 0..20),
        again in any::<bool>(),
    ) {
        let mut scene = Scene::new(mode, device);
        let (granted, ticket) = scene.grant(&[5, 0, 3]);
        let expected: Vec<_> =
            ticket.blocks().iter().map(|&b| scene.theirs.bytes(b as usize, &all())).collect();
        let mut read = scene.begin(&ticket, &all());
        before.into_iter().for_each(|step| scene.step(step));
        scene.end(&granted);
        scene.theirs.fill(2);
        if again {
            // The slot's next grant is of the same blocks.
            scene.grant(&[5, 0, 3]);
        }
        after.into_iter().for_each(|step| scene.step(step));
        match scene.run(&mut read) {
            Ok(_) => {
                let found: Vec<_> = (0..3).map(|block| scene.ours.bytes(block, &all())).collect();
                prop_assert_eq!(found, expected);
            }
            error => prop_assert_eq!(refused(error), TransportError::Stale),
        }
        scene.check_idle();
    }
}

/// Turns only the owner and its jobs, and leaves its GPU to the test.
fn turn_owner(scene: &mut Scene) {
    scene.pass();
    let owner = &mut scene.world.sides[1];
    while owner.jobs.next() {}
    owner.reactor.turn();
}

/// A scene in which a chunk is being copied by the owner's GPU.
fn copying(mode: StagingMode) -> (Scene, Granted, ReadOperation) {
    let mut scene = Scene::new(mode, Device::cuda(0));
    let (granted, ticket) = scene.grant(&[5, 0, 3]);
    let read = scene.begin(&ticket, &all());
    for _ in 0..20 {
        turn_owner(&mut scene);
        let reader = &mut scene.world.sides[0];
        while reader.jobs.next() {}
        reader.gpus.run(usize::MAX);
        reader.reactor.turn();
    }
    assert!(!scene.world.sides[1].gpus.is_idle());
    (scene, granted, read)
}

#[test]
fn blocks_are_leased_and_not_free_while_they_are_copied() {
    for mode in [StagingMode::TwoSided, StagingMode::OnGpu] {
        let (mut scene, granted, mut read) = copying(mode);
        let block = scene.theirs.layout.chunk_descriptors(&[5], 0..1).unwrap();
        let is_free = || Leases::acquire(&block, LeaseMode::Write).is_ok();
        let mut free = scene.table.free_blocks(0, &[5]).unwrap();
        scene.end(&granted);
        assert!(poll(&mut free).is_pending() && !is_free());
        scene.world.sides[1].gpus.run(usize::MAX);
        for _ in 0..4 {
            turn_owner(&mut scene);
        }
        assert!(poll(&mut free).is_ready() && is_free());
        assert_eq!(refused(scene.run(&mut read)), TransportError::Stale);
        scene.check_idle();
    }
}

/// A reader that stands still holds up no block, and its session ends with the grant.
#[test]
fn the_end_of_the_grant_waits_for_no_reader() {
    for mode in [StagingMode::TwoSided, StagingMode::OnGpu] {
        let (mut scene, granted, mut read) = copying(mode);
        for _ in 0..10 {
            scene.world.sides[1].gpus.run(usize::MAX);
            turn_owner(&mut scene);
        }
        let mut free = scene.table.free_blocks(0, &[5, 0, 3]).unwrap();
        assert!(poll(&mut free).is_pending(), "it is granted");
        scene.end(&granted);
        assert!(poll(&mut free).is_ready(), "the owner copies nothing");
        turn_owner(&mut scene);
        turn_owner(&mut scene);
        let told = scene.world.messages(0);
        let told: Vec<_> = told.iter().filter_map(|(_, m)| Message::decode(m).ok()).collect();
        let stale = Message::GrantRefused(GrantRefusal::Stale);
        let (id, _) = told.iter().find(|(_, message)| *message == stale).expect("it is told");
        let from = scene.world.sides[1].transport.agent_name().to_owned();
        for (_, message) in &told {
            let received = scene.world.sides[0].services.receive(&from, &message.encode(*id));
            assert!(matches!(received, Received::Taken));
        }
        assert_eq!(refused(scene.run(&mut read)), TransportError::Stale);
        scene.check_idle();
    }
}

#[test]
fn an_owner_that_is_gone_ends_the_read() {
    for (mode, device) in MODES {
        for is_lost in [true, false] {
            // What a silent peer may write in place waits for the loss of the connection, and a proof.
            if !is_lost && device.is_host() {
                continue;
            }
            let mut scene = Scene::new(mode, device);
            let (_granted, ticket) = scene.grant(&[5, 0, 3]);
            let mut read = scene.begin(&ticket, &all());
            for _ in 0..6 {
                scene.turn();
            }
            scene.world.sides[0].quiet.store(true, std::sync::atomic::Ordering::Release);
            if is_lost {
                let owner = scene.world.sides[1].transport.agent_name().to_owned();
                scene.world.sides[0].services.sessions.peer_gone(&owner);
            }
            for _ in 0..400 {
                if read.status() != OperationStatus::InProgress {
                    break;
                }
                if !is_lost {
                    scene.world.clock.advance(Duration::from_secs(1));
                }
                let reader = &mut scene.world.sides[0];
                reader.services.sessions.look_for_stalled();
                while reader.jobs.next() {}
                reader.gpus.run(usize::MAX);
                reader.reactor.turn();
            }
            let error = refused(super::now(read.wait_for_completion()));
            let is_it = match is_lost {
                true => matches!(error, TransportError::PeerGone { .. }),
                false => error.to_string().contains("no message from the peer"),
            };
            assert!(is_it, "{mode:?} {error}");
            let ours: Vec<_> = scene.ours.regions.iter().map(Region::whole).collect();
            assert!(Leases::acquire(&ours, LeaseMode::Write).is_ok());
        }
    }
}

/// What the owner hears by a message that a reader of this library would not send.
#[test]
fn requests_are_bounded() {
    let scene = Scene::new(StagingMode::TwoSided, Device::HOST);
    let (_, ticket) = scene.grant(&[4, 1]);
    let owner = &scene.world.sides[1];
    let open = OpenTicket {
        ticket: ticket.clone(),
        part: all(),
        pieces: 6,
        chunk_bytes: 64,
        initiator_metadata: scene.world.sides[0].agent_metadata().compressed().clone(),
        on_gpu_by: None,
    };
    let ask = |open: &OpenTicket| {
        let message = Message::OpenTicket(open.clone()).encode(SessionId::random());
        owner.services.receive("a", &message)
    };
    // Of another export: a stranger's.
    let terms = |granted: &Granted| TicketTerms { export: ExportId::new(78), ..terms_of(granted) };
    let (granted, _) = scene.grant(&[2]);
    let other = Ticket::new(terms(&granted), [2]).unwrap();
    assert!(matches!(ask(&OpenTicket { ticket: other, ..open.clone() }), Received::Ignored));
    assert_eq!((owner.stats().strangers(), owner.stats().sessions()), (1, 0));
    // As many sessions of one grant as of one offer.
    for _ in 0..256 {
        assert!(matches!(ask(&open), Received::Serve(_)));
    }
    // They were dropped: none is left.
    assert_eq!(owner.stats().sessions(), 0);
    let held: Vec<_> = (0..256).map(|_| ask(&open)).collect();
    assert!(held.iter().all(|received| matches!(received, Received::Serve(_))));
    assert!(matches!(ask(&open), Received::Ignored));
    drop(held);
}
