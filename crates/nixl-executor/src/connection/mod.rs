//! The path executor: picks for every operation the fastest path that both sides have.
//!
//! Users configure the [`PathExecutor`]. Each connection has a [state](path_connection) of its own, with the engine, the
//! slots of staging and the peers' memory that is open here, and is reached by the [traits](executor) of executors. An
//! operation becomes a [transfer](path_transfer) by the fastest path of its [plan](planning), and by the next ones if that fails;
//! a path without a success so far is [probed](probe) first.

mod attempt;
mod common;
mod executor;
mod maintenance;
mod opening;
mod path_connection;
mod path_executor;
mod path_transfer;
mod peer_end;
mod peer_stats;
mod planning;
mod probe;
mod shared;
mod telemetry;

pub use path_executor::PathExecutor;
pub use peer_stats::PeerStats;
