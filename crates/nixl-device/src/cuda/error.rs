//! Failures of the driver's calls.

use std::fmt;

use serde::Serialize;

use super::unavailable::CudaUnavailable;

pub(super) const INVALID_VALUE: i32 = 1;
pub(super) const OUT_OF_MEMORY: i32 = 2;
pub(super) const NOT_INITIALIZED: i32 = 3;
pub(super) const NO_DEVICE: i32 = 100;
pub(super) const INVALID_DEVICE: i32 = 101;
pub(super) const PEER_ACCESS_UNSUPPORTED: i32 = 217;
pub(super) const NOT_READY: i32 = 600;
pub(super) const PEER_ACCESS_ALREADY_ENABLED: i32 = 704;
pub(super) const NOT_PERMITTED: i32 = 800;
pub(super) const NOT_SUPPORTED: i32 = 801;
// The codes about captures of CUDA graphs.
const STREAM_CAPTURE_FIRST: i32 = 900;
const STREAM_CAPTURE_LAST: i32 = 908;
pub(super) const STREAM_CAPTURE_IMPLICIT: i32 = 906;

/// A call of the CUDA driver failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, thiserror::Error)]
#[error("{call} failed with {}{}", Code { code: *code, name: *name }, self.remedy())]
pub struct CudaError {
    pub(crate) code: i32,
    pub(crate) name: Option<&'static str>,
    pub(crate) call: &'static str,
}

/// What kind of failure a [`CudaError`] is, as far as it decides what to do next.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum CudaErrorClass {
    /// There is not enough memory of the requested kind. Free some and try again.
    OutOfMemory,
    /// The context is broken for good: all later calls on its device fail until the process ends. No context of
    /// another device can be made any more either, and those that exist may fail too.
    Sticky,
    /// This driver, device or system cannot do it. Use another way.
    NotSupported,
    /// There is no such device, or it cannot be used.
    InvalidDevice,
    /// A stream is capturing a CUDA graph, with which the call conflicts. Nothing was done. Calls of this library do not
    /// conflict with captures of other streams, but for [`Context::synchronize`](super::Context::synchronize).
    StreamCapture,
    /// Anything else. Mostly an argument that the driver refuses.
    Other,
}

impl CudaError {
    /// The kind of failure.
    #[must_use]
    pub const fn class(&self) -> CudaErrorClass {
        match self.code {
            OUT_OF_MEMORY => CudaErrorClass::OutOfMemory,
            // Faults of a kernel or of the hardware, and contexts that are gone.
            4 | 214 | 220 | 226 | 700 | 702 | 709 | 710 | 714..=719 | 721 => CudaErrorClass::Sticky,
            36 | PEER_ACCESS_UNSUPPORTED | 221 | 222 | 223 | NOT_SUPPORTED => {
                CudaErrorClass::NotSupported
            }
            46 | NO_DEVICE | INVALID_DEVICE => CudaErrorClass::InvalidDevice,
            STREAM_CAPTURE_FIRST..=STREAM_CAPTURE_LAST => CudaErrorClass::StreamCapture,
            _ => CudaErrorClass::Other,
        }
    }

    /// Whether the context of the call is broken for good: see [`CudaErrorClass::Sticky`].
    #[must_use]
    pub const fn is_sticky(&self) -> bool {
        matches!(self.class(), CudaErrorClass::Sticky)
    }

    /// Whether memory of the requested kind has run out.
    #[must_use]
    pub const fn is_out_of_memory(&self) -> bool {
        matches!(self.class(), CudaErrorClass::OutOfMemory)
    }

    /// Whether this driver, device or system does not support the call.
    #[must_use]
    pub const fn is_not_supported(&self) -> bool {
        matches!(self.class(), CudaErrorClass::NotSupported)
    }

    const fn remedy(&self) -> &'static str {
        match self.class() {
            CudaErrorClass::Sticky => "; restart the process to use the device again",
            CudaErrorClass::StreamCapture => {
                "; a stream is capturing a CUDA graph: try again when the capture has ended"
            }
            _ => "",
        }
    }

    /// What the driver returned: a `CUresult`. A driver may return codes that no list here has.
    #[must_use]
    pub fn code(&self) -> i32 {
        self.code
    }

    /// The driver's name for the code, such as `CUDA_ERROR_OUT_OF_MEMORY`. `None` if it has none.
    #[must_use]
    pub fn name(&self) -> Option<&'static str> {
        self.name
    }

    /// The function that was called, without the suffix of its version.
    #[must_use]
    pub fn call(&self) -> &'static str {
        self.call
    }
}

/// Why a device cannot be opened or described.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, thiserror::Error)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum DeviceError {
    /// CUDA cannot be used at all.
    #[error(transparent)]
    Unavailable(#[from] CudaUnavailable),
    /// There is no device of this number.
    #[error("there is no cuda:{ordinal}: this process sees {count} devices")]
    NoSuchDevice {
        /// The requested number.
        ordinal: u32,
        /// How many devices there are.
        count: u32,
    },
    /// A call failed.
    #[error(transparent)]
    Cuda(#[from] CudaError),
}

/// `CUDA_ERROR_UNKNOWN (999)`, or `code 4711`.
pub(super) struct Code {
    pub(super) code: i32,
    pub(super) name: Option<&'static str>,
}

impl fmt::Display for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.name {
            Some(name) => write!(f, "{name} ({})", self.code),
            None => write!(f, "code {}", self.code),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn error(code: i32) -> CudaError {
        CudaError { code, name: None, call: "cuTest" }
    }

    #[test]
    fn the_classes_that_callers_branch_on_are_told_apart() {
        for (code, class) in [
            (2, CudaErrorClass::OutOfMemory),
            (700, CudaErrorClass::Sticky),
            (719, CudaErrorClass::Sticky),
            (801, CudaErrorClass::NotSupported),
            (217, CudaErrorClass::NotSupported),
            (100, CudaErrorClass::InvalidDevice),
            (101, CudaErrorClass::InvalidDevice),
            (899, CudaErrorClass::Other),
            (900, CudaErrorClass::StreamCapture),
            (908, CudaErrorClass::StreamCapture),
            (909, CudaErrorClass::Other),
            (1, CudaErrorClass::Other),
            (600, CudaErrorClass::Other),
            (999, CudaErrorClass::Other),
        ] {
            assert_eq!(error(code).class(), class, "{code}");
        }
    }

    proptest! {
        #[test]
        fn any_code_survives_in_the_message(code in any::<i32>()) {
            let message = error(code).to_string();
            let start = format!("cuTest failed with code {code}");
            prop_assert!(message.starts_with(&start), "{message}");
            prop_assert_eq!(message.contains("restart the process"), error(code).is_sticky());
        }
    }
}
