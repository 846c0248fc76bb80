//! The messages that request an offer, and the proof that the sender holds its metadata.
//!
//! | version 2 | bytes | content |
//! |---|---|---|
//! | all | 4 | magic: `nxs`, 2 |
//! | | 16 | session |
//! | | 1 | tag: 0 open, 10 copy request, 11 copy cancellation |
//! | | 1 + | key |
//! | | 8 | the token of the offer's terms, 0 for an offer without |
//! | open | 1, 8 | kind, bytes of a chunk |
//! | | 4 + | initiator metadata |
//! | | 2, 4, 4 | section 0, from version 3 of staging messages on: the initiator's process. The chunks are staged on a GPU |
//! | copy request | 1, 4, 16 | kind, process (0: unknown), UUID of the GPU |
//! | | 2 + | exported ranges: each 72 bytes of a handle, and 2 + 8 *n* of offsets |
//! | | 4 + | initiator metadata |
//! | copy cancellation | 4 +, 1 + | initiator metadata, reason |
//! | all | 2, 4 + | sections, until the end: a number and its content. Numbers ascend; unknown ones are skipped |
//!
//! The version is that of staging messages, for remote copies too: [`MessageVersions::staging`](nixl_metadata::MessageVersions::staging).
//! Version 1 has no token and no sections, and other orders: the key is all that its sender presents.

use std::fmt;
use std::num::NonZeroU32;

use bytes::{BufMut, Bytes, BytesMut};
use nixl_metadata::{NotificationKey, OperationKind, PeerInfo, RdmaMetadata};

use super::wire::{
    self, MessageError, Reader, SessionId, bad, kind_byte, put_initiator_metadata, put_text,
};
use crate::local::SharedHandle;

/// The offer that a request is for, with the sender's proof.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct PresentedOffer {
    /// The target's offer.
    pub(crate) key: NotificationKey,
    pub(crate) proof: Proof,
}

/// The proof that the sender holds the offer's metadata.
#[derive(Clone, Copy, Eq, PartialEq)]
pub(crate) enum Proof {
    /// The key alone, which is as random as a token and travels nowhere else. Of peers that speak version 1.
    Key,
    /// The token of the offer's terms, 0 for an offer that has none.
    Token(u64),
}

/// The initiator requests the target's part.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct Open {
    pub(crate) offer: PresentedOffer,
    pub(crate) kind: OperationKind,
    pub(crate) chunk_bytes: u64,
    /// What the target needs to reach the initiator, as it travels.
    pub(crate) initiator_metadata: Bytes,
    /// The initiator's process, if the chunks are staged on the source's GPU, out of which the sink's copies.
    pub(crate) on_gpu_by: Option<NonZeroU32>,
}

/// The initiator requests a copy by the target, to or from GPU memory that the initiator exports.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct RemoteCopyRequest {
    pub(crate) offer: PresentedOffer,
    pub(crate) kind: OperationKind,
    /// The initiator's process, from version 2 on: the memory is closed when it ends.
    pub(crate) process: Option<u32>,
    /// The UUID of the GPU whose memory it is, zeros if that is not known.
    pub(crate) gpu: [u8; 16],
    /// The memory, in the order of the descriptors.
    pub(crate) ranges: Vec<ExportedRange>,
    /// What the target needs to reach the initiator, as it travels.
    pub(crate) initiator_metadata: Bytes,
}

/// The initiator cancels the copy.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct CancelCopy {
    pub(crate) offer: PresentedOffer,
    /// As in [`RemoteCopyRequest`], which may not have arrived.
    pub(crate) initiator_metadata: Bytes,
    pub(crate) reason: String,
}

/// An allocation of GPU memory, and where in it each of the next descriptors begins.
#[derive(Clone, Eq, PartialEq)]
pub(crate) struct ExportedRange {
    pub(crate) handle: SharedHandle,
    pub(crate) offsets: Vec<u64>,
}

/// The section of a request for chunks that are staged on a GPU. As the first number, so that it is in front of those of later
/// releases.
const ON_GPU: u16 = 0;
pub(super) const OPEN: u8 = 0;
pub(super) const REMOTE_COPY: u8 = 10;
pub(super) const CANCEL_COPY: u8 = 11;
/// A `RemoteCopyRequest` of version 1 with the initiator's process.
pub(super) const REMOTE_COPY_OF_PROCESS: u8 = 13;

impl PresentedOffer {
    /// For a peer's offer, in the version that the peer speaks.
    pub(crate) fn of(remote: &RdmaMetadata) -> Self {
        let versions = remote.peer().map(PeerInfo::versions).unwrap_or_default();
        let proof = match versions.staging() {
            0 | 1 => Proof::Key,
            _ => Proof::Token(remote.terms().map_or(0, |terms| terms.token().get())),
        };
        Self { key: remote.notification_key().clone(), proof }
    }

