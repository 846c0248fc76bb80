//! Creation of offers: registration of memory, and its metadata.

use std::num::{NonZeroU32, NonZeroU64};
use std::time::{Duration, UNIX_EPOCH};

use nixl_descriptor::{Access, BufferPool, Descriptor, DescriptorList, LeaseMode, Leased, Leases};
use nixl_metadata::{
    Limits, NotificationKey, OfferTerms, OfferWord, OperationKind, RdmaMetadata,
    SerializedDescriptor,
};
use nixl_ops::{ClaimDemand, Clock, OfferSlot, OfferSpec, OperationOptions};

use super::Connector;
use crate::ConnectorError;
use crate::checksum;
use crate::offload::Offloaded;
use crate::tensors;

/// The steps of an offer's creation.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Offers {
    /// Refuses to offer foreign host memory for writing.
    pub(crate) refuse_foreign: bool,
    pub(crate) claims: ClaimDemand,
    pub(crate) life_time: Duration,
}

impl Default for Offers {
    fn default() -> Self {
        let (claims, life_time) = (ClaimDemand::SameHost, OfferSpec::LIFE_TIME);
        Self { refuse_foreign: false, claims, life_time }
    }
}

impl Connector {
    /// [`offer`](Self::offer) within the deadline, off this thread if the list is long.
    pub(super) async fn offered(
        &self,
        kind: (OperationKind, Naming),
        local: DescriptorList,
        options: OperationOptions,
    ) -> Result<(OfferSpec, OperationOptions), ConnectorError> {
        let connection = &self.shared.connection;
        if local.len() <= Self::WALKED_HERE {
            let offer = self.offer(kind, local, options);
            let (spec, options) = connection.driver().with_timeout(options, offer).await?;
            return Ok((spec?, options));
        }
        let me = self.clone();
        let work = async move { me.offer(kind, local, options).await };
        let offloaded = Offloaded::new(connection.work()?, work);
        let (spec, options) = connection.driver().with_timeout(options, offloaded).await?;
        Ok((spec??, options))
    }

    /// Whether peers may write the memory.
    fn check_writable(&self, local: &DescriptorList) -> Result<(), ConnectorError> {
        if let Some(index) = local.iter().position(|d| d.access() != Access::ReadWrite) {
            return Err(ConnectorError::ReadOnly { index });
        }
        let is_foreign =
            |d: &Descriptor| d.device().is_host() && d.region().shared_name().is_none();
        if self.shared.offers.refuse_foreign
            && let Some(index) = local.iter().position(is_foreign)
        {
            return Err(ConnectorError::ForeignMemory { index });
        }
        Ok(())
    }

