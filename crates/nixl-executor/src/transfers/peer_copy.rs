//! Copies to or from memory that a peer shares.
#![allow(
    unsafe_code,
    reason = "asserts that a copy has ended; tests look into memory that stands for a GPU's"
)]

use std::borrow::Cow;
use std::mem;
use std::slice;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use nixl_descriptor::{Descriptor, DescriptorList, Leased, Region};
use nixl_device::{Device, SharedError};
use nixl_metadata::{OperationKind, RdmaMetadata};
use nixl_ops::{
    CompletionNotifier, EndedOffer, Execution, PathKind, PathReport, PeerMemory, TransferRequest,
    TransportError,
};

use crate::facts::LocalFacts;
use crate::local::{
    AllocationBoundaries, CopyContext, CopyOp, GpuBackend, ListCopy, MemoryKind, Strategy,
    StrategyPolicy, TransferBuffer, starts,
};
use crate::remote_memory::{Found, ImportCache, RemoteMemoryKey, memory_key};

/// Which GPU here copies, and the number here of the GPU whose memory the peer shares, if it has one.
pub(crate) fn copier(
    here: &LocalFacts,
    gpus: &dyn GpuBackend,
    (list, local): (&DescriptorList, MemoryKind),
    remote: &RdmaMetadata,
) -> (u32, Option<u32>) {
    let device = remote.descriptors().first().map(|d| d.device());
    let devices = remote.peer().map_or(&[][..], |peer| peer.devices());
    let uuid = devices.iter().find(|d| Some(d.device()) == device).and_then(|d| d.uuid());
    let theirs = uuid.and_then(|uuid| here.gpu_with(uuid)).map(|gpu| gpu.ordinal);
    let gpu = match (local, theirs) {
        // A GPU writes another's memory sooner than that reads it: 6.8 us for 4 KiB rather than 10.5 (two H200s).
        (MemoryKind::Gpu(ours), Some(theirs))
            if remote.operation_kind() == OperationKind::Read
                && gpus.capabilities().reach_each_other(ours, theirs)
                && each_region(list).all(|region| gpus.is_open_to_peers(region)) =>
        {
            theirs
        }
        (MemoryKind::Gpu(ours), _) => ours,
        _ => theirs.unwrap_or(0),
    };
    (gpu, theirs)
}

/// The regions of a list, some of them perhaps again.
fn each_region(list: &DescriptorList) -> impl Iterator<Item = &Region> {
    let runs = list.as_slice().chunk_by(|a, b| a.region().id() == b.region().id());
    runs.filter_map(|run| Some(run.first()?.region()))
}

/// A copy by this process, and the notification of the peer at its end.
pub(crate) struct PeerCopy {
    path: PathKind,
    stage: Stage,
    copy: ListCopy,
    /// Open as long as the copy may use it. Field order: after the copy.
    imports: Imports,
    leased: Leased,
    /// Notifies the peer. `None` if these are not all bytes.
    notifier: Option<CompletionNotifier>,
}

/// Memory of the peer. Most lists lie in one piece, which is kept in place.
#[derive(Default)]
struct Imports {
    first: Option<Arc<dyn TransferBuffer>>,
    more: Vec<Arc<dyn TransferBuffer>>,
}

impl Imports {
    fn push(&mut self, memory: Arc<dyn TransferBuffer>) {
        match self.first {
            None => self.first = Some(memory),
            Some(_) => self.more.push(memory),
        }
    }

    fn iter(&self) -> impl Iterator<Item = &Arc<dyn TransferBuffer>> {
        self.first.iter().chain(&self.more)
    }
}

#[derive(Clone, Copy, Eq, PartialEq)]
enum Stage {
    Copying,
    /// The bytes are in place.
    Telling,
    Ended,
}

