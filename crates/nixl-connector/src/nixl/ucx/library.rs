//! Direct calls of UCX, in the library that NIXL's plugin has loaded.
#![allow(unsafe_code, reason = "calls functions of a library that is loaded already")]

use std::ffi::{CStr, CString, OsStr, c_char, c_int, c_uint, c_void};
use std::fs::File;
use std::io::{self, Read as _, Seek as _, Write as _};
use std::os::fd::{AsRawFd as _, IntoRawFd as _};
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;
use std::ptr;

use libloading::os::unix::{Library, RTLD_NOW};
use rustix::fs::{MemfdFlags, memfd_create};

use super::settings::Process;

/// The UCX that NIXL's plugin has loaded. The process may have another one, which NIXL does not use.
pub(in crate::nixl) struct Ucx {
    plugin: Library,
}

type Status = i8;
const OK: Status = 0;

/// UCX's handler of messages: file, line, function, level, component, format and its arguments.
pub(super) type LogHandler = extern "C" fn(
    *const c_char,
    c_uint,
    *const c_char,
    c_uint,
    *const c_void,
    *const c_char,
    *mut c_void,
) -> c_uint;

/// Prefixes of file names through which UCX's functions are found, best first: NIXL's plugin, whose dependencies are searched
/// with it, and UCX's library if NIXL has the plugin built in.
const FILES: [&str; 2] = ["libplugin_UCX", "libucp"];

impl Ucx {
    /// `None` if it is not loaded yet.
    pub(in crate::nixl) fn loaded() -> Option<Self> {
        let paths = loaded_files();
        FILES.iter().find_map(|beginning| {
            let is_it = |path: &&PathBuf| {
                let name = path.file_name().map(OsStrExt::as_bytes);
                name.is_some_and(|name| name.starts_with(beginning.as_bytes()))
            };
            let path = paths.iter().find(is_it)?;
            let flags = RTLD_NOW | libc::RTLD_NOLOAD;
            // SAFETY: the library is loaded already, so no constructor runs.
            let plugin = unsafe { Library::open(Some(path), flags) }.ok()?;
            Some(Self { plugin })
        })
    }

    /// A function of UCX. The caller guarantees its type.
    ///
    /// # Safety
    ///
    /// `F` is the type of the function of this name.
    pub(in crate::nixl) unsafe fn function<F: Copy>(&self, name: &str) -> Option<F> {
        // SAFETY: the caller's. The library is never closed: the plugin holds it.
        unsafe { self.plugin.get::<F>(name.as_bytes()) }.ok().map(|function| *function)
    }

    /// UCX's identity of this machine.
    pub(super) fn machine(&self) -> Option<u64> {
        // SAFETY: the signature is that of `ucs_get_system_id` in every UCX since 1.9.
        let system_id =
            unsafe { self.function::<unsafe extern "C" fn() -> u64>("ucs_get_system_id") }?;
        // SAFETY: it takes nothing, and may be called at any time.
        Some(unsafe { system_id() })
    }

    /// The value of a process-wide setting of UCX. `None` without a setting of this name.
    pub(super) fn global(&self, name: &CStr) -> Option<String> {
        type Get = unsafe extern "C" fn(*const c_char, *mut c_char, usize) -> Status;
        // SAFETY: the signature is that of `ucs_global_opts_get_value` in every UCX since 1.0; its status is an 8-bit enum.
        let get = unsafe { self.function::<Get>("ucs_global_opts_get_value") }?;
        let mut value = [0_u8; 4096];
        // SAFETY: the name ends with zero, and the buffer has the given length.
        let status = unsafe { get(name.as_ptr(), value.as_mut_ptr().cast(), value.len()) };
        let value = CStr::from_bytes_until_nul(&value).ok()?;
        (status == OK).then(|| value.to_string_lossy().into_owned())
    }

    /// Whether a process-wide setting is read once, when UCX is loaded.
    pub(super) fn is_fixed(&self, name: &CStr) -> bool {
        type IsReadOnly = unsafe extern "C" fn(*const c_char) -> c_int;
        // SAFETY: the signature is that of `ucs_global_opts_is_read_only` in every UCX that has it.
        let is_read_only = unsafe { self.function::<IsReadOnly>("ucs_global_opts_is_read_only") };
        // SAFETY: the name ends with zero.
        is_read_only.is_some_and(|is_read_only| unsafe { is_read_only(name.as_ptr()) } != 0)
    }

    /// Sets a process-wide setting. Returns whether UCX accepts it.
    pub(super) fn set_global(&self, name: &CStr, value: &CStr) -> bool {
        type Set = unsafe extern "C" fn(*const c_char, *const c_char) -> Status;
        // SAFETY: the signature is that of `ucs_global_opts_set_value` in every UCX since 1.0; its status is an 8-bit enum.
        let Some(set) = (unsafe { self.function::<Set>("ucs_global_opts_set_value") }) else {
            return false;
        };
        // SAFETY: both are strings that end with zero and outlive the call, which copies them.
        unsafe { set(name.as_ptr(), value.as_ptr()) == OK }
    }

