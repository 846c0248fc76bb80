//! What a strategy must offer: carry out a request, and say which path it took.

use std::fmt;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use nixl_descriptor::{DescriptorList, Registration};
use nixl_metadata::{NotificationKey, OperationKind, RdmaMetadata};

use crate::passive::PassiveEntry;
use crate::{PathKind, PathReport, PeerId, TransferSpec, Transport, TransportError};

/// Decides how the bytes of an operation travel.
///
/// # Contract
///
/// `execute` only prepares; bytes move from [`Execution::poll`]. Peers' addresses are never dereferenced:
/// an executor that copies inside the process uses the memory of the [`Offer`] that was announced to it,
/// found by its key, never the addresses in the metadata.
pub trait Executor: Send + Sync + fmt::Debug + 'static {
    /// A passive operation was created by a connector that uses this executor.
    fn announce(&self, offer: Offer) {
        let _ = offer;
    }

    /// The passive operation of this key has ended.
    fn withdraw(&self, key: &NotificationKey) {
        let _ = key;
    }

    /// Whether this executor can serve the pair from memory of this process, with neither peer nor engine.
    fn is_local(&self, local: &DescriptorList, remote: &RdmaMetadata) -> bool {
        let _ = (local, remote);
        false
    }

    /// Prepares the transfer.
    ///
    /// # Errors
    ///
    /// Why no path can carry it.
    fn execute(&self, request: TransferRequest<'_>) -> Result<Box<dyn Execution>, TransportError>;
}

/// An operation to carry out. The lists have been [paired](crate::pair).
#[derive(Debug)]
#[non_exhaustive]
pub struct TransferRequest<'a> {
    /// `Read` moves remote to local, `Write` local to remote.
    pub kind: OperationKind,
    /// Local memory, leased for as long as the execution lives.
    pub local: &'a DescriptorList,
    /// What the peer offered.
    pub remote: &'a RdmaMetadata,
    /// The peer and the engine that reaches it; `None` if [`Executor::is_local`] said so.
    pub route: Option<Route<'a>>,
}

/// How an engine reaches the other side.
#[derive(Debug)]
#[non_exhaustive]
pub struct Route<'a> {
    /// The engine.
    pub transport: &'a dyn Transport,
    /// The connected peer.
    pub peer: &'a PeerId,
    /// Registrations of the local memory.
    pub registrations: Vec<Registration>,
}

impl<'a> TransferRequest<'a> {
    /// A request that is served inside this process.
    pub fn local(kind: OperationKind, local: &'a DescriptorList, remote: &'a RdmaMetadata) -> Self {
        Self { kind, local, remote, route: None }
    }

    /// A request to a connected peer.
    pub fn remote(
        kind: OperationKind,
        local: &'a DescriptorList,
        remote: &'a RdmaMetadata,
        transport: &'a dyn Transport,
        peer: &'a PeerId,
        registrations: Vec<Registration>,
    ) -> Self {
        Self { kind, local, remote, route: Some(Route { transport, peer, registrations }) }
    }
}

/// An operation being carried out. Dropping it in flight has the consequences of
/// [`Transfer`](crate::Transfer).
pub trait Execution: Send {
    /// Moves the operation on, within microseconds, or within a bounded copy.
    ///
    /// # Errors
    ///
    /// How it failed. After `Ready` it must not be polled again.
    fn poll(&mut self) -> Poll<Result<(), TransportError>>;

    /// How long it is expected to take from its first poll to its end, if it can tell; asked once, before that poll.
    /// Whoever awaits it is woken shortly before, to look closely. Only what wakes the driver at its end
    /// ([`Driver::waker`](crate::Driver::waker)) gains by an answer.
    fn expected(&self) -> Option<Duration> {
        None
    }

    /// Nobody wants the result any more. Returns `true` if nothing is in flight, so that the memory may be
    /// given back now; on `false` it must be polled until it is ready.
    fn abandon(&mut self) -> bool;

    /// The path taken.
    fn report(&self) -> PathReport;
}

/// A passive operation of this process that an executor may serve directly.
#[derive(Clone, Debug)]
pub struct Offer {
    entry: Arc<PassiveEntry>,
}

impl Offer {
    pub(crate) fn new(entry: Arc<PassiveEntry>) -> Self {
        Self { entry }
    }

    /// What the other side may do with it.
    pub fn kind(&self) -> OperationKind {
        self.entry.kind()
    }

    /// The key in its metadata.
    pub fn key(&self) -> &NotificationKey {
        self.entry.key()
    }

    /// The memory. Leased for as long as the operation has not ended; an executor that still copies holds
    /// this list, so the memory itself stays.
    pub fn descriptors(&self) -> &DescriptorList {
        self.entry.descriptors()
    }

    /// Takes the offer for one copy. `None` if the operation has ended or another copy holds it; while the
    /// claim lives, cancelling the operation does not give its memory back.
    pub fn claim(&self) -> Option<Claim> {
        self.entry.claim().then(|| Claim { entry: Arc::clone(&self.entry) })
    }
}

/// The right to copy to or from an [`Offer`]'s memory.
#[derive(Debug)]
pub struct Claim {
    entry: Arc<PassiveEntry>,
}

impl Claim {
    /// The memory.
    pub fn descriptors(&self) -> &DescriptorList {
        self.entry.descriptors()
    }

    /// The copy is complete: ends the passive operation and wakes its waiter.
    pub fn complete(self) {
        Arc::clone(&self.entry).complete();
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        self.entry.unclaim();
    }
}

/// Hands every request to the transport as it is. What a connector uses if it is given nothing better.
#[derive(Clone, Copy, Debug, Default)]
#[allow(clippy::exhaustive_structs, reason = "it has no state and will have none")]
pub struct TransportExecutor;

impl Executor for TransportExecutor {
    fn execute(&self, request: TransferRequest<'_>) -> Result<Box<dyn Execution>, TransportError> {
        let Some(route) = request.route else { return Err(TransportError::Closed) };
        let transfer = route.transport.prepare(TransferSpec::new(
            request.kind,
            route.peer,
            request.local.as_slice(),
            request.remote.descriptors(),
            request.remote.notification_key(),
            route.registrations,
        ))?;
        let report = PathReport::new(
            PathKind::Direct,
            route.transport.name().to_owned(),
            request.local.total_bytes(),
            transfer.descriptors(),
        );
        Ok(Box::new(DirectExecution { transfer, report }))
    }
}

struct DirectExecution {
    transfer: Box<dyn crate::Transfer>,
    report: PathReport,
}

impl Execution for DirectExecution {
    fn poll(&mut self) -> Poll<Result<(), TransportError>> {
        self.transfer.poll()
    }

    fn abandon(&mut self) -> bool {
        !self.transfer.in_flight()
    }

    fn report(&self) -> PathReport {
        self.report.clone()
    }
}
