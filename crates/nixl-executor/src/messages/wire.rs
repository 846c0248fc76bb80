//! Encoding of message fields: big-endian, variable fields after their length.

use bytes::{BufMut, Bytes, BytesMut};
use nixl_metadata::{NotificationKey, OperationKind};

use super::message::{Message, MessageError};

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
        if len as usize > Message::MAX_INITIATOR_METADATA {
            return Err(bad("introduction's length", len));
        }
        Ok(Bytes::copy_from_slice(self.take(len as usize, "introduction")?))
    }

    pub(super) fn count(&mut self, field: &'static str) -> Result<usize, MessageError> {
        match self.u8(field)? {
            count if count as usize > Message::MAX_GRANTS => Err(bad(field, count)),
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
