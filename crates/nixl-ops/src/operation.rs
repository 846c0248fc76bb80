//! The four kinds of operation: readable, writable, read and write.

mod future;
mod handle;

pub use future::OperationFuture;
pub use handle::CancelHandle;

use std::fmt;
use std::future::poll_fn;
use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use nixl_descriptor::{DescriptorList, LeaseSet};
use nixl_device::LeakInChild;
use nixl_metadata::RdmaMetadata;

use crate::blocking::block_on;
use crate::completion::Memory;
use crate::fair;
use crate::leasing::Leasing;
use crate::outcome::{Completion, Outcome};
use crate::passive::{OfferSpec, PassiveEntry, Release};
use crate::posts::PostedBy;
use crate::spin::SpinWindow;
use crate::task::{SlotState, TaskSlot};
use crate::{
    ConnectionExecutor, Driver, Execution, Offer, OperationError, OperationOptions, OperationStatus,
};

/// What a request to cancel came to.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[non_exhaustive]
pub enum CancelOutcome {
    /// The operation is cancelled. Its memory comes back when the engine and the peer are quiet.
    Cancelled,
    /// It had ended before, in this state.
    AlreadyEnded(OperationStatus),
}

/// What revoking an offer came to.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[non_exhaustive]
pub enum RevokeOutcome {
    /// No initiator can use it any more, and the memory is the owner's: it may be read and overwritten. That of a readable
    /// offer stays allocated until its life time is over, since a read may be under way.
    Free,
    /// An initiator may be writing. The memory comes back by its word, or when it is proven to be quiet.
    Held,
    /// It had ended before, in this state.
    AlreadyEnded(OperationStatus),
}

/// What the active operations are made of. A fork's child neither uses nor drops it.
struct Active<M> {
    slot: Arc<TaskSlot>,
    driver: Arc<Driver>,
    /// What is given back at the end.
    memory: M,
    bytes: u64,
    /// The first poll of a wait looks closely for a moment; later ones sleep.
    spun: bool,
    /// How long, if the caller said so.
    spin: Option<Duration>,
    /// The look that is under way; the wait yields between its parts.
    look: Option<SpinWindow>,
}

impl<M> Active<M> {
    /// Bound on the polls of one close look during which the clock stands still, as those of simulations do.
    const STILL_POLLS: usize = 512;
    /// How long a thread that blocks anyway looks first.
    const BLOCKING_SPIN: Duration = Duration::from_millis(1);

    fn status(&self) -> OperationStatus {
        self.slot.cell.status()
    }

    async fn wait(&mut self) -> Outcome {
        poll_fn(|cx| self.poll_wait(cx)).await
    }

    fn poll_wait(&mut self, cx: &mut Context<'_>) -> Poll<Outcome> {
        let polled = self.poll_once(cx);
        if polled.is_pending() {
            fair::waited(self.driver.shared().clock.now());
        }
        polled
    }

    fn poll_once(&mut self, cx: &mut Context<'_>) -> Poll<Outcome> {
        if let Err(forked) = self.driver.check_process() {
            return Poll::Ready(Err(forked.into()));
        }
        if !self.spun {
            self.spun = true;
            // What has ended where it was begun needs no look at the clock.
            if self.status().is_terminal() {
                return self.slot.cell.poll_outcome(cx.waker());
            }
            self.look = self.first_look();
            if self.look.is_none() {
                self.driver.shared().kick();
            }
        } else {
            fair::waited(self.driver.shared().clock.now());
        }
        loop {
            if let Some(look) = self.look.take()
                && let Some(look) = self.look_on(look)
            {
                // The rest of it after the neighbours' turn.
                self.look = Some(look);
                cx.waker().wake_by_ref();
                return Poll::Pending;
            }
            let polled = self.slot.cell.poll_outcome(cx.waker());
            if polled.is_ready() {
                return polled;
            }
            // Checked only once the waker is in its place: a later note wakes it.
            let Some(until) = self.slot.cell.take_near() else { return Poll::Pending };
            self.slot.watch(until);
            self.look = Some(SpinWindow::until(until));
        }
    }

