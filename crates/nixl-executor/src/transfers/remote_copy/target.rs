//! The target of a remote copy: its own GPU copies to or from GPU memory that the initiator exports.

use std::mem;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use nixl_descriptor::DescriptorList;
use nixl_metadata::OperationKind;
use nixl_ops::{Claim, Execution, PathReport, TransportError};

use super::context::RemoteCopyContext;
use crate::local::{
    AllocationBoundaries, CopyOp, ListCopy, MemoryKind, Strategy, StrategyPolicy, TransferBuffer,
    starts,
};
use crate::messages::{ExportedRange, Message, Outbox, RemoteCopyRequest};
use crate::remote_memory::RemoteMemoryKey;
use crate::sessions::{Membership, Sessions, failed, failed_by, violated};
use crate::transfers::opening::Opening;

/// From the request to the last message: connects to the peer, opens its memory, copies, and confirms. Ends by itself, since nothing
/// in it waits for the peer but the engine that carries the messages.
pub(super) struct RemoteCopyTarget {
    sessions: Arc<Sessions>,
    context: Arc<RemoteCopyContext>,
    session: Membership,
    outbox: Outbox,
    stage: Stage,
    /// Dropped after the copy: with it the offer's memory.
    claim: Option<Claim>,
    /// The first thing that went wrong.
    failure: Option<TransportError>,
    /// The operation has completed by other means, by the peer's message.
    superseded: bool,
    sent_end: bool,
    /// No message reaches it any more.
    peer_gone: bool,
    ended_at: Duration,
    steps: u64,
    report: PathReport,
}

enum Stage {
    /// Nothing begins before a message of its end can reach the peer.
    Connecting(RemoteCopyRanges),
    Opening(Opening, RemoteCopyRanges),
    Copying {
        copy: ListCopy,
        /// Open for as long as the GPU may use it. Field order: after the copy.
        memory: Vec<Arc<dyn TransferBuffer>>,
    },
    Over,
}

/// What is to be copied.
pub(super) struct RemoteCopyRanges {
    pub(super) kind: OperationKind,
    /// The initiator's process, if it is known.
    pub(super) process: Option<u32>,
    pub(super) ranges: Vec<ExportedRange>,
    pub(super) list: DescriptorList,
    pub(super) memory: MemoryKind,
    /// The GPU that copies, for which the initiator's memory is opened.
    pub(super) gpu: u32,
    /// The GPU whose memory it is, in the numbering of this side.
    pub(super) theirs: u32,
}

impl RemoteCopyRanges {
    /// Checks the ranges that a peer exports for an offer's memory.
    ///
    /// # Errors
    ///
    /// What does not fit.
    pub(super) fn check(
        copy_request: &RemoteCopyRequest,
        list: &DescriptorList,
    ) -> Result<(), TransportError> {
        let count: usize = copy_request.ranges.iter().map(|range| range.offsets.len()).sum();
        if count != list.len() {
            let offered = list.len();
            return Err(violated(format!("{count} descriptors exported for {offered} offered")));
        }
        let mut lens = list.iter().map(|d| d.len() as u64);
        for range in &copy_request.ranges {
            let [.., a, b, c, d, e, f, g, h] = range.handle;
            let length = u64::from_le_bytes([a, b, c, d, e, f, g, h]);
            for (offset, len) in range.offsets.iter().zip(&mut lens) {
                if offset.checked_add(len).is_none_or(|end| end > length) {
                    return Err(violated(format!(
                        "{len} bytes exported from {offset} on, of {length}"
                    )));
                }
            }
        }
        Ok(())
    }

    /// The memory, if all of it is open.
    fn open_already(&self, context: &RemoteCopyContext) -> Option<Vec<Arc<dyn TransferBuffer>>> {
        let get = |range: &ExportedRange| {
            context.imports.get(&RemoteMemoryKey::Gpu(self.gpu, range.handle))
        };
        self.ranges.iter().map(get).collect()
    }