/// The peer's open memory, as the descriptors of one request use it.
struct OpenMemory<'a> {
    path: PathKind,
    request: &'a TransferRequest<'a>,
    imports: &'a ImportCache,
    /// The GPU that copies.
    gpu: u32,
    local: MemoryKind,
    opened: Imports,
    /// The memory of the descriptor before, and its address.
    last: Option<(RemoteMemoryKey, u64)>,
}

impl OpenMemory<'_> {
    /// The copy of the first bytes, `most` of them.
    fn first_ops(&mut self, list: &[Descriptor], most: u64) -> Result<Vec<CopyOp>, TransportError> {
        let (mut ops, mut left) = (Vec::with_capacity(list.len()), most);
        for (index, ours) in list.iter().enumerate() {
            if left == 0 {
                break;
            }
            let len = left.min(ours.len() as u64);
            left -= len;
            ops.push(self.op(index, ours, len)?);
        }
        Ok(ops)
    }

    /// The copy of the first bytes of one descriptor.
    fn op(&mut self, index: usize, ours: &Descriptor, len: u64) -> Result<CopyOp, TransportError> {
        let remote = self.request.remote();
        let (share, offset) = remote.share_of(index).ok_or_else(|| {
            failed(self.path, "open", format!("descriptor {index} is not shared"))
        })?;
        let key = memory_key(share.kind(), self.gpu, self.local).ok_or_else(|| {
            failed(self.path, "open", format!("descriptor {index} is shared in an unknown way"))
        })?;
        // Inside the shared memory, which was checked when the metadata was read and when the memory was opened.
        let theirs = self.base(key)?.wrapping_add(offset);
        Ok(match self.request.kind() {
            OperationKind::Read => CopyOp { src: theirs, dst: ours.address(), len },
            OperationKind::Write => CopyOp { src: ours.address(), dst: theirs, len },
        })
    }

    /// The address at which the memory is open.
    fn base(&mut self, key: RemoteMemoryKey) -> Result<u64, TransportError> {
        if let Some((known, base)) = &self.last
            && *known == key
        {
            return Ok(*base);
        }
        let memory = match self.imports.find(&key) {
            Found::Open(memory) => memory,
            // The engine would reach other memory at that address now.
            Found::Gone => return Err(owner_gone()),
            Found::Closed => {
                return Err(failed(self.path, NOT_OPEN, "the peer's memory could not be opened"));
            }
        };
        let base = memory.address();
        self.opened.push(memory);
        self.last = Some((key, base));
        Ok(base)
    }
}

