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

#[cfg(test)]
mod tests {
    use std::panic::{AssertUnwindSafe, catch_unwind};

    use proptest::prelude::*;

    use super::super::api::Api;
    use super::super::fake::{self, Fake, GLOBAL, THREAD_LOCAL, exchanges, mode, set_mode};
    use super::super::{Buffer, DeviceMemory, Event, HostRegistration, PinnedMemory, Stream};
    use super::*;

    const MODES: [i32; 3] = [GLOBAL, THREAD_LOCAL, RELAXED];

    /// Memory of every kind, made, copied, waited for and given back.
    fn work(fake: &Fake) {
        let context = fake.context(0);
        let stream = Stream::new(&context).unwrap();
        let memory = Buffer::from(DeviceMemory::new(&context, 4096).unwrap());
        let pinned = Buffer::from(PinnedMemory::new(&context, 4096).unwrap());
        let registered = Buffer::from(HostRegistration::from_vec(&context, vec![0; 4096]).unwrap());
        stream.copy(&memory, 0, &pinned, 0, 4096).unwrap();
        stream.copy(&registered, 0, &memory, 0, 4096).unwrap();
        let event = Event::new(&context).unwrap();
        event.record(&stream).unwrap();
        assert_eq!(event.query(), Ok(false));
        fake.finish();
        assert_eq!((event.query(), stream.query()), (Ok(true), Ok(true)));
        drop((stream, memory, pinned, registered, event));
        assert_eq!((fake.live_bytes(), context.leaked()), (0, 0));
    }

    #[test]
    fn the_thread_has_its_mode_again_after_calls_errors_and_panics() {
        let fake = Fake::new();
        let context = fake.context(0);
        for before in MODES {
            set_mode(before);
            context.memory_info().unwrap();
            assert_eq!(mode(), before);
            fake.fail("cuMemGetInfo", 1, 1);
            context.memory_info().unwrap_err();
            assert_eq!(mode(), before);
            let panicked = catch_unwind(AssertUnwindSafe(|| {
                let _current = context.enter().unwrap();
                assert_eq!(mode(), RELAXED);
                std::panic::panic_any(1);
            }));
            assert!(panicked.is_err());
            assert_eq!(mode(), before);
        }
        set_mode(GLOBAL);
    }

    #[test]
    fn a_thread_that_is_relaxed_exchanges_nothing_more() {
        let fake = Fake::new();
        let context = fake.context(0);
        let before = exchanges();
        context.memory_info().unwrap();
        assert_eq!(exchanges() - before, 2);
        let relaxed = fake.driver().functions.relax();
        for _ in 0..100 {
            context.memory_info().unwrap();
        }
        assert_eq!(exchanges() - before, 3);
        drop(relaxed);
        assert_eq!((exchanges() - before, mode()), (4, GLOBAL));
    }

    #[test]
    fn a_thread_that_captures_may_use_this_library_meanwhile() {
        let fake = Fake::new();
        let context = fake.context(0);
        for mode in MODES {
            let stream = fake.foreign_stream();
            fake.begin_capture(stream, &context, false, mode);
            work(&fake);
            assert_eq!(fake.end_capture(stream), 0);
        }
    }

    #[test]
    fn waiting_for_a_whole_context_is_refused_and_breaks_its_captures_alone() {
        let fake = Fake::new();
        let (context, other) = (fake.context(0), fake.context(1));
        let stream = fake.foreign_stream();
        fake.begin_capture(stream, &context, false, GLOBAL);
        other.synchronize().unwrap();
        let error = context.synchronize().unwrap_err();
        assert_eq!(error.class(), super::super::CudaErrorClass::StreamCapture);
        assert!(error.to_string().contains("when the capture has ended"), "{error}");
        assert_eq!(fake.end_capture(stream), 901);
        assert_eq!((context.health(), context.synchronize()), (Ok(()), Ok(())));
    }

    #[test]
    fn a_driver_that_cannot_exchange_is_called_all_the_same() {
        unsafe extern "C" fn refuses(_: *mut i32) -> i32 {
            3
        }
        let api = Api { thread_exchange_stream_capture_mode: refuses, ..fake::api() };
        let fake = Fake::with(api);
        fake.end_capture(fake.framework());
        fake.context(0).stream_priorities().unwrap();
        assert_eq!(mode(), GLOBAL);
        assert!(fake.strays().contains(&"cuCtxGetStreamPriorityRange"));
    }

    #[test]
    fn without_a_driver_there_is_nothing_to_relax() {
        let relaxed = relax_capture();
        assert!(relaxed.exchange.is_none() || super::super::is_available());
    }

    /// The table of `cuThreadExchangeStreamCaptureMode`: what forgetting the exchange would do.
    #[test]
    fn the_fake_driver_refuses_what_a_real_one_refuses() {
        let api = fake::api();
        for (capture, thread, own, refused) in [
            (GLOBAL, GLOBAL, false, true),
            (GLOBAL, THREAD_LOCAL, false, false),
            (GLOBAL, RELAXED, false, false),
            (THREAD_LOCAL, GLOBAL, false, false),
            (THREAD_LOCAL, THREAD_LOCAL, false, false),
            (THREAD_LOCAL, RELAXED, false, false),
            (RELAXED, GLOBAL, false, false),
            (RELAXED, THREAD_LOCAL, false, false),
            (RELAXED, RELAXED, false, false),
            (GLOBAL, GLOBAL, true, true),
            (GLOBAL, THREAD_LOCAL, true, true),
            (GLOBAL, RELAXED, true, false),
            (THREAD_LOCAL, GLOBAL, true, true),
            (THREAD_LOCAL, THREAD_LOCAL, true, true),
            (THREAD_LOCAL, RELAXED, true, false),
            (RELAXED, GLOBAL, true, false),
            (RELAXED, THREAD_LOCAL, true, false),
            (RELAXED, RELAXED, true, false),
        ] {
            let fake = Fake::new();
            // The one that captures beside every fake would refuse too.
            fake.end_capture(fake.framework());
            let context = fake.context(0);
            let event = Event::new(&context).unwrap();
            let stream = fake.foreign_stream();
            fake.begin_capture(stream, &context, false, capture);
            let query = || {
                set_mode(thread);
                // SAFETY: the fake driver's function, and an event of it.
                let code = unsafe { (api.event_query)(event.as_raw()) };
                set_mode(GLOBAL);
                code
            };
            let code = if own {
                query()
            } else {
                std::thread::scope(|scope| scope.spawn(query).join().unwrap())
            };
            let case = format!("capture {capture}, thread {thread}, own {own}");
            assert_eq!(code, if refused { 900 } else { 0 }, "{case}");
            assert_eq!(fake.end_capture(stream), if refused { 901 } else { 0 }, "{case}");
            assert_eq!(fake.strays().is_empty(), thread == RELAXED, "{case}");
        }
    }

    proptest! {
        #[test]
        fn guards_nest_and_may_end_in_any_order(
            before in 0..3_i32,
            steps in proptest::collection::vec(any::<(bool, prop::sample::Index)>(), 0..40),
        ) {
            let fake = Fake::new();
            let functions = &fake.driver().functions;
            set_mode(before);
            let mut guards = Vec::new();
            for (more, which) in steps {
                if more || guards.is_empty() {
                    guards.push(functions.relax());
                } else {
                    drop(guards.swap_remove(which.index(guards.len())));
                }
                prop_assert_eq!(mode(), if guards.is_empty() { before } else { RELAXED });
            }
            drop(guards);
            prop_assert_eq!(mode(), before);
            set_mode(GLOBAL);
        }
    }
}
