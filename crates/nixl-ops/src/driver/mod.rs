//! The driver: polls operations to their end, awaited or not.
//!
//! | file | contents |
//! |---|---|
//! | `handle.rs`, `begin.rs`, `posting.rs` | the handle, which begins operations; the thread that posts them |
//! | `shared.rs` | state shared by the handle, the thread and the operations |
//! | `reactor.rs` | the loop body, free of threads and of real time |
//! | `transfers.rs`, `messages.rs`, `exit.rs` | its parts: transfers in flight, messages, the end |
//! | `arrivals.rs`, `waits.rs` | receipt of messages; threads that block until one arrives |
//! | `next_look.rs` | the time of the next poll, as a pure function |
//! | `thread.rs` | the thread that runs the reactor |

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
