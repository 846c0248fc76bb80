//! The interfaces of executors: requests, executions and offers.

use std::fmt;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use bytes::Bytes;
use nixl_descriptor::{DescriptorList, Leased, Registration, RegistrationCache};
use nixl_device::Device;
use nixl_metadata::{AgentMetadata, NotificationKey, OperationKind, PeerInfo, RdmaMetadata, Share};

use crate::passive::PassiveEntry;
use crate::{
    Clock, CompletionMode, DirectTransfer, EndedOffer, Listed, Mailboxes, PathKind, PathPolicy,
    PathReport, PeerId, QuietProof, Rejected, RemoteSlot, Transfer, TransferSpec, Transport,
    TransportError, WaitFor,
};

/// Factory of the executor of each connection, configured by the application.
pub trait Executor: Send + Sync + fmt::Debug + 'static {
    /// The executor of one connection, whose engine it may use itself. Called once per connection.
    fn connect(&self, link: ConnectionContext) -> Arc<dyn ConnectionExecutor>;

    /// Whether this process was forked from that of the executor, and has none of its threads. By default it has none.
    ///
    /// # Errors
    ///
    /// [`TransportError::Forked`].
    fn check_process(&self) -> Result<(), TransportError> {
        Ok(())
    }
}

/// Chooses the path of an operation and prepares its execution, for one connection.
///
/// An executor that copies from and to offers of this process, or describes them for peers, also has an [`OfferRegistry`]; one
/// that cooperates with executors of peers also has a [`PeerService`].
///
/// # Contract
///
/// `execute` only prepares; bytes move from [`Execution::poll`], and not before the work is done that is
/// [pending](DescriptorList::pending) on the local memory: wrap the execution in
/// a [`WaitFor`](crate::WaitFor) unless the GPU can wait itself. Peers' addresses are never dereferenced: an executor that copies inside
/// the process finds the memory of the [`Offer`] by its key, never by the addresses in the metadata.
pub trait ConnectionExecutor: Send + Sync + fmt::Debug + 'static {
    /// Prepares the transfer.
    ///
    /// # Errors
    ///
    /// The reason why no path can carry it.
    fn execute(&self, request: TransferRequest<'_>) -> Result<Box<dyn Execution>, TransportError>;

    /// Whether this executor can serve the pair from memory of this process, with neither peer nor engine.
    fn is_local(&self, local: &DescriptorList, remote: &RdmaMetadata) -> bool {
        let _ = (local, remote);
        false
    }

    /// Preparation on the connection's thread before an operation with this memory: `remote` is a peer's offer, or none if this
    /// side offers. `None` without preparation, which must be a cheap check.
    fn prepare(
        &self,
        local: &DescriptorList,
        remote: Option<&RdmaMetadata>,
    ) -> Option<Preparation> {
        let _ = (local, remote);
        None
    }

    /// Has the pages of a peer's memory mapped which this process has open, ahead of its first copies: looks at `at_most` so many
    /// bytes of what is offered, in its order, in steps that the caller takes. By default, and if there is no such memory, there
    /// are none.
    fn prefault(&self, remote: &RdmaMetadata, at_most: u64) -> Option<Prefault> {
        let _ = (remote, at_most);
        None
    }

    /// Whether this executor accesses memory of this device without the engine, so a failed registration with the engine is no
    /// error.
    fn can_access(&self, device: Device) -> bool {
        let _ = device;
        false
    }

    /// Whether the peer will have to reach this side, so that the request must carry
    /// [what it needs](Route::initiator_metadata).
    fn needs_local_metadata(&self, local: &DescriptorList, remote: &RdmaMetadata) -> bool {
        let _ = (local, remote);
        false
    }

    /// The executor's registry of this side's offers. By default none.
    fn offers(&self) -> Option<&dyn OfferRegistry> {
        None
    }

    /// The executor's service for messages of peers. By default none.
    fn peers(&self) -> Option<&dyn PeerService> {
        None
    }
}

