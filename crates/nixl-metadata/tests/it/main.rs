//! Tests through the public interface, in one program.

#![allow(clippy::unwrap_used, reason = "a failure here is the test's failure")]

mod fuzz_smoke;
mod golden;
mod hosts;
mod refusals;
mod round_trip;
mod shares;
mod support;
mod targets;
