//! The handle to a driver.

use std::fmt;
use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::Waker;

use nixl_device::LeakInChild;

use super::reactor::Reactor;
use super::shared::Shared;
use crate::control::Owner;
use crate::passive::QuietProof;
use crate::sync::named_thread;
use crate::{
    BlockingThread, Clock, ConnectionExecutor, DriverConfig, DriverStats, Mailboxes, PeerId,
    RemoteSlots, Transport, TransportError,
};

/// Handle to the driver of one connection. When the last clone of its owner drops it, the driver completes the operations in
/// flight and then ends.
pub struct Driver {
    shared: LeakInChild<Arc<Shared>>,
}

impl Driver {
    pub(super) const THREAD: &str = "nixl-driver";

    /// Starts a driver on a thread of its own.
    ///
    /// # Errors
    ///
    /// If the operating system refuses the thread.
    pub fn spawn(
        transport: Arc<dyn Transport>,
        clock: Arc<dyn Clock>,
        config: DriverConfig,
    ) -> io::Result<Self> {
        Self::start(Some(transport), clock, config)
    }

    /// Starts a driver for copies inside this process, which need no transport.
    ///
    /// # Errors
    ///
    /// If the operating system refuses the thread.
    pub fn spawn_local(clock: Arc<dyn Clock>, config: DriverConfig) -> io::Result<Self> {
        Self::start(None, clock, config)
    }

    fn start(
        transport: Option<Arc<dyn Transport>>,
        clock: Arc<dyn Clock>,
        config: DriverConfig,
    ) -> io::Result<Self> {
        let (driver, mut reactor) = Self::assemble(transport, clock, config);
        let run = move || {
            nixl_descriptor::defer_disposal_on_this_thread();
            reactor.run();
        };
        let handle = named_thread(Self::THREAD).spawn(run)?;
        // Set before any operation can begin, since `driver` has not been handed out.
        driver.shared.parking.set_thread(handle.thread().clone());
        Ok(driver)
    }

    /// A driver without a thread, run by calls of its [`Reactor`]: for simulation.
    pub fn manual(
        transport: Arc<dyn Transport>,
        clock: Arc<dyn Clock>,
        config: DriverConfig,
    ) -> (Self, Reactor) {
        Self::assemble(Some(transport), clock, config)
    }

    pub(super) fn assemble(
        transport: Option<Arc<dyn Transport>>,
        clock: Arc<dyn Clock>,
        config: DriverConfig,
    ) -> (Self, Reactor) {
        let shared = Shared::new(transport, clock, config);
        let reactor = Reactor::new(Arc::clone(&shared));
        (Self { shared: LeakInChild::new(shared) }, reactor)
    }

    /// Checks that this process is the one that made the driver, and no forked child of it.
    ///
    /// # Errors
    ///
    /// [`TransportError::Forked`].
    pub fn check_process(&self) -> Result<(), TransportError> {
        match self.shared.is_inherited() {
            true => Err(TransportError::Forked),
            false => Ok(()),
        }
    }

    /// The current counts. All zero in a forked child.
    pub fn stats(&self) -> DriverStats {
        if self.check_process().is_err() {
            return DriverStats::default();
        }
        let passive = self.shared.passive.stats();
        DriverStats {
            active: self.shared.active.load(Ordering::Acquire),
            overdue: self.shared.overdue(),
            passive: self.shared.passive.len(),
            quarantined: passive.quarantined,
            quarantined_without_terms: passive.quarantined_without_terms,
            retained: passive.retained,
            second_completions: passive.second_completions,
            unexpected_notifications: self.shared.unexpected.notifications(),
            unexpected_bytes: self.shared.unexpected.bytes(),
            unreadable_notifications: self.shared.unexpected.unreadable(),
        }
    }

    /// Wakes the driver's thread for a poll. For executions that learn of their end elsewhere, such as in a callback.
    pub fn waker(&self) -> Waker {
        self.shared.waker.clone()
    }

    /// Sets the receiver of messages that end no passive operation. Only the first call counts.
    pub fn set_executor(&self, executor: Arc<dyn ConnectionExecutor>) {
        let _ = self.shared.executor.set(executor);
    }

    /// Sets the mailboxes of peers, whose pages are among `slots`, and this driver's own. Only the first call counts.
    pub fn mailboxes(&self, slots: &Arc<RemoteSlots>) -> Arc<Mailboxes> {
        let make = || Arc::new(Mailboxes::new(Arc::clone(slots), self.shared.passive.page.clone()));
        Arc::clone(self.shared.mailboxes.get_or_init(make))
    }

    /// Sets the proof that a peer no longer accesses the memory of an offer, and the thread `background` for it and for answers
    /// to claims. Only the first call counts; without it nothing is proven. Claimants are introduced to [mailboxes](Self::mailboxes) that
    /// were set before.
    pub fn set_proofs(&self, quiet: Arc<dyn QuietProof>, background: Arc<dyn BlockingThread>) {
        if let Some(transport) = &self.shared.transport {
            let mailboxes = self.shared.mailboxes.get().cloned();
            let owner = Owner::new(Arc::clone(transport), Arc::clone(&background), mailboxes);
            let _ = self.shared.owner.set(owner);
        }
        self.shared.passive.set_proofs(quiet, background);
    }

    /// Forgets an agent whose process has ended, `pid` in this PID namespace or `None` in another: the page for its answers, that it
    /// was sent claims, and its lanes of this side's mailbox. What it was promised about offers stays.
    pub fn peer_ended(&self, peer: &PeerId, pid: Option<u32>) {
        if let Some(mailboxes) = self.shared.mailboxes.get() {
            mailboxes.forget(peer.as_str());
        }
        self.shared.claims.forget(peer);
        match pid {
            Some(pid) => self.shared.passive.page.free_lanes_of(pid),
            None => self.shared.passive.page.free_lanes_of_ended_foreign(),
        }
    }

    pub(crate) fn shared(&self) -> &Arc<Shared> {
        &self.shared
    }
}

impl Drop for Driver {
    fn drop(&mut self) {
        if self.check_process().is_err() {
            return;
        }
        self.shared.closing.store(true, Ordering::SeqCst);
        self.shared.wake(true);
    }
}

impl fmt::Debug for Driver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Driver")
            .field("transport", &self.shared.transport)
            .field("stats", &self.stats())
            .finish_non_exhaustive()
    }
}
