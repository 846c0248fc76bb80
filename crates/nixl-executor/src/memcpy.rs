//! Copying inside the process, in pieces.
#![allow(unsafe_code, reason = "copies what two operations have leased")]

use std::task::Poll;

use nixl_descriptor::{AccessError, DescriptorList, copy_range_unchecked};
use nixl_metadata::OperationKind;
use nixl_ops::{Claim, Execution, PathKind, PathReport, TransportError};

/// Bytes copied by one poll: some tens of microseconds at 10 GB/s, so that a poll does not block.
const PIECE: usize = 256 * 1024;

/// A copy between local descriptors and the memory of an offer.
pub(crate) struct Memcpy {
    kind: OperationKind,
    local: DescriptorList,
    /// Gone once the offer has been completed.
    claim: Option<Claim>,
    /// The descriptor pair being copied, and how far it has come.
    index: usize,
    offset: usize,
}

impl Memcpy {
    /// `local` and the offer's list are paired: equal counts, equal lengths.
    pub(crate) fn new(kind: OperationKind, local: DescriptorList, claim: Claim) -> Self {
        Self { kind, local, claim: Some(claim), index: 0, offset: 0 }
    }

    /// Copies up to one piece. Returns whether everything is copied.
    fn advance(&mut self) -> Result<bool, AccessError> {
        let Some(claim) = &self.claim else { return Ok(true) };
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
            // SAFETY: the operation that this carries out leases its memory, and the offer is leased by the operation
            // that made it, which leaves it to whoever claimed it.
            unsafe { copy_range_unchecked(source, self.offset, target, self.offset, len) }?;
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
    fn poll(&mut self) -> Poll<Result<(), TransportError>> {
        match self.advance() {
            Ok(false) => Poll::Pending,
            Ok(true) => {
                if let Some(claim) = self.claim.take() {
                    claim.complete();
                }
                Poll::Ready(Ok(()))
            }
            Err(error) => Poll::Ready(Err(TransportError::Engine {
                engine: "memcpy",
                call: "copy",
                reason: error.to_string().into(),
            })),
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