    /// `None` if the end is not near: such a look would only cost later ones their time.
    fn first_look(&self) -> Option<SpinWindow> {
        let shared = self.driver.shared();
        let now = shared.clock.now();
        if let Some(spin) = self.spin {
            let until = now.saturating_add(spin);
            self.slot.watch(until);
            return Some(SpinWindow::asked_for(until));
        }
        let until = now.saturating_add(shared.spin_time(self.bytes));
        if self.slot.is_far(until) {
            return None;
        }
        // What is to end soon after is not worth sleeping for.
        let until = self.slot.expected_soon(until).unwrap_or(until);
        self.slot.watch(until);
        Some(SpinWindow::until(until))
    }

    /// Looks closely for as long as one poll may, while the driver leaves the engine alone. Returns the rest of the look, if
    /// any.
    fn look_on(&self, mut look: SpinWindow) -> Option<SpinWindow> {
        let clock = &self.driver.shared().clock;
        let begun = clock.now();
        if let Some(until) = look.next(begun) {
            let (ended, moves) = self.spin(until);
            let now = clock.now();
            if ended {
                look.hit(now);
                self.slot.unwatch();
                return None;
            }
            look.missed(begun, now);
            if moves && look.next(now).is_some() {
                return Some(look);
            }
        }
        self.slot.unwatch();
        // What ended meanwhile may have called a driver that looked away: one look more. From here on the driver is waited
        // for, which may be asleep over something older.
        if !self.poll() {
            self.driver.shared().kick();
        }
        None
    }

    /// Whether the operation has ended by then, and whether the clock moves.
    fn spin(&self, until: Duration) -> (bool, bool) {
        let clock = &self.driver.shared().clock;
        let (mut last, mut still) = (clock.now(), 0);
        while last < until && still < Self::STILL_POLLS {
            if self.poll() {
                return (true, true);
            }
            std::hint::spin_loop();
            let now = clock.now();
            still = if now == last { still + 1 } else { 0 };
            last = now;
        }
        (false, still < Self::STILL_POLLS)
    }

    fn wait_blocking(&mut self) -> Outcome {
        if !self.spun {
            self.spin = self.spin.or(Some(Self::BLOCKING_SPIN));
        }
        block_on(self.wait())
    }

    /// Returns whether the operation has ended.
    fn poll(&self) -> bool {
        matches!(self.driver.shared().poll(&self.slot), SlotState::Ended | SlotState::Gone)
    }

    fn cancel(&self) -> CancelOutcome {
        cancel(&self.slot, Some(&self.driver))
    }

    /// Waits for the end, and for the memory after it.
    async fn settle(&mut self) -> (Outcome, Memory) {
        let outcome = self.wait().await;
        let memory = poll_fn(|cx| match self.driver.check_process() {
            Ok(()) => self.slot.cell.poll_memory(cx.waker()),
            Err(_) => Poll::Ready(Memory::Leaked),
        });
        (outcome, memory.await)
    }
}

impl ReadOperation {
    /// As [`begin`](Self::begin), for an execution that was polled before and is not ready: it is not refused for the number of
    /// operations in flight.
    ///
    /// # Errors
    ///
    /// [`TransportError::ThreadEnded`](crate::TransportError::ThreadEnded), [`TransportError::Forked`](crate::TransportError::Forked).
    pub fn resume(
        driver: &Arc<Driver>,
        execution: Box<dyn Execution>,
        local: DescriptorList,
        options: OperationOptions,
    ) -> Result<Self, OperationError> {
        let (bytes, spin) = (local.total_bytes(), options.spin_time());
        let slot = driver.resume(execution, bytes, options)?;
        let (driver, memory) = (Arc::clone(driver), local);
        let active = Active { slot, driver, memory, bytes, spun: false, spin, look: None };
        Ok(Self(LeakInChild::new(active)))
    }
}

