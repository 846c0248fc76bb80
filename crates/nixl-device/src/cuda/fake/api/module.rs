//! Modules and launches of the fake driver.

use std::ffi::{c_char, c_void};

use super::super::super::api::Handle;
use super::super::{call, current_world, new_handle, put, world_of};
use super::device::put_text;

pub(super) unsafe extern "C" fn module_load_data_ex(
    out: *mut Handle,
    _: *const c_void,
    _: u32,
    _: *mut i32,
    values: *mut *mut c_void,
) -> i32 {
    let world = current_world();
    // SAFETY: the list has two elements, of which the first is the buffer for the log.
    let log = unsafe { values.read() };
    put_text(log.cast(), 100, "line 1: no\n");
    call(world, "cuModuleLoadDataEx", |state| put(out, new_handle(world, state)))
}

pub(super) unsafe extern "C" fn module_unload(module: Handle) -> i32 {
    call(world_of(module), "cuModuleUnload", |state| state.kill("module", module))
}

pub(super) unsafe extern "C" fn module_get_function(
    out: *mut Handle,
    module: Handle,
    _: *const c_char,
) -> i32 {
    let world = world_of(module);
    call(world, "cuModuleGetFunction", |state| put(out, new_handle(world, state)))
}

pub(super) unsafe extern "C" fn launch_kernel(
    _: Handle,
    _: u32,
    _: u32,
    _: u32,
    _: u32,
    _: u32,
    _: u32,
    _: u32,
    stream: Handle,
    _: *mut *mut c_void,
    _: *mut *mut c_void,
) -> i32 {
    call(world_of(stream), "cuLaunchKernel", |_| 0)
}
