//! The way to the driver's functions, open only while the thread's stream-capture mode is relaxed.

use super::api::Api;
use super::capture::RelaxedCapture;

/// Holds the table, and lends it for a call at a time. No other code of this library has one, so no call can be made in
/// the mode in which it would end a framework's capture.
pub(super) struct Functions {
    api: Api,
}

impl Functions {
    pub(super) fn new(api: Api) -> Self {
        Self { api }
    }

    /// Calls the driver.
    pub(super) fn call<T>(&self, function: impl FnOnce(&Api) -> T) -> T {
        let _relaxed = self.relax();
        function(&self.api)
    }

    /// Relaxes the mode for several calls, each of which then finds it so.
    pub(super) fn relax(&self) -> RelaxedCapture {
        RelaxedCapture::new(self.api.thread_exchange_stream_capture_mode)
    }
}
