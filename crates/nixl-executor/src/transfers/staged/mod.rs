//! Staged transfers: chunks through slots, where the engine reaches GPU memory badly or not at all, and CUDA IPC not at all. The slots
//! are pinned host memory, or memory of the source's GPU.
//!
//! The bytes of an operation are one stream, [cut](chunking) into chunks. The sending side (the *source*) copies each
//! chunk to a pinned slot of its own and writes it into a pinned slot of the other side (the *sink*), which copies it to
//! its GPU. A side with host memory needs no slots: chunks leave it, and arrive in it, where they are. Everything is
//! pushed by the source, because engines write faster than they read; only a peer that [takes no part](one_sided) is read from.
//!
//! # Messages
//!
//! The initiator sends `Open`; a target that is the source answers `Accept`. The sink grants slots, or the
//! addresses of its descriptors, and the source writes each chunk with a notification (`Filled`). When the last chunk is
//! in place the sink sends `Done`. After a failure, a sink sends `Stop` and a source `Stopped`, once nothing of it is
//! in flight; until `Stopped` arrives, a sink keeps the memory that it has granted. Source and sink send `Ping` as a keep-alive, so that
//! a dead peer is detected, and one that only waits is not given up.
//!
//! An engine that connects anew may lose a message. A sink that waits for `Stopped` therefore repeats `Stop` in place of `Ping`, and a
//! side remembers the latest of its sources that have stopped, and answers `Stop` for them with `Stopped`. Any other lost message ends
//! the transfer at the deadline of its operation, or after the peer's silence.
//!
//! Messages of one session may overtake each other and the chunks. So a sink grants nothing before the first message of
//! the source, every grant of a slot has a round, and `Done` and `Stopped` are sent only when no other message follows.
//! A message counts only if it comes from the session's peer, and is checked against what this side granted.
//!
//! # Reads by tickets
//!
//! The reader of granted blocks sends `OpenTicket` in place of `Open`, to owners with version 4 of the messages. It names blocks, never
//! addresses: the owner lists them in the order of the reader's bytes. The source leases the blocks for its own copies alone, and
//! looks at the words of the grant after each copy, before the chunk leaves: so each chunk that arrives was copied while the grant
//! stood. Once it does not, the source sends `GrantRefused` in place of `Stopped`, and the read is stale.
//!
//! # Slots on a GPU
//!
//! Between two GPUs of one host, of whose memory no other process can open either side's, the chunks bounce once: through slots on the
//! source's GPU, which the sink's GPU opens by CUDA IPC. The session begins and ends as above, and the engine carries no chunk:
//! the source's GPU copies a chunk to a slot and sends `Ready`, the sink's GPU copies it from there into place and sends `Taken`, or
//! `Done` for all. The initiator's `Open` requests it, of peers with version 3 of the messages. A source that initiates sends
//! `Ready` before the target's `Accept` only where a mailbox keeps the order of the two.
//!
//! No side touches the other's memory but slots, and a sink reads them only. A slot that is exported comes back by the sink's `Taken`,
//! `Stop` or `Done`, of which the last two are sent when its GPU is quiet, or with the end of the sink's process: the loss of the
//! connection proves nothing about the peer's GPU, which would complete the transfer with another transfer's bytes.
//!
//! # Why nothing waits in a circle
//!
//! * A slot on a GPU waits for the peer's GPU alone, which needs no slot.
//! * An outgoing slot is taken only for a chunk whose target is known. From then on the chunk moves by this side's GPU and
//!   engine alone, so outgoing slots always come back.
//! * An incoming slot waits for the peer's outgoing slots, which come back, and then for this side's GPU.
//! * So outgoing slots wait for no other slots, and incoming ones only for outgoing ones. The two directions of a pair of
//!   peers use different pools.
//! * A peer that stops holds the slots it was granted until it goes on or is gone, also if the transfer ends after its
//!   [silence](crate::pinned_slots::StagingConfig::silence): they are in [quarantine](crate::sessions) until then. Other
//!   sessions go on with the rest, since no session gets more than its [share](crate::pinned_slots) while others want some.
//!   Without a usable slot, operations take another path.
//!
//! # What a failed write leaves behind
//!
//! If a transfer into an offer's memory fails halfway, the offer does not complete; its memory holds some chunks and not
//! others. It can be written again, as a whole, for as long as it lives.

mod arrivals;
mod chunking;
mod copies;
mod gpu_sink;
mod gpu_source;
mod granted;
mod hop_timer;
mod one_sided;
mod pull;
mod role;
mod sink;
mod source;
mod staging;
mod targets;
mod two_sided;

pub(crate) use staging::{Staging, StagingMode, why_owner_takes_no_part};
