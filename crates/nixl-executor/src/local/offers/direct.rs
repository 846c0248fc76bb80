//! The direct executor: copies by the CPU inside the process, transfers by the transport to other processes.

use std::sync::Arc;
use std::task::{Context, Poll};

use nixl_descriptor::DescriptorList;
use nixl_metadata::{NotificationKey, PeerInfo, RdmaMetadata, Share};
use nixl_ops::{
    ConnectionContext, ConnectionExecutor, EndedOffer, Execution, Executor, Offer, OfferRegistry,
    PathKind, PathReport, Rejected, TransferRequest, TransportError, TransportExecutor, WaitFor,
    forward_execution,
};

use super::memcpy::Memcpy;
use super::table::ProcessOffers;
use super::{agree, is_host};

/// An executor that copies inside the process if both sides are its own host memory, and passes everything else to the
/// transport unchanged.
///
/// The key in the metadata identifies the other side, and the copy uses the descriptors of the offering connector: addresses in
/// metadata are never used.
#[derive(Clone, Copy, Debug, Default)]
#[non_exhaustive]
pub struct DirectExecutor {}

impl DirectExecutor {
    /// An executor. All executors of a process share the table of its offers.
    #[must_use]
    pub fn new() -> Self {
        Self {}
    }

    fn local_offer(remote: &RdmaMetadata) -> Option<Offer> {
        // Other executors offer memory of GPUs too.
        let offer = ProcessOffers::get().find(remote.notification_key());
        offer.filter(|offer| is_host(offer.descriptors()))
    }
}

impl Executor for DirectExecutor {
    fn connect(&self, _: ConnectionContext) -> Arc<dyn ConnectionExecutor> {
        Arc::new(*self)
    }
}

impl ConnectionExecutor for DirectExecutor {
    fn execute(&self, request: TransferRequest<'_>) -> Result<Box<dyn Execution>, TransportError> {
        if request.route().is_some() {
            let execution = TransportExecutor.execute(request)?;
            return Ok(Box::new(ViaTransport { execution }));
        }
        let kind = PathKind::SameProcessCopy;
        if let Err(reason) = request.policy().check(kind, None, None) {
            return Err(TransportError::NoPath { rejected: vec![Rejected::new(kind, reason)] });
        }
        let ended = |why| TransportError::OfferEnded { why };
        let offer = Self::local_offer(request.remote());
        let offer = offer.ok_or_else(|| ended(EndedOffer::Revoked))?;
        agree(&offer, request.remote())?;
        let claim = offer.claim_for_copy().map_err(ended)?;
        let copy = Box::new(Memcpy::new(&request, claim)?);
        Ok(WaitFor::before(copy, request.local().pending()))
    }

    fn is_local(&self, local: &DescriptorList, remote: &RdmaMetadata) -> bool {
        is_host(local) && Self::local_offer(remote).is_some()
    }

    fn offers(&self) -> Option<&dyn OfferRegistry> {
        Some(self)
    }
}

impl OfferRegistry for DirectExecutor {
    fn offer_created(&self, offer: Offer) {
        if is_host(offer.descriptors()) {
            ProcessOffers::get().insert(offer);
        }
    }

    fn offer_ended(&self, key: &NotificationKey) {
        ProcessOffers::get().remove(key);
    }

    fn describe(&self, info: PeerInfo) -> PeerInfo {
        info
    }

    fn shares(&self, _: &DescriptorList) -> Vec<Share> {
        Vec::new()
    }
}

/// The transport's execution. Its report has the reason against a copy inside the process.
struct ViaTransport {
    execution: Box<dyn Execution>,
}

#[deny(clippy::missing_trait_methods, reason = "a wrapper forwards every method")]
impl Execution for ViaTransport {
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), TransportError>> {
        self.execution.poll(cx)
    }

    fn report(&self) -> PathReport {
        let why = "the other side is not an offer of host memory by this process";
        self.execution.report().rejecting([Rejected::new(PathKind::SameProcessCopy, why)])
    }

    forward_execution! {
        execution: abandon awaits_notification completion_mode expected peer_memory posts_quickly steps takes_turns target_told
    }
}
