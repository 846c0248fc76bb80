//! Copies within this process of which at least one side is GPU memory.

use std::borrow::Cow;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use nixl_descriptor::Leased;
use nixl_device::SharedError;
use nixl_metadata::OperationKind;
use nixl_ops::{Claim, Execution, PathReport, TransferRequest, TransportError};

use crate::local::{
    AllocationBoundaries, CopyContext, CopyOp, ListCopy, StrategyPolicy, kind_of, starts,
};

/// A copy between local memory and that of an offer, by the block executor's strategies.
pub(super) struct OfferCopy {
    copy: ListCopy,
    /// `None` after the completion of the offer.
    claim: Option<Claim>,
    leased: Leased,
    ended: bool,
}

impl OfferCopy {
    /// `request.local` and the offer's list are paired.
    pub(super) fn new(
        request: &TransferRequest<'_>,
        claim: Claim,
        context: &CopyContext,
    ) -> Result<Self, TransportError> {
        let theirs = claim.descriptors();
        let kind = |list| {
            kind_of(list, &*context.gpus).ok_or_else(|| failed("one side mixes kinds of memory"))
        };
        let (ours, others) = (kind(request.local())?, kind(theirs)?);
        let ops: Vec<_> = request
            .local()
            .iter()
            .zip(theirs.iter())
            .map(|(here, there)| {
                let len = here.len() as u64;
                match request.kind() {
                    OperationKind::Read => {
                        CopyOp { src: there.address(), dst: here.address(), len }
                    }
                    OperationKind::Write => {
                        CopyOp { src: here.address(), dst: there.address(), len }
                    }
                }
            })
            .collect();
        let kinds = match request.kind() {
            OperationKind::Read => (others, ours),
            OperationKind::Write => (ours, others),
        };
        let boundaries = match ops.len() {
            // Nothing to join.
            1 => AllocationBoundaries::default(),
            _ => AllocationBoundaries::of(starts(request.local()).chain(starts(theirs))),
        };
        let (ops, policy) = ((&*ops, &boundaries), StrategyPolicy::Auto);
        let copy = ListCopy::new(ops, kinds, &policy, None, request.local().pending(), context)
            .map_err(failed_by)?;
        let leased = request.leased().clone();
        Ok(Self { copy, claim: Some(claim), leased, ended: false })
    }
}

fn failed(reason: impl Into<Cow<'static, str>>) -> TransportError {
    failed_by(SharedError::text(reason))
}

fn failed_by(error: impl Into<SharedError>) -> TransportError {
    TransportError::Engine { engine: "local", call: "plan", reason: error.into() }
}

impl Execution for OfferCopy {
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), TransportError>> {
        let copied = ready!(self.copy.poll(cx));
        self.ended = true;
        copied?;
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

impl Drop for OfferCopy {
    fn drop(&mut self) {
        if !self.ended && !self.copy.abandon() {
            // A GPU may still use both sides' memory.
            self.leased.clone().leak();
            if let Some(claim) = self.claim.take() {
                claim.leak();
            }
        }
    }
}
