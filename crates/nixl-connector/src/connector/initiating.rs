//! Preparation of transfers to and from offers of peers.

use std::num::NonZeroU64;
use std::sync::Arc;
use std::time::Duration;

use nixl_descriptor::{DescriptorList, LeaseMode, Leased, Leases, Registration};
use nixl_metadata::{AgentMetadata, OperationKind, RdmaMetadata};
use nixl_ops::{
    ClaimDemand, CompletionNotifier, EndedOffer, Execution, KeyRecord, Listed, OfferSpec, OfferUse,
    OperationOptions, PathPolicy, PathReport, PeerId, RemoteSlot, SpentKeys, TicketRead,
    TransferRequest, Transport, TransportError, pair,
};

use super::Connector;
use crate::ConnectorError;
use crate::checksum::Verification;
use crate::connection::wants_reconnect;
use crate::offer_words::OfferCheck;
use crate::offload::Offloaded;

impl Connector {
    /// [`prepare`](Self::prepare) within the deadline, off this thread if one of the lists is long.
    pub(super) async fn prepared(
        &self,
        kind: OperationKind,
        local: DescriptorList,
        remote: &RdmaMetadata,
        options: OperationOptions,
    ) -> Result<(Box<dyn Execution>, DescriptorList, OperationOptions), ConnectorError> {
        let connection = &self.shared.connection;
        let is_verified = kind == OperationKind::Read && remote.checksum().is_some();
        if options.has_checksum() && !is_verified {
            return Err(ConnectorError::NoChecksum);
        }
        if options.checks_word() && kind == OperationKind::Write {
            return Err(ConnectorError::NoOfferWord { reason: Self::CLAIMED });
        }
        let options = options.within_trace_of(remote);
        let asked = (options.path_policy(), options.checks_word());
        if local.len().max(remote.descriptors().len()) <= Self::WALKED_HERE {
            let prepare = self.prepare(kind, &local, remote, asked);
            let (execution, options) = connection.driver().with_timeout(options, prepare).await?;
            return Ok((execution?, local, options));
        }
        let (me, remote) = (self.clone(), remote.clone());
        let work = async move {
            let execution = me.prepare(kind, &local, &remote, asked).await?;
            Ok::<_, ConnectorError>((execution, local))
        };
        let offloaded = Offloaded::new(connection.work()?, work);
        let (prepared, options) = connection.driver().with_timeout(options, offloaded).await?;
        let (execution, local) = prepared??;
        Ok((execution, local, options))
    }

    /// The path that a read would take now.
    pub(crate) async fn path_of_read(
        &self,
        remote: &RdmaMetadata,
        local: DescriptorList,
        options: OperationOptions,
    ) -> Result<PathReport, ConnectorError> {
        let (execution, ..) = self.prepared(OperationKind::Read, local, remote, options).await?;
        Ok(execution.report())
    }

    /// The record of the offer's key, which ends after the last possible begin and end of an initiator.
    ///
    /// # Errors
    ///
    /// [`TransportError::OfferEnded`] if the life time of the offer is over by this host's clock.
    pub(super) fn remembered(&self, remote: &RdmaMetadata) -> Result<KeyRecord, TransportError> {
        let clock = self.shared.connection.clock();
        let now = clock.unix_time();
        let expires = match remote.terms() {
            Some(terms) => Duration::from_millis(terms.expires_unix_millis().get()),
            None => now.saturating_add(OfferSpec::LIFE_TIME),
        };
        if now >= expires {
            return Err(TransportError::OfferEnded { why: EndedOffer::Expired });
        }
        let deadline = self.shared.timeout.unwrap_or_default();
        let more = deadline.saturating_add(self.shared.connection.skew());
        Ok(KeyRecord::new(&**clock, expires.saturating_add(more)))
    }

