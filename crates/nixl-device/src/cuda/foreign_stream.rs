//! Streams of other libraries, such as a framework's.

use super::callback::{self, HostCallback};
use super::context::Context;
use super::error::{CudaError, STREAM_CAPTURE_IMPLICIT};
use super::event::Event;

/// Why a point in a stream of the caller's cannot be marked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ForeignStreamError {
    /// The stream captures a CUDA graph. Its queue is left alone, and the capture goes on.
    #[error(
        "stream {stream:#x} is capturing a CUDA graph: nothing that it is given runs before the graph is launched, so there \
         is no work to wait for; make the point before the capture begins, or after the graph's launch on the launching stream"
    )]
    Capturing {
        /// The `CUstream`.
        stream: usize,
    },
    /// The default stream waits for every blocking stream of its context, and one of those captures a CUDA graph. The
    /// capture goes on.
    #[error(
        "the default stream of cuda:{ordinal} cannot be used while a blocking stream of that GPU is capturing a CUDA graph; \
         wait until the capture has ended, or capture on a stream made with CU_STREAM_NON_BLOCKING"
    )]
    DefaultStream {
        /// The GPU's ordinal.
        ordinal: u32,
    },
    /// A call failed.
    #[error(transparent)]
    Cuda(#[from] CudaError),
}

impl Event {
    /// Moves the event to the end of what is queued now on a stream that the caller made, such as a framework's: to order
    /// work after it with [`Stream::wait`](super::Stream::wait).
    ///
    /// # Errors
    ///
    /// [`ForeignStreamError`]: the stream captures a CUDA graph, which is found out before anything is queued; or what the
    /// driver says. A capture that another thread begins on the stream during this call may get the event.
    ///
    /// # Safety
    ///
    /// `stream` is a `CUstream` of the event's context that is alive during the call, or 0 for the default stream.
    pub unsafe fn record_on_foreign(&self, stream: usize) -> Result<(), ForeignStreamError> {
        // SAFETY: the caller vouches for the stream.
        unsafe { check_not_capturing(&self.context(), stream) }?;
        // SAFETY: the event is alive, and the caller vouches for the stream.
        let recorded = self
            .context()
            .call("cuEventRecord", |api| unsafe { (api.event_record)(self.as_raw(), stream) });
        Ok(recorded?)
    }
}

impl Context {
    /// Runs a function as [`Stream::host_callback`](super::Stream::host_callback) does, on a stream that the caller made, such as
    /// a framework's.
    ///
    /// # Errors
    ///
    /// As [`Event::record_on_foreign`]; then the function is dropped and never runs.
    ///
    /// # Safety
    ///
    /// `stream` is a `CUstream` of this context that is alive during the call, or 0 for the default stream.
    pub unsafe fn host_callback_on_foreign(
        &self,
        stream: usize,
        callback: HostCallback,
    ) -> Result<(), ForeignStreamError> {
        // SAFETY: the caller vouches for the stream.
        unsafe { check_not_capturing(self, stream) }?;
        Ok(callback::add(*self, stream, callback)?)
    }
}

