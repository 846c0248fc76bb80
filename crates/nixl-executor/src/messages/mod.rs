//! Messages between the two executors of a transfer, and the queue by which one side sends.
//!
//! Messages of a peer are [validated](message). Requests for an offer are [messages of their own](request), with the proof that the
//! sender holds its metadata, and so are those for [reads by tickets](ticket_request).

mod message;
mod outbox;
mod pending_connect;
mod request;
mod ticket_request;
mod wire;

pub(crate) use message::{Message, ReadyChunk, SlotGrant};
pub(crate) use outbox::Outbox;
pub(crate) use request::{
    CancelCopy, ExportedRange, Open, PresentedOffer, Proof, RemoteCopyRequest,
};
pub(crate) use ticket_request::{GrantRefusal, MAX_TICKET, OpenTicket};
pub(crate) use wire::{
    MAX_EXPORTED_RANGES, MAX_GRANTS, MAX_INITIATOR_METADATA, MAX_RANGE_OFFSETS, MessageError,
    SessionId,
};
