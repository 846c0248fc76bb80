//! The initiator of a remote copy: it exports its GPU memory to the target, whose GPU copies, and waits.
#![allow(unsafe_code, reason = "asserts that the peer's own state counts")]

use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use nixl_descriptor::Leased;
use nixl_device::ProcessWatch;
use nixl_metadata::OperationKind;
use nixl_ops::{Execution, PathReport, PeerMemory, TransportError};

use crate::messages::{CancelCopy, Message, Outbox, RemoteCopyRequest};
use crate::sessions::{Membership, Sessions, failed, violated};

/// From the request to the peer's last message. After any failure here, the peer may use the memory until it has reported
/// that it is quiet, or its process has ended; an engine that lost the peer proves nothing of the peer's GPU.
pub(super) struct RemoteCopyInitiator {
    sessions: Arc<Sessions>,
    session: Membership,
    outbox: Outbox,
    leased: Leased,
    kind: OperationKind,
    /// What to ask, until it is queued.
    copy_request: Option<RemoteCopyRequest>,
    /// What to say once this side gives up.
    cancel: CancelCopy,
    /// The engine took the request: from then on the peer may use the memory.
    asked: bool,
    /// The peer reported that it has not completed the operation.
    refused: bool,
    /// The first thing that went wrong.
    failure: Option<TransportError>,
    last_heard: Duration,
    /// The time of the last request to the peer to stop.
    recalled: Option<Duration>,
    process: ProcessWatch,
    /// When it was last looked at.
    looked: Duration,
    /// When it was found to have ended.
    gone: Option<Duration>,
    ended: bool,
    steps: u64,
    report: PathReport,
}

impl RemoteCopyInitiator {
    /// How often the peer's process is looked at.
    const LOOK: Duration = Duration::from_millis(10);
    /// How long the last message of a process that has ended may take before it counts as lost.
    const LAST_WORD: Duration = Duration::from_millis(500);

    pub(super) fn new(
        sessions: Arc<Sessions>,
        session: Membership,
        outbox: Outbox,
        (copy_request, leased): (RemoteCopyRequest, Leased),
        process: ProcessWatch,
        report: PathReport,
    ) -> Self {
        let now = sessions.link().clock().now();
        let (offer, initiator_metadata) =
            (copy_request.offer.clone(), copy_request.initiator_metadata.clone());
        Self {
            sessions,
            session,
            outbox,
            leased,
            kind: copy_request.kind,
            copy_request: Some(copy_request),
            cancel: CancelCopy { offer, initiator_metadata, reason: String::new() },
            asked: false,
            refused: false,
            failure: None,
            last_heard: now,
            recalled: None,
            process,
            looked: now,
            gone: None,
            ended: false,
            steps: 0,
            report,
        }
    }

    fn turn(&mut self, now: Duration) -> Poll<Result<(), TransportError>> {
        if let Poll::Ready(result) = self.read_inbox() {
            return Poll::Ready(result);
        }
        if self.copy_request.is_some() {
            // It may have waited for work on the memory; the peer has not been asked yet.
            self.last_heard = now;
        }
        let silence = self.sessions.config().silence;
        if self.failure.is_none() && now.saturating_sub(self.last_heard) >= silence {
            let peer = self.session.peer();
            let reason =
                format!("no message from the peer {peer} for {silence:?}; check that it runs");
            self.fail(failed("wait", reason));
        }
        self.send(now);
        // Until then the memory is the peer's.
        let over = match self.asked {
            true => self.peer_has_ended(now),
            false => self.failure.is_some(),
        };
        if !over {
            return Poll::Pending;
        }
        let gone = || TransportError::PeerGone { name: self.session.peer().to_owned() };
        Poll::Ready(Err(self.failure.take().unwrap_or_else(gone)))
    }

