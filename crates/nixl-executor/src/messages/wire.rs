//! Encoding of messages: limits, errors, and fields, which are big-endian, variable ones after their length.

use bytes::{BufMut, Bytes, BytesMut};
use nixl_metadata::{NotificationKey, OperationKind};
use thiserror::Error;

/// The magic bytes, which distinguish a message from a key. The version follows.
pub(super) const MAGIC: &[u8; 3] = b"nxs";
/// The most slots or places in one message.
pub(crate) const MAX_GRANTS: usize = 64;
/// The longest initiator metadata. That of a thousand registrations has some 100 KiB.
pub(crate) const MAX_INITIATOR_METADATA: usize = 256 * 1024;
/// The most descriptors of exported GPU memory: 256 KiB of offsets.
pub(crate) const MAX_RANGE_OFFSETS: usize = 1 << 15;
/// The most allocations in one request.
pub(crate) const MAX_EXPORTED_RANGES: usize = 1 << 10;
/// The longest reason; the rest is cut off.
pub(super) const MAX_REASON: usize = 240;

/// Names a transfer on both sides; a random number that the initiator draws.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub(crate) struct SessionId(pub(super) u128);

impl SessionId {
    pub(crate) fn random() -> Self {
        Self(uuid::Uuid::new_v4().as_u128())
    }

    pub(super) fn read(rest: &mut Reader<'_>) -> Result<Self, MessageError> {
        rest.array("session").map(|id| Self(u128::from_be_bytes(id)))
    }
}

/// Why bytes are no message.
#[derive(Clone, Debug, Eq, Error, PartialEq)]
pub(crate) enum MessageError {
    /// It is something else.
    #[error("it is no message of a staged transfer")]
    NotAMessage,
    #[error("the message ends inside its {field}")]
    Truncated { field: &'static str },
    #[error("the message's {field} is {value}, which is out of range")]
    Bad { field: &'static str, value: u64 },
    #[error("{extra} bytes follow the message")]
    Trailing { extra: usize },
}

/// The version of a message, and what follows it.
pub(super) fn split_magic(bytes: &[u8]) -> Option<(u8, &[u8])> {
    let (version, rest) = bytes.strip_prefix(MAGIC)?.split_first()?;
    matches!(version, 1 | 2).then_some((*version, rest))
}

pub(super) fn bad(field: &'static str, value: impl Into<u64>) -> MessageError {
    MessageError::Bad { field, value: value.into() }
}

pub(super) fn kind_byte(kind: OperationKind) -> u8 {
    match kind {
        OperationKind::Read => 1,
        OperationKind::Write => 2,
    }
}

pub(super) fn put_initiator_metadata(out: &mut BytesMut, initiator_metadata: &[u8]) {
    out.put_u32(initiator_metadata.len() as u32);
    out.put_slice(initiator_metadata);
}

pub(super) fn put_text(out: &mut BytesMut, text: &str, most: usize) {
    let mut len = text.len().min(most);
    while !text.is_char_boundary(len) {
        len -= 1;
    }
    out.put_u8(len as u8);
    out.put_slice(text.get(..len).unwrap_or_default().as_bytes());
}

/// What is left of a message.
#[derive(Clone, Copy)]
pub(super) struct Reader<'a>(pub(super) &'a [u8]);

impl<'a> Reader<'a> {
    pub(super) fn take(
        &mut self,
        len: usize,
        field: &'static str,
    ) -> Result<&'a [u8], MessageError> {
        let (taken, rest) =
            self.0.split_at_checked(len).ok_or(MessageError::Truncated { field })?;
        self.0 = rest;
        Ok(taken)
    }

    pub(super) fn array<const N: usize>(
        &mut self,
        field: &'static str,
    ) -> Result<[u8; N], MessageError> {
        let (taken, rest) = self.0.split_first_chunk().ok_or(MessageError::Truncated { field })?;
        self.0 = rest;
        Ok(*taken)
    }

    pub(super) fn u8(&mut self, field: &'static str) -> Result<u8, MessageError> {
        self.array(field).map(u8::from_be_bytes)
    }

    pub(super) fn u16(&mut self, field: &'static str) -> Result<u16, MessageError> {
        self.array(field).map(u16::from_be_bytes)
    }

    pub(super) fn u32(&mut self, field: &'static str) -> Result<u32, MessageError> {
        self.array(field).map(u32::from_be_bytes)
    }

    pub(super) fn u64(&mut self, field: &'static str) -> Result<u64, MessageError> {
        self.array(field).map(u64::from_be_bytes)
    }

    pub(super) fn kind(&mut self) -> Result<OperationKind, MessageError> {
        match self.u8("kind")? {
            1 => Ok(OperationKind::Read),
            2 => Ok(OperationKind::Write),
            other => Err(bad("kind", other)),
        }
    }

    pub(super) fn key(&mut self) -> Result<NotificationKey, MessageError> {
        let key = self.text("key", NotificationKey::MAX_BYTES)?;
        let value = key.len() as u64;
        NotificationKey::new(key)
            .map_err(|_| MessageError::Bad { field: "key's length or content", value })
    }

    pub(super) fn initiator_metadata(&mut self) -> Result<Bytes, MessageError> {
        let len = self.u32("introduction")?;
        if len as usize > MAX_INITIATOR_METADATA {
            return Err(bad("introduction's length", len));
        }
        Ok(Bytes::copy_from_slice(self.take(len as usize, "introduction")?))
    }

    pub(super) fn count(&mut self, field: &'static str) -> Result<usize, MessageError> {
        match self.u8(field)? {
            count if count as usize > MAX_GRANTS => Err(bad(field, count)),
            count => Ok(count.into()),
        }
    }

    pub(super) fn text(
        &mut self,
        field: &'static str,
        most: usize,
    ) -> Result<&'a str, MessageError> {
        let len = self.u8(field)?;
        if len as usize > most {
            return Err(bad(field, len));
        }
        str::from_utf8(self.take(len.into(), field)?).map_err(|_| bad(field, len))
    }
}
