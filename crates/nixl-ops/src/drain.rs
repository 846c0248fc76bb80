//! Draining a connection: waiting until no operation is in flight.

use std::fmt;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock};
use std::task::{Context, Poll};
use std::time::Duration;

use nixl_device::locks::lock;

use crate::control::{ControlMessage, ControlVerb};
use crate::driver::Shared;
use crate::{
    CopyOperation, Driver, Execution, OperationError, OperationOptions, PathKind, PathReport,
    PeerId, TransportError,
};

/// Clean-up after peers that announce their end. Its methods run on the driver's thread and must not block.
pub trait OnLeaving: Send + Sync + 'static {
    /// A peer has announced its end. Returns whether that is news.
    fn leaves(&self, peer: PeerId) -> bool;

    /// Peers that have announced their end may have released memory by now.
    fn look(&self);
}

/// Announced ends of peers.
#[derive(Default)]
pub(crate) struct Departures {
    on_leaving: OnceLock<Box<dyn OnLeaving>>,
    looks: Mutex<LooksAfter>,
}

/// The looks for memory that peers have released. A peer announces its end before it releases memory, and how long before is
/// unknown.
#[derive(Debug, Default)]
struct LooksAfter {
    /// The next look, and the pause before it.
    next: Option<(Duration, Duration)>,
}

impl LooksAfter {
    const FIRST: Duration = Duration::from_millis(50);
    /// The longest pause.
    const LAST: Duration = Duration::from_secs(60);

    fn begin(&mut self, now: Duration) {
        self.next = Some((now.saturating_add(Self::FIRST), Self::FIRST));
    }

    /// Whether a poll is due.
    fn take(&mut self, now: Duration) -> bool {
        let Some((_, pause)) = self.next.filter(|(due, _)| *due <= now) else { return false };
        let pause = pause * 2;
        self.next = (pause <= Self::LAST).then(|| (now.saturating_add(pause), pause));
        true
    }
}

impl Departures {
    pub(crate) fn note(&self, peer: &str, now: Duration) {
        if let Some(on_leaving) = self.on_leaving.get()
            && on_leaving.leaves(PeerId::new(peer))
        {
            self.looks().begin(now);
        }
    }

    /// The time of the next look for released memory.
    pub(crate) fn due(&self) -> Option<Duration> {
        self.looks().next.map(|(due, _)| due)
    }

    /// Looks for released memory, if that is due.
    pub(crate) fn look(&self, now: Duration) {
        let is_due = self.looks().take(now);
        if is_due && let Some(on_leaving) = self.on_leaving.get() {
            on_leaving.look();
        }
    }

    fn looks(&self) -> MutexGuard<'_, LooksAfter> {
        lock(&self.looks)
    }
}

impl fmt::Debug for Departures {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Departures").finish_non_exhaustive()
    }
}

impl Driver {
    /// Sets the clean-up after peers that announce their end. Only the first call counts.
    pub fn set_on_leaving(&self, on_leaving: impl OnLeaving) {
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_is_looked_for_until_long_after_an_announced_end() {
        let (mut looks, mut now, mut taken) = (LooksAfter::default(), Duration::ZERO, Vec::new());
        assert!(!looks.take(now));
        looks.begin(now);
        while let Some((due, _)) = looks.next {
            assert!(!looks.take(due - Duration::from_nanos(1)));
            now = due;
            assert!(looks.take(now));
            taken.push(now);
        }
        let within_a_second = taken.iter().filter(|at| **at <= Duration::from_secs(1)).count();
        assert_eq!((within_a_second, taken.len()), (4, 11));
        assert!(now > LooksAfter::LAST);
        looks.begin(now);
        assert!(looks.take(now + LooksAfter::FIRST), "another end, another look");
    }
}