    /// The copy, once the memory is open.
    fn copy(
        &self,
        memory: &[Arc<dyn TransferBuffer>],
        context: &RemoteCopyContext,
    ) -> Result<ListCopy, TransportError> {
        let theirs = match self.memory {
            MemoryKind::Gpu(_) => MemoryKind::Gpu(self.theirs),
            // Through a ring, the GPU that copies is that of the kind.
            _ => MemoryKind::Gpu(self.gpu),
        };
        let kinds = match self.kind {
            OperationKind::Read => (self.memory, theirs),
            OperationKind::Write => (theirs, self.memory),
        };
        // Exported memory is open for one GPU only.
        let policy = StrategyPolicy::Forbid(vec![Strategy::ThroughPinned]);
        let ops = self.ops(memory);
        let bases = memory.iter().map(|memory| memory.address());
        let boundaries = AllocationBoundaries::of(starts(&self.list).chain(bases));
        ListCopy::new((&ops, &boundaries), kinds, &policy, Some(self.gpu), &[], &context.context)
            .map_err(|e| failed_by("plan", e))
    }

    fn ops(&self, memory: &[Arc<dyn TransferBuffer>]) -> Vec<CopyOp> {
        let theirs = self.ranges.iter().zip(memory).flat_map(|(range, memory)| {
            let base = memory.address();
            // Inside the allocation, which the check and the driver saw to.
            range.offsets.iter().map(move |offset| base.wrapping_add(*offset))
        });
        let pairs = self.list.iter().zip(theirs);
        pairs
            .map(|(ours, theirs)| {
                let len = ours.len() as u64;
                match self.kind {
                    OperationKind::Read => CopyOp { src: ours.address(), dst: theirs, len },
                    OperationKind::Write => CopyOp { src: theirs, dst: ours.address(), len },
                }
            })
            .collect()
    }
}

impl RemoteCopyTarget {
    pub(super) fn new(
        (sessions, context): (Arc<Sessions>, Arc<RemoteCopyContext>),
        session: Membership,
        outbox: Outbox,
        claim: Claim,
        ranges: RemoteCopyRanges,
        report: PathReport,
    ) -> Self {
        let mut this = Self {
            ended_at: sessions.link().clock().now(),
            sessions,
            context,
            session,
            outbox,
            stage: Stage::Connecting(ranges),
            claim: Some(claim),
            failure: None,
            superseded: false,
            sent_end: false,
            peer_gone: false,
            steps: 0,
            report,
        };
        if let Err(error) = this.prepare() {
            this.stage = Stage::Over;
            this.fail(error);
        }
        this
    }

    /// Once the peer is connected: prepares the copy, or has the memory opened that is not open yet.
    fn prepare(&mut self) -> Result<(), TransportError> {
        if !self.outbox.is_connected() {
            return Ok(());
        }
        if let Stage::Connecting(ranges) = mem::replace(&mut self.stage, Stage::Over) {
            self.steps += 1;
            self.stage = match ranges.open_already(&self.context) {
                Some(memory) => {
                    Stage::Copying { copy: ranges.copy(&memory, &self.context)?, memory }
                }
                None => {
                    let handles = ranges.ranges.iter().map(|range| range.handle).collect();
                    let owner = (self.session.peer(), ranges.process);
                    let (imports, memory) = (&self.context.imports, (ranges.gpu, handles));
                    Stage::Opening(Opening::begin(&self.sessions, imports, owner, memory), ranges)
                }
            };
        }
        Ok(())
    }

    fn turn(&mut self, now: Duration) -> Poll<Result<(), TransportError>> {
        self.read_inbox();
        if let Err(error) = self.advance() {
            self.stage = Stage::Over;
            self.fail(error);
        }
        if let Stage::Over = self.stage
            && !self.sent_end
        {
            self.say_end(now);
        }
        if self.outbox.is_empty()
            && now.saturating_sub(self.outbox.last) >= self.sessions.config().ping
        {
            self.outbox.push(&Message::Ping);
        }
        match self.outbox.flush(self.sessions.link(), now) {
            Ok(sent) => self.steps += u64::from(sent),
            Err(error) if matches!(self.stage, Stage::Connecting(_)) => self.fail(error),
            // The copy goes on all the same, since the peer's memory is in use; and the last message is sent again.
            Err(_) => {}
        }
        if !self.sent_end {
            return Poll::Pending;
        }
        let waited = now.saturating_sub(self.ended_at) >= self.sessions.config().silence;
        match self.outbox.is_empty() || waited || self.peer_gone {
            true => Poll::Ready(self.failure.take().map_or(Ok(()), Err)),
            false => Poll::Pending,
        }
    }

