//! The crate's behaviour, seen from outside.

mod cache;
mod coalescing;
mod copies;
mod descriptors;
mod fake;
mod leases;
mod reclaiming;
mod regions;
