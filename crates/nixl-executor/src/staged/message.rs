//! What the two sides of a staged transfer say to each other: bytes that come from a peer, and are trusted no further.

use std::fmt;

use bytes::{BufMut, Bytes, BytesMut};
use nixl_metadata::{NotificationKey, OperationKind};
use thiserror::Error;

use crate::local::SharedHandle;

/// Names a transfer on both sides; a random number that the initiator draws.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub(crate) struct SessionId(u128);

impl SessionId {
    pub(crate) fn random() -> Self {
        Self(uuid::Uuid::new_v4().as_u128())
    }
}

/// Permission to write one chunk into a slot of the sink's.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct SlotGrant {
    /// Which slot.
    pub(crate) slot: u16,
    /// How often it was granted in this session, this time included.
    pub(crate) round: u32,
    /// Where it is in the sink's host memory.
    pub(crate) address: u64,
    /// How long it is.
    pub(crate) len: u64,
}

/// The initiator asks the target to take part.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct Open {
    /// The target's offer.
    pub(crate) key: NotificationKey,
    pub(crate) kind: OperationKind,
    pub(crate) chunk_bytes: u64,
    /// What the target needs to reach the initiator, as it travels.
    pub(crate) introduction: Bytes,
}

/// The initiator asks the target to copy, to or from GPU memory that it lends.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct Lend {
    /// The target's offer.
    pub(crate) key: NotificationKey,
    pub(crate) kind: OperationKind,
    /// The lender's process, told from version 2 of lending on: the memory is closed when it ends.
    pub(crate) process: Option<u32>,
    /// The UUID of the GPU whose memory it is, zeros if that is not known.
    pub(crate) gpu: [u8; 16],
    /// The memory, in the order of the descriptors.
    pub(crate) loans: Vec<Loan>,
    /// What the target needs to reach the initiator, as it travels.
    pub(crate) introduction: Bytes,
}

/// The initiator wants back what it lent.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct Recall {
    /// The target's offer.
    pub(crate) key: NotificationKey,
    /// As in [`Lend`], which may not have arrived.
    pub(crate) introduction: Bytes,
    pub(crate) reason: String,
}

/// An allocation of GPU memory, and where in it each of the next descriptors begins.
#[derive(Clone, Eq, PartialEq)]
pub(crate) struct Loan {
    pub(crate) handle: SharedHandle,
    pub(crate) offsets: Vec<u64>,
}

#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) enum Message {
    Open(Open),
    Lend(Lend),
    /// Source to sink: the target takes part.
    Accept,
    /// Sink to source: slots for chunks.
    Slots(Vec<SlotGrant>),
    /// Sink to source: addresses of its descriptors from the `first` on, in host memory, to be written in place.
    Places {
        first: u32,
        addresses: Vec<u64>,
    },
    /// Source to sink, with the chunk's bytes.
    Filled {
        chunk: u64,
        /// Slot and round, if it went to a slot.
        slot: Option<(u16, u32)>,
    },
    /// Sink to source, borrower to lender: all bytes are in place.
    Done,
    /// Sink to source: write no more.
    Stop {
        reason: String,
    },
    /// Source to sink, borrower to lender: nothing is being written, and nothing ever will be.
    Stopped {
        reason: String,
    },
    /// Somebody is there.
    Ping,
    /// Lender to borrower: stop. Said again and again until there is an answer.
    Recall(Recall),
    /// To a lender whose transfer is not known, or no longer: nothing here uses the memory.
    Unused,
}