/// # Safety
///
/// As for [`Event::record_on_foreign`].
unsafe fn check_not_capturing(context: &Context, stream: usize) -> Result<(), ForeignStreamError> {
    /// `CU_STREAM_CAPTURE_STATUS_NONE`. The others are captures, going on or broken, which own the stream until they end.
    const NONE: i32 = 0;
    let mut status = NONE;
    // SAFETY: the caller vouches for the stream; the pointer is to a live variable, written during the call only.
    let asked = context.call("cuStreamIsCapturing", |api| unsafe {
        (api.stream_is_capturing)(stream, &raw mut status)
    });
    match asked {
        Ok(()) if status == NONE => Ok(()),
        Ok(()) => Err(ForeignStreamError::Capturing { stream }),
        Err(error) if error.code == STREAM_CAPTURE_IMPLICIT => {
            Err(ForeignStreamError::DefaultStream { ordinal: context.ordinal() })
        }
        Err(error) => Err(error.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::super::fake::{Fake, GLOBAL, THREAD_LOCAL};
    use super::*;

    fn record(event: &Event, stream: usize) -> Result<(), ForeignStreamError> {
        // SAFETY: the fake driver follows no handle but its own.
        unsafe { event.record_on_foreign(stream) }
    }

    #[test]
    fn a_stream_that_captures_is_given_nothing() {
        let fake = Fake::new();
        let context = fake.context(0);
        let event = Event::new(&context).unwrap();
        let stream = fake.foreign_stream();
        for mode in [GLOBAL, THREAD_LOCAL] {
            assert_eq!(record(&event, stream), Ok(()));
            let recorded = fake.count("cuEventRecord");
            fake.begin_capture(stream, &context, false, mode);
            let error = record(&event, stream).unwrap_err();
            assert_eq!(error, ForeignStreamError::Capturing { stream });
            assert!(error.to_string().contains("before the capture begins"), "{error}");
            assert_eq!(fake.count("cuEventRecord"), recorded);
            assert_eq!(fake.end_capture(stream), 0, "the capture goes on");
        }
        assert_eq!(record(&event, stream), Ok(()));
        assert_eq!(fake.faults(), Vec::<String>::new());
    }

    #[test]
    fn a_function_runs_in_the_order_of_a_callers_stream_unless_that_captures() {
        let fake = Fake::new();
        let context = fake.context(0);
        let stream = fake.foreign_stream();
        let (sender, receiver) = std::sync::mpsc::channel();
        let call = |number| {
            let sender = sender.clone();
            let function = Box::new(move |result| sender.send((number, result)).unwrap());
            // SAFETY: the fake driver follows no handle but its own.
            unsafe { context.host_callback_on_foreign(stream, function) }
        };
        call(1).unwrap();
        assert!(receiver.try_recv().is_err(), "the device is not there yet");
        fake.begin_capture(stream, &context, false, GLOBAL);
        assert_eq!(call(2), Err(ForeignStreamError::Capturing { stream }));
        assert_eq!(fake.end_capture(stream), 0, "the capture goes on");
        fake.fail("cuStreamAddCallback", 400, 1);
        assert!(call(3).is_err());
        fake.finish();
        drop(sender);
        assert_eq!(receiver.iter().collect::<Vec<_>>(), [(1, Ok(()))]);
        assert_eq!(fake.faults(), Vec::<String>::new());
    }

    #[test]
    fn a_capture_that_failed_still_owns_its_stream() {
        let fake = Fake::new();
        let context = fake.context(0);
        let event = Event::new(&context).unwrap();
        let stream = fake.foreign_stream();
        fake.begin_capture(stream, &context, false, GLOBAL);
        context.synchronize().unwrap_err();
        assert_eq!(record(&event, stream), Err(ForeignStreamError::Capturing { stream }));
        assert_eq!(fake.end_capture(stream), 901);
        assert_eq!(record(&event, stream), Ok(()));
        assert_eq!(fake.faults(), Vec::<String>::new());
    }

    #[test]
    fn the_default_stream_is_left_alone_while_a_stream_that_it_waits_for_captures() {
        let fake = Fake::new();
        let (context, other) = (fake.context(0), fake.context(1));
        let event = Event::new(&context).unwrap();
        let stream = fake.foreign_stream();
        for (of, is_blocking, refused) in
            [(context, false, false), (context, true, true), (other, true, false)]
        {
            fake.begin_capture(stream, &of, is_blocking, GLOBAL);
            let expected = match refused {
                true => Err(ForeignStreamError::DefaultStream { ordinal: 0 }),
                false => Ok(()),
            };
            assert_eq!(record(&event, 0), expected);
            assert_eq!(fake.end_capture(stream), 0);
        }
        assert_eq!(record(&event, 0), Ok(()));
        assert_eq!(fake.faults(), Vec::<String>::new());
    }

    #[test]
    fn what_the_driver_says_is_an_error_as_it_is() {
        let fake = Fake::new();
        let event = Event::new(&fake.context(0)).unwrap();
        let stream = fake.foreign_stream();
        for call in ["cuStreamIsCapturing", "cuEventRecord"] {
            fake.fail(call, 400, 1);
            let error = record(&event, stream).unwrap_err();
            let expected = CudaError { code: 400, name: None, call };
            assert_eq!(error, ForeignStreamError::Cuda(expected));
        }
    }
}