    /// Whether UCX has this setting of contexts, and accepts the value. `None` if the check is unavailable.
    pub(super) fn takes(&self, name: &CStr, value: &CStr) -> Option<bool> {
        type Modify = unsafe extern "C" fn(*mut c_void, *const c_char, *const c_char) -> Status;
        // SAFETY: the signature is that of `ucp_config_modify`, of UCX's public interface.
        let modify = unsafe { self.function::<Modify>("ucp_config_modify") }?;
        self.with_configuration(|configuration| {
            // SAFETY: the configuration was read by UCX and not released; both strings end with zero, and are copied.
            unsafe { modify(configuration, name.as_ptr(), value.as_ptr()) == OK }
        })
    }

    /// The value of a setting of UCX's own layer in a context made now, before NIXL changes it. `None` without such a setting
    /// in that layer.
    pub(super) fn value(&self, name: &str) -> Option<String> {
        type Print = unsafe extern "C" fn(*const c_void, *mut c_void, *const c_char, c_uint);
        const ONLY_VALUES: c_uint = 1;
        unsafe extern "C" {
            fn fdopen(fd: c_int, mode: *const c_char) -> *mut c_void;
            fn fclose(stream: *mut c_void) -> c_int;
        }
        // SAFETY: the signature is that of `ucp_config_print`, of UCX's public interface.
        let print = unsafe { self.function::<Print>("ucp_config_print") }?;
        let mut file = File::from(memfd_create("ucx-settings", MemfdFlags::CLOEXEC).ok()?);
        let written = file.try_clone().ok()?.into_raw_fd();
        // SAFETY: the descriptor is open, and from here on the stream's.
        let stream = unsafe { fdopen(written, c"w".as_ptr()) };
        if stream.is_null() {
            return None;
        }
        self.with_configuration(|configuration| {
            // SAFETY: the configuration was read by UCX and not released; the stream is open; the title ends with zero.
            unsafe { print(configuration, stream, c"".as_ptr(), ONLY_VALUES) };
        });
        // SAFETY: the stream is open, and not used again.
        unsafe { fclose(stream) };
        file.rewind().ok()?;
        let mut text = String::new();
        file.read_to_string(&mut text).ok()?;
        let beginning = format!("UCX_{name}=");
        text.lines().find_map(|line| line.strip_prefix(&beginning)).map(str::to_owned)
    }

    /// Sets the value for contexts made from now on, as if from a configuration file. [`value`](Self::value) shows whether it
    /// took effect.
    ///
    /// UCX's table of such values has no lock: the holder of `_alone` is the one connector of this process that starts an engine.
    pub(super) fn set_for_new_contexts(
        &self,
        _alone: &Process,
        name: &str,
        value: &str,
    ) -> io::Result<()> {
        type Parse = unsafe extern "C" fn(*const c_char, *const c_char, c_int);
        // SAFETY: the signature is that of `ucs_config_parse_config_file` in every UCX since 1.11.
        let parse = unsafe { self.function::<Parse>("ucs_config_parse_config_file") };
        let parse = parse.ok_or(io::ErrorKind::Unsupported)?;
        let mut file = File::from(memfd_create("ucx.conf", MemfdFlags::CLOEXEC)?);
        writeln!(file, "UCX_{name}={value}")?;
        let number = CString::new(file.as_raw_fd().to_string())?;
        // SAFETY: both strings end with zero and outlive the call, which opens the file of this name in this folder and reads
        // it. UCX reads its table while a context is made, which connectors do one at a time. A program that makes contexts of
        // the same UCX without NIXL is excepted in the documentation of `NixlOptions`.
        unsafe { parse(c"/proc/self/fd".as_ptr(), number.as_ptr(), 1) };
        Ok(())
    }

    /// Registers a handler for each of UCX's messages, called before UCX writes it. Returns whether that succeeded.
    pub(super) fn add_log_handler(&self, handler: LogHandler) -> bool {
        type Push = unsafe extern "C" fn(LogHandler);
        // SAFETY: the signature is that of `ucs_log_push_handler` in every UCX since 1.10.
        let Some(push) = (unsafe { self.function::<Push>("ucs_log_push_handler") }) else {
            return false;
        };
        // SAFETY: the handler is a function of this program, which is there as long as the process.
        unsafe { push(handler) };
        true
    }

    /// Runs with a configuration that UCX has read from the environment and its files.
    fn with_configuration<T>(&self, run: impl FnOnce(*mut c_void) -> T) -> Option<T> {
        type Read = unsafe extern "C" fn(*const c_char, *const c_char, *mut *mut c_void) -> Status;
        type Release = unsafe extern "C" fn(*mut c_void);
        // SAFETY: the signature is that of `ucp_config_read`, of UCX's public interface.
        let read = unsafe { self.function::<Read>("ucp_config_read") }?;
        // SAFETY: the signature is that of `ucp_config_release`, of UCX's public interface.
        let release = unsafe { self.function::<Release>("ucp_config_release") }?;
        let mut configuration = ptr::null_mut();
        // SAFETY: no prefix and no file are allowed; the place for the result outlives the call.
        if unsafe { read(ptr::null(), ptr::null(), &raw mut configuration) } != OK {
            return None;
        }
        let result = run(configuration);
        // SAFETY: UCX made it, and it is not used again.
        unsafe { release(configuration) };
        Some(result)
    }
}

