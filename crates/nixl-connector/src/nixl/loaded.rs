//! Protection against `dlclose` of a library with this crate's code, which the C library and UCX call until the process ends.
#![allow(unsafe_code, reason = "queries the loader for the file of this code")]

use std::ffi::{CStr, OsStr, c_char, c_int, c_void};
use std::os::unix::ffi::OsStrExt as _;
use std::ptr;

use libloading::os::unix::{Library, RTLD_NOW};

/// `Dl_info` of the C library.
#[repr(C)]
struct Origin {
    file: *const c_char,
    base: *mut c_void,
    symbol: *const c_char,
    address: *mut c_void,
}

/// Makes the loader keep this code loaded. Code of the program itself always is.
pub(super) fn for_good() {
    const RTLD_NOLOAD: c_int = 4;
    const RTLD_NODELETE: c_int = 0x1000;
    // SAFETY: it is the C library's function, with its signature.
    unsafe extern "C" {
        fn dladdr(address: *const c_void, origin: *mut Origin) -> c_int;
    }
    let here: fn() = for_good;
    let null = ptr::null_mut();
    let mut origin = Origin { file: null, base: null.cast(), symbol: null, address: null.cast() };
    // SAFETY: the address is only compared, and the result's storage outlives the call.
    if unsafe { dladdr(here as *const c_void, &raw mut origin) } == 0 || origin.file.is_null() {
        return;
    }
    // SAFETY: the loader's name of the file ends with zero, and is there as long as the file is loaded: as this code is.
    let file = unsafe { CStr::from_ptr(origin.file) };
    let file = OsStr::from_bytes(file.to_bytes());
    // SAFETY: a loaded library runs no constructors, and no other is opened.
    let _ = unsafe { Library::open(Some(file), RTLD_NOW | RTLD_NOLOAD | RTLD_NODELETE) };
}
