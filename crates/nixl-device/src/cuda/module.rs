//! CUDA modules and their kernels.

use std::ffi::{CString, c_void};
use std::fmt;
use std::ptr;
use std::sync::Arc;

use super::api::Handle;
use super::context::Context;
use super::error::CudaError;
use super::stream::Stream;

/// A set of kernels, loaded into a context.
///
/// Functions keep their module loaded. When the last is dropped it is unloaded, so keep one until the device has passed
/// every launch.
#[derive(Clone, Debug)]
pub struct Module {
    loaded: Arc<Loaded>,
}

#[derive(Debug)]
struct Loaded {
    context: Context,
    raw: Handle,
}

/// Why kernels cannot be loaded.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ModuleError {
    /// A text or name has a zero byte in it.
    #[error("a PTX text or the name of a kernel contains a zero byte")]
    ZeroByte,
    /// The driver did not take the PTX.
    #[error("{error}: {log}")]
    Rejected {
        /// The driver's error.
        #[source]
        error: CudaError,
        /// The log of its compiler; may be empty.
        log: String,
    },
    /// There is no kernel of this name.
    #[error("there is no kernel {name:?} in the module: {error}")]
    NoSuchFunction {
        /// The name.
        name: String,
        /// The driver's error.
        #[source]
        error: CudaError,
    },
}

impl Module {
    /// Compiles PTX for the context's device, and loads it. Blocks for milliseconds, the first time more: the driver
    /// keeps what it compiled.
    ///
    /// # Errors
    ///
    /// [`ModuleError`], with the log of the driver's compiler.
    pub fn load_ptx(context: &Context, ptx: &str) -> Result<Self, ModuleError> {
        const ERROR_LOG_BUFFER: i32 = 5;
        const ERROR_LOG_BUFFER_SIZE: i32 = 6;
        const LOG_SIZE: usize = 8192;
        let text = CString::new(ptx).map_err(|_| ModuleError::ZeroByte)?;
        let mut log = vec![0_u8; LOG_SIZE];
        // The driver takes the size by value, in place of a pointer.
        let mut options = [ERROR_LOG_BUFFER, ERROR_LOG_BUFFER_SIZE];
        let mut values: [*mut c_void; 2] =
            [log.as_mut_ptr().cast(), ptr::without_provenance_mut(LOG_SIZE)];
        let (options, values) = (options.as_mut_ptr(), values.as_mut_ptr());
        let mut raw = 0;
        // SAFETY: the text ends in zero; both lists have two elements, and the log as many bytes as the second says;
        // all live during the call, and none is used after it.
        let loaded = context.call("cuModuleLoadDataEx", |api| unsafe {
            (api.module_load_data_ex)(&raw mut raw, text.as_ptr().cast(), 2, options, values)
        });
        if let Err(error) = loaded {
            let end = log.iter().position(|&byte| byte == 0).unwrap_or(LOG_SIZE);
            let log = String::from_utf8_lossy(&log[..end]).trim().to_owned();
            return Err(ModuleError::Rejected { error, log });
        }
        Ok(Self { loaded: Arc::new(Loaded { context: *context, raw }) })
    }

    /// The context it is loaded into.
    #[must_use]
    pub fn context(&self) -> Context {
        self.loaded.context
    }

    /// A kernel of the module.
    ///
    /// # Errors
    ///
    /// [`ModuleError::NoSuchFunction`]
    pub fn function(&self, name: &str) -> Result<Function, ModuleError> {
        let c_name = CString::new(name).map_err(|_| ModuleError::ZeroByte)?;
        let mut raw = 0;
        let module = self.loaded.raw;
        // SAFETY: the module is loaded; the name ends in zero; the pointer is to a live variable, written during the
        // call only.
        let found = self.loaded.context.call("cuModuleGetFunction", |api| unsafe {
            (api.module_get_function)(&raw mut raw, module, c_name.as_ptr())
        });
        found.map_err(|error| ModuleError::NoSuchFunction { name: name.to_owned(), error })?;
        Ok(Function { module: Arc::clone(&self.loaded), raw })
    }
}

impl Drop for Loaded {
    fn drop(&mut self) {
        let raw = self.raw;
        // SAFETY: nothing else unloads it, and launches are done by contract.
        self.context.release("cuModuleUnload", move |api| unsafe { (api.module_unload)(raw) });
    }
}

/// A kernel.
#[derive(Clone)]
pub struct Function {
    module: Arc<Loaded>,
    raw: Handle,
}

impl Function {
    /// Queues a launch of `grid` × `block` threads with `shared` bytes of dynamic shared memory.
    ///
    /// # Errors
    ///
    /// The driver's error, for example for a block that is too large.
    ///
    /// # Safety
    ///
    /// * `params` has one pointer for each parameter of the kernel, to a value of its type. They are read before this
    ///   returns.
    /// * The function, and all memory that the kernel reaches, stay until the device has passed the launch.
    /// * The kernel is sound for these parameters and threads: it stays inside the memory that it was given, and
    ///   nothing else uses that meanwhile.
    pub unsafe fn launch(
        &self,
        grid: [u32; 3],
        block: [u32; 3],
        shared: u32,
        params: &mut [*mut c_void],
        stream: &Stream,
    ) -> Result<(), CudaError> {
        let params = params.as_mut_ptr();
        // SAFETY: the caller vouches for the parameters and for what the kernel does; function and stream are alive.
        self.module.context.call("cuLaunchKernel", |api| unsafe {
            (api.launch_kernel)(
                self.raw,
                grid[0],
                grid[1],
                grid[2],
                block[0],
                block[1],
                block[2],
                shared,
                stream.as_raw(),
                params,
                ptr::null_mut(),
            )
        })
    }
}

impl fmt::Debug for Function {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Function").field("module", &self.module).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::super::fake::Fake;
    use super::*;

    #[test]
    fn a_module_is_unloaded_after_its_last_function() {
        let fake = Fake::new();
        let module = Module::load_ptx(&fake.context(0), "ptx").unwrap();
        let function = module.function("kernel").unwrap();
        drop(module);
        assert_eq!(fake.count("cuModuleUnload"), 0);
        drop(function);
        assert_eq!(fake.count("cuModuleUnload"), 1);
    }

    #[test]
    fn the_compilers_log_is_in_the_error() {
        let fake = Fake::new();
        fake.fail("cuModuleLoadDataEx", 218, 1);
        let error = Module::load_ptx(&fake.context(0), "ptx").unwrap_err();
        assert!(
            matches!(&error, ModuleError::Rejected { log, .. } if log == "line 1: no"),
            "{error:?}"
        );
    }

    #[test]
    fn names_that_are_none_are_refused() {
        let fake = Fake::new();
        let context = fake.context(0);
        assert_eq!(Module::load_ptx(&context, "a\0b").err(), Some(ModuleError::ZeroByte));
        let module = Module::load_ptx(&context, "ptx").unwrap();
        assert_eq!(module.function("\0").err(), Some(ModuleError::ZeroByte));
        fake.fail("cuModuleGetFunction", 500, 1);
        let error = module.function("none").err();
        assert!(
            matches!(&error, Some(ModuleError::NoSuchFunction { name, .. }) if name == "none"),
            "{error:?}"
        );
    }
}