    fn read_inbox(&mut self) {
        let inbox = self.session.take();
        self.peer_gone |= inbox.peer_gone;
        if let Stage::Over = self.stage {
            self.superseded |= inbox.superseded && !self.sent_end;
            return;
        }
        for message in inbox.messages {
            self.fail(match message {
                Message::CancelCopy(cancel) => {
                    failed("peer", format!("the peer gave up: {}", cancel.reason))
                }
                other => violated(format!("{} to the target of a remote copy", other.name())),
            });
        }
        if inbox.withdrawn {
            self.fail(failed("serve", "the operation has ended"));
        }
        if inbox.superseded {
            self.superseded = true;
            self.fail(failed("serve", "the peer completed the operation by other means"));
        }
    }

    fn advance(&mut self) -> Result<(), TransportError> {
        if let Stage::Connecting(_) = self.stage {
            self.prepare()?;
        }
        if let Stage::Opening(opening, ranges) = &self.stage {
            let Some(opened) = opening.take() else { return Ok(()) };
            self.steps += 1;
            let memory = opened.map_err(|e| failed("open", e))?;
            if self.failure.is_some() {
                self.stage = Stage::Over;
                return Ok(());
            }
            let copy = ranges.copy(&memory, &self.context)?;
            self.stage = Stage::Copying { copy, memory };
        }
        if let Stage::Copying { copy, .. } = &mut self.stage {
            let before = copy.steps();
            let copied = copy.poll(&mut Context::from_waker(Waker::noop()));
            self.steps += copy.steps() - before;
            if let Poll::Ready(copied) = copied {
                self.stage = Stage::Over;
                copied?;
            }
        }
        Ok(())
    }

    fn fail(&mut self, error: TransportError) {
        if self.failure.is_none() {
            self.sessions.reconnect(self.session.peer());
            self.failure = Some(error);
        }
        let quiet = match &mut self.stage {
            // What is being opened is looked at when it is open.
            Stage::Opening(..) => false,
            Stage::Connecting(_) => true,
            Stage::Copying { copy, .. } => copy.abandon(),
            Stage::Over => true,
        };
        if quiet {
            self.stage = Stage::Over;
        }
    }

    /// Neither GPU uses memory for this any more.
    fn say_end(&mut self, now: Duration) {
        self.sent_end = true;
        self.ended_at = now;
        let claim = self.claim.take();
        if self.failure.is_none() || self.superseded {
            claim.into_iter().for_each(Claim::complete);
        }
        let last = match &self.failure {
            None => Message::Done,
            Some(error) => Message::Stopped { reason: error.to_string() },
        };
        self.outbox.push(&last);
    }
}

impl Execution for RemoteCopyTarget {
    fn poll(&mut self, _: &mut Context<'_>) -> Poll<Result<(), TransportError>> {
        let now = self.sessions.link().clock().now();
        self.turn(now)
    }

    fn abandon(&mut self) -> bool {
        self.fail(failed("serve", "the connection ends"));
        self.poll(&mut Context::from_waker(Waker::noop())).is_ready()
    }

    fn report(&self) -> PathReport {
        self.report.clone()
    }

    fn expected(&self) -> Option<Duration> {
        match &self.stage {
            Stage::Copying { copy, .. } => copy.expected(),
            _ => None,
        }
    }

    fn steps(&self) -> u64 {
        self.steps
    }
}

impl Drop for RemoteCopyTarget {
    fn drop(&mut self) {
        // In flight only if the GPU never became quiet: then it may still use both sides' memory.
        if let Stage::Copying { copy, memory } = &mut self.stage
            && !copy.abandon()
        {
            mem::forget(mem::take(memory));
            self.claim.take().into_iter().for_each(Claim::leak);
            // The peer must never hear that its memory is unused.
            self.session.keep();
        }
    }
}
