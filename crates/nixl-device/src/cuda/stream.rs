//! CUDA streams: queues of work for a device.

use std::any::Any;
use std::collections::VecDeque;
use std::sync::Mutex;

use super::api::Handle;
use super::callback::{self, HostCallback};
use super::context::Context;
use super::error::CudaError;
use super::event::Event;
use super::hold::{Hold, HoldState};
use super::reaper;
use crate::locks::lock;

/// A queue of work for a device, done in order. It does not wait for the legacy default stream, nor that for it.
///
/// It may be used from any thread. Dropping it waits for nothing: what is queued is still done, and what it
/// [keeps](Self::keep) stays until then.
#[derive(Debug)]
pub struct Stream {
    context: Context,
    raw: Handle,
    queue: Mutex<Queue>,
}

#[derive(Default)]
struct Queue {
    /// In the order of their events.
    holds: VecDeque<Hold>,
    /// Events of holds that are gone.
    spare: Vec<Event>,
}

impl std::fmt::Debug for Queue {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Queue").field("holds", &self.holds.len()).finish_non_exhaustive()
    }
}

impl Stream {
    /// A stream of the default priority.
    ///
    /// # Errors
    ///
    /// The driver's error.
    pub fn new(context: &Context) -> Result<Self, CudaError> {
        Self::with_priority(context, 0)
    }

    /// A stream of a priority; one outside of [`Context::stream_priorities`] is moved to the nearest inside.
    ///
    /// # Errors
    ///
    /// The driver's error.
    pub fn with_priority(context: &Context, priority: i32) -> Result<Self, CudaError> {
        const NON_BLOCKING: u32 = 1;
        let mut raw = 0;
        // SAFETY: the pointer is to a live variable, written during the call only.
        context.call("cuStreamCreateWithPriority", |api| unsafe {
            (api.stream_create_with_priority)(&raw mut raw, NON_BLOCKING, priority)
        })?;
        Ok(Self { context: *context, raw, queue: Mutex::default() })
    }

    /// The context it belongs to.
    #[must_use]
    pub fn context(&self) -> Context {
        self.context
    }

    /// The driver's `CUstream`, for code that calls CUDA itself. It is the stream's own: do not destroy it, nor capture on
    /// it.
    #[must_use]
    pub fn as_raw(&self) -> usize {
        self.raw
    }

    /// Whether everything that was queued is done. Drops what was kept for what is.
    ///
    /// # Errors
    ///
    /// The driver's error, also of earlier work on the device.
    pub fn query(&self) -> Result<bool, CudaError> {
        // SAFETY: the stream is alive.
        let done =
            self.context.query("cuStreamQuery", |api| unsafe { (api.stream_query)(self.raw) });
        self.reclaim();
        done
    }

    /// Waits, blocking, until everything that was queued is done, then drops what was kept for it.
    ///
    /// # Errors
    ///
    /// The driver's error, also of earlier work on the device.
    pub fn synchronize(&self) -> Result<(), CudaError> {
        let done = self.wait_until_done();
        self.reclaim();
        done
    }

    fn wait_until_done(&self) -> Result<(), CudaError> {
        // SAFETY: the stream is alive.
        self.context
            .call("cuStreamSynchronize", |api| unsafe { (api.stream_synchronize)(self.raw) })
    }

    /// Makes what is queued from now on wait for `event`, which may be of another context.
    ///
    /// # Errors
    ///
    /// The driver's error.
    pub fn wait(&self, event: &Event) -> Result<(), CudaError> {
        // SAFETY: both are alive, and the driver keeps what the wait needs.
        self.context.call("cuStreamWaitEvent", |api| unsafe {
            (api.stream_wait_event)(self.raw, event.as_raw(), 0)
        })
    }

    /// Runs a function on a thread of the driver when everything queued before it is done, with `Ok`; or when the
    /// context breaks, with the error. What is queued later waits for the function, so keep it short: wake a task.
    ///
    /// The call arrives about 15 µs after the device has passed; polls of an [`Event`] notice it after 2 µs.
    ///
    /// It runs exactly once, and a panic in it goes no further. Calls of CUDA in it fail with
    /// `CUDA_ERROR_NOT_PERMITTED`; memory, streams and events may be dropped there.
    ///
    /// # Errors
    ///
    /// The driver's error; then the function is dropped and never runs.
    pub fn host_callback(&self, callback: HostCallback) -> Result<(), CudaError> {
        callback::add(self.context, self.raw, callback)
    }

    /// Keeps a value until everything that is queued now is done: the memory of a copy, a staging slot, a permit.
    ///
    /// It is dropped at the next call of `keep`, [`query`](Self::query), [`synchronize`](Self::synchronize) or
    /// [`reclaim`](Self::reclaim) after that; or, when the stream is dropped earlier, on a thread of this library. If
    /// the driver cannot tell any more whether the work is done, the value is leaked: see [`Context::leaked`].
    ///
    /// # Errors
    ///
    /// The point in the stream could not be marked. The value is then kept until the stream is empty, which blocks; or
    /// leaked, if the driver cannot tell even that.
    pub fn keep(&self, value: impl Any + Send) -> Result<(), CudaError> {
        self.reclaim();
        let value = Box::new(value);
        let mut queue = lock(&self.queue);
        let event = match queue.spare.pop() {
            Some(event) => Ok(event),
            None => Event::new(&self.context),
        };
        // The lock is held, so that events are queued in the order in which they are recorded.
        match event.and_then(|event| event.record(self).map(|()| event)) {
            Ok(event) => {
                queue.holds.push_back(Hold::new(event, value));
                Ok(())
            }
            Err(error) => {
                drop(queue);
                if self.wait_until_done().is_ok() {
                    drop(value);
                } else {
                    self.context.count_leak();
                    std::mem::forget(value);
                }
                Err(error)
            }
        }
    }

