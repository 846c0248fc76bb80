//! The encoding of messages about claims.
//!
//! | offset | bytes | content |
//! |---|---|---|
//! | 0 | 4 | magic: `0x89`, `NXC` |
//! | 4 | 1 | version: 1 |
//! | 5 | 1 | kind |
//! | 6 | 1 | length of the key |
//! | 7 | | the key |
//! | | 8 | the token, little-endian |
//! | | | claim: the initiator's agent metadata as it travels; granted: 8 bytes for a time; refused: a byte for the reason; notification: 8 bytes for its number, and the payload; watch: the reader's agent metadata, or nothing; layers ready: 8 bytes for their number |

use crate::{EndedOffer, ExportNotification};

const MAGIC: [u8; 4] = *b"\x89NXC";
const VERSION: u8 = 1;

/// The contents of a message about the offer of a key.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum ControlVerb<'a> {
    Claim {
        /// Compressed.
        metadata: &'a [u8],
    },
    Granted {
        /// By the owner's clock, in milliseconds since 1970: offers that it makes later need no claim, unless they demand one.
        known_since: u64,
    },
    Refused(EndedOffer),
    Query,
    Writing,
    NotWriting,
    Decline,
    /// The sender has drained and is about to go. The key is its agent's name, and the token 0.
    Leaving,
    /// The write was begun and its request has ended without success: the sender posts nothing more of it, and what it had posted
    /// may still be on its way. Owners of earlier releases ignore it.
    WriteEnded,
    /// A reader's message about a grant: the key is all of it ([`GrantMessage`](crate::GrantMessage)), and the token 0.
    OfGrant,
    /// An importer's message to the owner of an export. The key is the import, at random, and the token the export. Owners of
    /// earlier releases ignore it.
    Notification {
        /// From 1 on.
        sequence: u64,
        /// At most [`ExportNotification::MAX_BYTES`].
        payload: &'a [u8],
    },
    /// A reader requests notice of the layers of a grant. The key is that of [`OfGrant`](Self::OfGrant), without a kind, and the
    /// token 0. Owners of earlier releases ignore it.
    Watch {
        /// Of the reader's agent, compressed; empty if its mailbox takes the answer.
        metadata: &'a [u8],
    },
    /// The answer: so many layers are ready, or the grant has ended. The key is the reader, and the token the generation.
    LayersReady {
        layers: u64,
    },
    /// A holder of an offer of an export's blocks requests its time to live anew. Owners of earlier releases ignore it, and none
    /// answers.
    Renew,
}

/// One message.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct ControlMessage<'a> {
    pub(crate) key: &'a [u8],
    pub(crate) token: u64,
    pub(crate) verb: ControlVerb<'a>,
}

impl<'a> ControlMessage<'a> {
    /// Whether bytes are such a message, readable or not.
    pub(crate) fn is_one(bytes: &[u8]) -> bool {
        bytes.starts_with(&MAGIC)
    }

    /// `None` if it is of another version, or damaged.
    pub(crate) fn decode(bytes: &'a [u8]) -> Option<Self> {
        let rest = bytes.strip_prefix(&MAGIC)?;
        let (&[version, kind, len], rest) = rest.split_first_chunk()?;
        let (key, rest) = rest.split_at_checked(len.into())?;
        let (token, rest) = rest.split_first_chunk()?;
        if version != VERSION || key.is_empty() {
            return None;
        }
        let verb = match (kind, rest) {
            (1, metadata) if !metadata.is_empty() => ControlVerb::Claim { metadata },
            (2, since) => {
                let known_since = u64::from_le_bytes(since.try_into().ok()?);
                ControlVerb::Granted { known_since }
            }
            (3, &[why]) => ControlVerb::Refused(reason(why)),
            (4, []) => ControlVerb::Query,
            (5, []) => ControlVerb::Writing,
            (6, []) => ControlVerb::NotWriting,
            (7, []) => ControlVerb::Decline,
            (8, []) => ControlVerb::Leaving,
            (9, []) => ControlVerb::WriteEnded,
            (10, []) => ControlVerb::OfGrant,
            (12, metadata) => ControlVerb::Watch { metadata },
            (13, layers) => {
                let layers = u64::from_le_bytes(layers.try_into().ok()?);
                ControlVerb::LayersReady { layers }
            }
            (14, []) => ControlVerb::Renew,
            (11, rest) => {
                let (sequence, payload) = rest.split_first_chunk()?;
                let sequence = u64::from_le_bytes(*sequence);
                if sequence == 0 || payload.len() > ExportNotification::MAX_BYTES {
                    return None;
                }
                ControlVerb::Notification { sequence, payload }
            }
            _ => return None,
        };
        Some(Self { key, token: u64::from_le_bytes(*token), verb })
    }

