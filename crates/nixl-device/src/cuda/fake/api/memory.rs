//! Memory and copies of the fake driver.

use std::ffi::c_void;

use super::super::super::api::{Address, CopyAttributes, Handle};
use super::super::{FakeMemory, call, current_world, put, world_of};

pub(super) unsafe extern "C" fn mem_get_info(free: *mut usize, total: *mut usize) -> i32 {
    call(current_world(), "cuMemGetInfo", |_| put(free, 1 << 29) + put(total, 1 << 30))
}

pub(super) unsafe extern "C" fn mem_alloc(out: *mut Address, len: usize) -> i32 {
    call(current_world(), "cuMemAlloc", |state| put(out, state.allocate(len)))
}

pub(super) unsafe extern "C" fn mem_free(address: Address) -> i32 {
    call(current_world(), "cuMemFree", |state| {
        match state.device.remove(&address).or_else(|| state.of_pools.remove(&address)) {
            Some(len) => {
                state.check_idle(address, len);
                0
            }
            None => state.fault(format!("{address:#x} is freed twice")),
        }
    })
}

pub(super) unsafe extern "C" fn mem_get_address_range(
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

pub(super) unsafe extern "C" fn mem_host_alloc(out: *mut *mut c_void, len: usize, _: u32) -> i32 {
    call(current_world(), "cuMemHostAlloc", |state| {
        let mut bytes = vec![0xAA; len].into_boxed_slice();
        let start = bytes.as_mut_ptr();
        state.host.insert(start.expose_provenance(), bytes);
        put(out, start.cast())
    })
}

pub(super) unsafe extern "C" fn mem_free_host(start: *mut c_void) -> i32 {
    call(current_world(), "cuMemFreeHost", |state| match state.host.remove(&start.addr()) {
        Some(bytes) => {
            state.check_idle(start.addr() as u64, bytes.len());
            0
        }
        None => state.fault(format!("{start:?} is freed twice")),
    })
}

pub(super) unsafe extern "C" fn mem_host_register(start: *mut c_void, len: usize, _: u32) -> i32 {
    call(current_world(), "cuMemHostRegister", |state| {
        match state.registered.insert(start.addr(), len) {
            None => 0,
            Some(_) => state.fault(format!("{start:?} is registered twice")),
        }
    })
}

pub(super) unsafe extern "C" fn mem_host_unregister(start: *mut c_void) -> i32 {
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

pub(super) unsafe extern "C" fn pointer_get_attributes(
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
        let device =
            device.or_else(|| state.of_pools.iter().find(|(start, len)| is_in(**start, **len)));
        let device = device.map(|(start, len)| (*start, *len));
        let kind = device.and_then(|(start, _)| state.kinds.get(&start).copied());
        let mapped = state.physical.mapped_at(address);
        // As the driver reports memory of pools: mapped like that of the VMM API.
        let pooled = device.filter(|_| kind == Some(FakeMemory::SharedPool));
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
                14 => match (mapped, kind) {
                    (Some(mapped), _) => put(out.cast(), mapped.handle_types),
                    (None, Some(FakeMemory::Virtual { handle_types, .. })) => {
                        put(out.cast(), handle_types)
                    }
                    _ => put(out.cast(), u32::from(pooled.is_some())),
                },
                16 => match kind {
                    Some(FakeMemory::Virtual { is_read_only: true, .. }) => put(out.cast(), 1u32),
                    _ => put(out.cast(), if device.is_some() { 3u32 } else { 0 }),
                },
                7 => {
                    let id = device.and_then(|(start, _)| state.ids.get(&start).copied());
                    put(out.cast(), id.unwrap_or(0))
                }
                17 => put(out.cast(), kind.map_or(0, pool_of)),
                18 => {
                    let len = pooled.map_or(0, |(_, len)| len);
                    put(out.cast(), mapped.map_or(len, |mapped| mapped.len))
                }
                19 => {
                    let start = pooled.map_or(0, |(start, _)| start);
                    put(out.cast(), mapped.map_or(start, |mapped| mapped.address))
                }
                20 => {
                    let id = pooled.and_then(|(start, _)| state.ids.get(&start).copied());
                    put(out.cast(), mapped.map_or(id.unwrap_or(0), |mapped| mapped.id))
                }
                other => return state.fault(format!("attribute {other} is asked for")),
            };
        }
        0
    })
}

/// The number of the pool that memory is of.
pub(super) fn pool_of(kind: FakeMemory) -> usize {
    match kind {
        FakeMemory::Pool => 1,
        FakeMemory::SharedPool => 2,
        _ => 0,
    }
}

pub(super) unsafe extern "C" fn memcpy_async(
    dst: u64,
    src: u64,
    len: usize,
    stream: Handle,
) -> i32 {
    call(world_of(stream), "cuMemcpyAsync", |state| {
        state.copies.push((dst, src, len));
        state.running.push((dst, src, len));
        0
    })
}

pub(super) unsafe extern "C" fn memset_d8_async(
    dst: u64,
    _: u8,
    len: usize,
    stream: Handle,
) -> i32 {
    call(world_of(stream), "cuMemsetD8Async", |state| {
        state.running.push((dst, dst, len));
        0
    })
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

pub(super) unsafe extern "C" fn memcpy_batch_async(
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

pub(super) unsafe extern "C" fn memcpy_batch_async_v2(
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
