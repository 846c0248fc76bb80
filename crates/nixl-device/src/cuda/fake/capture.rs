//! Stream capture in the fake driver.
//!
//! The rules are those of `cuThreadExchangeStreamCaptureMode`, and one of this library's own: no call at all is made in
//! another mode than relaxed. Calls are unsafe to this driver unless they are known to be harmless on real ones.

use std::cell::Cell;
use std::thread::{self, ThreadId};

use super::super::api::Handle;
use super::super::capture::RELAXED;
use super::{State, put};

pub(in crate::cuda) const GLOBAL: i32 = 0;
pub(in crate::cuda) const THREAD_LOCAL: i32 = 1;

/// `CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED`
const UNSUPPORTED: i32 = 900;
/// `CUDA_ERROR_STREAM_CAPTURE_INVALIDATED`
const INVALIDATED: i32 = 901;

thread_local! {
    static MODE: Cell<i32> = const { Cell::new(GLOBAL) };
    static EXCHANGES: Cell<u64> = const { Cell::new(0) };
}

pub(super) struct Capture {
    stream: Handle,
    context: Handle,
    /// Whether the legacy default stream waits for the stream.
    is_blocking: bool,
    owner: ThreadId,
    mode: i32,
    is_valid: bool,
}

#[derive(Default)]
pub(super) struct Captures {
    open: Vec<Capture>,
    /// Calls that were not made in the mode "relaxed".
    strays: Vec<&'static str>,
}

/// The mode of this thread.
pub(in crate::cuda) fn mode() -> i32 {
    MODE.get()
}

pub(in crate::cuda) fn set_mode(mode: i32) {
    MODE.set(mode);
}

/// How often this thread has exchanged its mode.
pub(in crate::cuda) fn exchanges() -> u64 {
    EXCHANGES.get()
}

pub(super) unsafe extern "C" fn exchange_mode(mode: *mut i32) -> i32 {
    EXCHANGES.set(EXCHANGES.get() + 1);
    // SAFETY: callers pass a live variable.
    let new = unsafe { mode.read() };
    put(mode, MODE.replace(new))
}

impl Captures {
    pub(super) fn begin(
        &mut self,
        (stream, context): (Handle, Handle),
        is_blocking: bool,
        owner: ThreadId,
        mode: i32,
    ) {
        self.open.push(Capture { stream, context, is_blocking, owner, mode, is_valid: true });
    }

    /// What `cuStreamEndCapture` returns.
    pub(super) fn end(&mut self, stream: Handle) -> i32 {
        let index = self.open.iter().position(|capture| capture.stream == stream).unwrap();
        if self.open.swap_remove(index).is_valid { 0 } else { INVALIDATED }
    }

    pub(super) fn strays(&mut self) -> Vec<&'static str> {
        std::mem::take(&mut self.strays)
    }

    pub(super) fn broken(&self) -> usize {
        self.open.iter().filter(|capture| !capture.is_valid).count()
    }

    /// The answer of `cuStreamIsCapturing`.
    pub(super) fn status(&self, stream: Handle, context: Handle, out: *mut i32) -> i32 {
        const NONE: i32 = 0;
        const ACTIVE: i32 = 1;
        const BROKEN: i32 = 2;
        if stream == 0 && self.stops_default_stream(context) {
            return 906;
        }
        let capture = self.open.iter().find(|capture| capture.stream == stream);
        put(out, capture.map_or(NONE, |capture| if capture.is_valid { ACTIVE } else { BROKEN }))
    }

    /// Whether nothing may be queued on the stream.
    pub(super) fn owns(&self, stream: Handle, context: Handle) -> bool {
        self.open.iter().any(|capture| capture.stream == stream)
            || stream == 0 && self.stops_default_stream(context)
    }

    fn stops_default_stream(&self, context: Handle) -> bool {
        self.open.iter().any(|capture| capture.is_blocking && capture.context == context)
    }

    fn refuse(&mut self, conflicts: impl Fn(&Capture) -> bool) -> Option<i32> {
        let mut refused = None;
        for capture in self.open.iter_mut().filter(|capture| conflicts(capture)) {
            capture.is_valid = false;
            refused = Some(UNSUPPORTED);
        }
        refused
    }

    /// What conflicts with a capture of the context in any mode.
    pub(super) fn refuse_all_of(&mut self, context: Handle) -> Option<i32> {
        self.refuse(|capture| capture.context == context)
    }
}

impl State {
    /// The error that a call gets by the mode of its thread.
    pub(super) fn refusal(&mut self, call: &'static str) -> Option<i32> {
        let mode = MODE.get();
        if mode == RELAXED {
            return None;
        }
        self.captures.strays.push(call);
        if is_harmless(call) {
            return None;
        }
        let me = thread::current().id();
        self.captures.refuse(|capture| match capture.owner == me {
            true => capture.mode != RELAXED,
            false => capture.mode == GLOBAL && mode == GLOBAL,
        })
    }
}

/// What never ends a capture of another stream: what is queued on a stream, and questions.
fn is_harmless(call: &str) -> bool {
    matches!(
        call,
        "cuDeviceGet"
            | "cuDeviceGetName"
            | "cuDeviceGetUuid"
            | "cuDeviceGetAttribute"
            | "cuDeviceGetPCIBusId"
            | "cuDeviceTotalMem"
            | "cuDeviceCanAccessPeer"
            | "cuDeviceGetP2PAttribute"
            | "cuCtxGetStreamPriorityRange"
            | "cuPointerGetAttributes"
            | "cuIpcGetMemHandle"
            | "cuMemcpyAsync"
            | "cuMemcpyBatchAsync"
            | "cuMemcpyBatchAsync_v2"
            | "cuMemsetD8Async"
            | "cuStreamWaitEvent"
            | "cuStreamIsCapturing"
            | "cuEventRecord"
            | "cuLaunchKernel"
    )
}
