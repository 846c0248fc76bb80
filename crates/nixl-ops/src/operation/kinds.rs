//! The five types of operation, over the active and the passive core.

use std::fmt;
use std::sync::Arc;

use nixl_descriptor::{DescriptorList, LeaseSet};
use nixl_device::LeakInChild;
use nixl_metadata::RdmaMetadata;

use super::active::Active;
use super::outcomes::{CancelOutcome, MemoryFate, Reclaimed, RevokeOutcome, Settled};
use super::passive::Passive;
use super::{CancelHandle, WritableEnder};
use crate::completion::Memory;
use crate::leasing::Leasing;
use crate::outcome::Completion;
use crate::passive::OfferSpec;
use crate::{
    ConnectionExecutor, Driver, Execution, OperationError, OperationOptions, OperationStatus,
};

macro_rules! operation {
    (
        $(#[$doc:meta])*
        $name:ident($inner:ty)
    ) => {
        $(#[$doc])*
        ///
        /// In a forked child, it has ended with [`TransportError::Forked`](crate::TransportError::Forked), and no use of it
        /// there affects the parent's.
        pub struct $name(pub(super) LeakInChild<$inner>);

        impl $name {
            /// The status of the operation.
            pub fn status(&self) -> OperationStatus {
                match self.0.is_inherited() {
                    true => OperationStatus::Errored,
                    false => self.0.status(),
                }
            }

            /// Waits for the operation to end. Every further call returns the same result.
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
    /// A read of a peer's memory into local memory. It progresses without being awaited. Dropping it cancels it.
    ReadOperation(Active<DescriptorList>)
}

operation! {
    /// A write of local memory into a peer's. It progresses without being awaited. Dropping it cancels it.
    WriteOperation(Active<DescriptorList>)
}

operation! {
    /// A copy between memories of this process. Dropping it cancels it.
    CopyOperation(Active<()>)
}

operation! {
    /// Local memory offered for reading. Completes after the peers' reads. Dropping it cancels it.
    ///
    /// After a cancellation or time-out, the memory can be overwritten at once: an initiator with the mapped slot detects a
    /// late read. The memory stays allocated until the end of the offer's life time, if its [`metadata`](Self::metadata) was
    /// ever requested.
    ReadableOperation(Passive)
}

operation! {
    /// Local memory offered for writing by one peer. Completes after the peer's write. Dropping it cancels it.
    ///
    /// After a cancellation or time-out, the memory is free at once if no initiator has claimed the offer and all had to
    /// ([`OperationOptions::claims`]), or if its [`metadata`](Self::metadata) was never requested. Otherwise it stays in
    /// quarantine until the initiators that may be writing report that they are not, or are proven quiet.
    WritableOperation(Passive)
}

macro_rules! wait_blocking {
    ($($name:ident),*) => {$(
        impl $name {
            /// As [`wait_for_completion`](Self::wait_for_completion), blocking this thread: for threads outside of async
            /// runtimes. It first spins for [`OperationOptions::spin`], by default 1 ms.
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
            /// A handle that cancels this operation from another task or thread, such as a signal handler's.
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
            /// Waits for the end of the operation and for quiet memory, and gives the memory back.
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
    /// Waits for the end of the operation and for quiet memory, and returns whether it is quiet.
    ///
    /// After an error or a cancellation this takes as long as the engine needs, at most the drain time of the
    /// executor. Dropping the future cancels the operation.
    pub async fn settle(mut self) -> Settled {
        let (outcome, memory) = self.0.settle().await;
        let memory = match memory {
            Memory::Quiet => MemoryFate::Released,
            Memory::Engaged | Memory::Leaked => MemoryFate::Leaked,
        };
        Settled::new(outcome, memory)
    }

    /// For an execution that waits for others, beyond the limit on operations.
    pub(crate) fn beyond_limit(
        driver: &Arc<Driver>,
        execution: Box<dyn Execution>,
        options: OperationOptions,
    ) -> Result<Self, OperationError> {
        Ok(Self(LeakInChild::new(Active::beyond_limit(driver, execution, options)?)))
    }

    /// Begins `execution`, which copies `bytes` bytes and may access the memory of `leases` until its end. For executors;
    /// applications call theirs.
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
        // Its list was processed to make the execution.
        let active = Active::begin(driver, execution, (bytes, 0), (), options)?;
        Ok(Self(LeakInChild::new(active)))
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
        let bytes = local.total_bytes();
        let active = Active::resume(driver, execution, bytes, local, options)?;
        Ok(Self(LeakInChild::new(active)))
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
                let offered = Passive::offer(driver, executor, spec, options)?;
                Ok(Self(LeakInChild::new(offered)))
            }

            /// Ends the offer like [`cancel`](Self::cancel), and returns the state of its memory. A later initiator is refused,
            /// or detects a late read.
            pub fn revoke(&mut self) -> RevokeOutcome {
                match self.0.is_inherited() {
                    true => RevokeOutcome::AlreadyEnded(OperationStatus::Errored),
                    false => self.0.revoke(),
                }
            }

            /// Ends the offer and gives its memory back at once, by the caller's guarantee.
            ///
            /// # Safety
            ///
            /// No initiator accesses the memory now or later: for example, the only holder of the metadata has reported the end
            /// of its operation to the application, or its process has ended and the engine's sockets to it have been read to
            /// their end.
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

            /// The metadata for the peer. It is a capability: its holder can access the memory, so send it over a channel that
            /// both sides trust.
            ///
            /// The offer may end before this is first called: by its deadline, or by a cancellation. Its memory is free then, so what
            /// is returned reaches none: its terms have expired, and its key is of no offer.
            pub fn metadata(&self) -> &RdmaMetadata {
                self.0.metadata()
            }
        }
    };
}

passive!(ReadableOperation);
passive!(WritableOperation);

impl WritableOperation {
    /// A handle that ends this offer from elsewhere. For connectors.
    pub fn ender(&self) -> WritableEnder {
        self.0.ender()
    }
}