    /// Drops the values kept for work that is done. Never waits for the device.
    pub fn reclaim(&self) {
        // Dropping is foreign code and may free memory, so it happens without the lock.
        let mut passed = Vec::new();
        let mut queue = lock(&self.queue);
        while let Some(hold) = queue.holds.pop_front() {
            match hold.state() {
                HoldState::Passed => {
                    let (event, value) = hold.into_parts();
                    queue.spare.push(event);
                    passed.push(value);
                }
                HoldState::Unknown(error) if error.is_sticky() => hold.leak(),
                // Unknown on the driver's own threads, for example.
                HoldState::Pending | HoldState::Unknown(_) => {
                    queue.holds.push_front(hold);
                    break;
                }
            }
        }
        drop(queue);
    }

    /// How many values are kept now.
    #[must_use]
    pub fn kept(&self) -> usize {
        lock(&self.queue).holds.len()
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        if self.context.is_inherited() {
            return;
        }
        self.reclaim();
        let holds = std::mem::take(&mut lock(&self.queue).holds);
        if !holds.is_empty() {
            reaper::wait_for(holds);
        }
        let raw = self.raw;
        // SAFETY: nothing else destroys it. The driver finishes what is queued first.
        self.context.release("cuStreamDestroy", move |api| unsafe { (api.stream_destroy)(raw) });
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use proptest::prelude::*;

    use super::super::fake::Fake;
    use super::*;

    /// Counts by its strong references whether it was dropped.
    fn token() -> (Arc<()>, Arc<()>) {
        let token = Arc::new(());
        (Arc::clone(&token), token)
    }

    fn is_dropped(token: &Arc<()>) -> bool {
        Arc::strong_count(token) == 1
    }

    #[test]
    fn what_is_kept_stays_until_the_device_has_passed() {
        let fake = Fake::new();
        let stream = Stream::new(&fake.context(0)).unwrap();
        let (value, token) = token();
        stream.keep(value).unwrap();
        stream.reclaim();
        assert_eq!((is_dropped(&token), stream.kept()), (false, 1));
        fake.finish();
        stream.reclaim();
        assert_eq!((is_dropped(&token), stream.kept()), (true, 0));
    }

    #[test]
    fn a_dropped_stream_still_keeps() {
        let fake = Fake::new();
        let stream = Stream::new(&fake.context(0)).unwrap();
        let (value, token) = token();
        stream.keep(value).unwrap();
        drop(stream);
        assert!(!is_dropped(&token));
        fake.finish();
        fake.wait_until(|_| is_dropped(&token));
        assert_eq!(fake.faults(), Vec::<String>::new());
    }

    #[test]
    fn what_a_broken_context_may_still_use_is_leaked_and_counted() {
        let fake = Fake::new();
        let context = fake.context(0);
        let stream = Stream::new(&context).unwrap();
        let (value, token) = token();
        stream.keep(value).unwrap();
        fake.fail("cuEventQuery", 700, 1);
        stream.reclaim();
        assert!(stream.query().is_err_and(|error| error.is_sticky()));
        drop(stream);
        assert!(!is_dropped(&token));
        assert!(context.leaked() >= 1);
    }

    #[test]
    fn without_an_event_the_value_is_kept_until_the_stream_is_empty() {
        let fake = Fake::new();
        let stream = Stream::new(&fake.context(0)).unwrap();
        for call in ["cuEventCreate", "cuEventRecord"] {
            let (value, token) = token();
            let before = fake.count("cuStreamSynchronize");
            fake.fail(call, 2, 1);
            assert!(stream.keep(value).is_err());
            assert!(is_dropped(&token));
            assert_eq!(fake.count("cuStreamSynchronize"), before + 1);
        }
    }

    #[test]
    fn if_even_that_fails_the_value_is_leaked() {
        let fake = Fake::new();
        let context = fake.context(0);
        let stream = Stream::new(&context).unwrap();
        let (value, token) = token();
        fake.fail("cuEventRecord", 999, 1);
        fake.fail("cuStreamSynchronize", 999, 1);
        assert!(stream.keep(value).is_err());
        assert!(!is_dropped(&token));
        assert_eq!(context.leaked(), 1);
    }

    proptest! {
        #[test]
        fn everything_kept_is_dropped_once_and_never_early(
            steps in proptest::collection::vec(0..4_u8, 1..40),
        ) {
            let fake = Fake::new();
            let stream = Stream::new(&fake.context(0)).unwrap();
            let mut pending: Vec<Arc<()>> = Vec::new();
            let mut passed: Vec<Arc<()>> = Vec::new();
            for step in steps {
                match step {
                    0 | 1 => {
                        let (value, token) = token();
                        stream.keep(value).unwrap();
                        pending.push(token);
                    }
                    2 => {
                        fake.finish();
                        passed.append(&mut pending);
                    }
                    _ => {
                        stream.reclaim();
                        prop_assert!(passed.iter().all(is_dropped));
                    }
                }
                prop_assert!(!pending.iter().any(is_dropped));
            }
            stream.synchronize().unwrap();
            prop_assert!(pending.iter().chain(&passed).all(is_dropped));
            prop_assert_eq!(stream.kept(), 0);
        }
    }
}
