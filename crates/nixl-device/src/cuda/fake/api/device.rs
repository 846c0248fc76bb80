//! Devices and contexts of the fake driver.

use std::ffi::c_char;

use super::super::super::api::{DeviceNumber, Handle};
use super::super::{CURRENT, call, current_world, device_world, finish, new_handle, put};

pub(super) fn put_text(out: *mut c_char, len: i32, text: &str) -> i32 {
    assert!(text.len() < len as usize);
    let out = out.cast::<u8>();
    // SAFETY: callers pass a buffer of this length.
    unsafe { out.copy_from_nonoverlapping(text.as_ptr(), text.len()) };
    put(out.wrapping_add(text.len()), 0)
}

pub(super) unsafe extern "C" fn init(_: u32) -> i32 {
    0
}

pub(super) unsafe extern "C" fn driver_get_version(out: *mut i32) -> i32 {
    put(out, 12_080)
}

pub(super) unsafe extern "C" fn device_get_count(out: *mut i32) -> i32 {
    put(out, 2)
}

pub(super) unsafe extern "C" fn get_error_name(code: i32, out: *mut *const c_char) -> i32 {
    let name = match code {
        2 => c"CUDA_ERROR_OUT_OF_MEMORY",
        700 => c"CUDA_ERROR_ILLEGAL_ADDRESS",
        719 => c"CUDA_ERROR_LAUNCH_FAILED",
        _ => return 1,
    };
    put(out, name.as_ptr())
}

pub(super) unsafe extern "C" fn device_get(out: *mut DeviceNumber, ordinal: i32) -> i32 {
    call(device_world(), "cuDeviceGet", |_| put(out, ordinal))
}

pub(super) unsafe extern "C" fn device_get_name(out: *mut c_char, len: i32, device: i32) -> i32 {
    call(device_world(), "cuDeviceGetName", |_| put_text(out, len, &format!("Fake {device}")))
}

pub(super) unsafe extern "C" fn device_get_uuid(out: *mut [u8; 16], device: DeviceNumber) -> i32 {
    call(device_world(), "cuDeviceGetUuid", |_| put(out, [device as u8; 16]))
}

pub(super) unsafe extern "C" fn device_get_attribute(
    out: *mut i32,
    which: i32,
    _: DeviceNumber,
) -> i32 {
    call(device_world(), "cuDeviceGetAttribute", |_| match which {
        16 => put(out, 132),
        40 => put(out, 3),
        75 => put(out, 9),
        76 => put(out, 0),
        110 => put(out, 1),
        _ => 1,
    })
}

pub(super) unsafe extern "C" fn device_get_pci_bus_id(
    out: *mut c_char,
    len: i32,
    device: i32,
) -> i32 {
    let address = format!("0000:0{}:00.0", device + 1);
    call(device_world(), "cuDeviceGetPCIBusId", |_| put_text(out, len, &address))
}

pub(super) unsafe extern "C" fn device_total_mem(out: *mut usize, _: DeviceNumber) -> i32 {
    call(device_world(), "cuDeviceTotalMem", |_| put(out, 1 << 30))
}

pub(super) unsafe extern "C" fn device_can_access_peer(out: *mut i32, _: i32, _: i32) -> i32 {
    call(device_world(), "cuDeviceCanAccessPeer", |state| put(out, i32::from(!state.peers_refused)))
}

pub(super) unsafe extern "C" fn device_get_p2p_attribute(
    out: *mut i32,
    _: i32,
    _: i32,
    _: i32,
) -> i32 {
    call(device_world(), "cuDeviceGetP2PAttribute", |_| put(out, 0))
}

pub(super) unsafe extern "C" fn device_primary_ctx_retain(
    out: *mut Handle,
    device: DeviceNumber,
) -> i32 {
    let world = device_world();
    call(world, "cuDevicePrimaryCtxRetain", |state| {
        let handle = match state.contexts.get(&device) {
            Some(handle) => *handle,
            None => new_handle(world, state),
        };
        state.contexts.insert(device, handle);
        put(out, handle)
    })
}

pub(super) unsafe extern "C" fn ctx_get_current(out: *mut Handle) -> i32 {
    put(out, CURRENT.get())
}

pub(super) unsafe extern "C" fn ctx_set_current(context: Handle) -> i32 {
    CURRENT.set(context);
    0
}

pub(super) unsafe extern "C" fn ctx_synchronize() -> i32 {
    let code = call(current_world(), "cuCtxSynchronize", |state| {
        state.captures.refuse_all_of(CURRENT.get()).unwrap_or(0)
    });
    if code == 0 {
        finish(current_world(), 0);
    }
    code
}

pub(super) unsafe extern "C" fn ctx_get_stream_priority_range(
    least: *mut i32,
    greatest: *mut i32,
) -> i32 {
    call(current_world(), "cuCtxGetStreamPriorityRange", |_| put(least, 0) + put(greatest, -5))
}

pub(super) unsafe extern "C" fn ctx_enable_peer_access(_: Handle, _: u32) -> i32 {
    call(current_world(), "cuCtxEnablePeerAccess", |_| 0)
}
