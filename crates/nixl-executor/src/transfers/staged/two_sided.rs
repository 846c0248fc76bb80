//! Two-sided staged transfers: both executors take part.
#![allow(unsafe_code, reason = "asserts that nothing was begun")]

use std::mem;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use nixl_descriptor::Leased;
use nixl_ops::{Claim, Execution, PathKind, PathReport, PeerMemory, TransportError};

use super::role::{Heard, Role, Surroundings};
use crate::messages::{GrantRefusal, Message, Outbox};
use crate::sessions::{Membership, Sessions, failed, gone, violated};

/// One side of a transfer, from its first message to its last.
///
/// It ends only when its memory is no longer in use: by its own GPU and engine, and, where this side is the sink, by the
/// source, which reports it, or is proven quiet. That the source cannot be reached is no proof.
pub(super) struct TwoSided {
    sessions: Arc<Sessions>,
    session: Membership,
    outbox: Outbox,
    role: Role,
    begun: Begun,
    /// The initiator's; a target's is its claim's. Field order: after what uses the memory.
    leased: Option<Leased>,
    /// The first thing that went wrong.
    failure: Option<TransportError>,
    /// When it did.
    failed_at: Duration,
    /// The last message about it was queued.
    sent_end: bool,
    /// The peer cannot be reached any more. What it has sent may still be on its way.
    peer_gone: bool,
    /// It is proven that the peer writes to nothing any more.
    peer_quiet: bool,
    /// Nothing can be sent, for reasons that say nothing about the peer.
    send_failed: bool,
    /// The peer sent its last message: `Done` to a source, `Stopped` to a sink.
    peer_ended: bool,
    /// The peer stopped, so it has not completed the operation.
    refused: bool,
    /// The operation has completed by other means, by the peer's message.
    superseded: bool,
    /// No other path is taken instead.
    abandoned: bool,
    /// The initiator reads by a ticket: each chunk that it gets was copied while the grant stood.
    by_ticket: bool,
    last_heard: Duration,
    steps: u64,
    ended: bool,
    report: PathReport,
}

/// Which side this is.
pub(super) enum Begun {
    /// The initiator, which has not asked yet, and its request.
    Initiator(Box<Message>),
    /// The initiator; whether the target has answered.
    Asked { answered: bool },
    /// The target, with the right to use the offer's memory; none for granted blocks, which its source leases chunk by chunk.
    Serving(Option<Claim>),
}

impl TwoSided {
    pub(super) fn new(
        sessions: Arc<Sessions>,
        session: Membership,
        outbox: Outbox,
        role: Role,
        (begun, leased): (Begun, Option<Leased>),
        report: PathReport,
    ) -> Self {
        let now = sessions.link().clock().now();
        let by_ticket = matches!(&begun, Begun::Initiator(request) if request.is_by_ticket());
        let mut this = Self {
            sessions,
            session,
            outbox,
            role,
            begun,
            leased,
            failure: None,
            failed_at: now,
            sent_end: false,
            peer_gone: false,
            peer_quiet: false,
            send_failed: false,
            peer_ended: false,
            refused: false,
            superseded: false,
            abandoned: false,
            by_ticket,
            last_heard: now,
            steps: 0,
            ended: false,
            report,
        };
        // The initiator of a read on a GPU waits for the chunks alone.
        if let (Begun::Serving(_), Role::Source(_) | Role::GpuSink(_)) = (&this.begun, &this.role) {
            this.outbox.push(&Message::Accept);
        }
        this
    }

