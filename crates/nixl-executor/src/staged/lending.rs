//! GPU memory of the initiator that the target's GPU reaches: who asks, and who is asked.

use std::fmt;
use std::sync::Arc;

use bytes::Bytes;
use nixl_descriptor::DescriptorList;
use nixl_device::{Device, ProcessWatch};
use nixl_metadata::{PeerInfo, Share, ShareKind};
use nixl_ops::{Claim, Execution, PathKind, PathReport, TransferRequest, TransportError};

use super::borrower::{Borrower, Loans};
use super::failed;
use super::lender::Lender;
use super::message::{Message, SessionId};
use super::outbox::Outbox;
use super::refusal::Refusal;
use super::request::{Lend, Loan, Presented, Recall};
use super::staging::{Place, Staging, claim};
use crate::ipc::{Imports, shares};
use crate::local::{Gpus, Tools, kind_of};
use crate::paths::LocalFacts;

/// What copies of memory that peers lend are made with.
pub(crate) struct Borrowing {
    pub(crate) imports: Arc<Imports>,
    pub(crate) tools: Tools,
    pub(crate) facts: Arc<LocalFacts>,
}

impl fmt::Debug for Borrowing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Borrowing").field("imports", &self.imports).finish_non_exhaustive()
    }
}

impl Staging {
    /// Asks the peer to copy, to or from GPU memory of this side.
    pub(super) fn lend(
        self: &Arc<Self>,
        request: &TransferRequest<'_>,
    ) -> Result<Box<dyn Execution>, TransportError> {
        let Some(route) = &request.route else { return Err(TransportError::Closed) };
        let Place::Gpu(gpu) = self.place(request.local)? else {
            return Err(failed("begin", "only GPU memory can be lent"));
        };
        let (remote, local) = (request.remote, request.local);
        let loans = loans(&*self.gpus, local)?;
        let introduction = self.introduction(route.introduction.as_ref())?;
        let id = SessionId::random();
        let session = self.session(id, route.peer)?;
        let now = self.link().clock.now();
        let mailbox = self.link().mailboxes.of_offer(remote);
        let outbox = Outbox::to(id, route.peer.clone(), remote.agent_metadata().clone(), now);
        let outbox = outbox.by(mailbox);
        let gpu = self.borrowing.facts.gpu(gpu).and_then(|gpu| gpu.uuid).unwrap_or_default();
        let offer = Presented::of(remote);
        // Both are in one PID namespace, or this were no path.
        let versions = remote.peer().map(PeerInfo::versions).unwrap_or_default();
        let process = (versions.lending() >= 2).then(std::process::id);
        let lend = Lend { offer, kind: request.kind, process, gpu, loans, introduction };
        // Nothing else tells for sure that a peer that fell silent uses the memory no more.
        let process = remote.peer().map_or(0, |peer| peer.host().pid());
        let process = ProcessWatch::open(process)
            .map_err(|e| failed("begin", format!("the peer's process cannot be watched: {e}")))?;
        let (bytes, count) = (local.total_bytes(), local.len());
        let report = PathReport::new(PathKind::CudaIpc, "cuda-ipc", bytes, count);
        let (me, lend) = (Arc::clone(self), (lend, request.leased.clone()));
        Ok(Box::new(Lender::new(me, session, outbox, lend, process, report)))
    }

    /// A peer wants back what it lent for a transfer. The transfer's own business, or to be answered if there is none.
    pub(super) fn recalled(
        self: &Arc<Self>,
        id: SessionId,
        from: &str,
        recall: Recall,
    ) -> Option<Option<Box<dyn Execution>>> {
        let Recall { offer, introduction, reason } = recall;
        // An introduction is long, and a transfer has had it.
        let short = Recall { offer: offer.clone(), introduction: Bytes::new(), reason };
        if self.sessions.deliver(id, from, Message::Recall(short), self.link().clock.now()) {
            return None;
        }
        let Some((session, outbox)) = self.admit(id, from, &offer.key, introduction) else {
            return Some(None);
        };
        let refusal = Refusal::new(Arc::clone(self), session, outbox, &Message::Unused);
        Some(Some(Box::new(refusal.standing(Message::Unused))))
    }

    /// Copies what a peer asks for, or tells it why not.
    pub(super) fn borrow(
        self: &Arc<Self>,
        id: SessionId,
        from: &str,
        lend: Lend,
    ) -> Option<Box<dyn Execution>> {
        let (session, outbox) = self.admit(id, from, &lend.offer.key, lend.introduction.clone())?;
        let me = Arc::clone(self);
        Some(match self.accept(lend) {
            Ok((claim, loans)) => {
                let list = claim.descriptors();
                let (bytes, count) = (list.total_bytes(), list.len());
                let report = PathReport::new(PathKind::CudaIpc, "cuda-ipc", bytes, count);
                Box::new(Borrower::new(me, session, outbox, claim, loans, report))
            }
            Err(reason) => {
                let word = Message::Stopped { reason: reason.to_string() };
                Box::new(Refusal::new(me, session, outbox, &word))
            }
        })
    }

    fn accept(&self, lend: Lend) -> Result<(Claim, Loans), TransportError> {
        let offer = self.offer(&lend.offer.key, lend.kind)?;
        let list = offer.descriptors().clone();
        let memory = kind_of(&list, &*self.gpus)
            .filter(|kind| kind.is_host())
            .ok_or_else(|| failed("serve", "only host memory of one kind is copied for a peer"))?;
        Loans::check(&lend, &list)?;
        let here = &self.borrowing.facts;
        let gpu = here.gpu_with(lend.gpu).map_or(0, |gpu| gpu.ordinal);
        if !self.reaches(Device::cuda(gpu)) {
            return Err(failed("serve", "there is no GPU here that could copy"));
        }
        let claim = claim(&offer)?;
        let Lend { kind, process, loans, .. } = lend;
        Ok((claim, Loans { kind, process, loans, list, memory, gpu }))
    }
}

/// What a peer needs to reach all of a list.
fn loans(gpus: &dyn Gpus, list: &DescriptorList) -> Result<Vec<Loan>, TransportError> {
    let descriptors = list.as_slice();
    let loan = |share: &Share| {
        let ShareKind::CudaIpc { handle } = *share.kind() else { return None };
        let run = descriptors.get(share.descriptors())?;
        let first = run.first()?.address();
        let offset = |address: u64| share.offset().wrapping_add(address).wrapping_sub(first);
        Some(Loan { handle, offsets: run.iter().map(|d| offset(d.address())).collect() })
    };
    // Before the driver is asked for each.
    let runs = descriptors.chunk_by(|a, b| a.region().id() == b.region().id()).count();
    if descriptors.len() > Message::MAX_LENT || runs > Message::MAX_LOANS {
        let reason = format!(
            "{} descriptors in {runs} runs of one region each are more than can be lent at a time: {} in {}",
            descriptors.len(),
            Message::MAX_LENT,
            Message::MAX_LOANS,
        );
        return Err(failed("begin", reason));
    }
    let loans: Option<Vec<_>> = shares(gpus, list).iter().map(loan).collect();
    let loans = loans.unwrap_or_default();
    let lent: usize = loans.iter().map(|loan| loan.offsets.len()).sum();
    match lent == list.len() {
        true => Ok(loans),
        false => Err(failed("open", "some of the memory cannot be lent to another process")),
    }
}
