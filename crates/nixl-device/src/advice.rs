//! Advice on errors: retry, ask again or give up.

use crate::ParseDeviceError;

/// What to do about an error: its `advice` is a decision for programs; its message has the same for people, with the details.
///
/// For the side that offers memory, [`Retry`](Self::Retry) and [`AskAgain`](Self::AskAgain) come to the same: offer again.
/// The program ends its retries; leave some time between them.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
#[expect(clippy::exhaustive_enums, reason = "callers match all three")]
pub enum Advice {
    /// Make the same call again, later. It used nothing up: what stood in its way is in use, or has run out for now.
    Retry,
    /// Ask the peer for new metadata, and call again with that. What came is damaged or out of date, or the offer is used up,
    /// which it may also be after a failure half-way.
    AskAgain,
    /// Neither helps. The program, its settings or the peer have to change first; the message states which.
    GiveUp,
}

impl ParseDeviceError {
    /// The remedy: [`Advice::GiveUp`], since the text names no device.
    #[must_use]
    pub fn advice(&self) -> Advice {
        match self {
            Self::UnknownKind { .. } | Self::InvalidIndex { .. } | Self::HostIndex { .. } => {
                Advice::GiveUp
            }
        }
    }
}

#[cfg(feature = "host")]
mod host {
    use super::Advice;
    use crate::{ParsePciAddressError, ProcessError, SocketsError};

    impl ParsePciAddressError {
        /// The remedy: [`Advice::GiveUp`], since the text is no address.
        #[must_use]
        pub fn advice(&self) -> Advice {
            Advice::GiveUp
        }
    }

    impl ProcessError {
        /// The remedy: [`Advice::Retry`] where files or threads ran out, else [`Advice::GiveUp`].
        #[must_use]
        pub fn advice(&self) -> Advice {
            match self {
                Self::Refused { .. } => Advice::Retry,
                Self::NotThere { .. }
                | Self::NotAllowed { .. }
                | Self::IsThread { .. }
                | Self::Unsupported => Advice::GiveUp,
            }
        }
    }

    impl SocketsError {
        /// The remedy: [`Advice::GiveUp`], since rights or mounts are missing.
        #[must_use]
        pub fn advice(&self) -> Advice {
            match self {
                Self::Descriptors { .. } | Self::Table { .. } => Advice::GiveUp,
            }
        }
    }
}

#[cfg(feature = "cuda")]
mod cuda {
    use super::Advice;
    use crate::cuda::{
        CopyError, CudaError, CudaErrorClass, CudaUnavailable, DeviceError, ForeignStreamError,
        HostAccessError, MemoryError, ModuleError,
    };

    impl CudaUnavailable {
        /// The remedy: [`Advice::GiveUp`], since the driver, or the devices of this process, do not change while it runs.
        #[must_use]
        pub fn advice(&self) -> Advice {
            match self {
                Self::LibraryNotFound { .. }
                | Self::MissingSymbol { .. }
                | Self::Driver { .. }
                | Self::NoDevices
                | Self::Forked
                | Self::ForkedAmidWork => Advice::GiveUp,
            }
        }
    }

    impl CudaError {
        /// The remedy: [`Advice::Retry`] where memory has run out, or a capture of a CUDA graph has to end first.
        #[must_use]
        pub fn advice(&self) -> Advice {
            match self.class() {
                CudaErrorClass::OutOfMemory | CudaErrorClass::StreamCapture => Advice::Retry,
                CudaErrorClass::Sticky
                | CudaErrorClass::NotSupported
                | CudaErrorClass::InvalidDevice
                | CudaErrorClass::Other => Advice::GiveUp,
            }
        }
    }

    impl DeviceError {
        /// The remedy.
        #[must_use]
        pub fn advice(&self) -> Advice {
            match self {
                Self::Unavailable(error) => error.advice(),
                Self::NoSuchDevice { .. } => Advice::GiveUp,
                Self::Cuda(error) => error.advice(),
            }
        }
    }

