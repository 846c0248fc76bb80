//! Claims of offers by messages, for initiators that cannot reach the offer's slot.
//!
//! | message | from | says |
//! |---|---|---|
//! | claim | initiator | it wants to write, and how the owner reaches it |
//! | granted, refused | owner | whether it may |
//! | query | owner | an offer that it has given up is claimed: is the initiator writing? |
//! | writing, not writing | initiator | the answer; after the second it refuses to use the offer |
//! | decline | initiator | it does not take the offer up |
//! | write ended | initiator | the answer to a query about a write whose request has ended without success |
//! | grant done | reader | it is done with a grant, which is named instead of an offer |
//! | notification | importer | a payload for the owner of an export, which is named instead of an offer |
//! | leaving | either | it has drained and is about to go: a hint that it can be forgotten |
//!
//! A claim also makes the initiator known to the owner. Offers that the owner makes later, and that demand no claim of it, it
//! writes without one; when the owner gives such an offer up, it asks all initiators that it knew when it made the offer. So an
//! offer that no known initiator writes ends at once, and only the first write between two agents waits for a claim.
//!
//! Each message but the last three kinds carries the key of the offer and its token, which only holders of the metadata know; an
//! owner meets an initiator only after it has checked them. Messages may be lost: an initiator repeats its claim until it is
//! answered, and an owner its query. What waits to be answered is bounded for each peer; a claim beyond that counts as lost.

mod budget;
mod decline;
mod initiator;
mod message;
mod owner;
mod owners;

pub(crate) use decline::Message;
pub(crate) use initiator::{ClaimRoute, Claims, ControlOutcome, MessageClaim};
pub(crate) use message::{ControlMessage, ControlVerb};
pub(crate) use owner::Owner;
