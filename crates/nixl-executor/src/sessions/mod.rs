//! Sessions of a connection: transfers in which both executors take part, as the protocol between them sees them.

mod error;
mod offers;
mod refusal;
mod table;

pub(crate) use error::{failed, gone, violated};
pub(crate) use offers::Offers;
pub(crate) use refusal::RefusalReply;
pub(crate) use table::{Membership, Sessions};
