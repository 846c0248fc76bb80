//! Offer slots: the state of an offer in shared memory of its host.
//!
//! Each connection has one page of slots, a sealed anonymous file; [`SlotAddress`](nixl_metadata::SlotAddress) has its name and
//! layout. The owner of an offer and the initiators on its host change the slot's [word](word::SlotWord) by compare-and-swap,
//! so exactly one of them wins: a write is claimed before its first byte, a read is checked after its last byte has arrived,
//! and an offer that is revoked while unclaimed ends at once.
//!
//! A process that maps the page reads and writes all of it. It needs the right to trace the owner for that, which already gives
//! full access to the owner. A value without an offer's token loses changes by others, so the owner waits for proof, and ends no
//! offer. A value with the token, which is readable there, forges an end. The [doorbell](doorbell::PageDoorbell) wakes the owner, which
//! ignores rings without a change; they delay its wake-ups by one short sleep at most.

mod doorbell;
mod foreign;
#[cfg(all(test, loom))]
mod loom_model;
mod page;
mod recent;
mod remote;
mod remote_page;
mod remote_slot;
#[cfg(all(test, not(loom)))]
mod tests;
mod word;

pub(crate) use doorbell::PageDoorbell;
pub use foreign::foreign_process;
pub use page::OfferSlot;
#[cfg(any(all(test, not(loom)), fuzzing))]
pub(crate) use page::ring;
pub(crate) use page::{OfferPage, Revocation, SlotEvent, take_bits};
pub use recent::RecentCheck;
pub(crate) use remote::page_of;
pub use remote::{FoundSlot, RemoteSlots};
pub(crate) use remote_page::{MappedPage, OwnPage};
pub use remote_slot::RemoteSlot;
