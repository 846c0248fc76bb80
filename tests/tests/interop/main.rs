//! Other software as the peer: Dynamo's Python `nixl_connect`, and the examples as programs.
#![allow(clippy::unwrap_used, reason = "a test says by failing")]

mod child;
mod examples;
mod figures;
mod media;
mod memory;
mod peer;
mod python;
mod words;

/// The longest that anything here may take.
const DEADLINE: std::time::Duration = std::time::Duration::from_secs(60);