    /// The session of a message and what it presents, if it is a request, read without the rest of it.
    pub(crate) fn peek(message: &[u8]) -> Option<(SessionId, Self)> {
        let (version, rest) = wire::split_magic(message)?;
        let mut rest = Reader(rest);
        let (id, tag) = (SessionId::read(&mut rest).ok()?, rest.u8("tag").ok()?);
        let presented = match (version, tag) {
            (2, OPEN | REMOTE_COPY | CANCEL_COPY) => Self::read(&mut rest).ok()?,
            (1, OPEN | REMOTE_COPY | CANCEL_COPY | REMOTE_COPY_OF_PROCESS) => {
                let before = match tag {
                    OPEN => 9,
                    REMOTE_COPY => 1,
                    REMOTE_COPY_OF_PROCESS => 5,
                    _ => 0,
                };
                rest.take(before, "kind").ok()?;
                Self { key: rest.key().ok()?, proof: Proof::Key }
            }
            _ => return None,
        };
        Some((id, presented))
    }

    pub(super) fn is_of_version_1(&self) -> bool {
        self.proof == Proof::Key
    }

    fn read(rest: &mut Reader<'_>) -> Result<Self, MessageError> {
        Ok(Self { key: rest.key()?, proof: Proof::Token(rest.u64("token")?) })
    }

    /// The tag, and in version 2 what is presented. In version 1 each message has its own place for the key.
    fn put(&self, tag: u8, out: &mut BytesMut) {
        out.put_u8(tag);
        if let Proof::Token(token) = self.proof {
            self.put_key(out);
            out.put_u64(token);
        }
    }

    fn put_key(&self, out: &mut BytesMut) {
        put_text(out, self.key.as_str(), NotificationKey::MAX_BYTES);
    }

    fn put_key_of_version_1(&self, out: &mut BytesMut) {
        if self.is_of_version_1() {
            self.put_key(out);
        }
    }
}

impl Open {
    pub(super) fn put(&self, out: &mut BytesMut) {
        self.offer.put(OPEN, out);
        out.put_u8(kind_byte(self.kind));
        out.put_u64(self.chunk_bytes);
        self.offer.put_key_of_version_1(out);
        put_initiator_metadata(out, &self.initiator_metadata);
        put_process(self.on_gpu_by.filter(|_| !self.offer.is_of_version_1()), out);
    }

    pub(super) fn read_v1(rest: &mut Reader<'_>) -> Result<Self, MessageError> {
        let (kind, chunk_bytes) = (rest.kind()?, rest.u64("chunk size")?);
        let offer = PresentedOffer { key: rest.key()?, proof: Proof::Key };
        let initiator_metadata = rest.initiator_metadata()?;
        Ok(Self { offer, kind, chunk_bytes, initiator_metadata, on_gpu_by: None })
    }

    pub(super) fn read_v2(rest: &mut Reader<'_>) -> Result<Self, MessageError> {
        let offer = PresentedOffer::read(rest)?;
        let (kind, chunk_bytes) = (rest.kind()?, rest.u64("chunk size")?);
        let initiator_metadata = rest.initiator_metadata()?;
        let on_gpu_by = read_process(rest)?;
        Ok(Self { offer, kind, chunk_bytes, initiator_metadata, on_gpu_by })
    }
}

impl RemoteCopyRequest {
    pub(super) fn put(&self, out: &mut BytesMut) {
        match (self.offer.proof, self.process) {
            (Proof::Key, Some(process)) => {
                out.put_u8(REMOTE_COPY_OF_PROCESS);
                out.put_u32(process);
                out.put_u8(kind_byte(self.kind));
            }
            (Proof::Key, None) => {
                out.put_u8(REMOTE_COPY);
                out.put_u8(kind_byte(self.kind));
            }
            (Proof::Token(_), process) => {
                self.offer.put(REMOTE_COPY, out);
                out.put_u8(kind_byte(self.kind));
                out.put_u32(process.unwrap_or(0));
            }
        }
        self.offer.put_key_of_version_1(out);
        out.put_slice(&self.gpu);
        out.put_u16(self.ranges.len().min(wire::MAX_EXPORTED_RANGES) as u16);
        for range in self.ranges.iter().take(wire::MAX_EXPORTED_RANGES) {
            out.put_slice(&range.handle);
            out.put_u16(range.offsets.len().min(wire::MAX_RANGE_OFFSETS) as u16);
            for offset in range.offsets.iter().take(wire::MAX_RANGE_OFFSETS) {
                out.put_u64(*offset);
            }
        }
        put_initiator_metadata(out, &self.initiator_metadata);
    }

    pub(super) fn read_v1(
        rest: &mut Reader<'_>,
        process: Option<u32>,
    ) -> Result<Self, MessageError> {
        let kind = rest.kind()?;
        let offer = PresentedOffer { key: rest.key()?, proof: Proof::Key };
        Self::read_ranges(rest, offer, kind, process)
    }

