//! Staged transfers of offers that peers request.

use std::num::NonZeroU32;
use std::sync::Arc;

use nixl_metadata::{NotificationKey, OperationKind};
use nixl_ops::{Claim, Execution, PathReport, PeerId, TransportError};

use super::{Staging, report_on_gpu};
use crate::messages::{Message, Open, Outbox, SessionId};
use crate::sessions::{Membership, RefusalReply, claim};
use crate::transfers::staged::role::Role;
use crate::transfers::staged::targets::{Grants, Targets};
use crate::transfers::staged::two_sided::{Begun, TwoSided, path_kind};

impl Staging {
    /// Serves a peer's request, or replies with the reason against it.
    pub(crate) fn serve(
        &self,
        id: SessionId,
        from: &str,
        open: Open,
    ) -> Option<Box<dyn Execution>> {
        let Open { offer, kind, chunk_bytes, initiator_metadata, on_gpu_by } = open;
        let (session, outbox) = self.sessions.admit(id, from, &offer.key, initiator_metadata)?;
        let asked = (kind, chunk_bytes, on_gpu_by.map(NonZeroU32::get));
        let (claim, role) = match self.answer(id, from, &offer.key, asked) {
            Ok(answer) => answer,
            Err(reason) => {
                let reason = reason.to_string();
                let message = match kind {
                    OperationKind::Read => Message::Stopped { reason },
                    OperationKind::Write => Message::Stop { reason },
                };
                let sessions = Arc::clone(&self.sessions);
                return Some(Box::new(RefusalReply::new(sessions, session, outbox, &message)));
            }
        };
        let size = (claim.descriptors().total_bytes(), claim.descriptors().len());
        Some(self.serving((session, outbox), role, Some(claim), size))
    }

    /// This side's part in the transfer of so many bytes in so many descriptors.
    pub(super) fn serving(
        &self,
        (session, outbox): (Membership, Outbox),
        role: Role,
        claim: Option<Claim>,
        (bytes, count): (u64, usize),
    ) -> Box<dyn Execution> {
        let (report, outbox) = if role.is_on_gpu() {
            (report_on_gpu(bytes, count), outbox)
        } else {
            let engine = self.link().transport().name().to_owned();
            let kind = path_kind(role.stages(), false);
            // The engine carries the bytes in any case.
            (PathReport::new(kind, engine, bytes, count), self.sessions.connecting(outbox))
        };
        let (sessions, begun) = (Arc::clone(&self.sessions), (Begun::Serving(claim), None));
        Box::new(TwoSided::new(sessions, session, outbox, role, begun, report))
    }

    fn answer(
        &self,
        id: SessionId,
        from: &str,
        key: &NotificationKey,
        (kind, chunk_bytes, on_gpu_by): (OperationKind, u64, Option<u32>),
    ) -> Result<(Claim, Role), TransportError> {
        let offer = self.sessions.offer(key, kind)?;
        let peer = PeerId::new(from);
        let list = offer.descriptors().clone();
        let chunking = self.chunking(&list, chunk_bytes)?;
        let claim = claim(&offer)?;
        if let Some(process) = on_gpu_by {
            return Ok((
                claim,
                self.on_gpu(kind == OperationKind::Read, (&list, &chunking), process, None)?,
            ));
        }
        let role = match kind {
            OperationKind::Read => Role::Source(self.source(
                peer,
                Some(id),
                (&list, &chunking),
                Targets::Granted(Grants::default()),
                (self.registrations(&list), claim.leased().clone()),
            )?),
            OperationKind::Write => Role::Sink(self.sink(&list, &chunking)?),
        };
        Ok((claim, role))
    }
}
