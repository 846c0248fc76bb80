//! Streams and events of the fake driver.

use std::ffi::c_void;

use super::super::super::api::{Handle, StreamCallback};
use super::super::{CURRENT, call, current_world, finish, new_handle, put, world_of};

pub(super) unsafe extern "C" fn stream_create_with_priority(
    out: *mut Handle,
    _: u32,
    _: i32,
) -> i32 {
    let world = current_world();
    call(world, "cuStreamCreate", |state| put(out, new_handle(world, state)))
}

pub(super) unsafe extern "C" fn stream_destroy(stream: Handle) -> i32 {
    call(world_of(stream), "cuStreamDestroy", |state| state.kill("stream", stream))
}

pub(super) unsafe extern "C" fn stream_query(stream: Handle) -> i32 {
    call(world_of(stream), "cuStreamQuery", |state| {
        if state.running.is_empty() && state.recorded.is_empty() { 0 } else { 600 }
    })
}

pub(super) unsafe extern "C" fn stream_synchronize(stream: Handle) -> i32 {
    let code = call(world_of(stream), "cuStreamSynchronize", |_| 0);
    if code == 0 {
        finish(world_of(stream), 0);
    }
    code
}

pub(super) unsafe extern "C" fn stream_wait_event(stream: Handle, _: Handle, _: u32) -> i32 {
    call(world_of(stream), "cuStreamWaitEvent", |_| 0)
}

pub(super) unsafe extern "C" fn stream_add_callback(
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

pub(super) unsafe extern "C" fn event_create(out: *mut Handle, _: u32) -> i32 {
    let world = current_world();
    call(world, "cuEventCreate", |state| put(out, new_handle(world, state)))
}

pub(super) unsafe extern "C" fn event_destroy(event: Handle) -> i32 {
    call(world_of(event), "cuEventDestroy", |state| state.kill("event", event))
}

pub(super) unsafe extern "C" fn stream_is_capturing(stream: Handle, out: *mut i32) -> i32 {
    call(current_world(), "cuStreamIsCapturing", |state| {
        state.captures.status(stream, CURRENT.get(), out)
    })
}

pub(super) unsafe extern "C" fn event_record(event: Handle, stream: Handle) -> i32 {
    call(world_of(event), "cuEventRecord", |state| {
        if state.captures.owns(stream, CURRENT.get()) {
            return state.fault(format!("{stream:#x} captures, and is given an event"));
        }
        state.recorded.push(event);
        0
    })
}

pub(super) unsafe extern "C" fn event_query(event: Handle) -> i32 {
    call(
        world_of(event),
        "cuEventQuery",
        |state| {
            if state.recorded.contains(&event) { 600 } else { 0 }
        },
    )
}

pub(super) unsafe extern "C" fn event_synchronize(event: Handle) -> i32 {
    let code = call(world_of(event), "cuEventSynchronize", |_| 0);
    if code == 0 {
        finish(world_of(event), 0);
    }
    code
}