    impl MemoryError {
        /// The remedy. A handle of another process that claims more than there is came damaged, or is out of date.
        #[must_use]
        pub fn advice(&self) -> Advice {
            match self {
                Self::OutOfDeviceMemory { .. }
                | Self::OutOfPinnedMemory { .. }
                | Self::PoolExhausted { .. } => Advice::Retry,
                Self::HandleTooLong { .. }
                | Self::NotMapped { .. }
                | Self::Piece { .. }
                | Self::PieceLength { .. } => Advice::AskAgain,
                Self::Empty | Self::TooLarge { .. } | Self::NotShareable | Self::OtherKind => {
                    Advice::GiveUp
                }
                Self::Cuda(error) => error.advice(),
            }
        }
    }

    impl ModuleError {
        /// The remedy.
        #[must_use]
        pub fn advice(&self) -> Advice {
            match self {
                Self::Rejected { error, .. } => error.advice(),
                Self::ZeroByte | Self::NoSuchFunction { .. } => Advice::GiveUp,
            }
        }
    }

    impl HostAccessError {
        /// The remedy.
        #[must_use]
        pub fn advice(&self) -> Advice {
            match self {
                Self::InUse => Advice::Retry,
                Self::OutOfBounds { .. } => Advice::GiveUp,
            }
        }
    }

    impl CopyError {
        /// The remedy.
        #[must_use]
        pub fn advice(&self) -> Advice {
            match self {
                Self::InUse => Advice::Retry,
                Self::OutOfBounds { .. } | Self::Overlap => Advice::GiveUp,
                Self::Cuda(error) => error.advice(),
            }
        }
    }