    async fn offer(
        &self,
        (kind, naming): (OperationKind, Naming),
        local: DescriptorList,
        options: OperationOptions,
    ) -> Result<OfferSpec, ConnectorError> {
        let connection = &self.shared.connection;
        let mode = match kind {
            OperationKind::Read => LeaseMode::Read,
            OperationKind::Write => LeaseMode::Write,
        };
        if kind == OperationKind::Write {
            self.check_writable(&local)?;
        }
        if options.has_checksum() {
            checksum::check_source(&local)?;
        }
        let leased = Leased::from(Leases::acquire(local.as_slice(), mode)?);
        connection.run(connection.executor().prepare(&local, None)).await?;
        let registrations = connection.register(&local).await?;
        let (word, registrations) = match options.checks_word() {
            true => {
                let (word, of_words) = connection.offer_words().publish(connection).await?;
                let all = registrations.iter().chain(of_words.iter()).cloned();
                (Some(word), all.collect())
            }
            false => (None, registrations),
        };
        let agent = connection.export_of(&local, &registrations).await?;
        // The holder of a ticket lists what that names: the metadata stays here.
        let (listed, shares) = match naming {
            Naming::Random => (local.len(), connection.shares(&local)),
            Naming::Ticket(_) => (1, Vec::new()),
        };
        let descriptors: Vec<_> = local
            .iter()
            .take(listed)
            .map(|d| SerializedDescriptor::new(d.device(), d.address(), d.len() as u64))
            .collect::<Result<_, _>>()?;
        let (key, token) = naming.key_and_token();
        // Peers may use the memory as soon as they have the metadata, so its work must be done first.
        connection.driver().ready(&local).await?;
        let checksum = match options.has_checksum() {
            true => Some(checksum::of(&local, &leased, connection).await?),
            false => None,
        };
        let defaults = &self.shared.offers;
        let life_time = options.offer_life_time().unwrap_or(defaults.life_time);
        let readers = match kind {
            OperationKind::Read => options.reader_count(),
            OperationKind::Write => NonZeroU32::MIN,
        };
        let claims = options.claim_demand().unwrap_or(defaults.claims);
        let terms = terms(&**connection.clock(), life_time, claims, (readers, token))?;
        // A late access lands in pool memory that is still mapped.
        let late = connection.skew().saturating_add(self.shared.arrival);
        BufferPool::global().retain_for(life_time.saturating_add(late));
        let metadata = RdmaMetadata::new(kind, descriptors, agent, key.clone())?
            .with_peer(connection.info().clone())
            .with_shares(shares)?
            .with_terms(terms)?;
        let metadata = match checksum {
            Some(checksum) => metadata.with_checksum(checksum)?,
            None => metadata,
        };
        let metadata = match options.trace() {
            Some(context) => metadata.with_trace_context(context),
            None => metadata,
        };
        let metadata = match local.tensor() {
            Some(layout) => metadata.with_tensor(tensors::describe(layout)?)?,
            None => metadata,
        };
        let metadata = match &word {
            Some(word) => metadata.with_word(OfferWord::new(word.address(), word.number())?)?,
            None => metadata,
        };
        let slot = match readers.get() <= OfferSlot::MAX_READERS {
            true => connection.driver().arm_slot(&key, kind),
            false => None,
        };
        let metadata = match &slot {
            Some(slot) => metadata.with_slot_address(slot.address())?,
            None => metadata,
        };
        // No peer with default limits could read more.
        Limits::default().check(&metadata)?;
        Ok(OfferSpec::new(metadata, local, leased, registrations.to_vec())
            .with_slot(slot)
            .with_word(word)
            .with_life_time(life_time))
    }
}

/// The identity of an offer for initiators.
#[derive(Clone, Debug)]
pub(crate) enum Naming {
    /// Metadata: a key, and a token known to its holders alone.
    Random,
    /// A ticket, with room for this key: the token is part of the key, and both are equally secret.
    Ticket(NotificationKey),
}

impl Naming {
    fn key_and_token(self) -> (NotificationKey, NonZeroU64) {
        match self {
            Self::Random => (NotificationKey::random(), low_half(uuid::Uuid::new_v4())),
            Self::Ticket(key) => {
                let token = token_of_ticket(&key);
                (key, token)
            }
        }
    }
}

/// The token of an offer with its key in a ticket.
pub(crate) fn token_of_ticket(key: &NotificationKey) -> NonZeroU64 {
    low_half(uuid::Uuid::parse_str(key.as_str()).unwrap_or_default())
}

fn low_half(uuid: uuid::Uuid) -> NonZeroU64 {
    NonZeroU64::new(uuid.as_u128() as u64).unwrap_or(NonZeroU64::MIN)
}

/// The terms of an offer made now. A life that 64 bits of milliseconds cannot count ends with them.
fn terms(
    clock: &dyn Clock,
    life_time: Duration,
    claims: ClaimDemand,
    (readers, token): (NonZeroU32, NonZeroU64),
) -> Result<OfferTerms, ConnectorError> {
    const LAST: Duration = Duration::from_millis(u64::MAX);
    let now = clock.unix_time();
    let expires = UNIX_EPOCH + now.saturating_add(life_time).min(LAST);
    let made = u64::try_from(now.as_millis()).unwrap_or(u64::MAX);
    let terms = OfferTerms::new(expires, token)?.with_made_unix_millis(made);
    Ok(terms.with_claims(claims).with_readers(readers))
}