    /// Looks once at everything. Returns whether anything happened.
    fn turn(&mut self, now: Duration) -> bool {
        let mut moved = self.ask(now);
        moved |= self.read_inbox(now);
        self.watch(now);
        match self.advance() {
            Ok(advanced) => moved |= advanced,
            Err(error) => {
                self.fail(error, now);
                moved = true;
            }
        }
        self.say_end();
        let config = self.sessions.config();
        if self.outbox.is_empty() && now.saturating_sub(self.outbox.last) >= config.ping {
            self.outbox.push(&self.reminder());
        }
        if !self.send_failed && !self.peer_gone {
            match self.outbox.flush(self.sessions.link(), now) {
                Ok(sent) => moved |= sent,
                Err(error) => {
                    self.send_failed = true;
                    self.fail(error, now);
                    moved = true;
                }
            }
        }
        moved
    }

    /// The initiator's first message.
    fn ask(&mut self, now: Duration) -> bool {
        if !matches!(self.begun, Begun::Initiator(_)) || self.failure.is_some() {
            return false;
        }
        // It may have waited for work on the memory; from now on the peer is expected to say something.
        self.last_heard = now;
        let begun = mem::replace(&mut self.begun, Begun::Asked { answered: false });
        if let Begun::Initiator(request) = begun {
            self.outbox.push(&request);
        }
        true
    }

    fn read_inbox(&mut self, now: Duration) -> bool {
        let inbox = self.session.take();
        if let Some(last_heard) = inbox.last_heard {
            self.last_heard = self.last_heard.max(last_heard);
        }
        let moved = !inbox.messages.is_empty();
        if self.sent_end && self.failure.is_none() {
            // All is in place and `Done` is on its way: what the owner or the peer does now does not matter.
            return moved;
        }
        for message in inbox.messages {
            if let Err(error) = self.obey(message) {
                self.fail(error, now);
            }
        }
        if inbox.flooded {
            self.fail(violated("more messages than can be meant"), now);
        }
        self.peer_quiet |= inbox.peer_quiet;
        if inbox.peer_gone {
            self.fail(TransportError::PeerGone { name: self.session.peer().to_owned() }, now);
        }
        if inbox.withdrawn {
            self.fail(failed("serve", "the operation has ended"), now);
        }
        if inbox.superseded {
            self.superseded = true;
            self.fail(failed("serve", "the peer completed the operation by other means"), now);
        }
        moved
    }

    fn obey(&mut self, message: Message) -> Result<(), TransportError> {
        if let Begun::Asked { answered } = &mut self.begun {
            *answered = true;
        }
        if self.peer_ended && self.role.is_source() {
            // Overtaken by its last message.
            return Ok(());
        }
        match self.role.hear(&self.sessions, message)? {
            Heard::Progress => Ok(()),
            Heard::End(end) => {
                self.peer_ended = true;
                end
            }
            Heard::Refusal(error) => {
                self.refused = true;
                Err(error)
            }
        }
    }

    /// Gives up on a silent peer.
    fn watch(&mut self, now: Duration) {
        let silence = self.sessions.config().silence;
        if self.failure.is_none() && now.saturating_sub(self.last_heard) >= silence {
            let peer = self.session.peer();
            let reason =
                format!("no message from the peer {peer} for {silence:?}; check that it runs");
            self.fail(failed("wait", reason), now);
        }
    }

    fn advance(&mut self) -> Result<bool, TransportError> {
        // A target answers only a connected peer. An initiator's further messages wait for the answer: they could overtake the first,
        // and the engine must reach this side. Chunks on a GPU need no engine.
        let may_grant = match self.begun {
            Begun::Initiator(_) => false,
            Begun::Asked { answered } => {
                answered || (self.role.is_on_gpu() && self.outbox.keeps_order())
            }
            Begun::Serving(_) => self.outbox.is_connected(),
        };
        let from = Surroundings { sessions: &self.sessions, peer: self.session.peer(), may_grant };
        let outbox = &mut self.outbox;
        self.role.poll(&from, &mut |message| outbox.push(&message))
    }