/// The files of the loaded libraries, as the loader names them: `/proc` may be missing, or closed to a process that must not be traced.
pub(super) fn loaded_files() -> Vec<PathBuf> {
    unsafe extern "C" fn note(
        info: *mut libc::dl_phdr_info,
        _: usize,
        files: *mut c_void,
    ) -> c_int {
        // SAFETY: the loader passes what describes a library, whose name is null or ends with zero; both are valid during the call.
        let name = unsafe { (*info).dlpi_name };
        // SAFETY: it is the vector below, which nothing else uses during the call.
        let files = unsafe { &mut *files.cast::<Vec<PathBuf>>() };
        if !name.is_null() {
            // SAFETY: as above.
            let name = unsafe { CStr::from_ptr(name) };
            files.push(PathBuf::from(OsStr::from_bytes(name.to_bytes())));
        }
        0
    }
    let mut files = Vec::<PathBuf>::new();
    // SAFETY: the function has the type that the loader calls, does not unwind but for want of memory, which ends the process, and gets
    // the vector alone.
    unsafe { libc::dl_iterate_phdr(Some(note), (&raw mut files).cast()) };
    files
}

#[cfg(test)]
mod tests {
    use super::super::super::agent::Agent;
    use super::super::super::{NixlLibrary, NixlOptions};
    use super::super::settings;
    use super::*;
    use crate::control::ControlThread;

    #[test]
    fn ucx_is_asked_and_told() {
        NixlLibrary::open().unwrap();
        let control = ControlThread::spawn().unwrap();
        let _agent = Agent::start("ucx-library", control, &NixlOptions::new()).unwrap();
        let alone = settings::alone();
        let ucx = Ucx::loaded().unwrap();
        assert!(ucx.machine().is_some());

        assert!(ucx.global(c"MEMTYPE_CACHE").is_some());
        assert!(ucx.set_global(c"MEMTYPE_CACHE", c"n"));
        assert_eq!(ucx.global(c"MEMTYPE_CACHE").as_deref(), Some("n"));
        assert!(!ucx.set_global(c"NO_SUCH_SETTING", c"n"));
        assert_eq!(ucx.global(c"NO_SUCH_SETTING"), None);
        assert_eq!(ucx.global(c"TLS"), None, "that is of each context");
        assert!(ucx.is_fixed(c"LOG_FILE") && !ucx.is_fixed(c"LOG_LEVEL"));

        for (name, value, taken) in [
            (c"MAX_RMA_RAILS", c"4", true),
            (c"MAX_RMA_RAILS", c"many", false),
            (c"IB_GID_INDEX", c"3", true),
            (c"NO_SUCH_SETTING", c"1", false),
        ] {
            assert_eq!(ucx.takes(name, value), Some(taken), "{name:?}");
        }
        assert_eq!(ucx.value("NO_SUCH_SETTING"), None);
        assert_eq!(ucx.value("SHM_DEVICES").as_deref(), Some("all"));
        ucx.set_for_new_contexts(&alone, "SHM_DEVICES", "memory,other").unwrap();
        assert_eq!(ucx.value("SHM_DEVICES").as_deref(), Some("memory,other"));
        ucx.set_for_new_contexts(&alone, "SHM_DEVICES", "all").unwrap();
        assert_eq!(ucx.value("SHM_DEVICES").as_deref(), Some("all"));
    }

    /// What this program is told to be a process for [`without_proc`].
    const WITHOUT_PROC: &str = "NIXL_TEST_WITHOUT_PROC";

    /// No test, but what the next one runs, with mounts of its own.
    #[test]
    #[ignore = "run by another test, in a process of its own"]
    fn without_proc() {
        if std::env::var_os(WITHOUT_PROC).is_none() {
            return;
        }
        NixlLibrary::open().unwrap();
        let control = ControlThread::spawn().unwrap();
        let _agent = Agent::start("without-proc", control, &NixlOptions::new()).unwrap();
        let unmounted = std::process::Command::new("umount").args(["--lazy", "/proc"]).status();
        assert!(unmounted.unwrap().success());
        assert!(Ucx::loaded().unwrap().machine().is_some());
    }

    #[test]
    fn ucx_is_found_without_proc() {
        let works = std::process::Command::new("unshare").args(["--mount", "true"]).status();
        if !works.is_ok_and(|status| status.success()) {
            return;
        }
        let child = std::process::Command::new("unshare")
            .arg("--mount")
            .arg(std::env::current_exe().unwrap())
            .args(["--exact", "nixl::ucx::library::tests::without_proc", "--ignored"])
            .env(WITHOUT_PROC, "1")
            .output()
            .unwrap();
        assert!(child.status.success(), "{}", String::from_utf8_lossy(&child.stdout));
    }
}
