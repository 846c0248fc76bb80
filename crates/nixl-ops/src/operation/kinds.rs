//! The five types of operation, over what active and passive ones are made of.

use std::fmt;
use std::sync::Arc;

use nixl_descriptor::{DescriptorList, LeaseSet};
use nixl_device::LeakInChild;
use nixl_metadata::RdmaMetadata;

use super::CancelHandle;
use super::active::Active;
use super::outcomes::{CancelOutcome, MemoryFate, Reclaimed, RevokeOutcome, Settled};
use super::passive::Passive;
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
        /// In a process that was forked from the one that began it, it has ended with
        /// [`TransportError::Forked`](crate::TransportError::Forked), and nothing that is done with it there reaches the parent's.
        pub struct $name(pub(super) LeakInChild<$inner>);

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

    /// For an execution that waits for others: however many operations there are.
    pub(crate) fn beyond_limit(
        driver: &Arc<Driver>,
        execution: Box<dyn Execution>,
        options: OperationOptions,
    ) -> Result<Self, OperationError> {
        Ok(Self(LeakInChild::new(Active::beyond_limit(driver, execution, options)?)))
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
