//! Staged transfers that this side begins.

use std::num::NonZeroU32;
use std::sync::Arc;

use nixl_descriptor::DescriptorList;
use nixl_metadata::OperationKind;
use nixl_ops::{
    CompletionNotifier, Execution, PathReport, TicketRead, TransferRequest, TransportError,
};

use super::{Staging, StagingMode, report_on_gpu};
use crate::messages::{Message, Open, OpenTicket, Outbox, PresentedOffer, SessionId};
use crate::sessions::{failed, failed_by};
use crate::transfers::location::MemoryLocation;
use crate::transfers::staged::one_sided::{OneSided, StagedFlow};
use crate::transfers::staged::pull::Pull;
use crate::transfers::staged::role::Role;
use crate::transfers::staged::targets::{Grants, Targets};
use crate::transfers::staged::two_sided::{Begun, TwoSided, path_kind};

impl Staging {
    /// Prepares a transfer that is staged on the sides that have GPU memory.
    ///
    /// # Errors
    ///
    /// Why it cannot be.
    pub(crate) fn begin(
        &self,
        request: &TransferRequest<'_>,
        mode: StagingMode,
    ) -> Result<Box<dyn Execution>, TransportError> {
        let Some(route) = request.route() else { return Err(TransportError::Closed) };
        let ticket_read = route.ticket_read();
        let here = self.place(request.local())?;
        let remote = request.remote();
        let there = remote.descriptors().iter().any(|d| !d.device().is_host());
        // The owner lists each piece of each block, and is given the place of each.
        let list = match ticket_read.filter(|_| here == MemoryLocation::Host) {
            Some(read) => pieces(request.local(), read)?,
            None => request.local().clone(),
        };
        let config = self.sessions.config();
        let chunk_bytes = match mode {
            StagingMode::OnGpu => config.gpu_slot_bytes as u64,
            StagingMode::OneSided | StagingMode::TwoSided => config.slot_bytes as u64,
        };
        let chunking = self.chunking(&list, chunk_bytes)?;
        let report = match mode {
            StagingMode::OnGpu => report_on_gpu(chunking.total(), list.len()),
            StagingMode::OneSided | StagingMode::TwoSided => PathReport::new(
                path_kind(here != MemoryLocation::Host, there),
                route.transport().name().to_owned(),
                chunking.total(),
                list.len(),
            ),
        };
        let report = report.with_chunks(chunking.count());
        if mode == StagingMode::OneSided {
            let known = Targets::Known(remote.descriptors().to_vec());
            let way = match (request.kind(), here) {
                _ if there => {
                    return Err(failed("begin", "the peer must take part: it has GPU memory"));
                }
                (OperationKind::Write, _) => {
                    let held = (route.registrations().to_vec(), request.leased().clone());
                    let peer = route.peer().clone();
                    StagedFlow::Push(self.source(peer, None, (&list, &chunking), known, held)?)
                }
                (OperationKind::Read, MemoryLocation::Gpu(gpu)) => {
                    self.fits(&self.incoming, &chunking)?;
                    StagedFlow::Pull(Pull::new(
                        (Arc::clone(self.link().transport()), route.peer().clone()),
                        Arc::clone(&chunking),
                        self.copier(gpu, &list)?,
                        self.incoming.join(),
                        remote.descriptors().to_vec(),
                        self.sessions.config().window,
                    ))
                }
                (OperationKind::Read, MemoryLocation::Host) => {
                    return Err(failed("begin", "nothing to stage: both sides are host memory"));
                }
            };
            let notifier = CompletionNotifier::new(route, remote.notification_key());
            let (clock, way) = (Arc::clone(self.link().clock()), (way, request.leased().clone()));
            return Ok(Box::new(OneSided::new(clock, notifier, way, report)));
        }
        let initiator_metadata = self.sessions.initiator_metadata(route.initiator_metadata())?;
        let id = SessionId::random();
        let role = match request.kind() {
            kind if mode == StagingMode::OnGpu => {
                // Both are in one PID namespace, or this were no path.
                let process = remote.peer().map_or(0, |peer| peer.host().pid());
                self.on_gpu(kind == OperationKind::Write, (&list, &chunking), process, None)?
            }
            OperationKind::Write => Role::Source(self.source(
                route.peer().clone(),
                Some(id),
                (&list, &chunking),
                Targets::Granted(Grants::default()),
                (route.registrations().to_vec(), request.leased().clone()),
            )?),
            OperationKind::Read => Role::Sink(self.sink(&list, &chunking)?),
        };
        let session = self.sessions.session(id, route.peer())?;
        let now = self.link().clock().now();
        let metadata = remote.agent_metadata().clone();
        let mailbox = match ticket_read {
            Some(read) => read.mailbox().cloned(),
            None => self.link().mailboxes().of_offer(remote),
        };
        let outbox = Outbox::to(id, route.peer().clone(), metadata, now).by(mailbox);
        let on_gpu_by = role.is_on_gpu().then(std::process::id).and_then(NonZeroU32::new);
        let open = match ticket_read {
            Some(read) => Message::OpenTicket(OpenTicket {
                ticket: read.ticket().clone(),
                part: read.part().clone(),
                pieces: u32::try_from(read.pieces()).unwrap_or(u32::MAX),
                chunk_bytes,
                initiator_metadata,
                on_gpu_by,
            }),
            None => {
                let (offer, kind) = (PresentedOffer::of(remote), request.kind());
                Message::Open(Open { offer, kind, chunk_bytes, initiator_metadata, on_gpu_by })
            }
        };
        let begun = (Begun::Initiator(Box::new(open)), Some(request.leased().clone()));
        Ok(Box::new(TwoSided::new(
            Arc::clone(&self.sessions),
            session,
            outbox,
            role,
            begun,
            report,
        )))
    }
}

/// The memory of a read by a ticket, piece by piece of each block. All are equally long.
fn pieces(list: &DescriptorList, read: &TicketRead) -> Result<DescriptorList, TransportError> {
    let count = read.ticket().blocks().len().saturating_mul(read.pieces());
    let len = usize::try_from(list.total_bytes()).unwrap_or(0).checked_div(count).unwrap_or(0);
    let mut pieces = Vec::with_capacity(count);
    for descriptor in list.iter() {
        if len == 0 || descriptor.len() % len != 0 {
            return Err(failed("begin", "memory that is not cut into pieces of blocks"));
        }
        for at in (0..descriptor.len()).step_by(len) {
            pieces.push(descriptor.slice(at..at + len).map_err(|e| failed_by("begin", e))?);
        }
    }
    DescriptorList::try_from(pieces).map_err(|e| failed_by("begin", e))
}