    impl ForeignStreamError {
        /// The remedy. The work of a capturing stream runs at the launch of its graph, so a later call on that stream does not
        /// help; the default stream can be used when the capture has ended.
        #[must_use]
        pub fn advice(&self) -> Advice {
            match self {
                Self::DefaultStream { .. } => Advice::Retry,
                Self::Capturing { .. } => Advice::GiveUp,
                Self::Cuda(error) => error.advice(),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;
    use std::fmt::Debug;
    use std::mem::discriminant;

    use Advice::GiveUp;

    use super::*;

    /// Checks a table that has each variant once.
    fn check<E: Debug>(table: &[(E, Advice)], advice: impl Fn(&E) -> Advice) {
        for (error, expected) in table {
            assert_eq!(advice(error), *expected, "{error:?}");
        }
        let variants: HashSet<_> = table.iter().map(|(error, _)| discriminant(error)).collect();
        assert_eq!(variants.len(), table.len(), "a variant is there twice");
    }

    #[test]
    fn every_error_of_a_text_is_decided() {
        use ParseDeviceError as E;
        let input = String::new;
        let table = [
            (E::UnknownKind { input: input() }, GiveUp),
            (E::InvalidIndex { input: input() }, GiveUp),
            (E::HostIndex { input: input() }, GiveUp),
        ];
        check(&table, E::advice);
    }

    #[cfg(feature = "host")]
    #[test]
    fn every_error_of_the_system_is_decided() {
        use std::io;

        use Advice::Retry;

        use crate::{PciAddress, ProcessError, SharedError, SocketsError};

        let pid = 1;
        let error = || SharedError::from(io::Error::from_raw_os_error(1));
        let table = [
            (ProcessError::NotThere { pid }, GiveUp),
            (ProcessError::NotAllowed { pid, error: error() }, GiveUp),
            (ProcessError::IsThread { pid }, GiveUp),
            (ProcessError::Unsupported, GiveUp),
            (ProcessError::Refused { pid, error: error() }, Retry),
        ];
        check(&table, ProcessError::advice);
        let table = [
            (SocketsError::Descriptors { pid, error: error() }, GiveUp),
            (SocketsError::Table { netlink: String::new(), proc: String::new() }, GiveUp),
        ];
        check(&table, SocketsError::advice);
        assert_eq!("0".parse::<PciAddress>().unwrap_err().advice(), GiveUp);
    }

    #[cfg(feature = "cuda")]
    #[test]
    fn every_error_of_cuda_is_decided() {
        use std::io;

        use Advice::{AskAgain, Retry};

        use crate::SharedError;
        use crate::cuda::{
            CopyError, CudaError, CudaUnavailable, DeviceError, ForeignStreamError,
            HostAccessError, MemoryError, ModuleError,
        };

        let cuda = |code| CudaError { code, name: None, call: "cuTest" };
        for (code, advice) in [(2, Retry), (906, Retry), (700, GiveUp), (801, GiveUp)] {
            let error = cuda(code);
            assert_eq!(error.advice(), advice, "{error}");
            assert_eq!(DeviceError::Cuda(error).advice(), advice, "{error}");
            assert_eq!(MemoryError::Cuda(error).advice(), advice, "{error}");
            assert_eq!(CopyError::Cuda(error).advice(), advice, "{error}");
            assert_eq!(ForeignStreamError::Cuda(error).advice(), advice, "{error}");
            assert_eq!(ModuleError::Rejected { error, log: String::new() }.advice(), advice);
        }
        let text = String::new;
        let unavailable = [
            (CudaUnavailable::LibraryNotFound { tried: text(), message: text() }, GiveUp),
            (CudaUnavailable::MissingSymbol { name: text() }, GiveUp),
            (CudaUnavailable::Driver { call: "cuInit", code: 2, name: None }, GiveUp),
            (CudaUnavailable::NoDevices, GiveUp),
            (CudaUnavailable::Forked, GiveUp),
            (CudaUnavailable::ForkedAmidWork, GiveUp),
        ];
        check(&unavailable, CudaUnavailable::advice);
        for (error, advice) in unavailable {
            assert_eq!(DeviceError::Unavailable(error).advice(), advice);
        }
        assert_eq!(DeviceError::NoSuchDevice { ordinal: 1, count: 1 }.advice(), GiveUp);
        let (len, error) = (1, SharedError::from(io::Error::from_raw_os_error(12)));
        let table = [
            (MemoryError::Empty, GiveUp),
            (MemoryError::TooLarge { len }, GiveUp),
            (MemoryError::OutOfDeviceMemory { ordinal: 0, len, error: cuda(2) }, Retry),
            (MemoryError::OutOfPinnedMemory { len, error }, Retry),
            (MemoryError::PoolExhausted { len, in_use: 1, limit: 1 }, Retry),
            (MemoryError::HandleTooLong { claimed: 2, actual: 1 }, AskAgain),
            (MemoryError::NotMapped { address: 1 }, AskAgain),
            (MemoryError::NotShareable, GiveUp),
            (MemoryError::OtherKind, GiveUp),
            (MemoryError::Piece { offset: 0, error: SharedError::text("") }, AskAgain),
            (MemoryError::PieceLength { offset: 0, bytes: 1 }, AskAgain),
        ];
        check(&table, MemoryError::advice);
        let table = [
            (HostAccessError::OutOfBounds { offset: 1, len, size: 1 }, GiveUp),
            (HostAccessError::InUse, Retry),
        ];
        check(&table, HostAccessError::advice);
        let table = [
            (CopyError::OutOfBounds { offset: 1, len, size: 1 }, GiveUp),
            (CopyError::Overlap, GiveUp),
            (CopyError::InUse, Retry),
        ];
        check(&table, CopyError::advice);
        let table = [
            (ModuleError::ZeroByte, GiveUp),
            (ModuleError::NoSuchFunction { name: text(), error: cuda(500) }, GiveUp),
        ];
        check(&table, ModuleError::advice);
        let table = [
            (ForeignStreamError::Capturing { stream: 1 }, GiveUp),
            (ForeignStreamError::DefaultStream { ordinal: 0 }, Retry),
        ];
        check(&table, ForeignStreamError::advice);
    }
}