    fn fail(&mut self, error: TransportError, now: Duration) {
        if gone(&error) {
            self.peer_gone = true;
            self.session.note_unreachable();
        }
        self.role.stop();
        if self.failure.is_none() {
            // A grant that does not stand says nothing about the connection.
            if GrantRefusal::of(&error).is_none() {
                self.sessions.reconnect(self.session.peer());
            }
            self.failure = Some(error);
            self.failed_at = now;
            // Unsent messages are void, but for a sink's first, which grants its slots.
            if !matches!(self.begun, Begun::Asked { .. }) {
                self.outbox.clear();
            }
        }
    }

    /// Queues the last message once it is true.
    fn say_end(&mut self) {
        if self.sent_end {
            return;
        }
        let reason = || self.failure.as_ref().map(ToString::to_string).unwrap_or_default();
        let last = match (&self.role, &self.failure) {
            (role, None) if role.is_complete() => Message::Done,
            (Role::Sink(_), Some(_)) => Message::Stop { reason: reason() },
            // The peer's slots are its own again.
            (Role::GpuSink(sink), Some(_)) if sink.is_quiet() => Message::Stop { reason: reason() },
            (Role::Source(_) | Role::GpuSource(_), Some(error)) if self.role.is_quiet() => {
                match GrantRefusal::of(error) {
                    Some(refusal) => Message::GrantRefused(refusal),
                    None => Message::Stopped { reason: reason() },
                }
            }
            _ => return,
        };
        let gives_up = self.role.is_on_gpu() && !self.superseded;
        match &mut self.begun {
            _ if last == Message::Done => self.complete_claim(),
            // The peer may ask for the offer again, by another path, once it has heard.
            Begun::Serving(claim) if gives_up => drop(claim.take()),
            _ => {}
        }
        self.sent_end = true;
        if !matches!(self.begun, Begun::Initiator(_)) {
            self.outbox.push(&last);
        }
    }

    /// The message after a while of silence. A source that missed a `Stop` would wait for `Done`, and this side for
    /// `Stopped`, each of them content with the other's `Ping`.
    fn reminder(&self) -> Message {
        match &self.failure {
            Some(failure) if self.sent_end && !self.role.is_source() => {
                Message::Stop { reason: failure.to_string() }
            }
            _ => Message::Ping,
        }
    }

    /// Whether it has ended, and how.
    fn verdict(&mut self, now: Duration) -> Poll<Result<(), TransportError>> {
        if !self.role.is_quiet() {
            return Poll::Pending;
        }
        let unasked = matches!(self.begun, Begun::Initiator(_));
        let told = self.send_failed || self.peer_gone || (self.sent_end && self.outbox.is_empty());
        let Some(error) = &self.failure else {
            match self.role.is_source() {
                true if self.peer_ended => self.complete_claim(),
                false if told => {}
                _ => return Poll::Pending,
            }
            return Poll::Ready(Ok(()));
        };
        let mut error = error.clone();
        let waited = now.saturating_sub(self.failed_at) >= self.sessions.config().silence;
        if !(told || unasked || waited) {
            return Poll::Pending;
        }
        let peer_has_ended = self.peer_ended || self.refused || self.peer_gone || self.send_failed;
        if self.role.is_on_gpu()
            && matches!(self.begun, Begun::Asked { .. })
            && !(peer_has_ended || self.abandoned || waited)
        {
            // Until then the target holds the offer, which the next path may need.
            return Poll::Pending;
        }
        if self.role.is_complete() {
            let reason = error.to_string().into();
            error = TransportError::NotificationFailed { reason };
        } else if let Role::Sink(sink) = &mut self.role {
            if sink.may_be_written() && !self.peer_ended && !self.peer_quiet {
                // Slots are given up rather than waited for without end. Memory that the peer writes to directly cannot
                // be: an offer's stays leased by the offer, an initiator's by this.
                let serving = matches!(self.begun, Begun::Serving(_));
                if !(serving || sink.stages()) {
                    self.session.await_proof(sink.memory());
                    return Poll::Pending;
                }
                if !(waited || self.peer_gone) {
                    return Poll::Pending;
                }
            } else {
                sink.peer_is_quiet();
            }
        }
        if self.superseded {
            self.complete_claim();
        }
        Poll::Ready(Err(error))
    }

