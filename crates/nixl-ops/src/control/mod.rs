//! Claims of offers by messages, for initiators that cannot reach the offer's slot.
//!
//! | message | from | meaning |
//! |---|---|---|
//! | claim | initiator | a request to write, with the address for the answer |
//! | granted, refused | owner | the answer to a claim |
//! | query | owner | a question about an offer that was given up: is the initiator writing? |
//! | writing, not writing | initiator | the answer to a query; after the second it refuses to use the offer |
//! | decline | initiator | the offer will not be used |
//! | write ended | initiator | the answer to a query about a failed write |
//! | renew | writer | a request to give an offer of an export's blocks its time to live anew |
//! | grant done | reader | the reader's end of a grant, which replaces the offer |
//! | notification | importer | a payload for the owner of an export, which replaces the offer |
//! | watch | reader | a request for notice of the layers of a grant |
//! | layers ready | owner | how many layers of a grant are ready |
//! | leaving | either | a hint at the end of a drained connector: its peers may drop their state of it |
//!
//! A claim also makes the initiator known to the owner. A known initiator writes without a claim to later offers that do not
//! demand one. When the owner gives such an offer up, it queries all initiators that were known when the offer was made. So an
//! unused offer ends after their answers, or at once without known initiators, and only the first write between two agents
//! waits for a claim.
//!
//! Each message but the last five kinds carries the key of the offer and its token, which only holders of the metadata know;
//! an owner connects to an initiator only after it has checked them. Messages may be lost: an initiator repeats its claim, and
//! an owner its query, until the answer. Unanswered claims are bounded for each peer; a claim beyond the bound counts as lost.

mod budget;
mod decline;
mod initiator;
mod layer_watchers;
mod message;
mod owner;
mod owners;
mod renew;

pub(crate) use decline::Message;
pub(crate) use initiator::{ClaimRoute, Claims, ControlOutcome, MessageClaim};
pub(crate) use message::{ControlMessage, ControlVerb};
pub(crate) use owner::Owner;
