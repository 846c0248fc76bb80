//! The one setting of UCX's that must be right before its first use and has no other way in.
#![allow(unsafe_code, reason = "calls a function of a library that is loaded already")]

use std::collections::BTreeSet;
use std::env;
use std::ffi::{CStr, c_char, c_int};
use std::fs;
use std::sync::Once;

use libloading::os::unix::{Library, RTLD_NOW};

/// Has UCX ask the driver what memory is, every time. By default it keeps a list of the allocations that it has seen, and
/// takes all other memory for the host's: that of a GPU too, if it was allocated in a way or at a time that UCX did not
/// watch. Whoever sets `UCX_MEMTYPE_CACHE` has it as it is set. To be called once UCX is loaded.
pub(super) fn ask_for_memory_types() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        if env::var_os("UCX_MEMTYPE_CACHE").is_some() || !nixl_device::cuda::is_available() {
            return;
        }
        for path in loaded("libucs") {
            if !set(&path, c"MEMTYPE_CACHE", c"n") {
                tracing::warn!(
                    path,
                    "UCX's MEMTYPE_CACHE could not be set; GPU memory may be refused"
                );
            }
        }
    });
}

/// What UCX calls this machine. `None` if it does not tell. To be called once UCX is loaded.
pub(super) fn machine() -> Option<u64> {
    const RTLD_NOLOAD: c_int = 4;
    type SystemId = unsafe extern "C" fn() -> u64;
    loaded("libucs").iter().find_map(|path| {
        // SAFETY: the library is loaded already, so no constructor runs.
        let library = unsafe { Library::open(Some(path), RTLD_NOW | RTLD_NOLOAD) }.ok()?;
        // SAFETY: the signature is that of `ucs_get_system_id` in every UCX since 1.9.
        let system_id = unsafe { library.get::<SystemId>(b"ucs_get_system_id\0") }.ok()?;
        // SAFETY: it reads a file of the kernel's, and has no other precondition.
        Some(unsafe { system_id() })
    })
}

/// Whether a NIC of this machine may write memory for UCX.
pub(super) fn may_use_rdma() -> bool {
    fs::read_dir("/sys/class/infiniband").is_ok_and(|mut devices| devices.next().is_some())
}

/// Files of libraries in this process whose names begin so.
fn loaded(prefix: &str) -> BTreeSet<String> {
    let maps = fs::read_to_string("/proc/self/maps").unwrap_or_default();
    let paths = maps.lines().filter_map(|line| line.get(line.find('/')?..));
    let named = |path: &&str| path.rsplit('/').next().is_some_and(|name| name.starts_with(prefix));
    paths.filter(named).map(str::to_owned).collect()
}

fn set(path: &str, name: &CStr, value: &CStr) -> bool {
    const RTLD_NOLOAD: c_int = 4;
    type SetValue = unsafe extern "C" fn(*const c_char, *const c_char) -> i8;
    // SAFETY: the library is loaded already, so no constructor runs.
    let Ok(library) = (unsafe { Library::open(Some(path), RTLD_NOW | RTLD_NOLOAD) }) else {
        return false;
    };
    // SAFETY: the signature is that of `ucs_global_opts_set_value` in every UCX since 1.0; its status is an 8-bit enum.
    let Ok(set) = (unsafe { library.get::<SetValue>(b"ucs_global_opts_set_value\0") }) else {
        return false;
    };
    // SAFETY: both are strings that end with zero and outlive the call, which copies them.
    unsafe { set(name.as_ptr(), value.as_ptr()) == 0 }
}

#[cfg(test)]
mod tests {
    use super::super::agent::Agent;
    use super::*;
    use crate::control::ControlThread;

    #[test]
    fn libraries_are_found_by_the_beginning_of_their_name() {
        assert_eq!(loaded("libc.so").len(), 1);
        assert!(loaded("libnobody").is_empty());
    }

    #[test]
    fn ucx_takes_the_setting() {
        let control = ControlThread::spawn().unwrap();
        let _agent = Agent::start("ucx-setting", control).unwrap();
        let libraries = loaded("libucs");
        assert!(!libraries.is_empty());
        for path in libraries {
            assert!(set(&path, c"MEMTYPE_CACHE", c"n"), "{path}");
            assert!(!set(&path, c"NO_SUCH_SETTING", c"n"), "{path}");
        }
    }

    #[test]
    fn what_is_not_loaded_is_not_set() {
        assert!(!set("/nowhere/libucs.so", c"MEMTYPE_CACHE", c"n"));
    }
}
