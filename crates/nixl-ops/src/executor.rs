//! The interfaces of executors, and the transport executor.

use std::fmt;
use std::sync::Arc;
use std::task::Waker;
use std::time::Duration;

use nixl_descriptor::{DescriptorList, RegistrationCache};
use nixl_device::Device;
use nixl_metadata::{ExportId, NotificationKey, PeerInfo, RdmaMetadata, Share};

use crate::{
    Clock, DirectTransfer, Execution, GrantTable, Mailboxes, Offer, PathKind, PeerId, QuietProof,
    Rejected, TransferRequest, Transport, TransportError, WaitFor,
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
/// a [`WaitFor`] unless the GPU can wait itself. Peers' addresses are never dereferenced: an executor that copies inside
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
    /// [what it needs](crate::Route::initiator_metadata).
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

    /// An export was opened by a connector that uses this executor: peers may ask it to take part in their reads by tickets, for as long
    /// as there is the table of its grants. By default it takes no part.
    fn export_opened(&self, export: ExportId, table: &Arc<GrantTable>) {
        let _ = (export, table);
    }

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
    work: Arc<dyn BlockingThread>,
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
        let work = Arc::clone(&background);
        Self { transport, registrations, background, work, clock, waker, mailboxes, proofs: None }
    }

    /// Sets the proof of quiet peers: that a peer no longer touches memory of this process. Without it nothing is proven.
    #[must_use]
    pub fn with_proofs(mut self, proofs: Arc<dyn QuietProof>) -> Self {
        self.proofs = Some(proofs);
        self
    }

    /// With a thread for work that makes no call of the engine's. Without it that is done on the thread for blocking calls.
    #[must_use]
    pub fn with_work(mut self, work: Arc<dyn BlockingThread>) -> Self {
        self.work = work;
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

    /// The thread for work that makes no call of the engine's, and so waits behind none, such as closing a peer's memory.
    #[must_use]
    pub fn work(&self) -> &Arc<dyn BlockingThread> {
        &self.work
    }

    /// The connection's clock.
    #[must_use]
    pub fn clock(&self) -> &Arc<dyn Clock> {
        &self.clock
    }

    /// The proof of quiet peers, used on the [blocking thread](Self::background).
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

/// The transport executor: passes every request to the transport unchanged. A connector without a configured executor has it.
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
