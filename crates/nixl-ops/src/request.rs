//! The requests of operations to executors, with their route.

use std::num::NonZeroU64;
use std::sync::Arc;

use bytes::Bytes;
use nixl_descriptor::{DescriptorList, Leased, Registration};
use nixl_metadata::{AgentMetadata, OperationKind, RdmaMetadata};

use crate::{
    Listed, PathPolicy, PeerId, RemoteSlot, TicketRead, Transfer, TransferSpec, Transport,
    TransportError,
};

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
    connection: Option<NonZeroU64>,
    ticket_read: Option<&'a TicketRead>,
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

    /// The metadata by which the peer reaches this side, if the executor
    /// [needs it](crate::ConnectionExecutor::needs_local_metadata). Covers the local memory.
    #[must_use]
    pub fn initiator_metadata(&self) -> Option<&AgentMetadata> {
        self.initiator_metadata.as_ref()
    }

    /// The slot of the offer, if the peer is proven to be on this host.
    #[must_use]
    pub fn slot(&self) -> Option<&'a RemoteSlot> {
        self.slot
    }

    /// The only connection of the engine's that the transfer may use; `None` for any.
    #[must_use]
    pub fn connection(&self) -> Option<NonZeroU64> {
        self.connection
    }

    /// Whether the target waits for a notification of the end. Not for a read under a grant, of whose end its owner learns by the
    /// ticket; paths in which the target takes part then need [the ticket](Self::ticket_read).
    #[must_use]
    pub fn notifies(&self) -> bool {
        self.notifies
    }

    /// The ticket of a read under a grant, by which the owner can be asked to take part.
    #[must_use]
    pub fn ticket_read(&self) -> Option<&'a TicketRead> {
        self.ticket_read
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

    /// The same request, on [this connection](TransferSpec::on_connection) only.
    #[must_use]
    pub fn on_connection(mut self, connection: Option<NonZeroU64>) -> Self {
        if let Some(route) = &mut self.route {
            route.connection = connection;
        }
        self
    }

    /// The same request, by a ticket: its owner can be asked to take part.
    #[must_use]
    pub fn by_ticket(mut self, read: Option<&'a TicketRead>) -> Self {
        if let Some(route) = &mut self.route {
            route.ticket_read = read;
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
        )?
        .on_connection(route.connection);
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
            connection: None,
            ticket_read: None,
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

    /// The peer and the engine that reaches it; `None` if the offer [is of this process](crate::ConnectionExecutor::is_local).
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
