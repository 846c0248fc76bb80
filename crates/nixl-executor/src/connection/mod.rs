//! The path executor: picks for every operation the best path that both sides have.
//!
//! [`PathExecutor`] is what users configure. A connection [makes](executor) its own, which has the engine, the slots
//! of staging and the peers' memory that is open here. An operation becomes a [transfer](path_transfer) at the best path of
//! its [plan](planning), and at the next ones if that fails; a path that has yet to show that it works is
//! [tried](probe) first.

mod executor;
mod maintenance;
mod opening;
mod path_executor;
mod path_transfer;
mod peer_end;
mod planning;
mod probe;
mod shared;
mod telemetry;

pub use path_executor::{PathExecutor, PeerStats};
pub use telemetry::note_attempt;