/// The part of an executor with this side's offers.
pub trait OfferRegistry {
    /// A passive operation was created by a connector that uses this executor.
    fn offer_created(&self, offer: Offer);

    /// The passive operation of this key has ended, or its creation failed.
    fn offer_ended(&self, key: &NotificationKey);

    /// Adds this side's facts for peers.
    fn describe(&self, info: PeerInfo) -> PeerInfo;

    /// The shares by which processes of this host reach the memory without the engine; part of an offer's metadata.
    fn shares(&self, local: &DescriptorList) -> Vec<Share>;
}

/// The part of an executor that cooperates with those of peers. Its methods must not block.
pub trait PeerService {
    /// A notification that ends no passive operation, or one of an offer that is [claimed](Offer::claim). Sender and
    /// payload are a peer's bytes.
    fn receive(&self, from: &str, payload: &[u8]) -> Received;

    /// Whether messages are expected now, so that the driver polls for them.
    fn has_sessions(&self) -> bool;

    /// How often messages are received while none is expected, since peers may request an offer that has ended and wait for
    /// an answer. `None` is never.
    fn poll_interval(&self) -> Option<Duration>;

    /// A process of this machine has completed, by its slot, an offer that is [claimed](Offer::claim) here.
    fn completed_by_slot(&self, key: &NotificationKey);

    /// The connection to a peer is known to be dead, or the peer's process to have ended: what is kept for the peer is of no
    /// use any more.
    fn peer_ended(&self, peer: &PeerId);

    /// A peer has announced its end. The message may be forged, so that this breaks nothing with a peer that is there. By default
    /// nothing.
    fn peer_leaves(&self, peer: &PeerId) {
        let _ = peer;
    }

    /// Peers may have released memory: what they have released is closed here. By default nothing.
    fn look_for_released(&self) {}
}

/// The parts of a connection that its executor may use.
#[derive(Clone, Debug)]
pub struct ConnectionContext {
    pub(crate) transport: Arc<dyn Transport>,
    registrations: Arc<RegistrationCache>,
    pub(crate) background: Arc<dyn BlockingThread>,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) waker: Waker,
    pub(crate) mailboxes: Arc<Mailboxes>,
    proofs: Option<Arc<dyn QuietProof>>,
}

impl ConnectionContext {
    /// The parts of a connection.
    pub fn new(
        transport: Arc<dyn Transport>,
        registrations: Arc<RegistrationCache>,
        background: Arc<dyn BlockingThread>,
        clock: Arc<dyn Clock>,
        waker: Waker,
        mailboxes: Arc<Mailboxes>,
    ) -> Self {
        Self { transport, registrations, background, clock, waker, mailboxes, proofs: None }
    }

    /// With what proves that a peer no longer touches memory of this process. Without it nothing is proven.
    #[must_use]
    pub fn with_proofs(mut self, proofs: Arc<dyn QuietProof>) -> Self {
        self.proofs = Some(proofs);
        self
    }

    /// The engine.
    #[must_use]
    pub fn transport(&self) -> &Arc<dyn Transport> {
        &self.transport
    }

    /// Memory that the executor registers is registered through this.
    #[must_use]
    pub fn registrations(&self) -> &Arc<RegistrationCache> {
        &self.registrations
    }

    /// The thread for blocking calls.
    #[must_use]
    pub fn background(&self) -> &Arc<dyn BlockingThread> {
        &self.background
    }

    /// The connection's clock.
    #[must_use]
    pub fn clock(&self) -> &Arc<dyn Clock> {
        &self.clock
    }

    /// What proves that a peer no longer touches memory of this process; asked on the [blocking thread](Self::background).
    #[must_use]
    pub fn proofs(&self) -> Option<&Arc<dyn QuietProof>> {
        self.proofs.as_ref()
    }

    /// Makes the connection's driver look at its executions.
    #[must_use]
    pub fn waker(&self) -> &Waker {
        &self.waker
    }

    /// Mailboxes for messages between processes of one host, without the engine.
    #[must_use]
    pub fn mailboxes(&self) -> &Arc<Mailboxes> {
        &self.mailboxes
    }
}

