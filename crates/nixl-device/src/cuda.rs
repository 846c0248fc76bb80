//! Whether CUDA can be used here.
//!
//! Everything in this workspace that may touch CUDA asks [`probe`] first. It finds the driver at run time, so programs
//! start and run on machines without it.
#![allow(unsafe_code)] // Loading the driver and calling it by address.

use std::error::Error as _;
use std::fmt;
use std::mem::ManuallyDrop;
use std::sync::OnceLock;

use libloading::Library;
use serde::Serialize;

/// A CUDA driver with at least one device.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct CudaDriver {
    /// The newest version of CUDA that the driver supports, as 1000 × major + 10 × minor: 12040 is 12.4.
    pub driver_version: u32,
    /// The number of devices, at least 1. `CUDA_VISIBLE_DEVICES` limits it.
    pub device_count: u32,
}

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
        /// What the loader said.
        message: String,
    },
    /// The library lacks a function that every version of it has.
    #[error("libcuda has no {name}; is it NVIDIA's?")]
    MissingSymbol {
        /// The function.
        name: String,
    },
    /// The driver refused a call.
    #[error("{call} failed with {}", ErrorCode { code: *code, name })]
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
}

/// Whether CUDA is there: loads the driver, initialises it and counts devices, once for the process.
///
/// The first call blocks, up to seconds on a machine with many GPUs, so make it off async threads; later ones return
/// the same result at no cost. It does not create a context and leaves the calling thread's context alone.
///
/// The result is final. A driver that appears later is not noticed, and neither is `fork`: a child process cannot use
/// the CUDA of its parent, even though the probe that the parent made says so. Probe and use CUDA in the process that
/// you `exec` or start, not in one that was forked after the first call. Changing `CUDA_VISIBLE_DEVICES` after that has
/// no effect either.
///
/// # Errors
///
/// [`CudaUnavailable`] says which step failed. Never panics.
pub fn probe() -> &'static Result<CudaDriver, CudaUnavailable> {
    static RESULT: OnceLock<Result<CudaDriver, CudaUnavailable>> = OnceLock::new();
    // Not `libcuda.so`: where only the toolkit is installed that is a stub, whose calls all fail.
    RESULT.get_or_init(|| load("libcuda.so.1").and_then(|calls| query(&calls)))
}

/// Whether CUDA is there. The same as `probe().is_ok()`, which see.
#[must_use]
pub fn is_available() -> bool {
    probe().is_ok()
}

/// The calls of the driver that the probe needs. They return a `CUresult`, kept as a number: a driver may be newer than
/// any list of its codes.
struct Calls {
    init: unsafe extern "C" fn(flags: u32) -> i32,
    driver_version: unsafe extern "C" fn(version: *mut i32) -> i32,
    device_count: unsafe extern "C" fn(count: *mut i32) -> i32,
}

/// Loads a driver for good: once initialised it has threads of its own, so its code must stay.
fn load(name: &str) -> Result<Calls, CudaUnavailable> {
    // SAFETY: loading runs the library's initialisers. The name is the driver's, which is made to be loaded at any time
    // from any thread; whoever can put another library in its place controls the process anyway.
    let library =
        unsafe { Library::new(name) }.map_err(|error| CudaUnavailable::LibraryNotFound {
            tried: name.to_owned(),
            message: loader_message(&error),
        })?;
    let library = ManuallyDrop::new(library);
    Ok(Calls {
        // SAFETY: the signature is `CUresult cuInit(unsigned int)`, and an enumeration in C has the size of an int.
        init: unsafe { symbol(&library, "cuInit") }?,
        // SAFETY: the signature is `CUresult cuDriverGetVersion(int *)`.
        driver_version: unsafe { symbol(&library, "cuDriverGetVersion") }?,
        // SAFETY: the signature is `CUresult cuDeviceGetCount(int *)`.
        device_count: unsafe { symbol(&library, "cuDeviceGetCount") }?,
    })
}

/// The loader's own words, which name the file and what is wrong with it.
fn loader_message(error: &libloading::Error) -> String {
    match error.source() {
        Some(source) => source.to_string(),
        None => error.to_string(),
    }
}

/// # Safety
///
/// `F` must be a function pointer of the signature that the symbol has, and the library must never be closed.
unsafe fn symbol<F: Copy>(library: &Library, name: &str) -> Result<F, CudaUnavailable> {
    // SAFETY: the caller vouches for the type.
    match unsafe { library.get::<F>(name) } {
        Ok(symbol) => Ok(*symbol),
        Err(_) => Err(CudaUnavailable::MissingSymbol {
            name: name.to_owned(),
        }),
    }
}

fn query(calls: &Calls) -> Result<CudaDriver, CudaUnavailable> {
    const NO_DEVICE: i32 = 100;
    // SAFETY: takes no pointer; 0 is the only value allowed.
    match unsafe { (calls.init)(0) } {
        NO_DEVICE => return Err(CudaUnavailable::NoDevices),
        code => check("cuInit", code)?,
    }
    let mut version = 0;
    // SAFETY: the pointer is to a live integer, written during the call only.
    let code = unsafe { (calls.driver_version)(&raw mut version) };
    check("cuDriverGetVersion", code)?;
    let mut count = 0;
    // SAFETY: as above.
    let code = unsafe { (calls.device_count)(&raw mut count) };
    check("cuDeviceGetCount", code)?;
    match u32::try_from(count) {
        Ok(device_count) if device_count > 0 => Ok(CudaDriver {
            driver_version: u32::try_from(version).unwrap_or(0),
            device_count,
        }),
        _ => Err(CudaUnavailable::NoDevices),
    }
}

