//! Tests through the public interface, in one program.

#![allow(clippy::unwrap_used, reason = "a failure here is the test's failure")]

mod checksum;
mod embedded;
mod exports;
mod fuzz_smoke;
mod golden;
mod hosts;
mod limits;
mod media;
mod refusals;
mod round_trip;
mod sections;
mod shares;
mod support;
mod targets;
mod terms;
mod tickets;
