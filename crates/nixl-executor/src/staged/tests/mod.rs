//! Both sides of staged transfers on a simulated network, moved step by step.
#![allow(clippy::unwrap_used, reason = "tests")]

mod gpus;
mod runs;
mod world;