    async fn prepare(
        &self,
        kind: OperationKind,
        local: &DescriptorList,
        remote: &RdmaMetadata,
        (policy, checks_word): (PathPolicy, bool),
    ) -> Result<Box<dyn Execution>, ConnectorError> {
        pair(kind, local, remote)?;
        let mode = match kind {
            OperationKind::Read => LeaseMode::Write,
            OperationKind::Write => LeaseMode::Read,
        };
        let leased = Leased::from(Leases::acquire(local.as_slice(), mode)?);
        let connection = &self.shared.connection;
        let executor = connection.executor();
        let memory = (local, &leased);
        let verification = match remote.checksum() {
            Some(checksum) => Some(Verification::new(checksum, memory, connection)?),
            None => None,
        };
        if executor.is_local(local, remote) {
            let request = TransferRequest::intra_process(kind, memory, remote).under(policy);
            return Ok(Verification::after(executor.execute(request)?, verification));
        }
        let record = self.remembered(remote)?;
        let slot = connection.slot(remote).await?;
        let is_mapped = slot.as_ref().is_some_and(RemoteSlot::refuses_reuse);
        let word = match checks_word {
            true => OfferCheck::word_of(remote, is_mapped)?,
            false => None,
        };
        let used = match &slot {
            // The slot itself refuses a second use, by any process.
            Some(slot) if slot.refuses_reuse() => None,
            _ => {
                let readers = remote.terms().map_or(1, |terms| terms.readers().get());
                let keys = SpentKeys::of_this_process();
                Some(keys.begin(remote.notification_key(), readers, record)?)
            }
        };
        connection.run(executor.prepare(local, Some(remote))).await?;
        let peer = match word {
            Some(word) => OfferCheck::connect(connection, (word, remote)).await?,
            None => connection.connect(remote).await?,
        };
        let registrations = connection.register(local).await?;
        let initiator_metadata = match executor.needs_local_metadata(local, remote) {
            true => Some(connection.local_metadata().await?),
            false => None,
        };
        let to = ToPeer {
            kind,
            memory,
            remote,
            policy,
            slot: slot.as_ref(),
            notifies: word.is_none(),
            listed: None,
            connection: None,
            by_ticket: None,
        };
        let (execution, peer) =
            self.execute(&to, (peer, registrations), initiator_metadata).await?;
        let execution = match word {
            Some(word) => {
                let notifier = CompletionNotifier::of_engine(
                    connection.transport(),
                    &peer,
                    remote.notification_key(),
                );
                let check = OfferCheck::prepare(self, (word, &peer), notifier).await?;
                OfferCheck::after(execution, check)
            }
            None => execution,
        };
        let execution = self.claiming(execution, remote, &peer, slot.is_some()).await?;
        Ok(Verification::after(OfferUse::of(execution, slot, used), verification))
    }

    /// Prepares a read of a peer's memory, of which the peer gets no notice, and returns the peer.
    pub(crate) async fn prepare_silently(
        &self,
        memory: (&DescriptorList, &Leased),
        remote: &RdmaMetadata,
        to: SilentRead<'_>,
    ) -> Result<(Box<dyn Execution>, PeerId), ConnectorError> {
        let SilentRead { policy, known, listed, connection, by_ticket } = to;
        let here = &self.shared.connection;
        here.run(here.executor().prepare(memory.0, Some(remote))).await?;
        let peer = match known {
            // The executor reports a peer that the engine has forgotten.
            Some(peer) => peer.clone(),
            None => here.connect(remote).await?,
        };
        let registrations = here.register(memory.0).await?;
        let asks_owner =
            by_ticket.is_some() && here.executor().needs_local_metadata(memory.0, remote);
        let initiator_metadata = match asks_owner {
            true => Some(here.local_metadata().await?),
            false => None,
        };
        let to = ToPeer {
            kind: OperationKind::Read,
            memory,
            remote,
            policy,
            slot: None,
            notifies: false,
            listed,
            connection,
            by_ticket,
        };
        self.execute(&to, (peer, registrations), initiator_metadata).await
    }