impl Active<DescriptorList> {
    async fn reclaim(&mut self) -> Reclaimed {
        let (outcome, memory) = self.settle().await;
        Reclaimed::new(outcome, memory, &self.memory)
    }
}

/// Cancels what is in `slot` unless it has ended. Its driver is there for as long as it has not.
fn cancel(slot: &Arc<TaskSlot>, driver: Option<&Driver>) -> CancelOutcome {
    let cancelled = Err(OperationError::Cancelled);
    if !slot.cell.finish(OperationStatus::Cancelled, cancelled) {
        return CancelOutcome::AlreadyEnded(slot.cell.status());
    }
    if let Some(driver) = driver {
        // What was not posted yet is released here; the rest is the driver's.
        driver.shared().poll(slot);
        driver.shared().wake(true);
    }
    CancelOutcome::Cancelled
}

impl<M> Drop for Active<M> {
    fn drop(&mut self) {
        self.cancel();
    }
}

/// What both passive operations are made of. A fork's child neither uses nor drops it.
struct Passive {
    entry: Arc<PassiveEntry>,
    driver: Arc<Driver>,
    executor: Arc<dyn ConnectionExecutor>,
    metadata: RdmaMetadata,
    /// What is given back at the end.
    memory: Arc<DescriptorList>,
}

impl Passive {
    fn metadata(&self) -> &RdmaMetadata {
        // In a fork's child the offer is the parent's.
        if self.driver.check_process().is_ok() {
            self.entry.set_exported();
        }
        &self.metadata
    }

    fn status(&self) -> OperationStatus {
        self.entry.cell.status()
    }

    async fn wait(&self) -> Outcome {
        poll_fn(|cx| self.poll_wait(cx)).await
    }

    fn poll_wait(&self, cx: &mut Context<'_>) -> Poll<Outcome> {
        match self.driver.check_process() {
            Ok(()) => self.entry.cell.poll_outcome(cx.waker()),
            Err(forked) => Poll::Ready(Err(forked.into())),
        }
    }

    /// As `wait`. The thread sleeps where a peer of this host wakes it, if the offer has a slot.
    fn wait_blocking(&self) -> Outcome {
        if !self.entry.has_slot() {
            return block_on(self.wait());
        }
        let look = &mut || Arc::clone(&self.entry).look_at_slot();
        self.driver.shared().block_on_bell(pin!(self.wait()), look)
    }

    fn cancel(&self) -> CancelOutcome {
        match self.abandon() {
            Release::AlreadyEnded => CancelOutcome::AlreadyEnded(self.status()),
            Release::Free | Release::Held => CancelOutcome::Cancelled,
        }
    }

    fn revoke(&self) -> RevokeOutcome {
        match self.abandon() {
            Release::AlreadyEnded => RevokeOutcome::AlreadyEnded(self.status()),
            Release::Free => RevokeOutcome::Free,
            Release::Held => RevokeOutcome::Held,
        }
    }

    fn abandon(&self) -> Release {
        let release = self.entry.abandon(OperationError::Cancelled);
        if release != Release::AlreadyEnded {
            self.driver.shared().wake(true);
        }
        release
    }

    async fn reclaim(&mut self) -> Reclaimed {
        let outcome = self.wait().await;
        let memory = poll_fn(|cx| match self.driver.check_process() {
            Ok(()) => self.entry.cell.poll_memory(cx.waker()),
            Err(_) => Poll::Ready(Memory::Leaked),
        });
        Reclaimed::new(outcome, memory.await, &self.memory)
    }
}

impl Drop for Passive {
    fn drop(&mut self) {
        if let Some(offers) = self.executor.offers() {
            offers.offer_ended(self.entry.key());
        }
        self.cancel();
    }
}

