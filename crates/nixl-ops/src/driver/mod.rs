//! The driver: polls operations to their end, awaited or not.
//!
//! | file | contents |
//! |---|---|
//! | `handle.rs`, `begin.rs`, `posting.rs` | the handle, by which operations begin; the thread that posts them |
//! | `shared.rs` | the state that the handle, the thread and the operations share |
//! | `reactor.rs` | the loop body, free of threads and of real time |
//! | `transfers.rs`, `messages.rs`, `exit.rs` | its parts: transfers in flight, messages, the end |
//! | `arrivals.rs`, `waits.rs` | what peers send; threads that block until it comes |
//! | `next_look.rs` | when to look again, as a pure function |
//! | `thread.rs` | the thread that turns the reactor |

mod arrivals;
mod begin;
mod exit;
mod handle;
mod messages;
mod next_look;
mod posting;
mod reactor;
mod shared;
mod thread;
mod transfers;
mod waits;

pub use handle::Driver;
pub use next_look::Next;
pub use reactor::Reactor;
pub(crate) use shared::Shared;
