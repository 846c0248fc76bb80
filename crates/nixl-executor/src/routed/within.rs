//! Both sides in this process, at least one of them GPU memory.

use std::task::{Poll, ready};
use std::time::Duration;

use nixl_metadata::OperationKind;
use nixl_ops::{Claim, Execution, PathReport, TransferRequest, TransportError};

use crate::BlockError;
use crate::local::{CopyOp, Gpus, ListCopy, MemoryKind, StrategyPolicy, Tools};

/// A copy between local memory and that of an offer, by the block executor's strategies.
pub(super) struct Within {
    copy: ListCopy,
    /// Gone once the offer has been completed.
    claim: Option<Claim>,
}

impl Within {
    /// `request.local` and the offer's list are paired.
    pub(super) fn new(
        request: &TransferRequest<'_>,
        claim: Claim,
        tools: &Tools,
    ) -> Result<Self, TransportError> {
        let theirs = claim.descriptors();
        let kind =
            |d: &nixl_descriptor::Descriptor| tools.gpus.memory_kind(d.device(), d.address());
        let (Some(first), Some(other)) =
            (request.local.as_slice().first(), theirs.as_slice().first())
        else {
            return Err(TransportError::Closed);
        };
        let (ours, others) = (kind(first), kind(other));
        let ops: Vec<_> = request
            .local
            .iter()
            .zip(theirs.iter())
            .map(|(here, there)| {
                let len = here.len() as u64;
                match request.kind {
                    OperationKind::Read => {
                        CopyOp { src: there.address(), dst: here.address(), len }
                    }
                    OperationKind::Write => {
                        CopyOp { src: here.address(), dst: there.address(), len }
                    }
                }
            })
            .collect();
        let kinds: (MemoryKind, MemoryKind) = match request.kind {
            OperationKind::Read => (others, ours),
            OperationKind::Write => (ours, others),
        };
        let copy = ListCopy::new(&ops, kinds, &StrategyPolicy::Auto, None, tools)
            .map_err(|error| failed(&error))?;
        Ok(Self { copy, claim: Some(claim) })
    }
}

/// Whether all of a list is memory of one kind, which one plan needs.
pub(super) fn is_uniform(list: &nixl_descriptor::DescriptorList, gpus: &dyn Gpus) -> bool {
    let kind = |d: &nixl_descriptor::Descriptor| gpus.memory_kind(d.device(), d.address());
    let mut kinds = list.as_slice().chunk_by(|a, b| a.region().id() == b.region().id());
    let first = kinds.next().and_then(<[_]>::first).map(kind);
    kinds.all(|run| run.first().map(kind) == first)
}

fn failed(error: &BlockError) -> TransportError {
    TransportError::Engine { engine: "local", call: "plan", reason: error.to_string().into() }
}

impl Execution for Within {
    fn poll(&mut self) -> Poll<Result<(), TransportError>> {
        ready!(self.copy.poll())?;
        if let Some(claim) = self.claim.take() {
            claim.complete();
        }
        Poll::Ready(Ok(()))
    }

    fn abandon(&mut self) -> bool {
        self.copy.abandon()
    }

    fn report(&self) -> PathReport {
        self.copy.report()
    }

    fn expected(&self) -> Option<Duration> {
        self.copy.expected()
    }

    fn posts_quickly(&self) -> bool {
        true
    }
}