    fn complete_claim(&mut self) {
        if let Begun::Serving(claim) = &mut self.begun
            && let Some(claim) = claim.take()
        {
            claim.complete();
        }
    }
}

impl Execution for TwoSided {
    fn poll(&mut self, _: &mut Context<'_>) -> Poll<Result<(), TransportError>> {
        if self.ended {
            return Poll::Ready(Err(TransportError::Closed));
        }
        let now = self.sessions.link().clock().now();
        if self.turn(now) {
            self.steps += 1;
        }
        let verdict = self.verdict(now);
        self.ended = verdict.is_ready();
        if let (Role::Source(_), Poll::Ready(Err(_))) = (&self.role, &verdict) {
            self.session.note_stopped(now);
        }
        verdict
    }

    fn abandon(&mut self) -> bool {
        if self.ended {
            return true;
        }
        let now = self.sessions.link().clock().now();
        self.abandoned = true;
        self.fail(failed("wait", "the operation was abandoned"), now);
        self.poll(&mut Context::from_waker(Waker::noop())).is_ready()
    }

    fn report(&self) -> PathReport {
        let report = self.report.clone().with_owner_check(self.by_ticket);
        report.with_chunks(self.role.chunks()).with_hops(self.role.hops())
    }

    fn steps(&self) -> u64 {
        self.steps
    }

    /// Each chunk on a GPU takes some microseconds, so the end comes soon after the peer's last message.
    fn awaits_notification(&self) -> bool {
        self.role.is_on_gpu() && !matches!(self.begun, Begun::Serving(_))
    }

    fn peer_memory(&self) -> PeerMemory {
        match (&self.begun, &self.role) {
            // SAFETY: the peer was not asked, so neither side has begun.
            (Begun::Initiator(_), _) => unsafe { PeerMemory::untouched() },
            // SAFETY: the owner's GPU alone reads the blocks, for the owner's own part. This side reads slots.
            (_, Role::GpuSink(_)) if self.by_ticket => unsafe { PeerMemory::quiet() },
            // SAFETY: the target's GPU alone reads the offer. This side reads slots.
            (_, Role::GpuSink(_)) => unsafe { PeerMemory::untouched() },
            // SAFETY: the target's GPU alone writes the offer, for the target's own part, which ends before the target gives its
            // memory back.
            (_, Role::GpuSource(_)) => unsafe { PeerMemory::quiet() },
            _ => PeerMemory::UNPROVEN,
        }
    }

    /// A target that takes part in a write sees its end itself, once every chunk is on its way.
    fn target_told(&self) -> bool {
        match self.begun {
            Begun::Asked { .. } => self.role.all_started() && !self.refused,
            _ => false,
        }
    }
}

impl Drop for TwoSided {
    fn drop(&mut self) {
        // A GPU or an engine of this side may still use the memory.
        let quiet = self.role.is_quiet();
        match &mut self.begun {
            Begun::Serving(claim) if !quiet => claim.take().into_iter().for_each(Claim::leak),
            Begun::Serving(_) => {}
            // Or the peer, which was asked for it.
            Begun::Initiator(_) | Begun::Asked { .. } => {
                if !self.ended && !self.abandon() {
                    self.leased.take().into_iter().for_each(Leased::leak);
                }
            }
        }
        if let Some(in_use) = self.role.take_slots_in_use() {
            self.session.quarantine(in_use);
        }
    }
}

/// The kind of path, by which sides have GPU memory.
pub(super) fn path_kind(here: bool, there: bool) -> PathKind {
    match here && there {
        true => PathKind::StagedBothSides,
        false => PathKind::StagedOneSide,
    }
}
