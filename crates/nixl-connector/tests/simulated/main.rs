//! The simulated transport: it keeps the promises of every transport, and breaks them as ordered.
#![allow(clippy::unwrap_used, reason = "tests")]

mod at_once;
mod blocking;
#[cfg(feature = "conformance")]
mod cases;
mod checksums;
mod claims;
mod connectors;
mod counted;
mod faults;
mod lifetimes;
mod media;
mod net;
mod peers;
mod runtimes;
mod side;
mod stepped;
mod tensors;
mod traces;
mod words;
