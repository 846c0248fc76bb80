//! The remote copies of one connection, begun and served.

use std::sync::Arc;

use bytes::Bytes;
use nixl_descriptor::DescriptorList;
use nixl_device::{Device, ProcessWatch};
use nixl_metadata::{PeerInfo, Share, ShareKind};
use nixl_ops::{Claim, Execution, PathKind, PathReport, TransferRequest, TransportError};

use super::context::RemoteCopyContext;
use super::initiator::RemoteCopyInitiator;
use super::target::{RemoteCopyRanges, RemoteCopyTarget};
use crate::local::{GpuBackend, MemoryKind, can_access, kind_of};
use crate::messages::{
    self, CancelCopy, ExportedRange, Message, Outbox, PresentedOffer, RemoteCopyRequest, SessionId,
};
use crate::remote_memory::shares;
use crate::sessions::{RefusalReply, Sessions, claim, failed, unwatched};
use crate::transfers::location::MemoryLocation;

/// Remote copies of one connection: those that this side begins, and those that it serves.
#[derive(Debug)]
pub(crate) struct RemoteCopies {
    sessions: Arc<Sessions>,
    context: Arc<RemoteCopyContext>,
}

impl RemoteCopies {
    pub(crate) fn new(sessions: &Arc<Sessions>, context: RemoteCopyContext) -> Self {
        Self { sessions: Arc::clone(sessions), context: Arc::new(context) }
    }

    /// Requests a copy by the peer, to or from GPU memory of this side.
    pub(crate) fn begin(
        &self,
        request: &TransferRequest<'_>,
    ) -> Result<Box<dyn Execution>, TransportError> {
        let Some(route) = request.route() else { return Err(TransportError::Closed) };
        let MemoryLocation::Gpu(gpu) = MemoryLocation::of(request.local(), self.gpus())? else {
            return Err(failed("begin", "only GPU memory can be exported"));
        };
        let (remote, local) = (request.remote(), request.local());
        let ranges = ranges(self.gpus(), local)?;
        let initiator_metadata = self.sessions.initiator_metadata(route.initiator_metadata())?;
        let id = SessionId::random();
        let session = self.sessions.session(id, route.peer())?;
        let now = self.sessions.link().clock().now();
        let mailbox = self.sessions.link().mailboxes().of_offer(remote);
        let outbox = Outbox::to(id, route.peer().clone(), remote.agent_metadata().clone(), now);
        let outbox = outbox.by(mailbox);
        let gpu = self.context.facts.gpu(gpu).and_then(|gpu| gpu.uuid).unwrap_or_default();
        let offer = PresentedOffer::of(remote);
        // Both are in one PID namespace, or this were no path.
        let versions = remote.peer().map(PeerInfo::versions).unwrap_or_default();
        let process = (versions.remote_copy() >= 2).then(std::process::id);
        let copy_request = RemoteCopyRequest {
            offer,
            kind: request.kind(),
            process,
            gpu,
            ranges,
            initiator_metadata,
        };
        // The end of its process is the only proof that a silent peer no longer uses the memory.
        let process = remote.peer().map_or(0, |peer| peer.host().pid());
        let process = ProcessWatch::open(process).map_err(|error| unwatched("begin", error))?;
        let (bytes, count) = (local.total_bytes(), local.len());
        let report = PathReport::new(PathKind::CudaIpc, "cuda-ipc", bytes, count);
        let (me, copy_request) =
            (Arc::clone(&self.sessions), (copy_request, request.leased().clone()));
        Ok(Box::new(RemoteCopyInitiator::new(me, session, outbox, copy_request, process, report)))
    }

    /// A peer cancels a remote copy. Delivered to the transfer, or answered here if there is none.
    pub(crate) fn cancel(
        &self,
        id: SessionId,
        from: &str,
        cancel: CancelCopy,
    ) -> Option<Option<Box<dyn Execution>>> {
        let CancelCopy { offer, initiator_metadata, reason } = cancel;
        // The initiator's metadata is long, and a transfer has it already.
        let short = CancelCopy { offer: offer.clone(), initiator_metadata: Bytes::new(), reason };
        if self.sessions.deliver(id, from, Message::CancelCopy(short)) {
            return None;
        }
        let Some((session, outbox)) = self.sessions.admit(id, from, &offer.key, initiator_metadata)
        else {
            return Some(None);
        };
        let refusal =
            RefusalReply::new(Arc::clone(&self.sessions), session, outbox, &Message::NotFound);
        Some(Some(Box::new(refusal.keep_answering(Message::NotFound))))
    }