    /// The result that a message of the peer gives, if it ends the copy.
    fn read_inbox(&mut self) -> Poll<Result<(), TransportError>> {
        let inbox = self.session.take();
        if let Some(last_heard) = inbox.last_heard {
            self.last_heard = self.last_heard.max(last_heard);
        }
        for message in inbox.messages {
            self.steps += 1;
            let end = match message {
                Message::Done => return Poll::Ready(Ok(())),
                Message::Stopped { reason } => {
                    self.refused = true;
                    failed("peer", format!("the peer gave up: {reason}"))
                }
                Message::NotFound => failed("peer", "the peer has no such transfer"),
                other => {
                    let name = other.name();
                    self.fail(violated(format!("{name} to the initiator of a remote copy")));
                    continue;
                }
            };
            return Poll::Ready(Err(self.failure.take().unwrap_or(end)));
        }
        if inbox.flooded {
            self.fail(violated("more messages than can be meant"));
        }
        Poll::Pending
    }

    fn send(&mut self, now: Duration) {
        let Some(failure) = &self.failure else {
            if let Some(copy_request) = self.copy_request.take() {
                self.outbox.push(&Message::RemoteCopyRequest(copy_request));
            }
            match self.outbox.flush(self.sessions.link(), now) {
                Ok(sent) => {
                    self.steps += u64::from(sent);
                    self.asked |= self.outbox.is_empty();
                }
                Err(error) => self.fail(error),
            }
            return;
        };
        if !self.asked {
            return;
        }
        let ping = self.sessions.config().ping;
        if self.recalled.is_none_or(|last| now.saturating_sub(last) >= ping) {
            self.recalled = Some(now);
            let reason = failure.to_string();
            self.outbox.clear();
            self.outbox.push(&Message::CancelCopy(CancelCopy { reason, ..self.cancel.clone() }));
        }
        // A message that cannot be sent now is sent later.
        if self.outbox.flush(self.sessions.link(), now).is_err() {
            self.outbox.clear();
        }
    }

    fn fail(&mut self, error: TransportError) {
        if !self.asked {
            // What the engine has not taken never reaches the peer.
            self.outbox.clear();
        }
        self.failure.get_or_insert(error);
    }

    fn peer_has_ended(&mut self, now: Duration) -> bool {
        if self.gone.is_none() && now.saturating_sub(self.looked) >= Self::LOOK {
            self.looked = now;
            self.gone = self.process.has_ended().then_some(now);
        }
        let waited = |gone| now.saturating_sub(gone) >= Self::LAST_WORD;
        self.gone.is_some_and(|gone| self.failure.is_some() || waited(gone))
    }
}

impl Execution for RemoteCopyInitiator {
    fn poll(&mut self, _: &mut Context<'_>) -> Poll<Result<(), TransportError>> {
        if self.ended {
            return Poll::Ready(Err(TransportError::Closed));
        }
        let now = self.sessions.link().clock().now();
        let result = self.turn(now);
        self.ended = result.is_ready();
        result
    }

    fn abandon(&mut self) -> bool {
        if self.ended {
            return true;
        }
        self.fail(failed("wait", "the operation was abandoned"));
        self.poll(&mut Context::from_waker(Waker::noop())).is_ready()
    }

    fn report(&self) -> PathReport {
        self.report.clone()
    }

    fn steps(&self) -> u64 {
        self.steps
    }

    fn awaits_notification(&self) -> bool {
        true
    }

    /// The target copies; its own state shows when its memory is quiet.
    fn peer_memory(&self) -> PeerMemory {
        match self.asked {
            // SAFETY: this side accesses no memory of the peer; the peer's copies are its own, and end before it gives its
            // memory back.
            true => unsafe { PeerMemory::quiet() },
            // SAFETY: the peer was not asked.
            false => unsafe { PeerMemory::untouched() },
        }
    }

    fn target_told(&self) -> bool {
        self.kind == OperationKind::Write && self.asked && !self.refused
    }
}

impl Drop for RemoteCopyInitiator {
    fn drop(&mut self) {
        // The peer has it yet.
        if !self.ended && self.asked {
            self.leased.clone().leak();
        }
    }
}
