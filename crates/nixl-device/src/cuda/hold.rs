//! A value kept until the device has passed a point in a stream.

use std::any::Any;
use std::mem;

use super::error::CudaError;
use super::event::Event;

pub(super) struct Hold {
    event: Event,
    value: Box<dyn Any + Send>,
}

pub(super) enum HoldState {
    /// The device has passed the point.
    Passed,
    Pending,
    /// The driver cannot tell, so the value must stay.
    Unknown(CudaError),
}

impl Hold {
    /// `event` is recorded after everything that uses `value`.
    pub(super) fn new(event: Event, value: Box<dyn Any + Send>) -> Self {
        Self { event, value }
    }

    pub(super) fn state(&self) -> HoldState {
        match self.event.query() {
            Ok(true) => HoldState::Passed,
            Ok(false) => HoldState::Pending,
            Err(error) => HoldState::Unknown(error),
        }
    }

    /// The event, for another use, and the value, for dropping.
    pub(super) fn into_parts(self) -> (Event, Box<dyn Any + Send>) {
        (self.event, self.value)
    }

    /// Keeps the value until the process ends.
    pub(super) fn leak(self) {
        self.event.context().count_leak();
        mem::forget(self.value);
    }
}