impl PeerCopy {
    /// Prepares the copy by one of the kinds of path, of the first bytes, `most` of them. Their descriptors in
    /// `request.remote` are in shares that are open.
    pub(crate) fn new(
        path: PathKind,
        (request, most): (&TransferRequest<'_>, u64),
        local: MemoryKind,
        here: &LocalFacts,
        imports: &ImportCache,
        context: &CopyContext,
    ) -> Result<Self, TransportError> {
        let Some(route) = request.route() else { return Err(TransportError::Closed) };
        let (gpu, theirs) =
            copier(here, &*context.gpus, (request.local(), local), request.remote());
        let mut memory = OpenMemory {
            path,
            request,
            imports,
            gpu,
            local,
            opened: Imports::default(),
            last: None,
        };
        let whole = request.local().total_bytes() <= most;
        let (one, many);
        let ops: &[CopyOp] = match request.local().as_slice() {
            [ours] => {
                one = memory.op(0, ours, most.min(ours.len() as u64))?;
                slice::from_ref(&one)
            }
            list => {
                many = memory.first_ops(list, most)?;
                &many
            }
        };
        let opened = memory.opened;
        let (remote, by, policy) = match path {
            PathKind::SharedMemory => {
                let pinned = matches!(local, MemoryKind::Gpu(_))
                    && opened.iter().all(|memory| is_pinned(&*context.gpus, &**memory));
                let remote = if pinned { MemoryKind::Pinned } else { MemoryKind::Pageable };
                (remote, None, StrategyPolicy::Auto)
            }
            _ => {
                let remote = MemoryKind::Gpu(theirs.unwrap_or(gpu));
                // What the peer shares is open for one GPU only.
                let policy = StrategyPolicy::Forbid(vec![Strategy::ThroughPinned]);
                (remote, Some(gpu), policy)
            }
        };
        let kinds = match request.kind() {
            OperationKind::Read => (remote, local),
            OperationKind::Write => (local, remote),
        };
        let kinds = match (by, local) {
            // Through a ring, the GPU that copies is that of the kind.
            (Some(gpu), MemoryKind::Pageable | MemoryKind::Pinned) => on(kinds, gpu),
            _ => kinds,
        };
        let boundaries = match ops.len() {
            // Nothing to join.
            1 => AllocationBoundaries::default(),
            _ => {
                let bases = opened.iter().map(|memory| memory.address());
                AllocationBoundaries::of(starts(request.local()).chain(bases))
            }
        };
        let ops = (ops, &boundaries);
        let copy =
            ListCopy::new(ops, kinds, &policy, by, request.local().pending(), context).map_err(
                |e| TransportError::Engine { engine: path.class(), call: "plan", reason: e.into() },
            )?;
        Ok(Self {
            path,
            stage: Stage::Copying,
            copy,
            imports: opened,
            notifier: whole
                .then(|| CompletionNotifier::new(route, request.remote().notification_key())),
            leased: request.leased().clone(),
        })
    }
}

const NOT_OPEN: &str = "open";

/// Whether an error is that this very memory of the peer is not open, which does not apply to the path to other memory.
pub(crate) fn is_not_open(error: &TransportError) -> bool {
    matches!(error, TransportError::Engine { call: NOT_OPEN, .. })
}

/// The error of a share whose owner has released it.
pub(crate) fn owner_gone() -> TransportError {
    TransportError::OfferEnded { why: EndedOffer::OwnerGone }
}

fn is_pinned(gpus: &dyn GpuBackend, memory: &dyn TransferBuffer) -> bool {
    gpus.memory_kind(Device::HOST, memory.address()) == MemoryKind::Pinned
}

/// The same with the GPU's side on `gpu`.
fn on((src, dst): (MemoryKind, MemoryKind), gpu: u32) -> (MemoryKind, MemoryKind) {
    let on = |kind| if matches!(kind, MemoryKind::Gpu(_)) { MemoryKind::Gpu(gpu) } else { kind };
    (on(src), on(dst))
}

impl Execution for PeerCopy {
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), TransportError>> {
        if self.stage == Stage::Copying {
            let copied = ready!(self.copy.poll(cx));
            self.stage = if copied.is_ok() { Stage::Telling } else { Stage::Ended };
            copied?;
        }
        if self.stage == Stage::Telling {
            let told = self.notifier.as_ref();
            let told = told.map_or(Poll::Ready(Ok(())), CompletionNotifier::notify);
            let told = ready!(told);
            self.stage = Stage::Ended;
            told?;
        }
        Poll::Ready(Ok(()))
    }

    fn abandon(&mut self) -> bool {
        self.stage != Stage::Copying || self.copy.abandon()
    }

    fn report(&self) -> PathReport {
        self.copy.report().with_kind(self.path)
    }

    fn expected(&self) -> Option<Duration> {
        self.copy.expected()
    }

    fn steps(&self) -> u64 {
        self.copy.steps()
    }

    fn posts_quickly(&self) -> bool {
        true
    }

    fn peer_memory(&self) -> PeerMemory {
        match self.stage {
            Stage::Copying => PeerMemory::UNPROVEN,
            // SAFETY: the copy was this process's own, and has ended.
            Stage::Telling | Stage::Ended => unsafe { PeerMemory::quiet() },
        }
    }
}

