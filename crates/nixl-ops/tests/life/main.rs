//! The life of operations, seen from outside: a manual driver, a clock that stands still, scripted engines.
#![allow(clippy::unwrap_used, reason = "tests")]

mod active;
mod awaited;
mod back_off;
#[path = "../../src/blocking.rs"]
mod blocking;
mod contained;
mod endings;
mod gauges;
mod looking;
mod overdue;
mod passive;
mod peer;
mod random;
mod served;
mod spans;
mod threads;
mod unexpected;
mod uses;
mod waking;
mod within;
mod world;