/// Why bytes are no message.
#[derive(Clone, Debug, Eq, Error, PartialEq)]
pub(crate) enum MessageError {
    /// It is something else.
    #[error("it is no message of a staged transfer")]
    Foreign,
    #[error("the message ends inside its {field}")]
    Truncated { field: &'static str },
    #[error("the message's {field} is {value}, which cannot be")]
    Bad { field: &'static str, value: u64 },
    #[error("{extra} bytes follow the message")]
    Trailing { extra: usize },
}

impl Message {
    /// Four bytes that tell messages from keys, the last of them the version.
    const MAGIC: &[u8; 4] = b"nxs\x01";
    /// The most slots or places in one message.
    pub(crate) const MAX_GRANTS: usize = 64;
    /// The longest introduction. One of a thousand registrations has some 100 KiB.
    pub(crate) const MAX_INTRODUCTION: usize = 256 * 1024;
    /// The most descriptors of memory that is lent: 256 KiB of offsets.
    pub(crate) const MAX_LENT: usize = 1 << 15;
    /// The most allocations that are lent at a time.
    pub(crate) const MAX_LOANS: usize = 1 << 10;
    /// The longest reason; the rest is cut off.
    const MAX_REASON: usize = 240;

    /// Its name, for errors.
    pub(crate) fn name(&self) -> &'static str {
        match self {
            Self::Open(_) => "open",
            Self::Lend(_) => "lend",
            Self::Accept => "accept",
            Self::Slots(_) => "slots",
            Self::Places { .. } => "places",
            Self::Filled { .. } => "filled",
            Self::Done => "done",
            Self::Stop { .. } => "stop",
            Self::Stopped { .. } => "stopped",
            Self::Ping => "ping",
            Self::Recall(_) => "recall",
            Self::Unused => "unused",
        }
    }

    /// Magic, session (16 bytes), tag, and the fields in order. Big-endian; counts of grants in one byte, lengths of
    /// texts in one, of the introduction in four. What is longer than its bound is cut off, which senders see to.
    pub(crate) fn encode(&self, session: SessionId) -> Bytes {
        let mut out = BytesMut::with_capacity(64);
        out.put_slice(Self::MAGIC);
        out.put_u128(session.0);
        match self {
            Self::Open(open) => {
                out.put_u8(0);
                out.put_u8(kind_byte(open.kind));
                out.put_u64(open.chunk_bytes);
                put_text(&mut out, open.key.as_str(), NotificationKey::MAX_BYTES);
                put_introduction(&mut out, &open.introduction);
            }
            Self::Accept => out.put_u8(1),
            Self::Slots(slots) => {
                out.put_u8(2);
                out.put_u8(slots.len().min(Self::MAX_GRANTS) as u8);
                for grant in slots.iter().take(Self::MAX_GRANTS) {
                    out.put_u16(grant.slot);
                    out.put_u32(grant.round);
                    out.put_u64(grant.address);
                    out.put_u64(grant.len);
                }
            }
            Self::Places { first, addresses } => {
                out.put_u8(3);
                out.put_u32(*first);
                out.put_u8(addresses.len().min(Self::MAX_GRANTS) as u8);
                for address in addresses.iter().take(Self::MAX_GRANTS) {
                    out.put_u64(*address);
                }
            }
            Self::Filled { chunk, slot: None } => {
                out.put_u8(4);
                out.put_u64(*chunk);
            }
            Self::Filled { chunk, slot: Some((slot, round)) } => {
                out.put_u8(5);
                out.put_u64(*chunk);
                out.put_u16(*slot);
                out.put_u32(*round);
            }
            Self::Done => out.put_u8(6),
            Self::Stop { reason } => {
                out.put_u8(7);
                put_text(&mut out, reason, Self::MAX_REASON);
            }
            Self::Stopped { reason } => {
                out.put_u8(8);
                put_text(&mut out, reason, Self::MAX_REASON);
            }
            Self::Ping => out.put_u8(9),
            Self::Lend(lend) => {
                match lend.process {
                    None => out.put_u8(10),
                    Some(process) => {
                        out.put_u8(13);
                        out.put_u32(process);
                    }
                }
                out.put_u8(kind_byte(lend.kind));
                put_text(&mut out, lend.key.as_str(), NotificationKey::MAX_BYTES);
                out.put_slice(&lend.gpu);
                out.put_u16(lend.loans.len().min(Self::MAX_LOANS) as u16);
                for loan in lend.loans.iter().take(Self::MAX_LOANS) {
                    out.put_slice(&loan.handle);
                    out.put_u16(loan.offsets.len().min(Self::MAX_LENT) as u16);
                    for offset in loan.offsets.iter().take(Self::MAX_LENT) {
                        out.put_u64(*offset);
                    }
                }
                put_introduction(&mut out, &lend.introduction);
            }
            Self::Recall(recall) => {
                out.put_u8(11);
                put_text(&mut out, recall.key.as_str(), NotificationKey::MAX_BYTES);
                put_introduction(&mut out, &recall.introduction);
                put_text(&mut out, &recall.reason, Self::MAX_REASON);
            }
            Self::Unused => out.put_u8(12),
        }
        out.freeze()
    }

    /// Accepts exactly what `encode` makes; allocates in proportion to what arrived.
    pub(crate) fn decode(bytes: &[u8]) -> Result<(SessionId, Self), MessageError> {
        let Some(rest) = bytes.strip_prefix(Self::MAGIC) else { return Err(MessageError::Foreign) };
        let mut rest = Reader(rest);
        let session = SessionId(u128::from_be_bytes(rest.array("session")?));
        let message = match rest.u8("tag")? {
            0 => {
                let kind = rest.kind()?;
                let chunk_bytes = rest.u64("chunk size")?;
                let key = rest.key()?;
                let introduction = rest.introduction()?;
                Self::Open(Open { key, kind, chunk_bytes, introduction })
            }
            1 => Self::Accept,
            2 => {
                let mut slots = Vec::with_capacity(Self::MAX_GRANTS);
                for _ in 0..rest.count("slots")? {
                    slots.push(SlotGrant {
                        slot: rest.u16("slot")?,
                        round: rest.u32("slot")?,
                        address: rest.u64("slot")?,
                        len: rest.u64("slot")?,
                    });
                }
                Self::Slots(slots)
            }
            3 => {
                let first = rest.u32("places")?;
                let mut addresses = Vec::with_capacity(Self::MAX_GRANTS);
                for _ in 0..rest.count("places")? {
                    addresses.push(rest.u64("place")?);
                }
                Self::Places { first, addresses }
            }
            4 => Self::Filled { chunk: rest.u64("chunk")?, slot: None },
            5 => {
                let chunk = rest.u64("chunk")?;
                Self::Filled { chunk, slot: Some((rest.u16("slot")?, rest.u32("slot")?)) }
            }
            6 => Self::Done,
            7 => Self::Stop { reason: rest.text("reason", Self::MAX_REASON)?.to_owned() },
            8 => Self::Stopped { reason: rest.text("reason", Self::MAX_REASON)?.to_owned() },
            9 => Self::Ping,
            10 => Self::Lend(rest.lend(None)?),
            13 => {
                let process = rest.u32("process")?;
                Self::Lend(rest.lend(Some(process))?)
            }
            11 => {
                let (key, introduction) = (rest.key()?, rest.introduction()?);
                let reason = rest.text("reason", Self::MAX_REASON)?.to_owned();
                Self::Recall(Recall { key, introduction, reason })
            }
            12 => Self::Unused,
            other => return Err(bad("tag", other)),
        };
        match rest.0.len() {
            0 => Ok((session, message)),
            extra => Err(MessageError::Trailing { extra }),
        }
    }
}

/// Shows no handle.
impl fmt::Debug for Loan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Loan").field("offsets", &self.offsets).finish_non_exhaustive()
    }
}