/// Runs blocking jobs in order, on a thread of the connection.
pub trait BlockingThread: Send + Sync + fmt::Debug {
    /// Queues a job.
    fn run(&self, job: Box<dyn FnOnce() + Send>);

    /// Queues a job that a peer's message requests, after the jobs of this process. Returns false, and drops it,
    /// if too many of these wait.
    fn run_for_peer(&self, job: Box<dyn FnOnce() + Send>) -> bool {
        self.run(job);
        true
    }
}

/// A blocking job that an operation waits for.
pub type Preparation = Box<dyn FnOnce() -> Result<(), TransportError> + Send>;

/// Blocking steps that map pages of a peer's memory, each of some milliseconds at most. A step that is never taken costs nothing.
pub type Prefault = Box<dyn Iterator<Item = PrefaultStep> + Send>;

/// What a step of a [`Prefault`] has done.
#[allow(clippy::exhaustive_structs, reason = "executors make them")]
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct PrefaultStep {
    /// Bytes of the offer that it has looked at, which are more than 0.
    pub examined: u64,
    /// Those of them whose pages are mapped now.
    pub mapped: u64,
}

/// An executor's result for a message.
#[allow(clippy::exhaustive_enums, reason = "the driver must handle each")]
pub enum Received {
    /// Not for this executor.
    Ignored,
    /// For a running operation.
    Taken,
    /// It requests an execution by the driver from now on. It has no waiter here; it must end by itself, soon
    /// after [`abandon`](Execution::abandon) at the latest.
    Serve(Box<dyn Execution>),
}

impl fmt::Debug for Received {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Ignored => "Ignored",
            Self::Taken => "Taken",
            Self::Serve(_) => "Serve",
        })
    }
}

/// An operation to run. The lists have been [paired](crate::pair).
#[derive(Clone, Debug)]
pub struct TransferRequest<'a> {
    pub(crate) kind: OperationKind,
    pub(crate) local: &'a DescriptorList,
    pub(crate) leased: &'a Leased,
    pub(crate) remote: &'a RdmaMetadata,
    pub(crate) route: Option<Route<'a>>,
    pub(crate) policy: PathPolicy,
}

/// The engine's route to the other side.
#[derive(Clone, Debug)]
pub struct Route<'a> {
    pub(crate) transport: &'a Arc<dyn Transport>,
    pub(crate) peer: &'a PeerId,
    registrations: Arc<[Registration]>,
    initiator_metadata: Option<AgentMetadata>,
    pub(crate) slot: Option<&'a RemoteSlot>,
    pub(crate) notifies: bool,
    listed: Option<Listed<'a>>,
}

impl<'a> Route<'a> {
    /// The engine.
    #[must_use]
    pub fn transport(&self) -> &'a Arc<dyn Transport> {
        self.transport
    }

    /// The connected peer.
    #[must_use]
    pub fn peer(&self) -> &'a PeerId {
        self.peer
    }

    /// Registrations of the local memory.
    #[must_use]
    pub fn registrations(&self) -> &Arc<[Registration]> {
        &self.registrations
    }

    /// What the peer needs to reach this side, if [`ConnectionExecutor::needs_local_metadata`] asked for it. Covers the local memory.
    #[must_use]
    pub fn initiator_metadata(&self) -> Option<&AgentMetadata> {
        self.initiator_metadata.as_ref()
    }

    /// The slot of the offer, if the peer is proven to be on this host.
    #[must_use]
    pub fn slot(&self) -> Option<&'a RemoteSlot> {
        self.slot
    }

    /// Whether the target waits for a notification of the end. Not for a read under a grant, of whose end its owner learns by the
    /// ticket; paths in which the target takes part, and which begin at an offer, are then not available.
    #[must_use]
    pub fn notifies(&self) -> bool {
        self.notifies
    }
}

