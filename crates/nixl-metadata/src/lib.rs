//! The metadata that peers exchange before a transfer: where the memory is, how to reach its owner, and which
//! notification completes the transfer.
//!
//! [`RdmaMetadata`] is that message for one operation. The owner of the memory (the *target*) makes one and hands it to
//! its peer (the *initiator*) over a channel of the application's choice. Its holder can read or write the memory it names, so
//! the channel has to be trusted, and nothing here prints it: `Debug` shows lengths and counts only.
//!
//! # Two encodings
//!
//! | profile | for | carries |
//! |---|---|---|
//! | Dynamo | peers that may run Dynamo's `nixl_connect` (Python) | [`RdmaMetadata`] without [`PeerInfo`], [`Share`]s, [`SlotAddress`], [`OfferTerms`], [`Checksum`], [`TraceContext`], [`TensorDescription`] and [`OfferWord`] |
//! | native, version 3 | peers that run an earlier release of this library | all but [`MessageVersions`], [`OfferTerms`], [`Checksum`], [`TraceContext`], [`TensorDescription`] and [`OfferWord`]; a [`SlotAddress`] is read, not written |
//! | native, version 4 | peers that both run this library | all of it |
//!
//! The Dynamo profile is one JSON object, byte for byte as Dynamo prints it:
//!
//! ```json
//! {"descriptors":[{"device":"cpu","ptr":140737353629696,"size":4096}],
//!  "nixl_metadata":"b64:eJwr…","notification_key":"0f6b4f0e-8a1d-4c1b-9a53-4a7c0d9f2b11","operation_kind":1}
//! ```
//!
//! The native profile is a binary envelope with a version, a length and a checksum. It also carries what the planner of
//! the other side needs to choose a path: where the peer runs and which namespaces it is in ([`HostIdentity`]), what it
//! can do ([`Capabilities`]), which versions of other messages it speaks ([`MessageVersions`]), its GPUs
//! ([`PeerDevice`]), and which of the memory can be opened by other processes of its host ([`Share`]). And it says on
//! which terms the offer may be used ([`OfferTerms`]), and may say which bytes it is for ([`Checksum`]), to
//! which trace it belongs ([`TraceContext`]), which tensor its bytes are ([`TensorDescription`]), and where initiators
//! see whether it stands ([`OfferWord`]).
//!
//! # Releases that differ
//!
//! Version 4 of the native profile is a fixed core, which is what Dynamo's profile carries, and length-prefixed sections.
//! A reader skips an optional section that it does not know, and refuses a required one by
//! [`MetadataError::UnknownSection`]. The terms are required, everything else is optional. The content of a section never
//! changes; a later release adds a section with a new id. So a message of a later release is read as far as it is
//! known, unless its core changes, which takes a new version.
//!
//! A release reads the version before its own. Initiators are therefore updated first; until all are, owners write
//! [`NativeVersion::V3`] by [`RdmaMetadata::to_native_bytes_as`]. That is refused for an offer whose terms demand claims.
//! Golden files of every version are in `tests/golden`.
//!
//! # Exports and tickets
//!
//! An offer is for one operation. Memory that many operations read or write is *exported* once, and its blocks are *granted*:
//!
//! | type | contents | travels as |
//! |---|---|---|
//! | [`ExportMetadata`] | which memory there is, in named [layouts](ExportedLayout), and how to reach its owner | the envelope of the native profile with a magic of its own: a core and sections |
//! | [`Ticket`] | which blocks and layers its holder may read or write, and how to check that the grant stands | 56 bytes, and 1 to 5 for each block |
//!
//! An export may say which tensor each block of a layout is, as an offer may of its bytes ([`TensorDescription`]).
//!
//! An export is a few KiB long for any number of blocks, and goes to any number of peers. It holds no lease: what its
//! holder reads without a ticket, or after the ticket ended, may be the bytes of another request.
//!
//! [`RdmaMetadata`], [`ExportMetadata`] and [`Ticket`] implement serde's traits, so that they sit inside an application's own
//! messages:
//!
//! | type | human-readable formats (JSON) | binary formats (bincode) |
//! |---|---|---|
//! | [`RdmaMetadata`] | Dynamo's object | bytes: the native profile |
//! | [`ExportMetadata`], [`Ticket`] | base64 | bytes |
//!
//! [`RdmaMetadata::decode`] reads either profile, distinguished by the first byte.
//!
//! # Channels and seals
//!
//! With its feature, [`channel`] carries exports by the names of workers, and requests for tickets, within a process or over HTTP,
//! TCP, Unix sockets, NATS or etcd. [`seal`] encrypts or signs what it carries. Neither is part of the default build.
//!
//! # Media
//!
//! [`media`] has the messages by which Dynamo's frontends offer decoded images and videos.
//!
//! # Hostile input
//!
//! The decoders assume a hostile sender: they never panic, read nothing beyond the [`Limits`] and allocate
//! in proportion to what arrived, not to what it claims. What they return holds the same invariants as what the
//! constructors accept: at least one descriptor, none null, empty or wrapping around, a total that fits 64 bits, shares
//! that do not overlap and hold their descriptors, names without control characters. The agent's own metadata stays
//! compressed until [`AgentMetadata::inflate`]; that too is bounded. The checksum of the native profile and the digest of a
//! ticket find accidents, not forgeries.
//!
//! # Example
//!
//! ```
//! use nixl_device::Device;
//! use nixl_metadata::{
//!     AgentMetadata, Limits, NotificationKey, OperationKind, RdmaMetadata, SerializedDescriptor,
//! };
//!
//! # fn main() -> Result<(), nixl_metadata::MetadataError> {
//! // The target offers 4 KiB for reading.
//! let offer = RdmaMetadata::new(
//!     OperationKind::Read,
//!     vec![SerializedDescriptor::new(Device::HOST, 0x7f00_0000_1000, 4096)?],
//!     AgentMetadata::compress(b"the engine's own metadata")?,
//!     NotificationKey::random(),
//! )?;
//! let line = offer.to_dynamo_json();
//!
//! // The initiator takes it from there.
//! let received = RdmaMetadata::decode(line.as_bytes())?;
//! assert_eq!(received, offer);
//! assert_eq!(received.total_bytes(), 4096);
//! let engine_metadata = received.agent_metadata().inflate(&Limits::default())?;
//! assert_eq!(&engine_metadata[..], b"the engine's own metadata");
//! # Ok(())
//! # }
//! ```