impl Drop for PeerCopy {
    fn drop(&mut self) {
        // In flight only if the GPU never became quiet: then it may still use what is open.
        if self.stage == Stage::Copying && !self.copy.abandon() {
            mem::forget(mem::take(&mut self.imports));
            self.leased.clone().leak();
        }
    }
}

fn failed(
    path: PathKind,
    call: &'static str,
    reason: impl Into<Cow<'static, str>>,
) -> TransportError {
    TransportError::Engine { engine: path.class(), call, reason: SharedError::text(reason) }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;
    use std::task::Waker;

    use nixl_connector::simulated::Fabric;
    use nixl_descriptor::{LeaseMode, Leases, SharedMemory};
    use nixl_device::Device;
    use nixl_metadata::{
        AgentMetadata, HostIdentity, NotificationKey, PeerDevice, PeerInfo, SerializedDescriptor,
    };
    use nixl_ops::{Clock, PeerId, RecentCheck, SystemClock, Transport};

    use super::*;
    use crate::facts::LocalGpu;
    use crate::local::{CopyWorkers, Costs, GpuCapabilities, SimulatedGpus};
    use crate::remote_memory::{Now, OwnerId, shares};

    struct World {
        gpus: Arc<SimulatedGpus>,
        context: CopyContext,
        target: Arc<dyn Transport>,
        initiator: Arc<dyn Transport>,
        peer: PeerId,
    }

    impl World {
        fn new() -> Self {
            let capabilities =
                GpuCapabilities { gpus: 2, batch: true, kernel: true, peers: vec![(0, 1)] };
            let gpus = Arc::new(SimulatedGpus::new(capabilities).unwrap());
            let clock: Arc<dyn Clock> = Arc::new(SystemClock::new());
            let fabric = Fabric::new(Arc::clone(&clock));
            let (target, initiator) = (fabric.transport("target"), fabric.transport("initiator"));
            let peer = initiator.connect(&target.local_metadata().unwrap()).unwrap().into_peer();
            let context = CopyContext {
                gpus: Arc::clone(&gpus) as Arc<dyn GpuBackend>,
                threads: CopyWorkers::new(&clock).unwrap(),
                costs: Costs::default(),
                waker: Waker::noop().clone(),
            };
            Self { gpus, context, target, initiator, peer }
        }

        fn region(&self, kind: MemoryKind, bytes: &[u8]) -> Region {
            let region = self.gpus.region(kind, bytes.len()).unwrap();
            // SAFETY: the simulated GPUs made these bytes just now, and no other thread knows of them.
            unsafe { slice::from_raw_parts_mut(region.address() as *mut u8, bytes.len()) }
                .copy_from_slice(bytes);
            region
        }

        /// What the target says of an offer.
        fn remote(&self, kind: OperationKind, list: &DescriptorList) -> RdmaMetadata {
            let descriptor = |d: &Descriptor| {
                SerializedDescriptor::new(d.device(), d.address(), d.len() as u64).unwrap()
            };
            let descriptors = list.iter().map(descriptor).collect();
            let agent = AgentMetadata::compress(&self.target.local_metadata().unwrap()).unwrap();
            let key = NotificationKey::random();
            let remote = RdmaMetadata::new(kind, descriptors, agent, key).unwrap();
            remote.with_shares(shares(&*self.gpus, list)).unwrap()
        }

        /// Runs one transfer of uneven pieces. Returns what the two sides hold afterwards.
        fn run(
            &self,
            path: PathKind,
            kind: OperationKind,
            local: MemoryKind,
            most: u64,
        ) -> [Vec<u8>; 2] {
            let ours: Vec<u8> = (0..5000u32).map(|i| (i * 7) as u8).collect();
            let others: Vec<u8> = (0..5000u32).map(|i| (i * 13 + 1) as u8).collect();
            let mine = self.region(local, &ours);
            let their = match path {
                PathKind::SharedMemory => {
                    let region = Region::shared(others.len()).unwrap();
                    region.copy_from_slice(0, &others).unwrap();
                    region
                }
                _ => self.region(MemoryKind::Gpu(0), &others),
            };
            let pieces = [(0, 1000), (1000, 24), (2000, 1000), (4000, 999)];
            let list = |region: &Region| {
                let part = |(at, len)| region.descriptor(at..at + len).unwrap();
                DescriptorList::try_from(pieces.map(part).to_vec()).unwrap()
            };
            let (here, there) = (list(&mine), list(&their));
            let remote = self.remote(kind, &there);
            let mode = match kind {
                OperationKind::Read => LeaseMode::Write,
                OperationKind::Write => LeaseMode::Read,
            };
            let leased = Leases::acquire_list(here.clone(), mode).unwrap();
            let request = TransferRequest::inter_process(
                kind,
                (&here, &leased),
                &remote,
                &self.initiator,
                &self.peer,
                Vec::new(),
            );
            let (facts, imports) = (
                LocalFacts::default(),
                ImportCache::new(Arc::clone(&self.context.gpus), Now::here()),
            );
            let begin =
                || PeerCopy::new(path, (&request, most), local, &facts, &imports, &self.context);
            assert!(begin().is_err(), "the peer's memory is not open yet");
            let (gpu, _) = copier(&facts, &*self.gpus, (&here, local), &remote);
            let memory_key = memory_key(remote.shares()[0].kind(), gpu, local).unwrap();
            imports.open(&memory_key, OwnerId { peer: "target", pid: None }).unwrap();
            let mut copy = begin().unwrap();
            while copy
                .poll(&mut Context::from_waker(Waker::noop()))
                .map(Result::unwrap)
                .is_pending()
            {}
            let told = Mutex::new(Vec::new());
            let note = &mut |_: &str, payload: &[u8]| told.lock().unwrap().push(payload.to_vec());
            self.target.take_notifications(note).unwrap();
            let expected = (most == u64::MAX).then(|| remote.notification_key().as_bytes());
            assert_eq!(*told.lock().unwrap(), expected.as_slice());
            [mine, their].map(|region| {
                // SAFETY: as in `region`; the copy is over.
                unsafe { slice::from_raw_parts(region.address() as *const u8, 5000) }.to_vec()
            })
        }
    }

    #[test]
    fn a_share_that_has_vanished_ends_the_operation() {
        let world = World::new();
        let (path, local) = (PathKind::SharedMemory, MemoryKind::Pageable);
        let here = DescriptorList::from(world.region(local, &[1; 100]).whole());
        let their = Region::try_from(SharedMemory::new(100).unwrap()).unwrap();
        let there = DescriptorList::from(their.whole());
        let remote = world.remote(OperationKind::Write, &there);
        let leased = Leases::acquire_list(here.clone(), LeaseMode::Read).unwrap();
        let request = TransferRequest::inter_process(
            OperationKind::Write,
            (&here, &leased),
            &remote,
            &world.initiator,
            &world.peer,
            Vec::new(),
        );
        let (facts, imports) =
            (LocalFacts::default(), ImportCache::new(world.context.gpus.clone(), Now::here()));
        let begin = || {
            let request = (&request, u64::MAX);
            PeerCopy::new(path, request, local, &facts, &imports, &world.context).map(drop)
        };
        // Another path may do better.
        assert!(matches!(begin(), Err(TransportError::Engine { call: "open", .. })));
        let memory_key = memory_key(remote.shares()[0].kind(), 0, local).unwrap();
        imports.open(&memory_key, OwnerId { peer: "target", pid: None }).unwrap();
        begin().unwrap();
        drop((their, there));
        std::thread::sleep(2 * RecentCheck::TTL);
        assert_eq!(begin(), Err(TransportError::OfferEnded { why: EndedOffer::OwnerGone }));
    }

    #[test]
    fn the_first_bytes_are_copied_and_the_peer_is_not_told() {
        let world = World::new();
        for path in [PathKind::CudaIpc, PathKind::SharedMemory] {
            let [mine, their] = world.run(path, OperationKind::Write, MemoryKind::Gpu(0), 1100);
            for at in 0..5000 {
                let moved = at < 1024 || (2000..2076).contains(&at);
                let (ours, others) = ((at * 7) as u8, (at * 13 + 1) as u8);
                assert_eq!((mine[at], their[at]), (ours, if moved { ours } else { others }));
            }
        }
    }

    #[test]
    fn the_gpu_that_has_the_bytes_copies_them_if_it_reaches_their_target() {
        let World { gpus, target, .. } = World::new();
        let gpu =
            |ordinal| LocalGpu { uuid: Some([1 + ordinal as u8; 16]), ..LocalGpu::new(ordinal) };
        let here = LocalFacts { gpus: vec![gpu(0), gpu(1)], ..LocalFacts::default() };
        let agent = AgentMetadata::compress(&target.local_metadata().unwrap()).unwrap();
        let remote = |kind, uuid| {
            let host = HostIdentity::new("host", "boot", 1).unwrap();
            let device = PeerDevice::cuda(5).with_uuid(uuid);
            let peer = PeerInfo::new("peer", 1, host).unwrap().with_devices([device]).unwrap();
            let descriptor = SerializedDescriptor::new(Device::cuda(5), 4096, 64).unwrap();
            let key = NotificationKey::random();
            RdmaMetadata::new(kind, vec![descriptor], agent.clone(), key).unwrap().with_peer(peer)
        };
        let list = |kind| DescriptorList::from(gpus.region(kind, 64).unwrap().whole());
        let copies = |kind, uuid, local| {
            let list = list(local);
            copier(&here, &*gpus, (&list, local), &remote(kind, uuid)).0
        };
        let (read, write) = (OperationKind::Read, OperationKind::Write);
        let (first, second, unknown) = ([1; 16], [2; 16], [9; 16]);
        assert_eq!(copies(read, first, MemoryKind::Gpu(1)), 0);
        assert_eq!(copies(read, first, MemoryKind::Gpu(0)), 0);
        assert_eq!(copies(write, first, MemoryKind::Gpu(1)), 1);
        assert_eq!(copies(read, unknown, MemoryKind::Gpu(1)), 1);
        assert_eq!(copies(read, second, MemoryKind::Pageable), 1);
        // It is unknown which GPUs reach memory that others allocated.
        let ours = gpus.region(MemoryKind::Gpu(1), 64).unwrap();
        let others = SimulatedGpus::new(gpus.capabilities().clone()).unwrap();
        let list = DescriptorList::from(ours.whole());
        let local = (&list, MemoryKind::Gpu(1));
        assert_eq!(copier(&here, &others, local, &remote(read, first)).0, 1);
    }

    #[test]
    fn shared_memory_is_read_and_written_and_the_peer_is_told() {
        let world = World::new();
        let kinds =
            [MemoryKind::Gpu(0), MemoryKind::Gpu(1), MemoryKind::Pinned, MemoryKind::Pageable];
        for local in kinds {
            let paths = [PathKind::CudaIpc, PathKind::SharedMemory];
            let both = [OperationKind::Read, OperationKind::Write];
            for (path, kind) in paths.into_iter().flat_map(|p| both.map(|kind| (p, kind))) {
                let [mine, their] = world.run(path, kind, local, u64::MAX);
                for at in 0..5000 {
                    let moved =
                        at < 1024 || (2000..3000).contains(&at) || (4000..4999).contains(&at);
                    let (ours, others) = ((at * 7) as u8, (at * 13 + 1) as u8);
                    let expected = match kind {
                        OperationKind::Read if moved => (others, others),
                        OperationKind::Write if moved => (ours, ours),
                        _ => (ours, others),
                    };
                    assert_eq!((mine[at], their[at]), expected, "{path} {kind} {local} at {at}");
                }
            }
        }
    }
}
