//! Tests of transfers between files and memory, on every engine.

#![allow(clippy::unwrap_used, reason = "a failed test says where")]

mod answers;
mod cancelling;
mod conformance;
mod queues;
mod store;
mod world;