impl<'a> TransferRequest<'a> {
    /// A request that is served inside this process.
    pub fn intra_process(
        kind: OperationKind,
        (local, leased): (&'a DescriptorList, &'a Leased),
        remote: &'a RdmaMetadata,
    ) -> Self {
        Self { kind, local, leased, remote, route: None, policy: PathPolicy::auto() }
    }

    /// The same request, with what the peer needs to reach this side.
    #[must_use]
    pub fn with_initiator_metadata(mut self, metadata: Option<AgentMetadata>) -> Self {
        if let Some(route) = &mut self.route {
            route.initiator_metadata = metadata;
        }
        self
    }

    /// The same request, for an offer whose slot is mapped.
    #[must_use]
    pub fn with_slot(mut self, slot: Option<&'a RemoteSlot>) -> Self {
        if let Some(route) = &mut self.route {
            route.slot = slot;
        }
        self
    }

    /// The same request, with the place of its pairs in lists that the engine has prepared.
    #[must_use]
    pub fn listed(mut self, listed: Option<Listed<'a>>) -> Self {
        if let Some(route) = &mut self.route {
            route.listed = listed;
        }
        self
    }

    /// The same request, of whose end the target is not notified.
    #[must_use]
    pub fn without_notification(mut self) -> Self {
        if let Some(route) = &mut self.route {
            route.notifies = false;
        }
        self
    }

    /// The same request, with only these ways allowed.
    #[must_use]
    pub fn under(mut self, policy: PathPolicy) -> Self {
        self.policy = policy;
        self
    }

    /// Prepares the engine's own transfer of all of it.
    ///
    /// # Errors
    ///
    /// As [`Transport::prepare`]; [`TransportError::Closed`] if there is no route.
    pub fn transfer(
        self,
        notification: Option<Bytes>,
    ) -> Result<Box<dyn Transfer>, TransportError> {
        let Some(route) = self.route else { return Err(TransportError::Closed) };
        let spec = TransferSpec::new(
            self.kind,
            route.peer,
            (self.local.as_slice(), self.leased),
            self.remote.descriptors(),
            notification,
            route.registrations,
        )?;
        route.transport.prepare(match route.listed {
            Some(listed) => spec.listed(listed),
            None => spec,
        })
    }

    /// A request to a connected peer.
    pub fn inter_process(
        kind: OperationKind,
        (local, leased): (&'a DescriptorList, &'a Leased),
        remote: &'a RdmaMetadata,
        transport: &'a Arc<dyn Transport>,
        peer: &'a PeerId,
        registrations: impl Into<Arc<[Registration]>>,
    ) -> Self {
        let registrations = registrations.into();
        let route = Some(Route {
            transport,
            peer,
            registrations,
            initiator_metadata: None,
            slot: None,
            notifies: true,
            listed: None,
        });
        Self { kind, local, leased, remote, route, policy: PathPolicy::auto() }
    }

    /// `Read` moves remote to local, `Write` local to remote.
    #[must_use]
    pub fn kind(&self) -> OperationKind {
        self.kind
    }

    /// Local memory, which [`leased`](Self::leased) covers.
    #[must_use]
    pub fn local(&self) -> &'a DescriptorList {
        self.local
    }

    /// The proof that it is leased; the execution owns a clone until nothing of it is in flight.
    #[must_use]
    pub fn leased(&self) -> &'a Leased {
        self.leased
    }

    /// What the peer offered.
    #[must_use]
    pub fn remote(&self) -> &'a RdmaMetadata {
        self.remote
    }

    /// The peer and the engine that reaches it; `None` if [`ConnectionExecutor::is_local`] returned true.
    #[must_use]
    pub fn route(&self) -> Option<&Route<'a>> {
        self.route.as_ref()
    }

    /// Which ways are allowed.
    #[must_use]
    pub fn policy(&self) -> PathPolicy {
        self.policy
    }
}

