//! Errors of a connector.

use std::convert::Infallible;

use nixl_descriptor::tensor::{TensorError, TensorLayout};
use nixl_descriptor::{
    AccessError, DependencyError, DescriptorError, LeaseError, RegionError, RegisterError,
};
use nixl_device::{Device, SharedError};
use nixl_metadata::{ExportId, MetadataError};
use nixl_ops::{GrantError, OperationError, PairingError, TransportError};
use thiserror::Error;

use crate::grants::{ExportedLayoutError, TicketError};

/// An operation could not begin, or a connector could not be built.
#[derive(Clone, Debug, Error, PartialEq)]
#[non_exhaustive]
pub enum ConnectorError {
    /// The two sides do not match.
    #[error(transparent)]
    Pairing(#[from] PairingError),
    /// The peer's metadata is unusable.
    #[error(transparent)]
    Metadata(#[from] MetadataError),
    /// The local descriptors are unusable.
    #[error(transparent)]
    Descriptor(#[from] DescriptorError),
    /// No memory for a buffer.
    #[error(transparent)]
    Memory(#[from] RegionError),
    /// Another operation uses the memory.
    #[error(transparent)]
    Lease(#[from] LeaseError),
    /// The bytes could not be copied out of their destination.
    #[error(transparent)]
    Access(#[from] AccessError),
    /// An offer has more bytes than the caller takes.
    #[error(
        "the offer has {bytes} bytes, more than the {limit} that this call takes: raise the limit, or refuse the peer"
    )]
    OverLimit {
        /// Bytes of the offer.
        bytes: u64,
        /// The most that the caller takes.
        limit: usize,
    },
    /// A writable operation on read-only memory.
    #[error(
        "descriptor {index} is read-only and cannot be offered for writing: offer writable memory"
    )]
    ReadOnly {
        /// Its index in the list.
        index: usize,
    },
    /// A writable operation on memory that a late write could reach after it was freed.
    #[error(
        "descriptor {index} is host memory that this library did not allocate, and this connector does not offer such memory for writing: use Connector::buffer or Region::shared"
    )]
    ForeignMemory {
        /// Its index in the list.
        index: usize,
    },
    /// A checksum for a writable offer.
    #[error(
        "a writable offer carries no checksum: its bytes come from the initiator, which this side cannot check before they are in place; leave the option out"
    )]
    ChecksumOfWritable,
    /// A checksum for memory that the processor cannot read.
    #[error(
        "descriptor {index} is memory of {device}, and checksums are computed of host memory alone: offer it without a checksum, or copy it to host memory first"
    )]
    ChecksumOfDevice {
        /// Its index in the list.
        index: usize,
        /// The device of the memory.
        device: Device,
    },
    /// The offer carries a checksum, and the destination is memory that the processor cannot read.
    #[error(
        "descriptor {index} is memory of {device}, in which the checksum that the offer carries cannot be verified: read into host memory, or ask the owner for an offer without a checksum"
    )]
    ChecksumIntoDevice {
        /// Its index in the list.
        index: usize,
        /// The device of the memory.
        device: Device,
    },
    /// An operation demands a checksum that cannot be verified.
    #[error(
        "no checksum covers this operation: reads of offers that carry one are verified, in the native profile from version 4, and no writes and no reads by ticket; have the owner offer with OperationOptions::checksum, or begin without that"
    )]
    NoChecksum,
    /// An operation demands the check of its offer's word, which cannot be made.
    #[error("this offer is not checked by a word: {reason}")]
    NoOfferWord {
        /// The reason, and the remedy.
        reason: &'static str,
    },
    /// A tensor cannot be made, or not be moved in as many pieces.
    #[error(transparent)]
    Tensor(#[from] TensorError),
    /// An export has no layout of that name.
    #[error("the export has no layout {layout:?}: name one that its metadata lists")]
    NoSuchLayout {
        /// The name.
        layout: String,
    },
    /// An offer or an export does not say which tensor its bytes are.
    #[error(
        "the owner does not say which tensor the bytes are: have it offer a tensor, or state one for the layout, and send metadata in the native profile from version 4"
    )]
    NoTensor,
    /// An offer is of a tensor whose elements have no type here.
    #[error(
        "the offer is of a tensor with elements of DLPack code {code} and {bits} bits, which have no type in this release: read it as bytes"
    )]
    UnknownElement {
        /// DLPack's code.
        code: u8,
        /// The bits of an element.
        bits: u8,
    },
    /// An offer is of another tensor than the local one.
    #[error(
        "the offer is of a tensor of {} with the shape {:?}, and the local one of {} with {:?}: read into one of the offered type and shape",
        offered.dtype(), offered.shape(), local.dtype(), local.shape()
    )]
    OtherTensor {
        /// The peer's tensor.
        offered: Box<TensorLayout>,
        /// The local tensor.
        local: Box<TensorLayout>,
    },
    /// The elements of media have an unknown type.
    #[error(
        "the media has elements of the type {dtype:?}, which has no name in NumPy here: have the frontend send UINT8"
    )]
    MediaType {
        /// The name in the message.
        dtype: String,
    },
    /// Media is not what its frontend offered.
    #[error(
        "the content hash of the media is {found:016x}, and the frontend stated {stated:016x}: its memory was reused before the read, so ask for the media again"
    )]
    ContentHash {
        /// The frontend's hash.
        stated: u64,
        /// The hash of what was read.
        found: u64,
    },
    /// A layout cannot be exported, or a peer's cannot be used.
    #[error(transparent)]
    ExportedLayout(#[from] ExportedLayoutError),
    /// Memory of an export could not be registered. Nothing of the export stays registered.
    #[error("part {part} of the layout {layout:?}, {len} bytes, cannot be exported: {error}")]
    ExportedMemory {
        /// The name of the layout.
        layout: String,
        /// The position of the part in it.
        part: usize,
        /// Bytes of the part.
        len: usize,
        /// Why not.
        #[source]
        error: RegisterError,
    },
    /// Blocks of an export could not be granted.
    #[error(transparent)]
    Grant(#[from] GrantError),
    /// A ticket cannot be used.
    #[error(transparent)]
    Ticket(#[from] TicketError),
    /// The export is closed, or its owner has ended.
    #[error("the export {export} is closed: ask its owner for the metadata of an open one")]
    ExportClosed {
        /// The number of the export.
        export: ExportId,
    },
    /// The payload of a notification is too long.
    #[error(
        "a notification of {bytes} bytes is longer than {limit}: send a shorter one, or offer the data and send its metadata"
    )]
    NotificationTooLarge {
        /// Bytes of the payload.
        bytes: usize,
        /// The most.
        limit: usize,
    },
    /// The owner of an export runs a release without notifications.
    #[error(
        "{owner}, the owner of the export, runs a release without notifications: update it, or send the message over another channel"
    )]
    NoNotifications {
        /// The name of its agent.
        owner: String,
    },
    /// The queue of work before a grant refused a callback.
    #[error("the grant cannot wait for the work of its stream: {0}")]
    WorkQueue(#[from] DependencyError),
    /// The engine could not register the memory.
    #[error(transparent)]
    Register(#[from] RegisterError),
    /// The operation could not be started.
    #[error(transparent)]
    Operation(#[from] OperationError),
    /// The engine refused.
    #[error(transparent)]
    Transport(#[from] TransportError),
    /// The connector begins no new operations.
    #[error("the connector is draining and begins no new operations; use another connector")]
    Draining,
    /// The [queue](crate::TransferLimits::queued) of waiting transfers of blocks is full.
    #[error(
        "{queued} transfers of blocks wait for their turn already: begin this one when some have ended, or raise \
         `TransferLimits::queued`"
    )]
    WouldBlock {
        /// The number of waiting transfers.
        queued: usize,
    },
    /// The operating system refused a thread.
    #[error(
        "cannot start a thread of the connection: {error}; check the limits on processes and memory"
    )]
    Thread {
        /// The error of the operating system.
        #[source]
        error: SharedError,
    },
    /// The system gives no random numbers.
    #[error(
        "the system gives no random numbers for names and keys: {error}; permit getrandom, or mount /dev"
    )]
    NoRandomness {
        /// The error of the operating system.
        #[source]
        error: SharedError,
    },
    /// A thread of the connection was started and does not run: another thread was starting or ending when this process was
    /// forked, and held a lock that every new thread needs.
    #[error(
        "this process was forked while a thread was starting or ending, and cannot run threads of its own: fork when none is, or start the process by exec"
    )]
    ForkedAmidThreads,
    /// The connector's name cannot be used.
    #[error("{name:?} cannot name a connector: {reason}")]
    BadName {
        /// The name.
        name: String,
        /// The fault.
        reason: &'static str,
    },
    /// No transport, and this build has none of its own.
    #[error(
        "no transport: build nixl-connector with its feature `nixl`, or pass one to the builder"
    )]
    NoTransport,
    /// NIXL cannot be used on this machine.
    #[cfg(feature = "nixl")]
    #[error(transparent)]
    Nixl(#[from] crate::nixl::NixlUnavailable),
}

impl From<Infallible> for ConnectorError {
    fn from(never: Infallible) -> Self {
        match never {}
    }
}
