//! Errors of metadata.

use nixl_device::{Device, ParseDeviceError};

use crate::{ClaimDemand, Field, NativeVersion, SlotAddress};

/// Metadata or a ticket could not be built, encoded, decoded or inflated.
///
/// Every variant names the field. None quotes an address, a key or the agent's metadata; text that came from the peer
/// is quoted only where it is needed, cut short and escaped.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum MetadataError {
    /// The message is neither JSON nor in the native profile.
    #[error(
        "the message is not JSON (line {line}, column {column}): pass it on exactly as the peer printed it"
    )]
    NotJson {
        /// Line of the first fault, from 1.
        line: usize,
        /// Column of the first fault in bytes; 0 if the fault is at the end of the line before.
        column: usize,
    },
    /// A field holds a value of another type.
    #[error("{field} must be {expected}: the peer does not speak this protocol")]
    WrongType {
        /// The field.
        field: Field,
        /// What it has to be.
        expected: &'static str,
    },
    /// A number is negative, fractional, or does not fit 64 bits.
    #[error("{field} must be an integer from 0 to 18446744073709551615")]
    NotUnsigned {
        /// The field.
        field: Field,
    },
    /// An object has a field that does not exist in this protocol.
    #[error("unknown field {name:?} in {parent}: remove it, receivers refuse additions")]
    UnknownField {
        /// The object that has the field.
        parent: Field,
        /// The start of the field's name, as far as it consists of letters and underscores.
        name: String,
    },
    /// A field is given twice.
    #[error("{field} is given more than once: give it once")]
    DuplicateField {
        /// The field.
        field: Field,
    },
    /// A field is not there.
    #[error("{field} is missing: the peer has to send it")]
    MissingField {
        /// The field.
        field: Field,
    },
    /// A text or blob that must have content has none.
    #[error("{field} is empty: it needs at least one byte")]
    Empty {
        /// The field.
        field: Field,
    },
    /// The operation is neither READ nor WRITE.
    #[error("operation_kind {value} is unknown: it is 1 to offer reading or 2 to offer writing")]
    WrongKind {
        /// What was given.
        value: u64,
    },
    /// Something is bigger than the receiver allows.
    #[error("{field} has {len} bytes, more than the {limit} allowed: send less or raise the limit")]
    TooLarge {
        /// The field.
        field: Field,
        /// Its size in bytes; a lower bound where reading stopped at the limit.
        len: usize,
        /// The most that is allowed, in bytes.
        limit: usize,
    },
    /// There are more descriptors than the receiver allows.
    #[error(
        "more than {limit} descriptors: merge neighbours, split the transfer or raise the limit"
    )]
    TooManyDescriptors {
        /// The most that is allowed.
        limit: usize,
    },
    /// The peer lists more transports than exist.
    #[error("more than {limit} transports: list only those that the peer can use")]
    TooManyTransports {
        /// The most that is allowed.
        limit: usize,
    },
    /// The peer lists more devices than it may.
    #[error("more than {limit} devices: list only those that offers name")]
    TooManyDevices {
        /// The most that is allowed.
        limit: usize,
    },
    /// The peer lists a device twice.
    #[error("peer.devices[{index}] is {device} once more: list each device once")]
    DuplicateDevice {
        /// Position of the second one.
        index: usize,
        /// The device.
        device: Device,
    },
    /// There are more shares than descriptors.
    #[error("more than {limit} shares: each needs a descriptor of its own")]
    TooManyShares {
        /// The number of descriptors.
        limit: usize,
    },
    /// A share is of no descriptor, or of one that does not exist.
    #[error("shares[{index}].descriptors must name at least one of the {count} descriptors")]
    ShareRange {
        /// Position of the share.
        index: usize,
        /// How many descriptors the offer has.
        count: usize,
    },
    /// A share begins before the end of the one before it.
    #[error(
        "shares[{index}].descriptors does not follow that of the share before: sort the shares and leave no overlap"
    )]
    ShareOrder {
        /// Position of the later share.
        index: usize,
    },
    /// The descriptors of a share are not on one device, or on one whose memory is not shared this way.
    #[error(
        "shares[{index}].kind does not suit descriptors[{descriptor}].device: share CUDA memory by an IPC handle and host memory by a file, one device at a time"
    )]
    ShareDevice {
        /// Position of the share.
        index: usize,
        /// Position of the first descriptor that is on a wrong device.
        descriptor: usize,
    },
    /// A descriptor does not lie in the memory that is shared.
    #[error(
        "shares[{index}].offset puts descriptors[{descriptor}] outside the shared memory: share all of the allocation, or leave the descriptor out of the run"
    )]
    ShareBounds {
        /// Position of the share.
        index: usize,
        /// Position of the first descriptor that does not fit.
        descriptor: usize,
    },
    /// A slot is not in its file, or has no token.
    #[error("there is no slot {slot}: a file has {}, and a token is not 0", SlotAddress::SLOTS)]
    BadSlotAddress {
        /// The place that it names.
        slot: u32,
    },
    /// The life time of an offer does not end at a time that the wire can name.
    #[error(
        "the end of the offer's life time is not between a millisecond after the Unix epoch and what 64 bits of milliseconds and this platform's clock can count"
    )]
    BadExpiry,
    /// The terms of an offer are for no initiator.
    #[error("terms.readers is 0: state how many initiators may use the offer, at least one")]
    NoReaders,
    /// A writable offer is for more than one initiator.
    #[error(
        "terms.readers is {readers} for a writable offer: make an offer for each initiator that writes"
    )]
    ReadersOfWritable {
        /// How many initiators it names.
        readers: u32,
    },
    /// The terms of an offer have no token.
    #[error("terms.token is 0: draw a random one for each offer")]
    NoToken,
    /// The terms of an offer demand claims of initiators that this release cannot distinguish.
    #[error(
        "terms.claims is {value}, which is unknown: both sides need a release that supports it"
    )]
    UnknownClaimDemand {
        /// The number on the wire.
        value: u8,
    },
    /// The terms of an offer demand claims, and the version that should be written cannot say so.
    #[error(
        "the offer demands claims ({claims}), which version {version} of the native profile cannot carry: write version 4, or demand claims on the same host alone"
    )]
    ClaimsNotCarried {
        /// The requested version.
        version: NativeVersion,
        /// What the offer demands.
        claims: ClaimDemand,
    },
    /// A writable offer has a checksum.
    #[error(
        "the offer is to be written and has a checksum: its bytes are the initiator's, so leave the checksum out"
    )]
    ChecksumOfWritable,
    /// The checksum of an offer was computed in a way that this release does not know.
    #[error(
        "checksum.algorithm is {algorithm}, which is unknown: both sides need a release that supports it, or the offer goes without a checksum"
    )]
    UnknownChecksum {
        /// The number on the wire.
        algorithm: u16,
    },
    /// The versions of messages are not in ascending order of the kinds, or state a kind twice.
    #[error(
        "section 2 (message versions) states kind {kind} of messages out of order: state each kind once, in ascending order"
    )]
    MessageVersionOrder {
        /// The kind of messages that does not follow the one before.
        kind: u16,
    },
    /// There is no descriptor.
    #[error("the list of descriptors is empty: offer at least one")]
    NoDescriptors,
    /// A descriptor's address is null.
    #[error("descriptors[{index}].ptr is null: give the address of registered memory")]
    NullPointer {
        /// Position of the descriptor in its list; 0 for one that is in no list yet.
        index: usize,
    },
    /// A descriptor has no bytes.
    #[error("descriptors[{index}].size is zero: leave empty descriptors out")]
    ZeroSize {
        /// Position of the descriptor in its list; 0 for one that is in no list yet.
        index: usize,
    },
    /// A descriptor reaches past the end of the address space.
    #[error("descriptors[{index}] wraps around: ptr + size must fit 64 bits")]
    WrapAround {
        /// Position of the descriptor in its list; 0 for one that is in no list yet.
        index: usize,
    },
    /// The sizes of all descriptors together do not fit 64 bits.
    #[error(
        "the sizes of the descriptors add up to more than 64 bits can count: split the transfer"
    )]
    TotalOverflow,
    /// A descriptor's device is not one.
    #[error("descriptors[{index}].device is not a device")]
    BadDevice {
        /// Position of the descriptor.
        index: usize,
        /// What is wrong with it.
        source: ParseDeviceError,
    },
    /// A descriptor's device does not exist in the native profile.
    #[error(
        "descriptors[{index}].device is unknown (kind {kind}, ordinal {ordinal}): both sides need a release that supports it"
    )]
    UnsupportedDevice {
        /// Position of the descriptor.
        index: usize,
        /// The number of the kind on the wire; 0 if it has none.
        kind: u8,
        /// Which device of the kind.
        ordinal: u32,
    },
    /// A name or key holds control or format characters.
    #[error("{field} contains a control or format character: use printable text")]
    BadName {
        /// The field.
        field: Field,
    },
    /// `nixl_metadata` starts with `b64:` but does not go on with base64.
    #[error("nixl_metadata is not padded standard base64 after `b64:`")]
    BadBase64,
    /// `nixl_metadata` has no prefix and is not hexadecimal.
    #[error(
        "nixl_metadata has no `b64:` prefix and is not hexadecimal: send base64 after `b64:`, or hexadecimal digits"
    )]
    BadHex,
    /// A text inside another message is not base64.
    #[error("{field} is not padded standard base64: pass on the text as it was serialised")]
    NotBase64 {
        /// What the text should be.
        field: Field,
    },
    /// The agent's metadata is not a zlib stream, or a damaged one.
    #[error(
        "nixl_metadata is not a valid zlib stream: it was damaged or compressed by other means"
    )]
    BadZlib,
    /// Something ends too early.
    #[error("{field} ends too early: the rest was lost in transit")]
    Truncated {
        /// What ends too early.
        field: Field,
    },
    /// Something goes on after its end.
    #[error("{field} is followed by other bytes: pass on exactly one message, as it was encoded")]
    TrailingBytes {
        /// What should have ended.
        field: Field,
    },
    /// The first bytes are not those of the native profile.
    #[error("the message is not in the native profile: its first bytes are others")]
    BadMagic,
    /// The message is another one of the native profile.
    #[error("the message is {found}, where {expected} is needed: decode each by its own type")]
    OtherMessage {
        /// What it is.
        found: &'static str,
        /// What it has to be.
        expected: &'static str,
    },
    /// The native profile has a version that this release does not read.
    #[error(
        "version {version} of the native profile is unknown: write an earlier version, or use the same release on both sides"
    )]
    UnsupportedVersion {
        /// The version of the message.
        version: u16,
    },
    /// The native profile has flags that this release does not know.
    #[error(
        "flags {flags:#06x} of the native profile are unknown: use the same release on both sides"
    )]
    UnsupportedFlags {
        /// The flags of the message.
        flags: u16,
    },
    /// The native profile has a section that this release does not know and must not skip.
    #[error(
        "section {id} of the native profile is required and unknown: use a release that supports it, or write an earlier version"
    )]
    UnknownSection {
        /// The id of the section.
        id: u16,
    },
    /// A known section of the native profile has unknown flags.
    #[error(
        "flags {flags:#06x} of {} are unknown: use the same release on both sides",
        Field::Section(*id)
    )]
    UnsupportedSectionFlags {
        /// The id of the section.
        id: u16,
        /// Its flags.
        flags: u16,
    },
    /// A section of the native profile claims more bytes than the message has.
    #[error(
        "{} claims {len} bytes where the message has {left} left: the peer does not follow the native profile",
        Field::Section(*id)
    )]
    SectionOverrun {
        /// The id of the section.
        id: u16,
        /// The length that it claims, in bytes.
        len: usize,
        /// The bytes that the message has after the section's header.
        left: usize,
    },
    /// The native profile has more sections than any release writes.
    #[error("more than {limit} sections: the peer does not follow the native profile")]
    TooManySections {
        /// The most that is allowed.
        limit: usize,
    },
    /// The native profile's checksum does not match.
    #[error("the checksum does not match: the message was damaged in transit")]
    Checksum,
    /// The native profile's payload is not laid out as in its version.
    #[error("the payload is malformed: the peer does not follow the native profile")]
    Malformed,
    /// An export has no layout.
    #[error("the export has no layouts: export at least one")]
    NoLayouts,
    /// An export has more layouts than one may have.
    #[error("more than {limit} layouts: make several exports of them")]
    TooManyLayouts {
        /// The most that is allowed.
        limit: usize,
    },
    /// The layouts of an export have more parts than they may have.
    #[error("more than {limit} parts in all layouts: make several exports of them")]
    TooManyParts {
        /// The most that is allowed.
        limit: usize,
    },
    /// Two layouts of an export have one name.
    #[error("layouts[{index}].name is that of a layout before: name each layout differently")]
    DuplicateLayout {
        /// Position of the second one.
        index: usize,
    },
    /// A size in a layout is zero.
    #[error("layouts[{layout}].{dimension} is 0: it must be at least 1")]
    ZeroDimension {
        /// Position of the layout.
        layout: usize,
        /// Which size.
        dimension: &'static str,
    },
    /// A layout has more blocks than ids can count.
    #[error("layouts[{layout}].blocks is {blocks}: at most 2^32 are possible")]
    LayoutBlocks {
        /// Position of the layout.
        layout: usize,
        /// How many it has.
        blocks: u64,
    },
    /// The number of parts is not that of the kind of layout.
    #[error("layouts[{layout}] has {parts} parts and needs {needed}: one, or one for each layer")]
    LayoutParts {
        /// Position of the layout.
        layout: usize,
        /// Parts that it has.
        parts: usize,
        /// Parts that it needs.
        needed: usize,
    },
    /// A part of a layout is at address 0, is empty, or wraps around.
    #[error(
        "layouts[{layout}].parts[{part}] is no range of memory: its address and length must not be 0, and their sum must fit 64 bits"
    )]
    BadPart {
        /// Position of the layout.
        layout: usize,
        /// Position of the part.
        part: usize,
    },
    /// A layout arranges its chunks in a way that this release does not know.
    #[error(
        "layouts[{layout}].kind is {kind}, which is unknown: both sides need a release that supports it"
    )]
    UnknownLayoutKind {
        /// Position of the layout.
        layout: usize,
        /// The number on the wire.
        kind: u8,
    },
    /// A layout's device does not exist in the native profile.
    #[error(
        "layouts[{layout}].device is unknown (kind {kind}, ordinal {ordinal}): both sides need a release that supports it"
    )]
    UnsupportedLayoutDevice {
        /// Position of the layout.
        layout: usize,
        /// The number of the kind on the wire; 0 if it has none.
        kind: u8,
        /// Which device of the kind.
        ordinal: u32,
    },
    /// The words of an export cannot be at the stated place.
    #[error("the location of the words is invalid, because {reason}: state where the slots are")]
    BadWords {
        /// What is wrong.
        reason: &'static str,
    },
    /// An offer cannot have the word by which initiators check that it stands.
    #[error("the word of the offer is invalid, because {reason}: leave it out")]
    BadOfferWord {
        /// What is wrong.
        reason: &'static str,
    },
    /// The page on which an export's write grants are claimed does not have a word for each slot.
    #[error(
        "the file of the claims has {length} bytes and needs {needed}: it has a word of 8 bytes for each slot"
    )]
    ShortClaims {
        /// Bytes that it has.
        length: u64,
        /// Bytes that it needs.
        needed: u64,
    },
    /// A tensor has too many dimensions.
    #[error("the tensor has more than {limit} dimensions: reshape it")]
    TensorRank {
        /// The most that is allowed.
        limit: usize,
    },
    /// A dimension of a tensor has no elements, or more than 64 bits of bits can count.
    #[error(
        "dimension {axis} of the tensor has {size} elements: none, or too many to count their bits"
    )]
    TensorSize {
        /// The dimension.
        axis: usize,
        /// Its elements.
        size: u64,
    },
    /// The elements of a tensor are not whole bytes.
    #[error("elements of {bits} bits, {total} in all, are not whole bytes")]
    TensorBits {
        /// The bits of an element.
        bits: u8,
        /// The bits of all elements.
        total: u64,
    },
    /// A tensor has more or fewer bytes than are offered.
    #[error(
        "the tensor has {described} bytes, and {offered} are offered: describe exactly the bytes of the offer"
    )]
    TensorBytes {
        /// The bytes of the tensor.
        described: u64,
        /// The bytes of all descriptors.
        offered: u64,
    },
    /// A tensor is of a layout that does not exist, or not in the order of the layouts.
    #[error(
        "the tensors of layouts are out of order: layout {index} does not exist, or does not follow the one before"
    )]
    TensorLayout {
        /// The position of the layout.
        index: usize,
    },
    /// The tensor of a layout's blocks has more or fewer bytes than a block.
    #[error(
        "the tensor of layouts[{layout}] has {described} bytes, and a block of it {block}: describe exactly one block"
    )]
    BlockTensorBytes {
        /// The position of the layout.
        layout: usize,
        /// The bytes of the tensor.
        described: u64,
        /// The bytes of a block; `u64::MAX` also where that would not fit.
        block: u64,
    },
    /// A message of media is JSON, and not as Dynamo prints it.
    #[error(
        "the message of media is not Dynamo's (line {line}, column {column}): the peer speaks another version of it"
    )]
    BadMedia {
        /// Line of the first fault, from 1.
        line: usize,
        /// Column of the first fault in bytes.
        column: usize,
    },
    /// Media is in memory that is neither the host's nor an NVIDIA GPU's.
    #[error(
        "nixl_descriptor of the media names memory {device_id} that is neither Dram nor Vram: decode to memory of the host or of an NVIDIA GPU"
    )]
    MediaMemory {
        /// The id of the device.
        device_id: u64,
    },
    /// A content hash is not 16 hexadecimal digits.
    #[error("content_hash is not 16 hexadecimal digits")]
    BadContentHash,
    /// The offer of media is of other memory than its descriptor, or is to be written.
    #[error("nixl_offer is not an offer to read exactly the memory of nixl_descriptor")]
    MediaOffer,
    /// A video has not as many timestamps or indices as frames.
    #[error(
        "metadata.Video has {stated} timestamps or indices for {frames} frames: state one for each"
    )]
    MediaFrames {
        /// The timestamps or indices.
        stated: usize,
        /// The first size of the shape.
        frames: u64,
    },
    /// A video has too many frames.
    #[error("metadata.Video has more than {limit} timestamps: sample fewer frames")]
    MediaFrameLimit {
        /// The most that is allowed.
        limit: usize,
    },
    /// A number of a video is infinite or none.
    #[error("metadata.Video has a number that is not finite")]
    MediaNumber,
    /// A ticket has a version that this release does not read.
    #[error("version {version} of tickets is unknown: use the same release on both sides")]
    UnsupportedTicketVersion {
        /// The version of the ticket.
        version: u8,
    },
    /// A ticket has flags that this release does not know.
    #[error("flags {flags:#04x} of the ticket are unknown: use the same release on both sides")]
    UnsupportedTicketFlags {
        /// The flags of the ticket.
        flags: u8,
    },
    /// A ticket is for no layers.
    #[error("the layers {start}..{end} of the ticket are empty: name at least one")]
    EmptyLayers {
        /// The first layer.
        start: u16,
        /// One past the last.
        end: u16,
    },
    /// A ticket is for no block.
    #[error("the ticket names no block: grant at least one")]
    NoBlocks,
    /// A ticket is for more blocks than one may name.
    #[error("the ticket names {count} blocks, more than the {limit} allowed: make several tickets")]
    TooManyBlocks {
        /// How many it names.
        count: usize,
        /// The most that is allowed.
        limit: usize,
    },
    /// A ticket names a block twice.
    #[error("the ticket names block {block} twice: name each block once")]
    DuplicateBlock {
        /// The block.
        block: u32,
    },
    /// An id in a ticket is not written as one, or is not between 0 and 2^32.
    #[error("the ticket's block at position {index} is no id: it was altered in transit")]
    BadBlock {
        /// Position of the block.
        index: usize,
    },
    /// A ticket is not what its digest was computed of.
    #[error("the ticket was altered: pass it on exactly as the owner made it")]
    TicketAltered,
}
