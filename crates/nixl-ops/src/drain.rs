//! Draining a connection: waiting until no operation is in flight.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll};

use crate::control::{ControlMessage, ControlVerb};
use crate::driver::Shared;
use crate::{
    CopyOperation, Driver, Execution, OperationError, OperationOptions, PathKind, PathReport,
    PeerId, TransportError,
};

/// Called with the agent of each leaving peer.
type OnLeaving = Box<dyn Fn(PeerId) + Send + Sync>;

/// State of drains: of leaving peers, and of this side.
#[derive(Default)]
pub(crate) struct Departures {
    on_leaving: std::sync::OnceLock<OnLeaving>,
}

impl Departures {
    pub(crate) fn note(&self, peer: &str) {
        if let Some(on_leaving) = self.on_leaving.get() {
            on_leaving(PeerId::new(peer));
        }
    }
}

impl fmt::Debug for Departures {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Departures").finish_non_exhaustive()
    }
}

impl Driver {
    /// Sets the callback for a drained peer's announcement, run on the driver's thread: it must not block. Only the first call
    /// counts.
    pub fn set_on_leaving(&self, on_leaving: impl Fn(PeerId) + Send + Sync + 'static) {
        let _ = self.shared().departures.on_leaving.set(Box::new(on_leaving));
    }

    /// Waits until no operation is running: active ones of this side and of peers, and offers. Overdue operations, and memory
    /// in quarantine, do not count. Works on a driver with a full queue, too.
    ///
    /// Cancel safe.
    ///
    /// # Errors
    ///
    /// [`OperationError::TimedOut`] by the deadline of the options.
    pub async fn until_drained(
        self: &Arc<Self>,
        options: OperationOptions,
    ) -> Result<(), OperationError> {
        self.check_process()?;
        let drained = Drained { shared: Arc::clone(self.shared()) };
        drained.shared.drains.fetch_add(1, Ordering::AcqRel);
        let mut wait = CopyOperation::beyond_limit(self, Box::new(drained), options)?;
        wait.wait_for_completion().await.map(drop)
    }

    /// Offers that wait for their peers.
    pub fn awaited_offers(&self) -> usize {
        self.check_process().map_or(0, |()| self.shared().passive.awaited())
    }

    /// Ends all offers, as if each was revoked.
    pub fn revoke_offers(&self) {
        // They belong to the parent.
        if self.check_process().is_err() {
            return;
        }
        self.shared().passive.abandon_all(&OperationError::Cancelled);
        self.shared().wake(true);
    }

    /// *Blocking.* Announces to peers that this side has drained and ends.
    pub fn tell_leaving(&self, peers: &[PeerId]) {
        const TRIES: usize = 1000;
        let Some(transport) = self.shared().transport() else { return };
        let key = transport.agent_name().as_bytes();
        let message = ControlMessage { key, token: 0, verb: ControlVerb::Leaving }.encode();
        for peer in peers {
            for _ in 0..TRIES {
                match transport.notify(peer, &message) {
                    Poll::Pending => std::thread::yield_now(),
                    // A peer that cannot be notified detects the end itself.
                    Poll::Ready(_) => break,
                }
            }
        }
    }
}

/// Ends when no other operation is running.
struct Drained {
    shared: Arc<Shared>,
}

impl Execution for Drained {
    fn poll(&mut self, _: &mut Context<'_>) -> Poll<Result<(), TransportError>> {
        // Each drain is an operation itself.
        let drains = self.shared.drains.load(Ordering::Acquire);
        match self.shared.in_hand() <= drains {
            true => Poll::Ready(Ok(())),
            false => Poll::Pending,
        }
    }

    fn abandon(&mut self) -> bool {
        true
    }

    fn report(&self) -> PathReport {
        PathReport::new(PathKind::Local("wait"), "wait", 0, 0)
    }
}

impl Drop for Drained {
    fn drop(&mut self) {
        self.shared.drains.fetch_sub(1, Ordering::AcqRel);
    }
}
