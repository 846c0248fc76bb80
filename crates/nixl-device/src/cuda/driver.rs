//! The loaded driver: its functions and the contexts made with it.

use std::ffi::CStr;
use std::fmt;
use std::ptr;
use std::sync::Mutex;

use super::api::DeviceNumber;
use super::context::{Context, ContextState};
use super::error::{CudaError, DeviceError};
use super::functions::Functions;
use super::probe::CudaDriver;
use crate::locks::lock;

/// Lives as long as the process, like the library.
pub(super) struct Driver {
    pub(super) functions: Functions,
    facts: CudaDriver,
    /// By ordinal. `None` until the first request for the device's primary context.
    contexts: Vec<Mutex<Option<&'static ContextState>>>,
}

impl Driver {
    pub(super) fn new(functions: Functions, facts: CudaDriver) -> Self {
        let contexts = (0..facts.device_count).map(|_| Mutex::default()).collect();
        Self { functions, facts, contexts }
    }

    pub(super) fn facts(&self) -> CudaDriver {
        self.facts
    }

    /// Turns a code into a result. Only for calls that work without a context: the others go through
    /// [`Context::call`], which also notices that a context broke.
    pub(super) fn check(&self, call: &'static str, code: i32) -> Result<(), CudaError> {
        if code == 0 {
            return Ok(());
        }
        Err(CudaError { code, name: self.code_name(code), call })
    }

    /// The driver's name for a code; `None` if it does not know it.
    fn code_name(&self, code: i32) -> Option<&'static str> {
        let mut name = ptr::null();
        // SAFETY: the pointer is to a live variable, written during the call only.
        let result =
            self.functions.call(|api| unsafe { (api.get_error_name)(code, &raw mut name) });
        if result != 0 || name.is_null() {
            return None;
        }
        // SAFETY: the driver returns a string constant of its own, and is never unloaded.
        let name: &'static CStr = unsafe { CStr::from_ptr(name) };
        name.to_str().ok()
    }

    /// The driver's number for a device.
    pub(super) fn device(&self, ordinal: u32) -> Result<DeviceNumber, DeviceError> {
        let no_such_device = DeviceError::NoSuchDevice { ordinal, count: self.facts.device_count };
        if ordinal >= self.facts.device_count {
            return Err(no_such_device);
        }
        let Ok(index) = i32::try_from(ordinal) else {
            return Err(no_such_device);
        };
        let mut device = 0;
        // SAFETY: the pointer is to a live integer, written during the call only.
        let code = self.functions.call(|api| unsafe { (api.device_get)(&raw mut device, index) });
        self.check("cuDeviceGet", code)?;
        Ok(device)
    }

    /// The primary context of a device, retained at the first call and never released.
    pub(super) fn context(&'static self, ordinal: u32) -> Result<Context, DeviceError> {
        let device = self.device(ordinal)?;
        let Some(slot) = usize::try_from(ordinal).ok().and_then(|index| self.contexts.get(index))
        else {
            return Err(DeviceError::NoSuchDevice { ordinal, count: self.facts.device_count });
        };
        // Held while the context is made, so that it is retained once.
        let mut slot = lock(slot);
        if let Some(state) = *slot {
            return Ok(Context::new(state));
        }
        let mut raw = 0;
        // SAFETY: as in `device`.
        let code = self
            .functions
            .call(|api| unsafe { (api.device_primary_ctx_retain)(&raw mut raw, device) });
        self.check("cuDevicePrimaryCtxRetain", code)?;
        let state: &'static ContextState =
            Box::leak(Box::new(ContextState::new(self, ordinal, device, raw)));
        *slot = Some(state);
        Ok(Context::new(state))
    }
}

impl fmt::Debug for Driver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Driver").field("facts", &self.facts).finish_non_exhaustive()
    }
}
