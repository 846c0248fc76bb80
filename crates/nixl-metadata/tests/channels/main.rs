//! One suite over all channels, with real servers, and servers that are slow, full or lie.
#![allow(clippy::unwrap_used, reason = "a test says so, by failing too")]

mod conformance;
mod etcd;
mod nats;
mod process;
mod seals;
mod secrets;
mod servers;
mod strangers;
mod suite;
mod tls;
