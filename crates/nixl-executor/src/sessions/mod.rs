//! Sessions of a connection: transfers in which both executors take part, as the protocol between them sees them.
//!
//! A peer [opens a session](Sessions::admit) by a request that presents an offer of this side, or a ticket of one of its
//! [exports]; messages of the session go to its
//! [inbox](table). The transfer that reads the inbox moves the session's bytes. Slots that a peer
//! may still use after the session's end are in [quarantine](Membership::quarantine).

mod error;
mod exports;
mod offers;
mod peer_quiet;
mod quarantine;
mod refusal;
mod service;
mod stats;
mod stopped;
mod table;

pub(crate) use error::{failed, failed_by, gone, unwatched, violated};
pub(crate) use quarantine::{Quarantine, SlotsInUse};
pub(crate) use refusal::RefusalReply;
pub(crate) use service::{Sessions, claim};
pub use stats::StagingStats;
pub(crate) use table::Membership;