    /// Prepares it by the executor; again after a reconnect if the engine has dropped the peer or registrations, as other
    /// operations' reconnects may cause.
    async fn execute(
        &self,
        to: &ToPeer<'_>,
        (mut peer, registrations): (PeerId, Arc<[Registration]>),
        initiator_metadata: Option<AgentMetadata>,
    ) -> Result<(Box<dyn Execution>, PeerId), ConnectorError> {
        const RECONNECTS: u32 = 4;
        let connection = &self.shared.connection;
        let executor = connection.executor();
        let mut reconnects = 0;
        loop {
            let prepared = (registrations.clone(), initiator_metadata.clone());
            let request = to.request(connection.transport(), &peer, prepared.0, prepared.1);
            let error = match executor.execute(request) {
                Ok(execution) => return Ok((execution, peer)),
                Err(error) => error,
            };
            if reconnects == RECONNECTS || !wants_reconnect(&error) {
                return Err(error.into());
            }
            reconnects += 1;
            connection.forget(&peer);
            peer = connection.reconnect(to.remote).await?;
        }
    }

    /// The execution, after a claim by message if the offer's terms demand one and no slot gives it.
    async fn claiming(
        &self,
        execution: Box<dyn Execution>,
        remote: &RdmaMetadata,
        peer: &PeerId,
        is_mapped: bool,
    ) -> Result<Box<dyn Execution>, ConnectorError> {
        let connection = &self.shared.connection;
        let Some(terms) = remote.terms() else { return Ok(execution) };
        let same_host =
            || remote.peer().is_some_and(|peer| peer.host().same_host(connection.info().host()));
        let driver = connection.driver();
        let demanded = match terms.claims() {
            ClaimDemand::WhereMapped => false,
            ClaimDemand::SameHost => same_host(),
            // A demand of a later release is at least this strict.
            _ => true,
        };
        if is_mapped || remote.operation_kind() == OperationKind::Read {
            return Ok(execution);
        }
        let metadata = connection.local_metadata().await?;
        Ok(driver.claiming(execution, (remote, terms), peer, &metadata, demanded))
    }
}

/// A read of which the peer gets no notice.
#[derive(Clone, Copy, Default)]
pub(crate) struct SilentRead<'a> {
    pub(crate) policy: PathPolicy,
    /// The peer, if it was met and all of the memory was reached then.
    pub(crate) known: Option<&'a PeerId>,
    /// The pairs, where the engine has lists of them.
    pub(crate) listed: Option<Listed<'a>>,
    /// The only connection to the peer that it may use.
    pub(crate) connection: Option<NonZeroU64>,
    /// The ticket, by which the executor may ask the owner to take part.
    pub(crate) by_ticket: Option<&'a TicketRead>,
}

/// A transfer to or from a peer's memory.
struct ToPeer<'a> {
    kind: OperationKind,
    memory: (&'a DescriptorList, &'a Leased),
    remote: &'a RdmaMetadata,
    policy: PathPolicy,
    slot: Option<&'a RemoteSlot>,
    notifies: bool,
    listed: Option<Listed<'a>>,
    connection: Option<NonZeroU64>,
    by_ticket: Option<&'a TicketRead>,
}

impl<'a> ToPeer<'a> {
    fn request(
        &self,
        transport: &'a Arc<dyn Transport>,
        peer: &'a PeerId,
        registrations: Arc<[Registration]>,
        initiator_metadata: Option<AgentMetadata>,
    ) -> TransferRequest<'a> {
        let &Self { kind, memory, remote, policy, slot, notifies, listed, connection, by_ticket } =
            self;
        let request =
            TransferRequest::inter_process(kind, memory, remote, transport, peer, registrations)
                .with_initiator_metadata(initiator_metadata)
                .with_slot(slot)
                .listed(listed)
                .on_connection(connection)
                .by_ticket(by_ticket)
                .under(policy);
        match notifies {
            true => request,
            false => request.without_notification(),
        }
    }
}