    pub(super) fn read_v2(rest: &mut Reader<'_>) -> Result<Self, MessageError> {
        let offer = PresentedOffer::read(rest)?;
        let (kind, process) = (rest.kind()?, rest.u32("process")?);
        let copy_request = Self::read_ranges(rest, offer, kind, (process != 0).then_some(process))?;
        skip_sections(rest)?;
        Ok(copy_request)
    }

    fn read_ranges(
        rest: &mut Reader<'_>,
        offer: PresentedOffer,
        kind: OperationKind,
        process: Option<u32>,
    ) -> Result<Self, MessageError> {
        let gpu = rest.array("GPU")?;
        let count = rest.u16("exported ranges")?;
        if count as usize > wire::MAX_EXPORTED_RANGES {
            return Err(bad("number of exported ranges", count));
        }
        let (mut ranges, mut exported) = (Vec::new(), 0);
        for _ in 0..count {
            let handle = rest.array("handle")?;
            let places = rest.u16("offsets")?;
            exported += usize::from(places);
            if places == 0 || exported > wire::MAX_RANGE_OFFSETS {
                return Err(bad("number of offsets", places));
            }
            let bytes = rest.take(usize::from(places) * size_of::<u64>(), "offsets")?;
            let (offsets, _) = bytes.as_chunks();
            let offsets = offsets.iter().map(|offset| u64::from_be_bytes(*offset)).collect();
            ranges.push(ExportedRange { handle, offsets });
        }
        Ok(Self {
            offer,
            kind,
            process,
            gpu,
            ranges,
            initiator_metadata: rest.initiator_metadata()?,
        })
    }
}

impl CancelCopy {
    pub(super) fn put(&self, out: &mut BytesMut) {
        self.offer.put(CANCEL_COPY, out);
        self.offer.put_key_of_version_1(out);
        put_initiator_metadata(out, &self.initiator_metadata);
        put_text(out, &self.reason, wire::MAX_REASON);
    }

    pub(super) fn read_v1(rest: &mut Reader<'_>) -> Result<Self, MessageError> {
        let offer = PresentedOffer { key: rest.key()?, proof: Proof::Key };
        Self::read_rest(rest, offer)
    }

    pub(super) fn read_v2(rest: &mut Reader<'_>) -> Result<Self, MessageError> {
        let offer = PresentedOffer::read(rest)?;
        let cancel = Self::read_rest(rest, offer)?;
        skip_sections(rest)?;
        Ok(cancel)
    }

    fn read_rest(rest: &mut Reader<'_>, offer: PresentedOffer) -> Result<Self, MessageError> {
        let initiator_metadata = rest.initiator_metadata()?;
        let reason = rest.text("reason", wire::MAX_REASON)?.to_owned();
        Ok(Self { offer, initiator_metadata, reason })
    }
}

/// Adds the section of chunks that are staged on a GPU: the initiator's process.
pub(super) fn put_process(process: Option<NonZeroU32>, out: &mut BytesMut) {
    let Some(process) = process else { return };
    out.put_u16(ON_GPU);
    out.put_u32(size_of::<u32>() as u32);
    out.put_u32(process.get());
}

/// Reads the sections to the end of the message: the initiator's process, if the chunks are staged on a GPU.
pub(super) fn read_process(rest: &mut Reader<'_>) -> Result<Option<NonZeroU32>, MessageError> {
    let mut on_gpu_by = None;
    read_sections(rest, |number, mut content| {
        if number != ON_GPU {
            return Ok(());
        }
        let process = content.u32("process")?;
        on_gpu_by = Some(NonZeroU32::new(process).ok_or_else(|| bad("process", process))?);
        match content.0.len() {
            0 => Ok(()),
            extra => Err(MessageError::Trailing { extra }),
        }
    })?;
    Ok(on_gpu_by)
}

/// Skips the sections to the end of a message of which this release has none.
fn skip_sections(rest: &mut Reader<'_>) -> Result<(), MessageError> {
    read_sections(rest, |_, _| Ok(()))
}

/// Reads the sections to the end of the message.
fn read_sections(
    rest: &mut Reader<'_>,
    mut read: impl FnMut(u16, Reader<'_>) -> Result<(), MessageError>,
) -> Result<(), MessageError> {
    let mut before = None;
    while !rest.0.is_empty() {
        let (number, len) = (rest.u16("section")?, rest.u32("section")?);
        if before.replace(number).is_some_and(|before| before >= number) {
            return Err(bad("section's place", number));
        }
        read(number, Reader(rest.take(len as usize, "section")?))?;
    }
    Ok(())
}

/// Shows no token.
impl fmt::Debug for Proof {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Key => "Key",
            Self::Token(_) => "Token(<redacted>)",
        })
    }
}

/// Shows no handle.
impl fmt::Debug for ExportedRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ExportedRange").field("offsets", &self.offsets).finish_non_exhaustive()
    }
}
