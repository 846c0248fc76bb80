//! The stream-capture mode of threads that call the driver.
//!
//! While a thread captures a CUDA graph in the mode "global", which is the default of the CUDA runtime and of PyTorch, the
//! driver refuses calls of *every* thread that it holds for unsafe, such as a query of an event or an allocation, with
//! error 900, and the capture fails. A thread whose own mode is relaxed is exempt.

use std::cell::Cell;
use std::marker::PhantomData;

use super::callback;
use super::probe::if_loaded;

/// `CU_STREAM_CAPTURE_MODE_RELAXED`.
pub(super) const RELAXED: i32 = 2;

/// `cuThreadExchangeStreamCaptureMode`.
pub(super) type Exchange = unsafe extern "C" fn(*mut i32) -> i32;

thread_local! {
    /// What this thread's guards share.
    static RELAXATION: Cell<Relaxation> = const { Cell::new(Relaxation { guards: 0, before: 0 }) };
}

#[derive(Clone, Copy)]
struct Relaxation {
    /// How many guards of this thread live. The first relaxes the mode, the last restores it.
    guards: u32,
    /// The mode before the first.
    before: i32,
}

/// While this lives, CUDA calls of its thread leave the captures of others alone: see [`relax_capture`].
#[derive(Debug)]
#[must_use = "the mode is relaxed only as long as this lives"]
pub struct RelaxedCapture {
    /// `None` if this guard has relaxed nothing.
    exchange: Option<Exchange>,
    /// The mode belongs to a thread.
    not_send: PhantomData<*const ()>,
}

/// Sets the calling thread's stream-capture mode to relaxed until the guard is dropped, on unwinding too: then CUDA calls of
/// this thread do not end a CUDA graph capture of another thread.
///
/// Every call of this module does so by itself. This is for CUDA calls that the thread makes otherwise, such as inside a
/// transfer engine; and for a thread that makes many calls, which then exchange the mode only once. Guards nest.
///
/// Does nothing, and costs a nanosecond, while this module has not loaded the driver: see [`probe`](super::probe()).
pub fn relax_capture() -> RelaxedCapture {
    match if_loaded() {
        Some(driver) => driver.functions.relax(),
        None => RelaxedCapture { exchange: None, not_send: PhantomData },
    }
}

impl RelaxedCapture {
    pub(super) fn new(exchange: Exchange) -> Self {
        Self { exchange: enter(exchange).then_some(exchange), not_send: PhantomData }
    }
}

impl Drop for RelaxedCapture {
    fn drop(&mut self) {
        let Some(exchange) = self.exchange else { return };
        let now = RELAXATION.get();
        let guards = now.guards.saturating_sub(1);
        if guards == 0 {
            swap(exchange, now.before);
        }
        RELAXATION.set(Relaxation { guards, ..now });
    }
}

/// Whether the mode is relaxed for one guard more.
fn enter(exchange: Exchange) -> bool {
    let now = RELAXATION.get();
    let before = match now.guards {
        // No call at all is allowed on the driver's thread in a callback.
        0 if callback::on_callback_thread() => None,
        // Refused only by a driver that is not initialised or gone: then nothing can be captured.
        0 => swap(exchange, RELAXED),
        _ => Some(now.before),
    };
    let Some(before) = before else { return false };
    RELAXATION.set(Relaxation { guards: now.guards.saturating_add(1), before });
    true
}

/// Sets the mode, and returns the one before; `None` if the driver refuses.
fn swap(exchange: Exchange, mut mode: i32) -> Option<i32> {
    // SAFETY: the pointer is to a live variable, read and written during the call only.
    let code = unsafe { exchange(&raw mut mode) };
    (code == 0).then_some(mode)
}