fn bad(field: &'static str, value: impl Into<u64>) -> MessageError {
    MessageError::Bad { field, value: value.into() }
}

fn kind_byte(kind: OperationKind) -> u8 {
    match kind {
        OperationKind::Read => 1,
        OperationKind::Write => 2,
    }
}

fn put_introduction(out: &mut BytesMut, introduction: &[u8]) {
    out.put_u32(introduction.len() as u32);
    out.put_slice(introduction);
}

fn put_text(out: &mut BytesMut, text: &str, most: usize) {
    let mut len = text.len().min(most);
    while !text.is_char_boundary(len) {
        len -= 1;
    }
    out.put_u8(len as u8);
    out.put_slice(text.get(..len).unwrap_or_default().as_bytes());
}

struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn take(&mut self, len: usize, field: &'static str) -> Result<&'a [u8], MessageError> {
        let (taken, rest) =
            self.0.split_at_checked(len).ok_or(MessageError::Truncated { field })?;
        self.0 = rest;
        Ok(taken)
    }

    fn array<const N: usize>(&mut self, field: &'static str) -> Result<[u8; N], MessageError> {
        let (taken, rest) = self.0.split_first_chunk().ok_or(MessageError::Truncated { field })?;
        self.0 = rest;
        Ok(*taken)
    }

    fn u8(&mut self, field: &'static str) -> Result<u8, MessageError> {
        self.array(field).map(u8::from_be_bytes)
    }

    fn u16(&mut self, field: &'static str) -> Result<u16, MessageError> {
        self.array(field).map(u16::from_be_bytes)
    }

    fn u32(&mut self, field: &'static str) -> Result<u32, MessageError> {
        self.array(field).map(u32::from_be_bytes)
    }

    fn u64(&mut self, field: &'static str) -> Result<u64, MessageError> {
        self.array(field).map(u64::from_be_bytes)
    }

    fn kind(&mut self) -> Result<OperationKind, MessageError> {
        match self.u8("kind")? {
            1 => Ok(OperationKind::Read),
            2 => Ok(OperationKind::Write),
            other => Err(bad("kind", other)),
        }
    }

    fn key(&mut self) -> Result<NotificationKey, MessageError> {
        let key = self.text("key", NotificationKey::MAX_BYTES)?;
        let value = key.len() as u64;
        NotificationKey::new(key)
            .map_err(|_| MessageError::Bad { field: "key's length or content", value })
    }

    fn introduction(&mut self) -> Result<Bytes, MessageError> {
        let len = self.u32("introduction")?;
        if len as usize > Message::MAX_INTRODUCTION {
            return Err(bad("introduction's length", len));
        }
        Ok(Bytes::copy_from_slice(self.take(len as usize, "introduction")?))
    }

    fn lend(&mut self, process: Option<u32>) -> Result<Lend, MessageError> {
        let (kind, key, gpu) = (self.kind()?, self.key()?, self.array("GPU")?);
        let count = self.u16("loans")?;
        if count as usize > Message::MAX_LOANS {
            return Err(bad("number of loans", count));
        }
        let (mut loans, mut lent) = (Vec::new(), 0);
        for _ in 0..count {
            let handle = self.array("handle")?;
            let places = self.u16("offsets")?;
            lent += usize::from(places);
            if places == 0 || lent > Message::MAX_LENT {
                return Err(bad("number of offsets", places));
            }
            let bytes = self.take(usize::from(places) * size_of::<u64>(), "offsets")?;
            let (offsets, _) = bytes.as_chunks();
            let offsets = offsets.iter().map(|offset| u64::from_be_bytes(*offset)).collect();
            loans.push(Loan { handle, offsets });
        }
        Ok(Lend { key, kind, process, gpu, loans, introduction: self.introduction()? })
    }

    fn count(&mut self, field: &'static str) -> Result<usize, MessageError> {
        match self.u8(field)? {
            count if count as usize > Message::MAX_GRANTS => Err(bad(field, count)),
            count => Ok(count.into()),
        }
    }

    fn text(&mut self, field: &'static str, most: usize) -> Result<&'a str, MessageError> {
        let len = self.u8(field)?;
        if len as usize > most {
            return Err(bad(field, len));
        }
        str::from_utf8(self.take(len.into(), field)?).map_err(|_| bad(field, len))
    }
}

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;

    fn message() -> impl Strategy<Value = Message> {
        let kind = prop_oneof![Just(OperationKind::Read), Just(OperationKind::Write)];
        let open = ("[a-z0-9-]{1,200}", kind, any::<u64>(), vec(any::<u8>(), 0..3000)).prop_map(
            |(key, kind, chunk_bytes, introduction)| {
                let key = NotificationKey::new(&key).unwrap();
                Message::Open(Open { key, kind, chunk_bytes, introduction: introduction.into() })
            },
        );
        let kind = prop_oneof![Just(OperationKind::Read), Just(OperationKind::Write)];
        let loan = (any::<u64>(), vec(any::<u64>(), 1..40)).prop_map(|(name, offsets)| {
            let mut handle = [0; 72];
            handle[..8].copy_from_slice(&name.to_be_bytes());
            Loan { handle, offsets }
        });
        let introduction = vec(any::<u8>(), 0..3000);
        let owner = any::<(Option<u32>, [u8; 16])>();
        let lend = ("[a-z0-9-]{1,200}", kind, owner, vec(loan, 0..6), introduction).prop_map(
            |(key, kind, (process, gpu), loans, introduction)| {
                let key = NotificationKey::new(&key).unwrap();
                let introduction = introduction.into();
                Message::Lend(Lend { key, kind, process, gpu, loans, introduction })
            },
        );
        let recall = ("[a-z0-9-]{1,200}", vec(any::<u8>(), 0..3000), "\\PC{0,60}").prop_map(
            |(key, introduction, reason)| {
                let key = NotificationKey::new(&key).unwrap();
                Message::Recall(Recall { key, introduction: introduction.into(), reason })
            },
        );
        let slot = any::<(u16, u32, u64, u64)>()
            .prop_map(|(slot, round, address, len)| SlotGrant { slot, round, address, len });
        prop_oneof![
            open,
            lend,
            recall,
            Just(Message::Unused),
            Just(Message::Accept),
            vec(slot, 0..=Message::MAX_GRANTS).prop_map(Message::Slots),
            (any::<u32>(), vec(any::<u64>(), 0..=Message::MAX_GRANTS))
                .prop_map(|(first, addresses)| Message::Places { first, addresses }),
            any::<(u64, Option<(u16, u32)>)>()
                .prop_map(|(chunk, slot)| Message::Filled { chunk, slot }),
            Just(Message::Done),
            "\\PC{0,60}".prop_map(|reason| Message::Stop { reason }),
            "\\PC{0,60}".prop_map(|reason| Message::Stopped { reason }),
            Just(Message::Ping),
        ]
    }

    proptest! {
        #[test]
        fn it_comes_back(message in message(), session: u128) {
            let bytes = message.encode(SessionId(session));
            prop_assert_eq!(Message::decode(&bytes), Ok((SessionId(session), message)));
        }

        #[test]
        fn every_truncation_and_extension_is_refused(message in message(), cut: prop::sample::Index) {
            let bytes = message.encode(SessionId(7));
            prop_assert!(Message::decode(&bytes[..cut.index(bytes.len())]).is_err());
            prop_assert!(Message::decode(&[&bytes[..], b"\0"].concat()).is_err());
        }

        #[test]
        fn what_is_accepted_is_canonical(message in message(), at: prop::sample::Index, to: u8) {
            let mut bytes = message.encode(SessionId(7)).to_vec();
            let at = at.index(bytes.len());
            bytes[at] = to;
            if let Ok((session, other)) = Message::decode(&bytes) {
                prop_assert_eq!(&other.encode(session)[..], &bytes[..]);
            }
        }

        #[test]
        fn noise_is_no_message(noise in vec(any::<u8>(), 0..200)) {
            let _ = Message::decode(&noise);
            let _ = Message::decode(&[&Message::MAGIC[..], &noise].concat());
        }
    }

    #[test]
    fn a_long_reason_is_cut_at_a_character() {
        let reason = "ä".repeat(200);
        let bytes = Message::Stop { reason }.encode(SessionId(1));
        let reason = "ä".repeat(120);
        assert_eq!(Message::decode(&bytes), Ok((SessionId(1), Message::Stop { reason })));
    }

    #[test]
    fn what_is_too_long_is_refused_before_it_is_read() {
        let key = NotificationKey::random();
        let introduction = vec![0; Message::MAX_INTRODUCTION + 1].into();
        let open = Open { key, kind: OperationKind::Read, chunk_bytes: 1, introduction };
        let refused = Message::decode(&Message::Open(open).encode(SessionId(1)));
        assert!(matches!(refused, Err(MessageError::Bad { .. })), "{refused:?}");
    }
}
