//! The initiator of a transfer that the peer's GPU carries out: it lends its GPU memory, and waits.

use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use nixl_device::process_has_ended;
use nixl_ops::{Execution, PathReport, TransportError};

use super::message::{Lend, Message};
use super::outbox::Outbox;
use super::session::Membership;
use super::staging::Staging;
use super::{failed, violated};

/// From the request to the peer's last word. Whatever goes wrong here, the memory is the peer's until the peer has said
/// that it is quiet, or its process has ended; an engine that lost the peer says nothing of the peer's GPU.
pub(super) struct Lender {
    staging: Arc<Staging>,
    session: Membership,
    outbox: Outbox,
    /// What to ask, until it is queued.
    lend: Option<Lend>,
    /// The engine took the request: from then on the peer may use the memory.
    asked: bool,
    /// The first thing that went wrong.
    failure: Option<TransportError>,
    /// Nothing can be sent any more.
    mute: bool,
    heard: Duration,
    /// The peer's process, if this side sees it.
    process: Option<u32>,
    /// When it was last looked at.
    looked: Duration,
    ended: bool,
    steps: u64,
    report: PathReport,
}

impl Lender {
    /// How often a peer's process is looked at that no longer answers.
    const LOOK: Duration = Duration::from_millis(10);

    pub(super) fn new(
        staging: Arc<Staging>,
        session: Membership,
        outbox: Outbox,
        lend: Lend,
        process: Option<u32>,
        report: PathReport,
    ) -> Self {
        let now = staging.link().clock.now();
        Self {
            staging,
            session,
            outbox,
            lend: Some(lend),
            asked: false,
            failure: None,
            mute: false,
            heard: now,
            // Believed to have ended only if it is seen to live.
            process: process.filter(|pid| !process_has_ended(*pid)),
            looked: now,
            ended: false,
            steps: 0,
            report,
        }
    }

    fn turn(&mut self, now: Duration) -> Poll<Result<(), TransportError>> {
        if let Poll::Ready(result) = self.read_mail() {
            return Poll::Ready(result);
        }
        let silence = self.staging.config().silence;
        if self.failure.is_none() && now.saturating_sub(self.heard) >= silence {
            let peer = self.session.peer();
            let reason =
                format!("no word from the peer {peer} for {silence:?}; check that it runs");
            self.fail(failed("wait", reason));
        }
        self.send(now);
        // Until then the memory is the peer's.
        let over = self.failure.is_some() && (!self.asked || self.peer_has_ended(now));
        match self.failure.take_if(|_| over) {
            Some(error) => Poll::Ready(Err(error)),
            None => Poll::Pending,
        }
    }

    /// What the peer says is the end of it, if it is.
    fn read_mail(&mut self) -> Poll<Result<(), TransportError>> {
        let mail = self.session.take();
        if let Some(heard) = mail.heard {
            self.heard = self.heard.max(heard);
        }
        for message in mail.messages {
            self.steps += 1;
            match message {
                Message::Done => return Poll::Ready(Ok(())),
                Message::Stopped { reason } => {
                    let gave_up = || failed("peer", format!("the peer gave up: {reason}"));
                    return Poll::Ready(Err(self.failure.take().unwrap_or_else(gave_up)));
                }
                other => {
                    let name = other.name();
                    self.fail(violated(format!("{name} to the side that lends")));
                }
            }
        }
        if mail.flooded {
            self.fail(violated("more messages than can be meant"));
        }
        Poll::Pending
    }

    fn send(&mut self, now: Duration) {
        if self.failure.is_none()
            && let Some(lend) = self.lend.take()
        {
            self.outbox.push(&Message::Lend(lend));
        }
        if self.mute {
            return;
        }
        match self.outbox.flush(self.staging.link(), now) {
            Ok(sent) => {
                self.steps += u64::from(sent);
                self.asked |= self.lend.is_none() && self.outbox.is_empty();
            }
            Err(error) => {
                self.mute = true;
                self.fail(error);
            }
        }
    }

    fn fail(&mut self, error: TransportError) {
        if self.failure.is_some() {
            return;
        }
        match self.asked {
            true => self.outbox.push(&Message::Stop { reason: error.to_string() }),
            false => self.outbox.clear(),
        }
        self.failure = Some(error);
    }

    fn peer_has_ended(&mut self, now: Duration) -> bool {
        let Some(pid) = self.process else { return false };
        if now.saturating_sub(self.looked) < Self::LOOK {
            return false;
        }
        self.looked = now;
        process_has_ended(pid)
    }
}

impl Execution for Lender {
    fn poll(&mut self) -> Poll<Result<(), TransportError>> {
        if self.ended {
            return Poll::Ready(Err(TransportError::Closed));
        }
        let now = self.staging.link().clock.now();
        let result = self.turn(now);
        self.ended = result.is_ready();
        result
    }

    fn abandon(&mut self) -> bool {
        if self.ended {
            return true;
        }
        self.fail(failed("wait", "the operation was abandoned"));
        self.poll().is_ready()
    }

    fn report(&self) -> PathReport {
        self.report.clone()
    }

    fn steps(&self) -> u64 {
        self.steps
    }
}
