//! Host copies inside the process, in pieces.

use std::task::{Context, Poll};

use nixl_descriptor::{AccessError, DescriptorList, LeaseUse, copy_range};
use nixl_device::SharedError;
use nixl_metadata::OperationKind;
use nixl_ops::{Claim, Execution, PathKind, PathReport, TransferRequest, TransportError};

/// Bytes copied by one poll: some tens of microseconds at 10 GB/s, so that a poll does not block.
const PIECE: usize = 256 * 1024;

/// A copy between local descriptors and the memory of an offer.
pub(crate) struct Memcpy {
    kind: OperationKind,
    local: DescriptorList,
    here: LeaseUse,
    /// `None` after the completion of the offer. Field order: the use drops before the claim.
    offer: Option<(LeaseUse, Claim)>,
    /// The current pair of descriptors, and its bytes copied so far.
    index: usize,
    offset: usize,
}

impl Memcpy {
    /// The request's list and the offer's are paired: equal counts, equal lengths.
    pub(crate) fn new(request: &TransferRequest<'_>, claim: Claim) -> Result<Self, TransportError> {
        let (here, there) = (request.leased().begin_use(), claim.leased().begin_use());
        let in_use = |error: nixl_descriptor::LeaseError| failed(error);
        let offer = Some((there.map_err(in_use)?, claim));
        let (kind, local) = (request.kind(), request.local().clone());
        Ok(Self { kind, local, here: here.map_err(in_use)?, offer, index: 0, offset: 0 })
    }

    /// Copies up to one piece. Returns whether everything is copied.
    fn advance(&mut self) -> Result<bool, AccessError> {
        let Some((theirs, claim)) = &self.offer else { return Ok(true) };
        let mut room = PIECE;
        while room > 0 {
            let (Some(here), Some(there)) = (
                self.local.as_slice().get(self.index),
                claim.descriptors().as_slice().get(self.index),
            ) else {
                return Ok(true);
            };
            let len = room.min(here.len() - self.offset);
            let (source, target) = match self.kind {
                OperationKind::Read => (there, here),
                OperationKind::Write => (here, there),
            };
            copy_range(source, self.offset, target, self.offset, len, &[&self.here, theirs])?;
            room -= len;
            self.offset += len;
            if self.offset == here.len() {
                self.index += 1;
                self.offset = 0;
            }
        }
        Ok(self.index == self.local.len())
    }
}

impl Execution for Memcpy {
    fn poll(&mut self, _: &mut Context<'_>) -> Poll<Result<(), TransportError>> {
        match self.advance() {
            Ok(false) => Poll::Pending,
            Ok(true) => {
                if let Some((there, claim)) = self.offer.take() {
                    drop(there);
                    claim.complete();
                }
                Poll::Ready(Ok(()))
            }
            Err(error) => Poll::Ready(Err(failed(error))),
        }
    }

    fn abandon(&mut self) -> bool {
        // Bytes move only inside `poll`.
        true
    }

    fn report(&self) -> PathReport {
        let (bytes, descriptors) = (self.local.total_bytes(), self.local.len());
        PathReport::new(PathKind::SameProcessCopy, "memcpy", bytes, descriptors)
    }
}

fn failed(error: impl Into<SharedError>) -> TransportError {
    TransportError::Engine { engine: "memcpy", call: "copy", reason: error.into() }
}
