//! The probe for a usable CUDA driver.

use std::sync::OnceLock;

use serde::Serialize;

use super::api::Api;
use super::driver::Driver;
use super::error::NO_DEVICE;
use super::functions::Functions;
use super::unavailable::CudaUnavailable;
use crate::system::process::{ForkGeneration, PerProcess, enter_libraries};

/// A CUDA driver with at least one device.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct CudaDriver {
    driver_version: u32,
    pub(crate) device_count: u32,
}

impl CudaDriver {
    /// The newest version of CUDA that the driver supports, as 1000 × major + 10 × minor: 12040 is 12.4.
    #[must_use]
    pub fn driver_version(&self) -> u32 {
        self.driver_version
    }

    /// The number of devices, at least 1. `CUDA_VISIBLE_DEVICES` limits it.
    #[must_use]
    pub fn device_count(&self) -> u32 {
        self.device_count
    }
}

/// Whether CUDA is there: loads the driver, initialises it and counts devices, once for the process.
///
/// The first call blocks, up to seconds on a machine with many GPUs, so make it off async threads; later ones return
/// the same result at no cost. It does not create a context and leaves the calling thread's context alone.
///
/// The result is final for the process: a driver that appears later is not noticed, nor are changes of
/// `CUDA_VISIBLE_DEVICES`. The child of a process that has loaded the driver cannot use CUDA, and gets an error that states it
/// ([`CudaUnavailable::Forked`]); one that was forked before that can, unless a thread was loading a library at the fork
/// ([`CudaUnavailable::ForkedAmidWork`]).
///
/// # Errors
///
/// [`CudaUnavailable`], by the step that failed. Never panics.
pub fn probe() -> &'static Result<CudaDriver, CudaUnavailable> {
    static RESULT: PerProcess<Result<CudaDriver, CudaUnavailable>> =
        PerProcess::new(|| loaded().map(Driver::facts));
    RESULT.get()
}

/// Whether CUDA is there. The same as `probe().is_ok()`, which see.
#[must_use]
pub fn is_available() -> bool {
    probe().is_ok()
}

/// The driver, and the process that loaded it. Handles that a child has inherited refer to it too.
static DRIVER: OnceLock<(ForkGeneration, Result<Driver, CudaUnavailable>)> = OnceLock::new();

/// The driver of this process.
pub(super) fn loaded() -> Result<&'static Driver, CudaUnavailable> {
    let load = || {
        // Not `libcuda.so`: where only the toolkit is installed that is a stub, whose calls all fail.
        let functions = Functions::new(Api::load("libcuda.so.1")?);
        let facts = query(&functions)?;
        Ok(Driver::new(functions, facts))
    };
    let (loaded_by, driver) = match DRIVER.get() {
        Some(loaded) => loaded,
        None => {
            // A thread of the parent may hold the cell for ever.
            let _at_work = enter_libraries().ok_or(CudaUnavailable::ForkedAmidWork)?;
            DRIVER.get_or_init(|| (ForkGeneration::current(), load()))
        }
    };
    let driver = driver.as_ref().map_err(Clone::clone)?;
    match loaded_by.is_current() {
        true => Ok(driver),
        false => Err(CudaUnavailable::Forked),
    }
}

/// The driver of this process, if it is loaded already.
pub(super) fn if_loaded() -> Option<&'static Driver> {
    DRIVER.get()?.1.as_ref().ok()
}

pub(super) fn query(functions: &Functions) -> Result<CudaDriver, CudaUnavailable> {
    // SAFETY: takes no pointer; 0 is the only value allowed.
    match functions.call(|api| unsafe { (api.init)(0) }) {
        NO_DEVICE => return Err(CudaUnavailable::NoDevices),
        code => check("cuInit", code)?,
    }
    let mut version = 0;
    // SAFETY: the pointer is to a live integer, written during the call only.
    let code = functions.call(|api| unsafe { (api.driver_get_version)(&raw mut version) });
    check("cuDriverGetVersion", code)?;
    let mut count = 0;
    // SAFETY: as above.
    let code = functions.call(|api| unsafe { (api.device_get_count)(&raw mut count) });
    check("cuDeviceGetCount", code)?;
    match u32::try_from(count) {
        Ok(device_count) if device_count > 0 => {
            Ok(CudaDriver { driver_version: u32::try_from(version).unwrap_or(0), device_count })
        }
        _ => Err(CudaUnavailable::NoDevices),
    }
}

fn check(call: &'static str, code: i32) -> Result<(), CudaUnavailable> {
    if code == 0 {
        return Ok(());
    }
    Err(CudaUnavailable::Driver { call, code, name: code_name(code) })
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

#[cfg(test)]
mod tests {
    use super::super::fake;
    use super::*;

    unsafe extern "C" fn count<const N: i32>(out: *mut i32) -> i32 {
        // SAFETY: `query` passes a live integer.
        unsafe { out.write(N) };
        0
    }

    unsafe extern "C" fn init_fails<const CODE: i32>(_flags: u32) -> i32 {
        CODE
    }

    unsafe extern "C" fn fails<const CODE: i32>(_out: *mut i32) -> i32 {
        CODE
    }

    #[test]
    fn a_working_driver_is_described() {
        assert_eq!(
            query(&Functions::new(fake::api())),
            Ok(CudaDriver { driver_version: 12_080, device_count: 2 })
        );
    }

    #[test]
    fn no_device_has_one_error_however_the_driver_says_it() {
        for api in [
            Api { init: init_fails::<100>, ..fake::api() },
            Api { device_get_count: count::<0>, ..fake::api() },
            Api { device_get_count: count::<-1>, ..fake::api() },
        ] {
            assert_eq!(query(&Functions::new(api)), Err(CudaUnavailable::NoDevices));
        }
    }

    #[test]
    fn each_refused_call_is_named_with_its_code() {
        let message = |api: Api| query(&Functions::new(api)).map_err(|error| error.to_string());
        assert_eq!(
            message(Api { init: init_fails::<999>, ..fake::api() }),
            Err("cuInit failed with CUDA_ERROR_UNKNOWN (999)".to_owned())
        );
        assert_eq!(
            message(Api { driver_get_version: fails::<3>, ..fake::api() }),
            Err("cuDriverGetVersion failed with CUDA_ERROR_NOT_INITIALIZED (3)".to_owned())
        );
        assert_eq!(
            message(Api { device_get_count: fails::<-7>, ..fake::api() }),
            Err("cuDeviceGetCount failed with code -7".to_owned())
        );
    }

    #[test]
    fn the_probe_answers_the_same_from_every_thread() {
        let answers: Vec<_> = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..4).map(|_| scope.spawn(probe)).collect();
            threads.into_iter().filter_map(|thread| thread.join().ok()).collect()
        });
        assert_eq!(answers.len(), 4);
        assert!(answers.iter().all(|answer| std::ptr::eq(*answer, probe())));
        assert_eq!(is_available(), probe().is_ok());
    }
}
