//! The crate's behaviour, seen from outside.

#![allow(clippy::unwrap_used, reason = "a failed test says where")]

mod cache;
mod coalescing;
mod contents;
mod copies;
mod descriptors;
#[cfg(feature = "dlpack")]
mod dlpack;
mod fake;
mod files;
mod layouts;
mod leased;
mod leases;
mod pool;
mod reclaiming;
mod regions;
mod tensors;
