//! CUDA events: points in a stream that can be queried and waited for.

use super::api::{Handle, IpcBytes};
use super::context::Context;
use super::error::CudaError;
use super::stream::Stream;

/// A point in a stream: recorded when everything queued before it is done.
///
/// An event that was never recorded counts as passed. Dropping one that is recorded and not yet passed is fine. It may
/// be used from any thread.
#[derive(Debug)]
pub struct Event {
    context: Context,
    raw: Handle,
}

impl Event {
    /// An event without a time stamp, the cheapest kind. [`synchronize`](Self::synchronize) spins.
    ///
    /// # Errors
    ///
    /// The driver's error.
    pub fn new(context: &Context) -> Result<Self, CudaError> {
        Self::create(context, DISABLE_TIMING)
    }

    /// An event whose [`synchronize`](Self::synchronize) sleeps instead of spinning, without a time stamp.
    ///
    /// # Errors
    ///
    /// The driver's error.
    pub fn blocking(context: &Context) -> Result<Self, CudaError> {
        Self::create(context, BLOCKING_SYNC | DISABLE_TIMING)
    }

    /// An event that other processes can open: see [`export`](Self::export). It has no time stamp.
    ///
    /// # Errors
    ///
    /// The driver's error.
    pub fn interprocess(context: &Context) -> Result<Self, CudaError> {
        Self::create(context, INTERPROCESS | DISABLE_TIMING)
    }

    fn create(context: &Context, flags: u32) -> Result<Self, CudaError> {
        let mut raw = 0;
        // SAFETY: the pointer is to a live variable, written during the call only.
        context.call("cuEventCreate", |api| unsafe { (api.event_create)(&raw mut raw, flags) })?;
        Ok(Self { context: *context, raw })
    }

    /// The context it belongs to.
    #[must_use]
    pub fn context(&self) -> Context {
        self.context
    }

    /// The driver's `CUevent`, for code that calls CUDA itself. It is the event's own: do not destroy it, nor record it on a
    /// stream that captures a graph.
    #[must_use]
    pub fn as_raw(&self) -> usize {
        self.raw
    }

    /// Moves the event to the end of what is queued on `stream` now. The stream must be of the event's context.
    ///
    /// # Errors
    ///
    /// The driver's error.
    pub fn record(&self, stream: &Stream) -> Result<(), CudaError> {
        // SAFETY: both are alive; the driver checks that they belong together.
        self.context
            .call("cuEventRecord", |api| unsafe { (api.event_record)(self.raw, stream.as_raw()) })
    }

    /// Whether the device has passed the event. Takes one or two microseconds and never waits.
    ///
    /// # Errors
    ///
    /// The driver's error, also of earlier work on the device.
    pub fn query(&self) -> Result<bool, CudaError> {
        // SAFETY: the event is alive.
        self.context.query("cuEventQuery", |api| unsafe { (api.event_query)(self.raw) })
    }

    /// Waits, blocking, until the device has passed the event.
    ///
    /// # Errors
    ///
    /// The driver's error, also of earlier work on the device.
    pub fn synchronize(&self) -> Result<(), CudaError> {
        // SAFETY: the event is alive.
        self.context.call("cuEventSynchronize", |api| unsafe { (api.event_synchronize)(self.raw) })
    }

    /// A name by which another process can [`import`](Self::import) the event, for applications that order the work of processes on
    /// a GPU by themselves.
    ///
    /// # Errors
    ///
    /// The driver's error. Only events made by [`interprocess`](Self::interprocess) can be exported.
    pub fn export(&self) -> Result<IpcEventHandle, CudaError> {
        let mut bytes = IpcBytes([0; 64]);
        // SAFETY: the event is alive; the pointer is to a live variable, written during the call only.
        self.context.call("cuIpcGetEventHandle", |api| unsafe {
            (api.ipc_get_event_handle)(&raw mut bytes, self.raw)
        })?;
        Ok(IpcEventHandle(bytes.0))
    }

    /// Opens an event of another process.
    ///
    /// # Errors
    ///
    /// The driver's error, for example for a handle that this process made itself or that is no handle.
    pub fn import(context: &Context, handle: &IpcEventHandle) -> Result<Self, CudaError> {
        let mut raw = 0;
        // SAFETY: the handle is plain bytes that the driver checks; the pointer is to a live variable, written during
        // the call only.
        context.call("cuIpcOpenEventHandle", |api| unsafe {
            (api.ipc_open_event_handle)(&raw mut raw, IpcBytes(handle.0))
        })?;
        Ok(Self { context: *context, raw })
    }
}

impl Drop for Event {
    fn drop(&mut self) {
        let raw = self.raw;
        // SAFETY: nothing else destroys it. The driver keeps what a pending record needs.
        self.context.release("cuEventDestroy", move |api| unsafe { (api.event_destroy)(raw) });
    }
}

/// Names an event to other processes of the same machine: 64 bytes to send over a channel that both trust.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct IpcEventHandle([u8; 64]);

impl IpcEventHandle {
    /// The handle that these bytes are.
    #[must_use]
    pub const fn from_bytes(bytes: [u8; 64]) -> Self {
        Self(bytes)
    }

    /// The bytes.
    #[must_use]
    pub const fn to_bytes(&self) -> [u8; 64] {
        self.0
    }
}

// The flags of `cuEventCreate`.
pub(super) const BLOCKING_SYNC: u32 = 1;
pub(super) const DISABLE_TIMING: u32 = 2;
pub(super) const INTERPROCESS: u32 = 4;

#[cfg(test)]
mod tests {
    use super::super::fake::Fake;
    use super::*;

    #[test]
    fn an_event_is_destroyed_once() {
        let fake = Fake::new();
        let context = fake.context(0);
        drop(Event::new(&context).unwrap());
        drop(Event::interprocess(&context).unwrap());
        assert_eq!(fake.count("cuEventDestroy"), 2);
        assert_eq!(fake.faults(), Vec::<String>::new());
    }

    #[test]
    fn an_event_passes_when_the_device_gets_there() {
        let fake = Fake::new();
        let context = fake.context(0);
        let stream = Stream::new(&context).unwrap();
        let event = Event::new(&context).unwrap();
        assert_eq!(event.query(), Ok(true), "never recorded");
        event.record(&stream).unwrap();
        assert_eq!(event.query(), Ok(false));
        fake.finish();
        assert_eq!(event.query(), Ok(true));
    }

    #[test]
    fn an_event_that_cannot_be_made_leaves_nothing() {
        let fake = Fake::new();
        let context = fake.context(0);
        fake.fail("cuEventCreate", 2, 1);
        assert!(Event::new(&context).is_err_and(|error| error.is_out_of_memory()));
        assert_eq!(fake.count("cuEventDestroy"), 0);
    }
}
