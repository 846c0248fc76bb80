//! Tasks: transfers in flight, shared between waiter and driver.

mod count;
mod instant;
mod slot;
mod step;

pub(crate) use count::{ActiveCount, Count, InFlight};
pub(crate) use instant::AtomicInstant;
pub(crate) use slot::{SlotState, TIMER, Task, TaskSlot};
pub(crate) use step::DriverContext;
