//! Host callbacks, which the driver calls when a stream reaches them.
//!
//! The driver gets a number, not a pointer. So a callback runs exactly once and is freed exactly once for every behaviour of the
//! driver does: call twice, never, or after it refused.

use std::cell::Cell;
use std::collections::HashMap;
use std::ffi::c_void;
use std::mem;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::ptr;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::api::Handle;
use super::context::Context;
use super::error::CudaError;
use super::reaper;
use crate::locks::lock;
use crate::system::process::PerProcess;

/// What [`Stream::host_callback`](super::Stream::host_callback) runs.
pub type HostCallback = Box<dyn FnOnce(Result<(), CudaError>) + Send>;

struct Pending {
    context: Context,
    callback: HostCallback,
}

static PENDING: PerProcess<Mutex<HashMap<usize, Pending>>> = PerProcess::new(Mutex::default);

thread_local! {
    static ON_CALLBACK_THREAD: Cell<bool> = const { Cell::new(false) };
}

/// Whether this is the driver's thread in the middle of a callback, where no call of the driver is allowed.
pub(super) fn on_callback_thread() -> bool {
    ON_CALLBACK_THREAD.get()
}

/// Queues a callback on a stream of the context.
pub(super) fn add(
    context: Context,
    stream: Handle,
    callback: HostCallback,
) -> Result<(), CudaError> {
    static NEXT: AtomicUsize = AtomicUsize::new(1);
    let id = NEXT.fetch_add(1, Ordering::Relaxed);
    lock(PENDING.get()).insert(id, Pending { context, callback });
    let data: *mut c_void = ptr::without_provenance_mut(id);
    // SAFETY: the stream is alive; the function takes any number as data and may be called from any thread.
    let added = context.call("cuStreamAddCallback", |api| unsafe {
        (api.stream_add_callback)(stream, trampoline, data, 0)
    });
    match added {
        Err(error) if take(id).is_some() => Err(error),
        // Also if the context broke just now: then another thread runs the callback with the error.
        _ => Ok(()),
    }
}

/// The caller that takes a callback runs or drops it.
fn take(id: usize) -> Option<Pending> {
    lock(PENDING.get()).remove(&id)
}

unsafe extern "C" fn trampoline(_stream: Handle, status: i32, data: *mut c_void) {
    if let Some(Pending { context, callback }) = take(data.addr()) {
        ON_CALLBACK_THREAD.set(true);
        let result = context.check("cuStreamAddCallback", status);
        catch(move || callback(result));
        ON_CALLBACK_THREAD.set(false);
    }
}

/// Runs every callback that waits for a stream of a context that broke. The driver may never do it.
pub(super) fn fail_all(context: Context, error: CudaError) {
    let callbacks: Vec<HostCallback> = lock(PENDING.get())
        .extract_if(|_, pending| pending.context == context)
        .map(|(_, pending)| pending.callback)
        .collect();
    if !callbacks.is_empty() {
        // Not here: the caller may hold locks that a callback takes.
        reaper::run(Box::new(move || {
            for callback in callbacks {
                catch(move || callback(Err(error)));
            }
        }));
    }
}

/// Runs foreign code whose panic must not spread.
pub(super) fn catch(run: impl FnOnce()) {
    if let Err(panic) = catch_unwind(AssertUnwindSafe(run)) {
        // Even dropping what it panicked with may panic.
        if let Err(again) = catch_unwind(AssertUnwindSafe(|| drop(panic))) {
            mem::forget(again);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::mpsc::channel;

    use super::super::fake::Fake;
    use super::super::{DeviceMemory, Stream};

    #[test]
    fn a_callback_runs_once_when_its_turn_comes() {
        let fake = Fake::new();
        let stream = Stream::new(&fake.context(0)).unwrap();
        let (sender, receiver) = channel();
        stream.host_callback(Box::new(move |result| sender.send(result).unwrap())).unwrap();
        assert!(receiver.try_recv().is_err(), "the device is not there yet");
        fake.finish();
        fake.repeat_callbacks();
        assert_eq!(receiver.iter().collect::<Vec<_>>(), [Ok(())]);
    }

    #[test]
    fn a_panic_stays_in_the_callback() {
        let fake = Fake::new();
        let stream = Stream::new(&fake.context(0)).unwrap();
        let (sender, receiver) = channel::<()>();
        stream
            .host_callback(Box::new(move |_| {
                let _held = sender;
                std::panic::panic_any(1);
            }))
            .unwrap();
        fake.finish();
        assert!(receiver.recv().is_err(), "what it held is dropped");
    }

    #[test]
    fn a_refused_callback_is_dropped_and_never_runs() {
        let fake = Fake::new();
        let stream = Stream::new(&fake.context(0)).unwrap();
        let (sender, receiver) = channel();
        fake.fail("cuStreamAddCallback", 801, 1);
        let added = stream.host_callback(Box::new(move |result| sender.send(result).unwrap()));
        assert!(added.is_err_and(|error| error.is_not_supported()));
        assert_eq!(receiver.iter().count(), 0);
    }

    #[test]
    fn callbacks_learn_of_a_broken_context_even_if_the_driver_never_calls_them() {
        let fake = Fake::new();
        let (context, other) = (fake.context(0), fake.context(1));
        let (stream, healthy) = (Stream::new(&context).unwrap(), Stream::new(&other).unwrap());
        let (sender, receiver) = channel();
        let healthy_sender = sender.clone();
        stream.host_callback(Box::new(move |result| sender.send((0, result)).unwrap())).unwrap();
        healthy
            .host_callback(Box::new(move |result| {
                healthy_sender.send((1, result)).unwrap();
            }))
            .unwrap();
        fake.fail("cuCtxSynchronize", 719, 1);
        let error = context.synchronize().unwrap_err();
        assert_eq!(receiver.recv(), Ok((0, Err(error))));
        fake.finish();
        assert_eq!(receiver.iter().collect::<Vec<_>>(), [(1, Ok(()))]);
    }

    #[test]
    fn a_callback_gets_the_error_of_its_stream() {
        let fake = Fake::new();
        let context = fake.context(0);
        let stream = Stream::new(&context).unwrap();
        let (sender, receiver) = channel();
        stream.host_callback(Box::new(move |result| sender.send(result).unwrap())).unwrap();
        fake.finish_with(700);
        let error = receiver.recv().unwrap().unwrap_err();
        assert_eq!((error.code, error.is_sticky()), (700, true));
        assert_eq!(context.health(), Err(error));
    }

    #[test]
    fn memory_dropped_in_a_callback_is_freed_by_another_thread() {
        let fake = Fake::new();
        let context = fake.context(0);
        let stream = Stream::new(&context).unwrap();
        let memory = Arc::new(DeviceMemory::new(&context, 4096).unwrap());
        let (sender, receiver) = channel();
        stream
            .host_callback(Box::new(move |_| {
                sender.send(DeviceMemory::new(&memory.context(), 1)).unwrap();
                drop(memory);
            }))
            .unwrap();
        fake.finish();
        assert!(receiver.recv().unwrap().is_err(), "no call in a callback");
        fake.wait_until(|fake| fake.live_bytes() == 0);
        assert_eq!(fake.calls_in_callbacks(), 0);
        assert_eq!(context.leaked(), 0);
    }
}
