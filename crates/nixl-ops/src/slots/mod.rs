//! Offer slots: the state of an offer in memory that the processes of its host share.
//!
//! Each connection has one page of slots, a sealed anonymous file; [`Doorbell`](nixl_metadata::Doorbell) names it and says how
//! it is laid out. The owner of an offer and the initiators on its host change the slot's [word](word::SlotWord) by
//! compare-and-swap, so that exactly one of them wins: a write is claimed before its first byte moves, a read is checked after
//! its last byte has arrived, and an offer that is revoked while unclaimed is over at once.
//!
//! A process that maps the page reads and writes all of it, and needs the right to trace the owner for that, with which it could do
//! anything to the owner. By writing what is not the token of an offer it loses words of others, so that the owner waits for
//! proof, and ends no offer. By writing the token, which it can read there, it says what it likes. By the [bell](doorbell::Bell) it
//! wakes the owner, which pays no attention to rings that bring no word, and delays its wake-ups by one short sleep at most.

mod doorbell;
#[cfg(all(test, loom))]
mod loom_model;
mod page;
mod recent;
mod remote;
#[cfg(all(test, not(loom)))]
mod tests;
mod word;

pub(crate) use doorbell::PageDoorbell;
pub use page::OfferSlot;
#[cfg(any(all(test, not(loom)), fuzzing))]
pub(crate) use page::ring;
pub(crate) use page::{OfferPage, Revocation, SlotEvent, take_bits};
pub use recent::RecentCheck;
pub use remote::{FoundSlot, RemoteSlot, RemoteSlots};
pub(crate) use remote::{MappedPage, OwnPage, page_of};
