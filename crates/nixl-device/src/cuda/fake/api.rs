//! The functions of the fake driver.

use std::ffi::{c_char, c_void};

use super::super::api::{
    Address, Api, CopyAttributes, DeviceNumber, Handle, IpcBytes, StreamCallback,
};
use super::capture::exchange_mode;
use super::{
    CURRENT, FakeMemory, call, current_world, device_world, finish, new_handle, put, world_of,
};

fn put_text(out: *mut c_char, len: i32, text: &str) -> i32 {
    assert!(text.len() < len as usize);
    let out = out.cast::<u8>();
    // SAFETY: callers pass a buffer of this length.
    unsafe { out.copy_from_nonoverlapping(text.as_ptr(), text.len()) };
    put(out.wrapping_add(text.len()), 0)
}

const OPENED_AT: u64 = 1 << 50;

pub(in crate::cuda) fn api() -> Api {
    unsafe extern "C" fn init(_: u32) -> i32 {
        0
    }
    unsafe extern "C" fn driver_get_version(out: *mut i32) -> i32 {
        put(out, 12_080)
    }
    unsafe extern "C" fn device_get_count(out: *mut i32) -> i32 {
        put(out, 2)
    }
    unsafe extern "C" fn get_error_name(code: i32, out: *mut *const c_char) -> i32 {
        let name = match code {
            2 => c"CUDA_ERROR_OUT_OF_MEMORY",
            700 => c"CUDA_ERROR_ILLEGAL_ADDRESS",
            719 => c"CUDA_ERROR_LAUNCH_FAILED",
            _ => return 1,
        };
        put(out, name.as_ptr())
    }
    unsafe extern "C" fn device_get(out: *mut DeviceNumber, ordinal: i32) -> i32 {
        call(device_world(), "cuDeviceGet", |_| put(out, ordinal))
    }
    unsafe extern "C" fn device_get_name(out: *mut c_char, len: i32, device: i32) -> i32 {
        call(device_world(), "cuDeviceGetName", |_| put_text(out, len, &format!("Fake {device}")))
    }
    unsafe extern "C" fn device_get_uuid(out: *mut [u8; 16], device: DeviceNumber) -> i32 {
        call(device_world(), "cuDeviceGetUuid", |_| put(out, [device as u8; 16]))
    }
    unsafe extern "C" fn device_get_attribute(out: *mut i32, which: i32, _: DeviceNumber) -> i32 {
        call(device_world(), "cuDeviceGetAttribute", |_| match which {
            16 => put(out, 132),
            40 => put(out, 3),
            75 => put(out, 9),
            76 => put(out, 0),
            _ => 1,
        })
    }
    unsafe extern "C" fn device_get_pci_bus_id(out: *mut c_char, len: i32, device: i32) -> i32 {
        let address = format!("0000:0{}:00.0", device + 1);
        call(device_world(), "cuDeviceGetPCIBusId", |_| put_text(out, len, &address))
    }
    unsafe extern "C" fn device_total_mem(out: *mut usize, _: DeviceNumber) -> i32 {
        call(device_world(), "cuDeviceTotalMem", |_| put(out, 1 << 30))
    }
    unsafe extern "C" fn device_can_access_peer(out: *mut i32, _: i32, _: i32) -> i32 {
        call(device_world(), "cuDeviceCanAccessPeer", |state| {
            put(out, i32::from(!state.peers_refused))
        })
    }
    unsafe extern "C" fn device_get_p2p_attribute(out: *mut i32, _: i32, _: i32, _: i32) -> i32 {
        call(device_world(), "cuDeviceGetP2PAttribute", |_| put(out, 0))
    }
    unsafe extern "C" fn device_primary_ctx_retain(out: *mut Handle, device: DeviceNumber) -> i32 {
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
    unsafe extern "C" fn ctx_get_current(out: *mut Handle) -> i32 {
        put(out, CURRENT.get())
    }
    unsafe extern "C" fn ctx_set_current(context: Handle) -> i32 {
        CURRENT.set(context);
        0
    }
    unsafe extern "C" fn ctx_synchronize() -> i32 {
        let code = call(current_world(), "cuCtxSynchronize", |state| {
            state.captures.refuse_all_of(CURRENT.get()).unwrap_or(0)
        });
        if code == 0 {
            finish(current_world(), 0);
        }
        code
    }
    unsafe extern "C" fn ctx_get_stream_priority_range(least: *mut i32, greatest: *mut i32) -> i32 {
        call(current_world(), "cuCtxGetStreamPriorityRange", |_| put(least, 0) + put(greatest, -5))
    }
    unsafe extern "C" fn ctx_enable_peer_access(_: Handle, _: u32) -> i32 {
        call(current_world(), "cuCtxEnablePeerAccess", |_| 0)
    }
    unsafe extern "C" fn mem_get_info(free: *mut usize, total: *mut usize) -> i32 {
        call(current_world(), "cuMemGetInfo", |_| put(free, 1 << 29) + put(total, 1 << 30))
    }
    unsafe extern "C" fn mem_alloc(out: *mut Address, len: usize) -> i32 {
        call(current_world(), "cuMemAlloc", |state| put(out, state.allocate(len)))
    }
    unsafe extern "C" fn mem_free(address: Address) -> i32 {
        call(current_world(), "cuMemFree", |state| match state.device.remove(&address) {
            Some(len) => {
                state.check_idle(address, len);
                0
            }
            None => state.fault(format!("{address:#x} is freed twice")),
        })
    }
    unsafe extern "C" fn mem_get_address_range(
        base: *mut Address,
        len: *mut usize,
        address: Address,
    ) -> i32 {
        call(current_world(), "cuMemGetAddressRange", |state| {
            let around = |(start, size): (&Address, &usize)| {
                (*start..*start + *size as u64).contains(&address).then_some((*start, *size))
            };
            let found = state.opened.iter().chain(&state.device).find_map(around);
            found.map_or(1, |(start, size)| put(base, start) + put(len, size))
        })
    }
    unsafe extern "C" fn mem_host_alloc(out: *mut *mut c_void, len: usize, _: u32) -> i32 {
        call(current_world(), "cuMemHostAlloc", |state| {
            let mut bytes = vec![0xAA; len].into_boxed_slice();
            let start = bytes.as_mut_ptr();
            state.host.insert(start.expose_provenance(), bytes);
            put(out, start.cast())
        })
    }
    unsafe extern "C" fn mem_free_host(start: *mut c_void) -> i32 {
        call(current_world(), "cuMemFreeHost", |state| match state.host.remove(&start.addr()) {
            Some(bytes) => {
                state.check_idle(start.addr() as u64, bytes.len());
                0
            }
            None => state.fault(format!("{start:?} is freed twice")),
        })
    }
    unsafe extern "C" fn mem_host_register(start: *mut c_void, len: usize, _: u32) -> i32 {
        call(current_world(), "cuMemHostRegister", |state| {
            match state.registered.insert(start.addr(), len) {
                None => 0,
                Some(_) => state.fault(format!("{start:?} is registered twice")),
            }
        })
    }
    unsafe extern "C" fn mem_host_unregister(start: *mut c_void) -> i32 {
        call(current_world(), "cuMemHostUnregister", |state| {
            match state.registered.remove(&start.addr()) {
                Some(len) => {
                    state.check_idle(start.addr() as u64, len);
                    0
                }
                None => state.fault(format!("{start:?} is unregistered twice")),
            }
        })
    }
    unsafe extern "C" fn pointer_get_attributes(
        count: u32,
        attributes: *mut i32,
        outs: *mut *mut c_void,
        address: Address,
    ) -> i32 {
        call(current_world(), "cuPointerGetAttributes", |state| {
            let is_in = |start: u64, len: usize| (start..start + len as u64).contains(&address);
            let mut host = state.host.iter().map(|(start, bytes)| (start, bytes.len()));
            let mut registered = state.registered.iter().map(|(start, len)| (start, *len));
            let is_host = host.any(|(start, len)| is_in(*start as u64, len))
                || registered.any(|(start, len)| is_in(*start as u64, len));
            let device = state.device.iter().find(|(start, len)| is_in(**start, **len));
            let device = device.map(|(start, len)| (*start, *len));
            let kind = device.and_then(|(start, _)| state.kinds.get(&start).copied());
            // SAFETY: the lists have `count` elements.
            let attributes = unsafe { std::slice::from_raw_parts(attributes, count as usize) };
            // SAFETY: as above.
            let outs = unsafe { std::slice::from_raw_parts(outs, count as usize) };
            for (attribute, out) in attributes.iter().zip(outs) {
                // Numbers as wide as the driver's.
                match *attribute {
                    2 if is_host => put(out.cast(), 1u32),
                    2 => put(out.cast(), if device.is_some() { 2u32 } else { 0 }),
                    8 => put(out.cast(), u8::from(kind == Some(FakeMemory::Managed))),
                    10 => put(out.cast(), u8::from(device.is_some() && kind.is_none())),
                    11 => put(out.cast(), device.map_or(0, |(start, _)| start)),
                    12 => put(out.cast(), device.map_or(0, |(_, len)| len)),
                    14 => match kind {
                        Some(FakeMemory::Virtual { handle_types, .. }) => {
                            put(out.cast(), handle_types)
                        }
                        _ => put(out.cast(), 0u32),
                    },
                    16 => match kind {
                        Some(FakeMemory::Virtual { is_read_only: true, .. }) => {
                            put(out.cast(), 1u32)
                        }
                        _ => put(out.cast(), if device.is_some() { 3u32 } else { 0 }),
                    },
                    17 => put(out.cast(), usize::from(kind == Some(FakeMemory::Pool))),
                    other => return state.fault(format!("attribute {other} is asked for")),
                };
            }
            0
        })
    }
    unsafe extern "C" fn memcpy_async(dst: u64, src: u64, len: usize, stream: Handle) -> i32 {
        call(world_of(stream), "cuMemcpyAsync", |state| {
            state.copies.push((dst, src, len));
            state.running.push((dst, src, len));
            0
        })
    }
    unsafe extern "C" fn memset_d8_async(dst: u64, _: u8, len: usize, stream: Handle) -> i32 {
        call(world_of(stream), "cuMemsetD8Async", |state| {
            state.running.push((dst, dst, len));
            0
        })
    }
    unsafe extern "C" fn stream_create_with_priority(out: *mut Handle, _: u32, _: i32) -> i32 {
        let world = current_world();
        call(world, "cuStreamCreate", |state| put(out, new_handle(world, state)))
    }
    unsafe extern "C" fn stream_destroy(stream: Handle) -> i32 {
        call(world_of(stream), "cuStreamDestroy", |state| state.kill("stream", stream))
    }
    unsafe extern "C" fn stream_query(stream: Handle) -> i32 {
        call(world_of(stream), "cuStreamQuery", |state| {
            if state.running.is_empty() && state.recorded.is_empty() { 0 } else { 600 }
        })
    }
    unsafe extern "C" fn stream_synchronize(stream: Handle) -> i32 {
        let code = call(world_of(stream), "cuStreamSynchronize", |_| 0);
        if code == 0 {
            finish(world_of(stream), 0);
        }
        code
    }
    unsafe extern "C" fn stream_wait_event(stream: Handle, _: Handle, _: u32) -> i32 {
        call(world_of(stream), "cuStreamWaitEvent", |_| 0)
    }
    unsafe extern "C" fn stream_add_callback(
        stream: Handle,
        callback: StreamCallback,
        data: *mut c_void,
        _: u32,
    ) -> i32 {
        call(world_of(stream), "cuStreamAddCallback", |state| {
            state.callbacks.push((callback, data.addr()));
            0
        })
    }
    unsafe extern "C" fn event_create(out: *mut Handle, _: u32) -> i32 {
        let world = current_world();
        call(world, "cuEventCreate", |state| put(out, new_handle(world, state)))
    }
    unsafe extern "C" fn event_destroy(event: Handle) -> i32 {
        call(world_of(event), "cuEventDestroy", |state| state.kill("event", event))
    }
    unsafe extern "C" fn stream_is_capturing(stream: Handle, out: *mut i32) -> i32 {
        call(current_world(), "cuStreamIsCapturing", |state| {
            state.captures.status(stream, CURRENT.get(), out)
        })
    }
    unsafe extern "C" fn event_record(event: Handle, stream: Handle) -> i32 {
        call(world_of(event), "cuEventRecord", |state| {
            if state.captures.owns(stream, CURRENT.get()) {
                return state.fault(format!("{stream:#x} captures, and is given an event"));
            }
            state.recorded.push(event);
            0
        })
    }
    unsafe extern "C" fn event_query(event: Handle) -> i32 {
        call(
            world_of(event),
            "cuEventQuery",
            |state| {
                if state.recorded.contains(&event) { 600 } else { 0 }
            },
        )
    }
    unsafe extern "C" fn event_synchronize(event: Handle) -> i32 {
        let code = call(world_of(event), "cuEventSynchronize", |_| 0);
        if code == 0 {
            finish(world_of(event), 0);
        }
        code
    }
    unsafe extern "C" fn ipc_get_mem_handle(out: *mut IpcBytes, address: Address) -> i32 {
        let mut bytes = IpcBytes([0xA5; 64]);
        bytes.0[..8].copy_from_slice(&address.to_le_bytes());
        call(current_world(), "cuIpcGetMemHandle", |state| {
            if state.kinds.contains_key(&address) { 1 } else { put(out, bytes) }
        })
    }
    unsafe extern "C" fn ipc_open_mem_handle(out: *mut Address, handle: IpcBytes, _: u32) -> i32 {
        call(current_world(), "cuIpcOpenMemHandle", |state| {
            let mut address = [0; 8];
            address.copy_from_slice(&handle.0[..8]);
            let address = u64::from_le_bytes(address);
            let Some(&len) = state.device.get(&address) else {
                return 1;
            };
            match state.opened.insert(address + OPENED_AT, len) {
                None => put(out, address + OPENED_AT),
                Some(_) => state.fault(format!("{address:#x} is opened twice")),
            }
        })
    }
    unsafe extern "C" fn ipc_close_mem_handle(address: Address) -> i32 {
        call(current_world(), "cuIpcCloseMemHandle", |state| match state.opened.remove(&address) {
            Some(_) => 0,
            None => state.fault(format!("{address:#x} is closed twice")),
        })
    }
    unsafe extern "C" fn ipc_get_event_handle(out: *mut IpcBytes, _: Handle) -> i32 {
        call(current_world(), "cuIpcGetEventHandle", |_| put(out, IpcBytes([1; 64])))
    }
    unsafe extern "C" fn ipc_open_event_handle(_: *mut Handle, _: IpcBytes) -> i32 {
        call(current_world(), "cuIpcOpenEventHandle", |_| 201)
    }
    unsafe extern "C" fn module_load_data_ex(
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
    unsafe extern "C" fn module_unload(module: Handle) -> i32 {
        call(world_of(module), "cuModuleUnload", |state| state.kill("module", module))
    }
    unsafe extern "C" fn module_get_function(
        out: *mut Handle,
        module: Handle,
        _: *const c_char,
    ) -> i32 {
        let world = world_of(module);
        call(world, "cuModuleGetFunction", |state| put(out, new_handle(world, state)))
    }
    unsafe extern "C" fn launch_kernel(
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
    fn batch(
        name: &'static str,
        lists: [*const u64; 2],
        lens: *const usize,
        count: usize,
        stream: Handle,
    ) -> i32 {
        call(world_of(stream), name, |state| {
            for index in 0..count {
                let at = |list: *const u64| {
                    // SAFETY: the lists have `count` elements.
                    unsafe { list.wrapping_add(index).read() }
                };
                // SAFETY: as above.
                let len = unsafe { lens.wrapping_add(index).read() };
                state.copies.push((at(lists[0]), at(lists[1]), len));
            }
            0
        })
    }
    unsafe extern "C" fn memcpy_batch_async(
        dsts: *const Address,
        srcs: *const Address,
        lens: *const usize,
        count: usize,
        _: *const CopyAttributes,
        _: *const usize,
        _: usize,
        _: *mut usize,
        stream: Handle,
    ) -> i32 {
        batch("cuMemcpyBatchAsync", [dsts, srcs], lens, count, stream)
    }
    unsafe extern "C" fn memcpy_batch_async_v2(
        dsts: *const Address,
        srcs: *const Address,
        lens: *const usize,
        count: usize,
        _: *const CopyAttributes,
        _: *const usize,
        _: usize,
        stream: Handle,
    ) -> i32 {
        batch("cuMemcpyBatchAsync_v2", [dsts, srcs], lens, count, stream)
    }
    Api {
        pointer_get_attributes: Some(pointer_get_attributes),
        init,
        driver_get_version,
        device_get_count,
        get_error_name,
        device_get,
        device_get_name,
        device_get_uuid,
        device_get_attribute,
        device_get_pci_bus_id,
        device_total_mem,
        device_can_access_peer,
        device_get_p2p_attribute,
        device_primary_ctx_retain,
        thread_exchange_stream_capture_mode: exchange_mode,
        ctx_get_current,
        ctx_set_current,
        ctx_synchronize,
        ctx_get_stream_priority_range,
        ctx_enable_peer_access,
        mem_get_info,
        mem_alloc,
        mem_free,
        mem_get_address_range,
        mem_host_alloc,
        mem_free_host,
        mem_host_register,
        mem_host_unregister,
        memcpy_async,
        memset_d8_async,
        stream_create_with_priority,
        stream_destroy,
        stream_query,
        stream_synchronize,
        stream_wait_event,
        stream_is_capturing,
        stream_add_callback,
        event_create,
        event_destroy,
        event_record,
        event_query,
        event_synchronize,
        ipc_get_mem_handle,
        ipc_open_mem_handle,
        ipc_close_mem_handle,
        ipc_get_event_handle,
        ipc_open_event_handle,
        module_load_data_ex,
        module_unload,
        module_get_function,
        launch_kernel,
        device_get_uuid_v2: None,
        memcpy_batch_async: Some(memcpy_batch_async),
        memcpy_batch_async_v2: Some(memcpy_batch_async_v2),
    }
}