    /// Serves a peer's remote copy, or replies why not.
    pub(crate) fn serve(
        &self,
        id: SessionId,
        from: &str,
        copy_request: RemoteCopyRequest,
    ) -> Option<Box<dyn Execution>> {
        let (session, outbox) = self.sessions.admit(
            id,
            from,
            &copy_request.offer.key,
            copy_request.initiator_metadata.clone(),
        )?;
        let me = Arc::clone(&self.sessions);
        Some(match self.accept(copy_request) {
            Ok((claim, ranges)) => {
                let list = claim.descriptors();
                let (bytes, count) = (list.total_bytes(), list.len());
                let report = PathReport::new(PathKind::CudaIpc, "cuda-ipc", bytes, count);
                Box::new(RemoteCopyTarget::new(
                    (me, Arc::clone(&self.context)),
                    session,
                    outbox,
                    claim,
                    ranges,
                    report,
                ))
            }
            Err(reason) => {
                let message = Message::Stopped { reason: reason.to_string() };
                Box::new(RefusalReply::new(me, session, outbox, &message))
            }
        })
    }

    fn accept(
        &self,
        copy_request: RemoteCopyRequest,
    ) -> Result<(Claim, RemoteCopyRanges), TransportError> {
        let offer = self.sessions.offer(&copy_request.offer.key, copy_request.kind)?;
        let list = offer.descriptors().clone();
        let memory = kind_of(&list, self.gpus())
            .ok_or_else(|| failed("serve", "only memory of one kind is copied for a peer"))?;
        RemoteCopyRanges::check(&copy_request, &list)?;
        let (gpu, theirs) = self.copier(memory, copy_request.gpu)?;
        let claim = claim(&offer)?;
        let RemoteCopyRequest { kind, process, ranges, .. } = copy_request;
        Ok((claim, RemoteCopyRanges { kind, process, ranges, list, memory, gpu, theirs }))
    }

    /// The GPU here that copies between `memory` of this side and memory of the initiator's GPU, and that GPU's number here. A GPU
    /// that this process does not see counts as the one that copies.
    fn copier(&self, memory: MemoryKind, theirs: [u8; 16]) -> Result<(u32, u32), TransportError> {
        let seen = self.context.facts.gpu_with(theirs).map(|gpu| gpu.ordinal);
        let gpu = match memory {
            MemoryKind::Gpu(ours) => ours,
            _ => seen.unwrap_or(0),
        };
        if !can_access(self.gpus(), Device::cuda(gpu)) {
            return Err(failed("serve", "there is no GPU here that could copy"));
        }
        let theirs = seen.unwrap_or(gpu);
        if !self.context.facts.reach(gpu, theirs) {
            let reason =
                format!("cuda:{gpu} has no P2P access to the peer's GPU, cuda:{theirs} here");
            return Err(failed("serve", reason));
        }
        Ok((gpu, theirs))
    }

    fn gpus(&self) -> &dyn GpuBackend {
        &*self.context.context.gpus
    }
}

/// What a peer needs to reach all of a list.
fn ranges(
    gpus: &dyn GpuBackend,
    list: &DescriptorList,
) -> Result<Vec<ExportedRange>, TransportError> {
    let descriptors = list.as_slice();
    let range = |share: &Share| {
        let ShareKind::CudaIpc { handle } = *share.kind() else { return None };
        let run = descriptors.get(share.descriptors())?;
        let first = run.first()?.address();
        let offset = |address: u64| share.offset().wrapping_add(address).wrapping_sub(first);
        Some(ExportedRange { handle, offsets: run.iter().map(|d| offset(d.address())).collect() })
    };
    // Before the driver is queried for each.
    let runs = descriptors.chunk_by(|a, b| a.region().id() == b.region().id()).count();
    if descriptors.len() > messages::MAX_RANGE_OFFSETS || runs > messages::MAX_EXPORTED_RANGES {
        let reason = format!(
            "{} descriptors in {runs} runs of one region each are more than can be exported at a time: {} in {}",
            descriptors.len(),
            messages::MAX_RANGE_OFFSETS,
            messages::MAX_EXPORTED_RANGES,
        );
        return Err(failed("begin", reason));
    }
    let ranges: Option<Vec<_>> = shares(gpus, list).iter().map(range).collect();
    let ranges = ranges.unwrap_or_default();
    let exported: usize = ranges.iter().map(|range| range.offsets.len()).sum();
    match exported == list.len() {
        true => Ok(ranges),
        false => Err(failed("open", "some of the memory cannot be exported to another process")),
    }
}