#![forbid(unsafe_code)]
#![cfg_attr(
    not(all(feature = "channel", feature = "seal")),
    allow(rustdoc::broken_intra_doc_links, reason = "modules of features")
)]

mod advice;
mod agent;
mod capabilities;
#[cfg(feature = "channel")]
pub mod channel;
mod checksum;
mod claim;
mod codec;
mod descriptor;
mod dynamo;
mod embed;
mod encodings;
mod error;
mod export;
mod field;
mod host;
mod key;
mod kind;
mod limits;
pub mod media;
mod name;
mod native;
mod offer_word;
mod peer;
mod peer_device;
mod rdma;
#[cfg(feature = "seal")]
pub mod seal;
mod share;
mod slot_address;
mod tensor;
mod terms;
mod ticket;
mod trace_context;
mod versions;

pub use agent::AgentMetadata;
pub use capabilities::Capabilities;
pub use checksum::Checksum;
pub use claim::ClaimDemand;
pub use descriptor::SerializedDescriptor;
pub use error::MetadataError;
pub use export::{
    ExportId, ExportMetadata, ExportedInner, ExportedKind, ExportedLayout, ExportedPart,
    SharedFile, WordsLocation,
};
pub use field::Field;
pub use host::HostIdentity;
pub use key::NotificationKey;
pub use kind::OperationKind;
pub use limits::Limits;
pub use native::NativeVersion;
pub use nixl_device::Advice;
pub use offer_word::OfferWord;
pub use peer::PeerInfo;
pub use peer_device::PeerDevice;
pub use rdma::RdmaMetadata;
pub use share::{Share, ShareKind};
pub use slot_address::SlotAddress;
pub use tensor::TensorDescription;
pub use terms::OfferTerms;
pub use ticket::{Rights, Ticket, TicketTerms};
pub use trace_context::{ParseTraceContextError, TraceContext};
pub use versions::MessageVersions;