    pub(crate) fn encode(&self) -> Vec<u8> {
        let (since, notification, ready);
        let (kind, rest): (u8, &[u8]) = match &self.verb {
            ControlVerb::Claim { metadata } => (1, metadata),
            ControlVerb::Granted { known_since } => {
                since = known_since.to_le_bytes();
                (2, &since)
            }
            ControlVerb::Refused(why) => (3, std::slice::from_ref(number(*why))),
            ControlVerb::Query => (4, &[]),
            ControlVerb::Writing => (5, &[]),
            ControlVerb::NotWriting => (6, &[]),
            ControlVerb::Decline => (7, &[]),
            ControlVerb::Leaving => (8, &[]),
            ControlVerb::WriteEnded => (9, &[]),
            ControlVerb::OfGrant => (10, &[]),
            ControlVerb::Notification { sequence, payload } => {
                notification = [&sequence.to_le_bytes(), *payload].concat();
                (11, &notification)
            }
            ControlVerb::Watch { metadata } => (12, metadata),
            ControlVerb::LayersReady { layers } => {
                ready = layers.to_le_bytes();
                (13, &ready)
            }
            ControlVerb::Renew => (14, &[]),
        };
        // Keys are of at most 255 bytes.
        let len = u8::try_from(self.key.len()).unwrap_or(u8::MAX);
        let mut bytes = Vec::with_capacity(15 + self.key.len() + rest.len());
        bytes.extend_from_slice(&MAGIC);
        bytes.extend_from_slice(&[VERSION, kind, len]);
        bytes.extend_from_slice(self.key);
        bytes.extend_from_slice(&self.token.to_le_bytes());
        bytes.extend_from_slice(rest);
        bytes
    }
}

fn number(why: EndedOffer) -> &'static u8 {
    match why {
        EndedOffer::Used => &2,
        EndedOffer::Claimed => &3,
        EndedOffer::Expired => &4,
        EndedOffer::WrongToken => &5,
        _ => &1,
    }
}

/// A number of a later release is read as the most general reason.
fn reason(number: u8) -> EndedOffer {
    match number {
        2 => EndedOffer::Used,
        3 => EndedOffer::Claimed,
        4 => EndedOffer::Expired,
        5 => EndedOffer::WrongToken,
        _ => EndedOffer::Revoked,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn verb() -> impl Strategy<Value = (u8, Vec<u8>)> {
        (1..15u8, proptest::collection::vec(any::<u8>(), 1..50))
    }

    fn make(kind: u8, bytes: &[u8]) -> ControlVerb<'_> {
        match kind {
            1 => ControlVerb::Claim { metadata: bytes },
            2 => ControlVerb::Granted { known_since: bytes.len() as u64 },
            3 => ControlVerb::Refused(reason(bytes[0] % 6)),
            4 => ControlVerb::Query,
            5 => ControlVerb::Writing,
            6 => ControlVerb::NotWriting,
            7 => ControlVerb::Decline,
            8 => ControlVerb::Leaving,
            9 => ControlVerb::WriteEnded,
            10 => ControlVerb::OfGrant,
            11 => ControlVerb::Notification { sequence: bytes.len() as u64, payload: &bytes[1..] },
            12 => ControlVerb::Watch { metadata: bytes },
            13 => ControlVerb::LayersReady { layers: bytes.len() as u64 },
            _ => ControlVerb::Renew,
        }
    }

    proptest! {
        #[test]
        fn what_is_encoded_decodes_and_no_prefix_of_it_does(
            key in proptest::collection::vec(any::<u8>(), 1..255),
            token in any::<u64>(),
            (kind, bytes) in verb(),
        ) {
            let message = ControlMessage { key: &key, token, verb: make(kind, &bytes) };
            let encoded = message.encode();
            prop_assert!(ControlMessage::is_one(&encoded));
            prop_assert_eq!(ControlMessage::decode(&encoded), Some(message));
            // Those end in bytes of any number.
            if ![1, 11, 12].contains(&kind) {
                for len in 0..encoded.len() {
                    prop_assert_eq!(ControlMessage::decode(&encoded[..len]), None);
                }
            }
        }

        #[test]
        fn notifications_have_a_number_and_at_most_so_many_bytes(
            sequence in any::<u64>(),
            len in ExportNotification::MAX_BYTES - 2..ExportNotification::MAX_BYTES + 3,
        ) {
            let payload = vec![7; len];
            let bytes_of = |sequence| {
                let verb = ControlVerb::Notification { sequence, payload: &payload };
                ControlMessage { key: b"k", token: 1, verb }.encode()
            };
            let is_read = |bytes: &[u8]| ControlMessage::decode(bytes).is_some();
            let fits = len <= ExportNotification::MAX_BYTES;
            prop_assert_eq!(is_read(&bytes_of(sequence.max(1))), fits);
            prop_assert!(!is_read(&bytes_of(0)));
            // Without a whole number.
            for end in 0..16 + 7 {
                prop_assert!(!is_read(&bytes_of(sequence)[..end]));
            }
        }

        #[test]
        fn arbitrary_bytes_are_refused_or_make_sense(mut bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            for prefix in [&b""[..], b"\x89NXC", b"\x89NXC\x01"] {
                bytes.splice(..0, prefix.iter().copied());
                if let Some(message) = ControlMessage::decode(&bytes) {
                    prop_assert_eq!(message.encode(), bytes.clone());
                }
            }
        }
    }
}
