//! The reasons why CUDA cannot be used at all.

use std::error::Error as _;

use serde::Serialize;

use super::error::Code;

/// Why CUDA cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, thiserror::Error)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum CudaUnavailable {
    /// The driver's library cannot be loaded. It comes with the NVIDIA driver, not with the CUDA toolkit.
    #[error(
        "cannot load {tried}: {message}; install the NVIDIA driver, or give the container access to it"
    )]
    LibraryNotFound {
        /// The name that was looked for.
        tried: String,
        /// The loader's error.
        message: String,
    },
    /// The library lacks a function that every version of it since CUDA 11 has.
    #[error("libcuda has no {name}: install NVIDIA's driver, of CUDA 11 or newer")]
    MissingSymbol {
        /// The function.
        name: String,
    },
    /// The driver refused a call.
    #[error("{call} failed with {}", Code { code: *code, name: *name })]
    Driver {
        /// The function that was called.
        call: &'static str,
        /// What it returned: a `CUresult`.
        code: i32,
        /// The code's name, if it is one that these calls are known to return.
        name: Option<&'static str>,
    },
    /// The driver works, but there is no device that this process may use.
    #[error(
        "the CUDA driver has no device for this process; check nvidia-smi and CUDA_VISIBLE_DEVICES"
    )]
    NoDevices,
    /// The process was forked from one that had loaded the driver, which works in no child.
    #[error(
        "this process was forked from one that uses CUDA, whose driver does not work in a child; start it by exec, or fork before CUDA is used"
    )]
    Forked,
    /// The process was forked while a thread loaded or tore down a library, whose locks are held here for ever.
    #[error(
        "this process was forked while a thread loaded a library, or built or dropped a connector, and the locks of that thread are held here for ever; fork before or after that, or start the process by exec"
    )]
    ForkedAmidWork,
}

impl CudaUnavailable {
    pub(super) fn not_found(tried: &str, error: &libloading::Error) -> Self {
        Self::LibraryNotFound {
            tried: tried.to_owned(),
            // The loader's own words name the file and what is wrong with it.
            message: match error.source() {
                Some(source) => source.to_string(),
                None => error.to_string(),
            },
        }
    }
}
