//! The messages of channels over TCP and HTTP, and entries as NATS and etcd store them.
//!
//! A message is bincode of one value behind a version byte. On a stream, each is a frame: its length in 4 bytes, little-endian,
//! then the message. A length beyond the limit is refused before a byte of the message is read.

use bytes::Bytes;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::backend::{Edition, Stored};
use super::error::Fault;
use super::{ChannelError, Entry, Incarnation, Listed, WorkerName};
use crate::{Field, codec};

/// The first byte of every message.
const VERSION: u8 = 1;

/// Bytes of a message beside its payload: names, numbers and the reason of a refusal, or a list.
pub(crate) const OVERHEAD: usize = 4096;

/// A call of a client.
#[derive(Debug, PartialEq, Serialize, Deserialize)]
pub(crate) enum Call {
    Put { stored: Stored, life_ms: u64 },
    Remove { listed: Listed, edition: Edition },
    Get { name: WorkerName },
    List { prefix: String },
    Request { from: WorkerName, to: WorkerName, payload: Bytes, within_ms: u64 },
    Follow { name: WorkerName },
    Serve { name: WorkerName, incarnation: Incarnation },
    Reply { id: u128, reply: Result<Bytes, Fault> },
}

/// A request as NATS carries it and etcd stores it.
#[derive(Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Asked {
    pub(crate) from: WorkerName,
    pub(crate) payload: Bytes,
    pub(crate) within_ms: u64,
}

/// A message of a server.
#[derive(Debug, PartialEq, Serialize, Deserialize)]
pub(crate) enum Answer {
    Done,
    Life {
        ms: u64,
    },
    Entry {
        entry: Option<Entry>,
    },
    Listed {
        listed: Vec<Listed>,
    },
    Reply {
        payload: Bytes,
    },
    Failed {
        fault: Fault,
    },
    Delivery {
        id: u128,
        from: WorkerName,
        payload: Bytes,
        within_ms: u64,
    },
    /// The connection lives.
    Alive,
}

/// Encodes a message.
pub(crate) fn encode<T: Serialize>(message: &T) -> Result<Vec<u8>, ChannelError> {
    let mut out = vec![VERSION];
    codec::encode_to(message, &mut out)
        .map_err(|_| ChannelError::Malformed { what: "a message" })?;
    Ok(out)
}

/// Decodes a message that takes up all bytes.
pub(crate) fn decode<T: DeserializeOwned>(
    bytes: &[u8],
    what: &'static str,
) -> Result<T, ChannelError> {
    match bytes.split_first() {
        Some((&VERSION, rest)) => {
            codec::decode(rest, Field::Document).map_err(|_| ChannelError::Malformed { what })
        }
        _ => Err(ChannelError::Malformed { what }),
    }
}

/// Encodes a message as a frame.
pub(crate) fn frame<T: Serialize>(message: &T) -> Result<Vec<u8>, ChannelError> {
    let message = encode(message)?;
    let too_large = |_| ChannelError::TooLarge { len: message.len(), limit: u32::MAX as usize };
    let mut out = u32::try_from(message.len()).map_err(too_large)?.to_le_bytes().to_vec();
    out.extend_from_slice(&message);
    Ok(out)
}

/// The length of a message by the head of its frame.
pub(crate) fn frame_len(head: [u8; 4], limit: usize) -> Result<usize, ChannelError> {
    let len = u32::from_le_bytes(head) as usize;
    if len > limit {
        return Err(ChannelError::TooLarge { len, limit });
    }
    Ok(len)
}

/// Takes the frames out of the pieces of a stream.
#[derive(Debug, Default)]
pub(crate) struct Frames {
    buffer: Vec<u8>,
}

impl Frames {
    /// Adds a piece.
    pub(crate) fn push(&mut self, piece: &[u8]) {
        self.buffer.extend_from_slice(piece);
    }

    /// The next whole message.
    pub(crate) fn next(&mut self, limit: usize) -> Result<Option<Vec<u8>>, ChannelError> {
        let Some((head, rest)) = self.buffer.split_first_chunk::<4>() else { return Ok(None) };
        let len = frame_len(*head, limit)?;
        let Some(message) = rest.get(..len) else { return Ok(None) };
        let message = message.to_vec();
        self.buffer.drain(..4 + len);
        Ok(Some(message))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn call(payload: Vec<u8>) -> Call {
        let name = |name| WorkerName::new(name).unwrap();
        Call::Request { from: name("a"), to: name("b"), payload: payload.into(), within_ms: 7 }
    }

    proptest! {
        #[test]
        fn frames_are_taken_out_of_any_pieces(
            payloads in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..64), 1..6),
            piece in 1usize..40,
        ) {
            let calls: Vec<_> = payloads.into_iter().map(call).collect();
            let stream: Vec<u8> = calls.iter().flat_map(|call| frame(call).unwrap()).collect();
            let (mut frames, mut found) = (Frames::default(), Vec::new());
            for piece in stream.chunks(piece) {
                frames.push(piece);
                while let Some(message) = frames.next(256).unwrap() {
                    found.push(decode::<Call>(&message, "a call").unwrap());
                }
            }
            prop_assert_eq!(found, calls);
        }

        #[test]
        fn damaged_messages_never_panic_nor_gain_bytes(
            payload in proptest::collection::vec(any::<u8>(), 0..64),
            at in any::<prop::sample::Index>(),
            with in any::<u8>(),
        ) {
            let mut message = encode(&call(payload)).unwrap();
            let at = at.index(message.len());
            message[at] = with;
            if let Ok(decoded) = decode::<Call>(&message, "a call") {
                prop_assert_eq!(encode(&decoded).unwrap(), message);
            }
        }
    }

    #[test]
    fn a_frame_of_a_gigabyte_is_refused_by_its_head() {
        let mut frames = Frames::default();
        frames.push(&(1u32 << 30).to_le_bytes());
        assert!(
            matches!(frames.next(1 << 20), Err(ChannelError::TooLarge { len, .. }) if len == 1 << 30)
        );
    }
}