fn check(call: &'static str, code: i32) -> Result<(), CudaUnavailable> {
    if code == 0 {
        return Ok(());
    }
    Err(CudaUnavailable::Driver {
        call,
        code,
        name: code_name(code),
    })
}

/// The codes that initialisation is known to return. The driver's own `cuGetErrorName` may be as broken as the driver.
fn code_name(code: i32) -> Option<&'static str> {
    Some(match code {
        1 => "CUDA_ERROR_INVALID_VALUE",
        2 => "CUDA_ERROR_OUT_OF_MEMORY",
        3 => "CUDA_ERROR_NOT_INITIALIZED",
        4 => "CUDA_ERROR_DEINITIALIZED",
        34 => "CUDA_ERROR_STUB_LIBRARY",
        36 => "CUDA_ERROR_CALL_REQUIRES_NEWER_DRIVER",
        46 => "CUDA_ERROR_DEVICE_UNAVAILABLE",
        100 => "CUDA_ERROR_NO_DEVICE",
        101 => "CUDA_ERROR_INVALID_DEVICE",
        304 => "CUDA_ERROR_OPERATING_SYSTEM",
        801 => "CUDA_ERROR_NOT_SUPPORTED",
        802 => "CUDA_ERROR_SYSTEM_NOT_READY",
        803 => "CUDA_ERROR_SYSTEM_DRIVER_MISMATCH",
        804 => "CUDA_ERROR_COMPAT_NOT_SUPPORTED_ON_DEVICE",
        805 => "CUDA_ERROR_MPS_CONNECTION_FAILED",
        806 => "CUDA_ERROR_MPS_RPC_FAILURE",
        807 => "CUDA_ERROR_MPS_SERVER_NOT_READY",
        999 => "CUDA_ERROR_UNKNOWN",
        _ => return None,
    })
}

/// `CUDA_ERROR_UNKNOWN (999)`, or `code 4711`.
struct ErrorCode<'a> {
    code: i32,
    name: &'a Option<&'static str>,
}

impl fmt::Display for ErrorCode<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.name {
            Some(name) => write!(f, "{name} ({})", self.code),
            None => write!(f, "code {}", self.code),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    unsafe extern "C" fn init(_flags: u32) -> i32 {
        0
    }

    unsafe extern "C" fn version(out: *mut i32) -> i32 {
        // SAFETY: `query` passes a live integer.
        unsafe { out.write(12_040) };
        0
    }

    unsafe extern "C" fn count<const N: i32>(out: *mut i32) -> i32 {
        // SAFETY: as above.
        unsafe { out.write(N) };
        0
    }

    unsafe extern "C" fn init_fails<const CODE: i32>(_flags: u32) -> i32 {
        CODE
    }

    unsafe extern "C" fn fails<const CODE: i32>(_out: *mut i32) -> i32 {
        CODE
    }

    const WORKING: Calls = Calls {
        init,
        driver_version: version,
        device_count: count::<2>,
    };

    #[test]
    fn a_working_driver_is_described() {
        assert_eq!(
            query(&WORKING),
            Ok(CudaDriver {
                driver_version: 12_040,
                device_count: 2
            })
        );
    }

    #[test]
    fn no_device_has_one_error_however_the_driver_says_it() {
        for calls in [
            Calls {
                init: init_fails::<100>,
                ..WORKING
            },
            Calls {
                device_count: count::<0>,
                ..WORKING
            },
            Calls {
                device_count: count::<-1>,
                ..WORKING
            },
        ] {
            assert_eq!(query(&calls), Err(CudaUnavailable::NoDevices));
        }
    }

    #[test]
    fn each_refused_call_is_named_with_its_code() {
        let message = |calls: Calls| query(&calls).map_err(|error| error.to_string());
        assert_eq!(
            message(Calls {
                init: init_fails::<999>,
                ..WORKING
            }),
            Err("cuInit failed with CUDA_ERROR_UNKNOWN (999)".to_owned())
        );
        assert_eq!(
            message(Calls {
                driver_version: fails::<3>,
                ..WORKING
            }),
            Err("cuDriverGetVersion failed with CUDA_ERROR_NOT_INITIALIZED (3)".to_owned())
        );
        assert_eq!(
            message(Calls {
                device_count: fails::<-7>,
                ..WORKING
            }),
            Err("cuDeviceGetCount failed with code -7".to_owned())
        );
    }

    #[test]
    fn a_missing_library_is_an_error_that_names_it() {
        let name = "libnixl-device-has-no-such-library.so.1";
        let error = load(name).err();
        assert!(
            matches!(&error, Some(CudaUnavailable::LibraryNotFound { tried, message }) if tried == name && message.contains(name)),
            "{error:?}"
        );
    }

    #[test]
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    fn a_library_that_is_not_the_driver_is_an_error_that_names_the_symbol() {
        assert_eq!(
            load("libc.so.6").err(),
            Some(CudaUnavailable::MissingSymbol {
                name: "cuInit".to_owned()
            })
        );
    }

    #[test]
    fn the_probe_answers_the_same_from_every_thread() {
        let answers: Vec<_> = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..4).map(|_| scope.spawn(probe)).collect();
            threads
                .into_iter()
                .filter_map(|thread| thread.join().ok())
                .collect()
        });
        assert_eq!(answers.len(), 4);
        assert!(answers.iter().all(|answer| std::ptr::eq(*answer, probe())));
        assert_eq!(is_available(), probe().is_ok());
    }
}