/// A running operation. Dropping it in flight has the consequences of [`Transfer`](crate::Transfer).
pub trait Execution: Send {
    /// Advances the operation, within microseconds or a bounded copy. The first poll posts.
    ///
    /// # Errors
    ///
    /// The failure. Not polled again after `Ready`.
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), TransportError>>;

    /// How it is learned, after a [`poll`](Self::poll) that was pending, that another may get further: of an execution that moves
    /// one transfer, as of that. By default it is [polled](CompletionMode::Polled).
    fn completion_mode(&self) -> CompletionMode {
        CompletionMode::Polled
    }

    /// How long it is expected to take from its first poll to its end, if it can tell; asked once, before that poll.
    /// Its waiter is woken shortly before, to poll closely. Only what wakes the driver at its end
    /// ([`Driver::waker`](crate::Driver::waker)) gains by an answer.
    fn expected(&self) -> Option<Duration> {
        None
    }

    /// Whether it learns of its end by a peer's notification, which the driver receives: then the driver polls closely when that is
    /// [expected](Self::expected), and not only its waiter.
    fn awaits_notification(&self) -> bool {
        false
    }

    /// The result is no longer wanted. Returns `true` if nothing is in flight, so that the memory may be
    /// given back now; on `false` it must be polled until it is ready.
    fn abandon(&mut self) -> bool;

    /// The path.
    fn report(&self) -> PathReport;

    /// Whether the first poll, which posts, takes microseconds however many bytes there are. As by default, engines may
    /// copy inside the post.
    fn posts_quickly(&self) -> bool {
        false
    }

    /// Whether its polls exclude those of other executions, as those of one engine do. Such are left to the driver while it is
    /// awake: one thread that polls all of them does more than several that find each other in the way.
    fn takes_turns(&self) -> bool {
        false
    }

    /// A number that grows with every step. The driver looks closely as long as it does; executions of one step, as by
    /// default, need none.
    fn steps(&self) -> u64 {
        0
    }

    /// Whether the other side may have learned that the operation is complete, although it fails here: it must not be
    /// tried by other means then. By default it never does, since this side completes the operation.
    fn target_told(&self) -> bool {
        false
    }

    /// What is left at the peer's memory if the execution ends now without success.
    fn peer_memory(&self) -> PeerMemory {
        PeerMemory::UNPROVEN
    }
}

/// State of a peer's memory after an execution. Ordered: of several executions the greatest counts.
///
/// The owner of the memory gives it back on this word, so only the parts of this workspace that know can say more than
/// [`UNPROVEN`](Self::UNPROVEN) without `unsafe`.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub struct PeerMemory(Access);

#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
enum Access {
    None,
    Over,
    Possible,
}

#[allow(unsafe_code, reason = "declares the caller's contract")]
impl PeerMemory {
    /// An access may be in flight, as after an engine's failure.
    pub const UNPROVEN: Self = Self(Access::Possible);
    pub(crate) const UNTOUCHED: Self = Self(Access::None);
    pub(crate) const QUIET: Self = Self(Access::Over);

    /// It was not accessed: the offer can be used again.
    ///
    /// # Safety
    ///
    /// No access of the execution to the peer's memory was begun.
    pub const unsafe fn untouched() -> Self {
        Self::UNTOUCHED
    }

    /// It was accessed, and no access is in flight.
    ///
    /// # Safety
    ///
    /// Every access of the execution to the peer's memory has ended.
    pub const unsafe fn quiet() -> Self {
        Self::QUIET
    }

    /// After a transfer that has not succeeded.
    pub fn after(transfer: &dyn Transfer) -> Self {
        if transfer.was_posted() { Self::UNPROVEN } else { Self::UNTOUCHED }
    }

    /// Whether it was not accessed.
    pub fn is_untouched(self) -> bool {
        self == Self::UNTOUCHED
    }

    /// Whether no access is in flight.
    pub fn is_quiet(self) -> bool {
        self <= Self::QUIET
    }
}

/// A passive operation of this process that an executor may serve directly.
#[derive(Clone, Debug)]
pub struct Offer {
    entry: Arc<PassiveEntry>,
    descriptors: Arc<DescriptorList>,
}

