//! Errors of block copies.

use std::borrow::Cow;

use nixl_descriptor::LeaseError;
use nixl_descriptor::layout::ChunkPairError;
use nixl_device::SharedError;
use nixl_ops::{Advice, OperationError};
use thiserror::Error;

use crate::local::{MemoryKind, Strategy};

/// A GPU refused or failed.
#[derive(Clone, Debug, Eq, Error, PartialEq)]
#[non_exhaustive]
pub enum GpuError {
    /// There is no such GPU.
    #[error("there is no cuda:{ordinal}: {reason}")]
    NoDevice {
        /// Its ordinal.
        ordinal: u32,
        /// Message of the driver or the system.
        #[source]
        reason: SharedError,
    },
    /// A pool's bound is reached, or memory ran out.
    #[error("out of {what} memory: {reason}")]
    OutOfMemory {
        /// The memory.
        what: &'static str,
        /// The exhausted resource.
        #[source]
        reason: SharedError,
    },
    /// A call is missing or rejects this.
    #[error("the CUDA driver does not support this: {reason}")]
    Unsupported {
        /// The missing part.
        #[source]
        reason: SharedError,
    },
    /// The caller's stream captures a CUDA graph, so it has no work to wait for. The capture goes on.
    #[error("{reason}")]
    StreamCapturing {
        /// The stream, and the remedy.
        #[source]
        reason: SharedError,
    },
    /// A number by which DLPack names no stream.
    #[error(
        "{stream} is no stream of a DLPack exchange: 1 is the default stream, 2 that of the thread, a larger number a CUstream, \
         and -1 stands for no order"
    )]
    ExchangeStream {
        /// The number.
        stream: i64,
    },
    /// The driver failed. A sticky failure ends every further use of that GPU in this process.
    #[error("{reason}")]
    Driver {
        /// Call, code and name.
        #[source]
        reason: SharedError,
        /// Whether no call on this GPU can succeed any more in this process.
        sticky: bool,
    },
}

/// A block transfer could not begin.
#[derive(Clone, Debug, Error, PartialEq)]
#[non_exhaustive]
pub enum BlockError {
    /// The two sides do not match.
    #[error(transparent)]
    Pairing(#[from] ChunkPairError),
    /// Another operation uses the memory.
    #[error(transparent)]
    Lease(#[from] LeaseError),
    /// No strategy can copy it.
    #[error("nothing can copy from {src} to {dst}: {}", reasons(rejected))]
    NoStrategy {
        /// Memory of the source.
        src: MemoryKind,
        /// Memory of the destination.
        dst: MemoryKind,
        /// The reason against each strategy.
        rejected: Vec<(Strategy, Cow<'static, str>)>,
    },
    /// A GPU refused.
    #[error(transparent)]
    Gpu(#[from] GpuError),
    /// The operation could not be started.
    #[error(transparent)]
    Operation(#[from] OperationError),
    /// The operating system refused a thread.
    #[error(
        "cannot start a thread of the executor: {error}; check the limits on processes and memory"
    )]
    Thread {
        /// The error of the operating system.
        #[source]
        error: SharedError,
    },
}

impl BlockError {
    /// The remedy, found at any depth of the chain of sources.
    #[must_use]
    pub fn advice(&self) -> Advice {
        match self {
            Self::Lease(error) => error.advice(),
            Self::Operation(error) => error.advice(),
            Self::Gpu(error) => error.advice(),
            Self::Thread { .. } => Advice::Retry,
            Self::Pairing(error) => error.advice(),
            Self::NoStrategy { .. } => Advice::GiveUp,
        }
    }
}

impl GpuError {
    /// The remedy. A capturing stream is refused until its capture ends, which no wait here brings about: make the point on
    /// another stream.
    #[must_use]
    pub fn advice(&self) -> Advice {
        match self {
            Self::OutOfMemory { .. } => Advice::Retry,
            Self::NoDevice { .. }
            | Self::Unsupported { .. }
            | Self::StreamCapturing { .. }
            | Self::ExchangeStream { .. }
            | Self::Driver { .. } => Advice::GiveUp,
        }
    }
}

fn reasons(rejected: &[(Strategy, Cow<'static, str>)]) -> String {
    rejected.iter().map(|(s, why)| format!("{s}: {why}")).collect::<Vec<_>>().join("; ")
}

#[cfg(test)]
mod tests {
    use Advice::{AskAgain, GiveUp, Retry};
    use nixl_ops::TransportError;

    use super::*;

    #[test]
    fn every_error_is_decided() {
        let reason = || SharedError::text("");
        let gpu = [
            (GpuError::OutOfMemory { what: "pinned", reason: reason() }, Retry),
            (GpuError::NoDevice { ordinal: 0, reason: reason() }, GiveUp),
            (GpuError::Unsupported { reason: reason() }, GiveUp),
            (GpuError::StreamCapturing { reason: reason() }, GiveUp),
            (GpuError::ExchangeStream { stream: 0 }, GiveUp),
            (GpuError::Driver { reason: reason(), sticky: false }, GiveUp),
        ];
        for (error, advice) in gpu {
            assert_eq!(error.advice(), advice, "{error:?}");
            assert_eq!(BlockError::Gpu(error).advice(), advice);
        }
        let (src, dst) = (MemoryKind::Pageable, MemoryKind::Pageable);
        for (error, advice) in [
            (BlockError::Pairing(ChunkPairError::Count { src: 1, dst: 2 }), GiveUp),
            (BlockError::Lease(LeaseError::InUse), Retry),
            (BlockError::Lease(LeaseError::Empty), GiveUp),
            (BlockError::NoStrategy { src, dst, rejected: vec![] }, GiveUp),
            (BlockError::Operation(OperationError::QueueFull { limit: 1 }), Retry),
            (BlockError::Operation(TransportError::Stale.into()), AskAgain),
            (BlockError::Thread { error: std::io::Error::other("").into() }, Retry),
        ] {
            assert_eq!(error.advice(), advice, "{error:?}");
        }
    }
}