/// An operation's outcome together with its memory.
#[derive(Debug)]
#[non_exhaustive]
pub struct Reclaimed {
    /// How the operation ended.
    pub outcome: Result<Completion, OperationError>,
    /// The memory; `None` if the engine or the peer did not become quiet in time: then the lease of an active operation's memory
    /// ends when its engine is quiet, and the memory of a passive one comes back with a late proof.
    pub memory: Option<DescriptorList>,
}

impl Reclaimed {
    fn new(outcome: Outcome, memory: Memory, list: &DescriptorList) -> Self {
        let memory = (memory == Memory::Quiet).then(|| list.clone());
        Self { outcome, memory }
    }
}

/// What became of the memory of an operation that has ended.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[non_exhaustive]
pub enum MemoryFate {
    /// The engine is done with it, and it is leased no longer.
    Released,
    /// The engine did not become quiet within the drain time: it stays leased until it does, or for good if the connection
    /// ends before.
    Leaked,
}

/// An operation's outcome together with what became of its memory.
#[derive(Debug)]
#[non_exhaustive]
pub struct Settled {
    /// How the operation ended.
    pub outcome: Result<Completion, OperationError>,
    /// Where that leaves the memory.
    pub memory: MemoryFate,
}

macro_rules! operation {
    (
        $(#[$doc:meta])*
        $name:ident($inner:ty)
    ) => {
        $(#[$doc])*
        ///
        /// In a process that was forked from the one that began it, it has ended with
        /// [`TransportError::Forked`](crate::TransportError::Forked), and nothing that is done with it there reaches the parent's.
        pub struct $name(LeakInChild<$inner>);

        impl $name {
            /// Where the operation is in its life.
            pub fn status(&self) -> OperationStatus {
                match self.0.is_inherited() {
                    true => OperationStatus::Errored,
                    false => self.0.status(),
                }
            }

            /// Waits for the operation to end. Once it has, every further call gives the same answer.
            ///
            /// Cancel safe: dropping the future loses nothing, and it can be called again.
            ///
            /// # Errors
            ///
            /// [`OperationError`]: cancelled, timed out, or failed by the engine.
            pub async fn wait_for_completion(&mut self) -> Result<Completion, OperationError> {
                self.0.wait().await
            }

            /// Cancels the operation unless it has ended. Waiters wake at once; the memory stays with the
            /// library until engine and peer are quiet.
            pub fn cancel(&mut self) -> CancelOutcome {
                match self.0.is_inherited() {
                    true => CancelOutcome::AlreadyEnded(OperationStatus::Errored),
                    false => self.0.cancel(),
                }
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.debug_struct(stringify!($name)).field("status", &self.status()).finish_non_exhaustive()
            }
        }
    };
}

operation! {
    /// Reads a peer's memory into local memory. It goes on whether it is awaited or not. Dropping it cancels it.
    ReadOperation(Active<DescriptorList>)
}

operation! {
    /// Writes local memory into a peer's. It goes on whether it is awaited or not. Dropping it cancels it.
    WriteOperation(Active<DescriptorList>)
}

operation! {
    /// Copies between memories of this process. Dropping it cancels it.
    CopyOperation(Active<()>)
}

operation! {
    /// Local memory that peers may read. Completes when they have. Dropping it cancels it.
    ///
    /// Once it is cancelled or has timed out, the memory can be overwritten at once: an initiator that is mapped to its
    /// slot finds out that it read too late. The memory stays allocated until the offer's life time is over, if its
    /// [`metadata`](Self::metadata) was ever asked for.
    ReadableOperation(Passive)
}

operation! {
    /// Local memory that one peer may write. Completes when the peer has. Dropping it cancels it.
    ///
    /// Once it is cancelled or has timed out, the memory is free at once if no initiator has claimed the offer and all had to
    /// ([`OperationOptions::claims`]), or if its [`metadata`](Self::metadata) was never asked for. Otherwise it stays in
    /// quarantine until the initiators that may be writing have said that they are not, or are proven quiet.
    WritableOperation(Passive)
}

macro_rules! wait_blocking {
    ($($name:ident),*) => {$(
        impl $name {
            /// As [`wait_for_completion`](Self::wait_for_completion), blocking this thread: for threads outside of async
            /// runtimes. It looks for the end without sleeping for as long as [`OperationOptions::spin`] says, by default 1 ms.
            ///
            /// # Errors
            ///
            /// As there.
            pub fn wait_blocking(&mut self) -> Result<Completion, OperationError> {
                self.0.wait_blocking()
            }
        }
    )*};
}

wait_blocking!(ReadOperation, WriteOperation, CopyOperation);

macro_rules! cancel_handle {
    ($($name:ident),*) => {$(
        impl $name {
            /// A handle that cancels this operation from elsewhere: another task, a signal handler's thread.
            pub fn cancel_handle(&self) -> CancelHandle {
                CancelHandle::new(&self.0.slot, &self.0.driver)
            }
        }
    )*};
}

cancel_handle!(ReadOperation, WriteOperation, CopyOperation);

macro_rules! reclaim {
    ($($name:ident),*) => {$(
        impl $name {
            /// Waits for the operation to end and for its memory to be quiet, and gives the memory back.
            ///
            /// After an error or a cancellation this takes as long as the engine needs, at most the drain
            /// time of the connection. Dropping the future cancels the operation.
            pub async fn reclaim(mut self) -> Reclaimed {
                self.0.reclaim().await
            }
        }
    )*};
}

reclaim!(ReadOperation, WriteOperation, ReadableOperation, WritableOperation);

impl CopyOperation {
    /// Waits for the operation to end and for its memory to be quiet, and says whether it is.
    ///
    /// After an error or a cancellation this takes as long as the engine needs, at most the drain time of the
    /// executor. Dropping the future cancels the operation.
    pub async fn settle(mut self) -> Settled {
        let (outcome, memory) = self.0.settle().await;
        let memory = match memory {
            Memory::Quiet => MemoryFate::Released,
            Memory::Engaged | Memory::Leaked => MemoryFate::Leaked,
        };
        Settled { outcome, memory }
    }

    /// Begins `execution`, which copies `bytes` bytes and may touch what `leases` cover until it has ended. For
    /// executors; applications call theirs.
    ///
    /// # Errors
    ///
    /// [`OperationError::QueueFull`].
    pub fn begin(
        driver: &Arc<Driver>,
        execution: Box<dyn Execution>,
        bytes: u64,
        leases: Vec<LeaseSet>,
        options: OperationOptions,
    ) -> Result<Self, OperationError> {
        let execution = Leasing::over(execution, leases);
        // Its list was walked to make the execution.
        let active = Active::begin(driver, execution, (bytes, 0), (), options)?;
        Ok(Self(LeakInChild::new(active)))
    }

    /// For an execution that waits for others: however many operations there are.
    pub(crate) fn beyond_limit(
        driver: &Arc<Driver>,
        execution: Box<dyn Execution>,
        options: OperationOptions,
    ) -> Result<Self, OperationError> {
        let spin = options.spin_time();
        let slot = driver.resume(execution, 0, options)?;
        let driver = Arc::clone(driver);
        let active = Active { slot, driver, memory: (), bytes: 0, spun: false, spin, look: None };
        Ok(Self(LeakInChild::new(active)))
    }
}

impl<M> Active<M> {
    /// Engines walk the list when an operation is posted: one of more descriptors is posted by the driver.
    const POSTED_HERE: usize = 64;

    fn begin(
        driver: &Arc<Driver>,
        execution: Box<dyn Execution>,
        (bytes, descriptors): (u64, usize),
        memory: M,
        options: OperationOptions,
    ) -> Result<Self, OperationError> {
        let is_short = descriptors <= Self::POSTED_HERE;
        let posted_by = match is_short {
            true => driver.shared().posted_by(bytes, &*execution),
            false => PostedBy::Driver,
        };
        let spin = options.spin_time();
        let slot = driver.begin(execution, bytes, posted_by, options)?;
        // What the driver posts must not be posted by a waiter that polls first.
        let spun = posted_by == PostedBy::Driver;
        Ok(Self { slot, driver: Arc::clone(driver), memory, bytes, spun, spin, look: None })
    }
}

macro_rules! active {
    ($name:ident) => {
        impl $name {
            /// Begins `execution`, which moves `local` and owns the proof that it is leased. For connectors and executors;
            /// applications call theirs.
            ///
            /// # Errors
            ///
            /// [`OperationError::QueueFull`].
            pub fn begin(
                driver: &Arc<Driver>,
                execution: Box<dyn Execution>,
                local: DescriptorList,
                options: OperationOptions,
            ) -> Result<Self, OperationError> {
                let size = (local.total_bytes(), local.len());
                let active = Active::begin(driver, execution, size, local, options)?;
                Ok(Self(LeakInChild::new(active)))
            }
        }
    };
}

active!(ReadOperation);
active!(WriteOperation);

macro_rules! passive {
    ($name:ident) => {
        impl $name {
            /// Makes the memory of `spec` available. For connectors; applications call
            /// `Connector::create_readable` and `create_writable`.
            ///
            /// # Errors
            ///
            /// [`OperationError::QueueFull`].
            pub fn offer(
                driver: &Arc<Driver>,
                executor: &Arc<dyn ConnectionExecutor>,
                spec: OfferSpec,
                options: OperationOptions,
            ) -> Result<Self, OperationError> {
                let (metadata, memory) = (spec.metadata.clone(), Arc::clone(&spec.descriptors));
                let refused = |_: &_| {
                    if let Some(offers) = executor.offers() {
                        offers.offer_ended(metadata.notification_key());
                    }
                };
                let entry = driver.offer(spec, options).inspect_err(refused)?;
                if let Some(offers) = executor.offers() {
                    offers.offer_created(Offer::new(Arc::clone(&entry), Arc::clone(&memory)));
                }
                Ok(Self(LeakInChild::new(Passive {
                    entry,
                    driver: Arc::clone(driver),
                    executor: Arc::clone(executor),
                    metadata,
                    memory,
                })))
            }

            /// Ends the offer as [`cancel`](Self::cancel) does, and says where that leaves its memory. An initiator that comes
            /// later is refused, or finds that it came too late.
            pub fn revoke(&mut self) -> RevokeOutcome {
                match self.0.is_inherited() {
                    true => RevokeOutcome::AlreadyEnded(OperationStatus::Errored),
                    false => self.0.revoke(),
                }
            }

            /// Ends the offer and gives its memory back at once, on the caller's promise.
            ///
            /// # Safety
            ///
            /// No initiator accesses the memory any more, nor will: for instance, the only one that got the metadata has told the
            /// application that its operation has ended, or its process has ended and the engine's sockets to it have
            /// been read to their end.
            #[allow(unsafe_code, reason = "declares what the caller promises")]
            pub unsafe fn peer_is_done(&mut self) {
                if !self.0.is_inherited() {
                    self.0.entry.abandon_quiet();
                }
            }

            /// As [`wait_for_completion`](Self::wait_for_completion), blocking this thread: for threads outside of async
            /// runtimes. A peer of this host wakes the thread itself, without the driver's thread in between, if no other
            /// thread waits so on this connection.
            ///
            /// # Errors
            ///
            /// As there.
            pub fn wait_blocking(&mut self) -> Result<Completion, OperationError> {
                self.0.wait_blocking()
            }

            /// What the peer needs to reach the memory. It is a capability: its holder can access the memory, so send it
            /// over a channel that both sides trust.
            pub fn metadata(&self) -> &RdmaMetadata {
                self.0.metadata()
            }
        }
    };
}

passive!(ReadableOperation);
passive!(WritableOperation);