impl Offer {
    pub(crate) fn new(entry: Arc<PassiveEntry>, descriptors: Arc<DescriptorList>) -> Self {
        Self { entry, descriptors }
    }

    /// What the other side may do with it.
    pub fn kind(&self) -> OperationKind {
        self.entry.kind()
    }

    /// The key in its metadata.
    pub fn key(&self) -> &NotificationKey {
        self.entry.key()
    }

    /// The secret that messages about it carry, if its metadata has terms.
    pub fn token(&self) -> Option<u64> {
        self.entry.token()
    }

    /// Whether the engine may be connected to an agent that holds it. False beyond the number of its readers and eight.
    pub fn may_introduce(&self, agent: &str) -> bool {
        self.entry.may_introduce(agent)
    }

    /// The memory. Leased for as long as the operation has not ended; an executor that still copies holds
    /// this list, so the memory itself stays.
    pub fn descriptors(&self) -> &DescriptorList {
        &self.descriptors
    }

    /// Takes the offer for a copy with which this process itself uses it, at both ends; while the claim lives, cancelling the
    /// operation does not give its memory back, and no initiator elsewhere writes to it.
    ///
    /// # Errors
    ///
    /// The reason why it cannot be used.
    pub fn claim_for_copy(&self) -> Result<Claim, EndedOffer> {
        Ok(self.claimed(self.entry.claim_for_copy()?))
    }

    /// Takes the offer for one copy that serves an initiator. `None` if the operation has ended or another copy holds it; while
    /// the claim lives, cancelling the operation does not give its memory back.
    pub fn claim(&self) -> Option<Claim> {
        self.entry.claim().map(|leased| self.claimed(leased))
    }

    fn claimed(&self, leased: Leased) -> Claim {
        let (entry, descriptors) = (Arc::clone(&self.entry), Arc::clone(&self.descriptors));
        Claim { leased, descriptors, entry, over: false }
    }
}

/// The right to copy to or from an [`Offer`]'s memory.
#[derive(Debug)]
pub struct Claim {
    leased: Leased,
    descriptors: Arc<DescriptorList>,
    entry: Arc<PassiveEntry>,
    /// Complete or leaked.
    over: bool,
}

impl Claim {
    /// The memory.
    pub fn descriptors(&self) -> &DescriptorList {
        &self.descriptors
    }

    /// The proof that the memory is leased.
    pub fn leased(&self) -> &Leased {
        &self.leased
    }

    /// A GPU or an engine may still use the memory, for good: it stays leased until the process ends.
    pub fn leak(mut self) {
        self.leased.clone().leak();
        // The offer stays claimed.
        self.over = true;
        self.entry.claim_leaked();
    }

    /// The copy is complete: ends the passive operation and wakes its waiter, which finds its memory free.
    pub fn complete(mut self) {
        self.over = true;
        let entry = Arc::clone(&self.entry);
        // The claim holds the memory too.
        drop(self);
        entry.complete();
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        // The lease of an offer that was given up ends only with the claim's own.
        if !self.over {
            self.entry.unclaim();
        }
    }
}

/// Passes every request to the transport unchanged: the default executor of a connector.
#[derive(Clone, Copy, Debug, Default)]
#[allow(clippy::exhaustive_structs, reason = "it has no state and will have none")]
pub struct TransportExecutor;

impl Executor for TransportExecutor {
    fn connect(&self, _: ConnectionContext) -> Arc<dyn ConnectionExecutor> {
        Arc::new(Self)
    }
}

impl ConnectionExecutor for TransportExecutor {
    fn execute(&self, request: TransferRequest<'_>) -> Result<Box<dyn Execution>, TransportError> {
        let kind = PathKind::Direct;
        if let Err(reason) = request.policy.check(kind, None, None) {
            return Err(TransportError::NoPath { rejected: vec![Rejected::new(kind, reason)] });
        }
        let pending = request.local.pending();
        Ok(WaitFor::before(Box::new(DirectTransfer::prepare(kind, &request)?), pending))
    }
}
