//! Messages between the two sides of a staged transfer. Their bytes come from a peer and are validated here.

use std::fmt;

use bytes::{BufMut, Bytes, BytesMut};

use super::request::{self, CancelCopy, Open, RemoteCopyRequest};
use super::ticket_request::{self, GrantRefusal, OpenTicket};
use super::wire::{self, MessageError, Reader, SessionId, bad, put_text};
use crate::local::SharedHandle;

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

/// A chunk in a slot of the source's GPU, out of which the sink's GPU copies.
#[derive(Clone, Copy, Eq, PartialEq)]
pub(crate) struct ReadyChunk {
    pub(crate) chunk: u64,
    /// Which slot.
    pub(crate) slot: u16,
    /// How often it was used in this session, this time included.
    pub(crate) round: u32,
    /// What names the memory of all slots.
    pub(crate) handle: SharedHandle,
    /// Where in that the chunk begins.
    pub(crate) offset: u64,
}

#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) enum Message {
    Open(Open),
    RemoteCopyRequest(RemoteCopyRequest),
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
    /// Sink to source, remote-copy target to initiator: all bytes are in place.
    Done,
    /// Sink to source: write no more.
    Stop {
        reason: String,
    },
    /// Source to sink, remote-copy target to initiator: nothing is being written, and nothing will be.
    Stopped {
        reason: String,
    },
    /// Keep-alive: the sender still runs.
    Ping,
    /// Remote-copy initiator to target: stop. Repeated until it is answered.
    CancelCopy(CancelCopy),
    /// To an initiator whose transfer is not known, or no longer: nothing here uses the memory.
    NotFound,
    /// Source to sink: a chunk is in a slot on the source's GPU.
    Ready(ReadyChunk),
    /// Sink to source: the sink's GPU has copied the chunk that was in the slot in this round.
    Taken {
        slot: u16,
        round: u32,
    },
    OpenTicket(OpenTicket),
    /// Source to sink: the grant does not stand. Nothing is being written, and nothing will be.
    GrantRefused(GrantRefusal),
}

impl Message {
    /// Its name, for errors.
    pub(crate) fn name(&self) -> &'static str {
        match self {
            Self::Open(_) => "open",
            Self::RemoteCopyRequest(_) => "copy request",
            Self::Accept => "accept",
            Self::Slots(_) => "slots",
            Self::Places { .. } => "places",
            Self::Filled { .. } => "filled",
            Self::Done => "done",
            Self::Stop { .. } => "stop",
            Self::Stopped { .. } => "stopped",
            Self::Ping => "ping",
            Self::CancelCopy(_) => "copy cancellation",
            Self::NotFound => "unused",
            Self::Ready(_) => "ready",
            Self::Taken { .. } => "taken",
            Self::OpenTicket(_) => "open by ticket",
            Self::GrantRefused(_) => "refusal of a grant",
        }
    }

    /// Whether it requests a part in a read by a ticket.
    pub(crate) fn is_by_ticket(&self) -> bool {
        matches!(self, Self::OpenTicket(_))
    }

    /// Magic, version, session (16 bytes), tag, and the fields in order. Big-endian; counts of grants in one byte, lengths of
    /// texts in one, of the initiator metadata in four. Senders cut off a text at its bound.
    ///
    /// [Requests](request) are of the version that they are made for, all else is the same in both and has version 1.
    pub(crate) fn encode(&self, session: SessionId) -> Bytes {
        let mut out = BytesMut::with_capacity(64);
        out.put_slice(wire::MAGIC);
        out.put_u8(self.version());
        out.put_u128(session.0);
        match self {
            Self::Open(open) => open.put(&mut out),
            Self::Accept => out.put_u8(1),
            Self::Slots(slots) => {
                out.put_u8(2);
                out.put_u8(slots.len().min(wire::MAX_GRANTS) as u8);
                for grant in slots.iter().take(wire::MAX_GRANTS) {
                    out.put_u16(grant.slot);
                    out.put_u32(grant.round);
                    out.put_u64(grant.address);
                    out.put_u64(grant.len);
                }
            }
            Self::Places { first, addresses } => {
                out.put_u8(3);
                out.put_u32(*first);
                out.put_u8(addresses.len().min(wire::MAX_GRANTS) as u8);
                for address in addresses.iter().take(wire::MAX_GRANTS) {
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
                put_text(&mut out, reason, wire::MAX_REASON);
            }
            Self::Stopped { reason } => {
                out.put_u8(8);
                put_text(&mut out, reason, wire::MAX_REASON);
            }
            Self::Ping => out.put_u8(9),
            Self::RemoteCopyRequest(copy_request) => copy_request.put(&mut out),
            Self::CancelCopy(cancel) => cancel.put(&mut out),
            Self::NotFound => out.put_u8(12),
            Self::Ready(ready) => {
                out.put_u8(14);
                out.put_u64(ready.chunk);
                out.put_u16(ready.slot);
                out.put_u32(ready.round);
                out.put_slice(&ready.handle);
                out.put_u64(ready.offset);
            }
            Self::Taken { slot, round } => {
                out.put_u8(15);
                out.put_u16(*slot);
                out.put_u32(*round);
            }
            Self::OpenTicket(open) => open.put(&mut out),
            Self::GrantRefused(refusal) => refusal.put(&mut out),
        }
        out.freeze()
    }

    /// The version of the encoding.
    fn version(&self) -> u8 {
        let offer = match self {
            Self::Open(open) => &open.offer,
            Self::RemoteCopyRequest(copy_request) => &copy_request.offer,
            Self::CancelCopy(cancel) => &cancel.offer,
            Self::OpenTicket(_) => return 2,
            _ => return 1,
        };
        if offer.is_of_version_1() { 1 } else { 2 }
    }

    /// Accepts exactly what `encode` makes, and sections of requests that it does not know; allocates in proportion to what
    /// arrived.
    pub(crate) fn decode(bytes: &[u8]) -> Result<(SessionId, Self), MessageError> {
        let (version, rest) = wire::split_magic(bytes).ok_or(MessageError::NotAMessage)?;
        let mut rest = Reader(rest);
        let session = SessionId::read(&mut rest)?;
        let tag = rest.u8("tag")?;
        let message = match version {
            1 => Self::read_v1(tag, &mut rest)?,
            _ => match tag {
                request::OPEN => Self::Open(Open::read_v2(&mut rest)?),
                request::REMOTE_COPY => {
                    Self::RemoteCopyRequest(RemoteCopyRequest::read_v2(&mut rest)?)
                }
                request::CANCEL_COPY => Self::CancelCopy(CancelCopy::read_v2(&mut rest)?),
                ticket_request::OPEN_TICKET => Self::OpenTicket(OpenTicket::read(&mut rest)?),
                other => return Err(bad("tag", other)),
            },
        };
        match rest.0.len() {
            0 => Ok((session, message)),
            extra => Err(MessageError::Trailing { extra }),
        }
    }

    fn read_v1(tag: u8, rest: &mut Reader<'_>) -> Result<Self, MessageError> {
        Ok(match tag {
            request::OPEN => Self::Open(Open::read_v1(rest)?),
            1 => Self::Accept,
            2 => {
                let mut slots = Vec::with_capacity(wire::MAX_GRANTS);
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
                let mut addresses = Vec::with_capacity(wire::MAX_GRANTS);
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
            7 => Self::Stop { reason: rest.text("reason", wire::MAX_REASON)?.to_owned() },
            8 => Self::Stopped { reason: rest.text("reason", wire::MAX_REASON)?.to_owned() },
            9 => Self::Ping,
            request::REMOTE_COPY => {
                Self::RemoteCopyRequest(RemoteCopyRequest::read_v1(rest, None)?)
            }
            request::REMOTE_COPY_OF_PROCESS => {
                let process = rest.u32("process")?;
                Self::RemoteCopyRequest(RemoteCopyRequest::read_v1(rest, Some(process))?)
            }
            request::CANCEL_COPY => Self::CancelCopy(CancelCopy::read_v1(rest)?),
            12 => Self::NotFound,
            14 => Self::Ready(ReadyChunk {
                chunk: rest.u64("chunk")?,
                slot: rest.u16("slot")?,
                round: rest.u32("slot")?,
                handle: rest.array("handle")?,
                offset: rest.u64("offset")?,
            }),
            15 => Self::Taken { slot: rest.u16("slot")?, round: rest.u32("slot")? },
            ticket_request::GRANT_REFUSED => Self::GrantRefused(GrantRefusal::read(rest)?),
            other => return Err(bad("tag", other)),
        })
    }
}

/// Shows no handle.
impl fmt::Debug for ReadyChunk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ReadyChunk")
            .field("chunk", &self.chunk)
            .field("slot", &self.slot)
            .field("round", &self.round)
            .field("offset", &self.offset)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use std::num::NonZeroU32;

    use proptest::collection::vec;
    use proptest::prelude::*;

    use nixl_descriptor::layout::BlockPart;
    use nixl_metadata::{ExportId, NotificationKey, OperationKind, Rights, Ticket, TicketTerms};

    use super::super::request::{ExportedRange, PresentedOffer, Proof};
    use super::*;

    /// Of both versions.
    fn offer() -> impl Strategy<Value = PresentedOffer> {
        let proof = prop_oneof![Just(Proof::Key), any::<u64>().prop_map(Proof::Token)];
        ("[a-z0-9-]{1,200}", proof).prop_map(|(key, proof)| PresentedOffer {
            key: NotificationKey::new(&key).unwrap(),
            proof,
        })
    }

    fn open_ticket() -> impl Strategy<Value = OpenTicket> {
        let blocks = proptest::collection::hash_set(any::<u32>(), 1..40);
        let part = (0..90u16, 1..9u16, any::<Option<bool>>(), any::<Option<(u8, u8)>>());
        let rest = (any::<u32>(), any::<u64>(), vec(any::<u8>(), 0..3000));
        let process = any::<Option<NonZeroU32>>();
        (any::<(u64, u64, u32)>(), blocks, part, rest, process).prop_map(
            |((export, generation, slot), blocks, part, rest, on_gpu_by)| {
                let (first, layers, outer, tokens) = part;
                let terms = TicketTerms {
                    export: ExportId::new(export),
                    layout: 3,
                    layers: 0..100,
                    rights: Rights::Read,
                    slot,
                    generation,
                    token: [9; 16],
                    expires_unix_millis: export,
                };
                let blocks: Vec<_> = blocks.into_iter().collect();
                let mut part = BlockPart::of_layers(first.into()..(first + layers).into());
                if let Some(first) = outer.map(usize::from) {
                    part = part.outer(first..first + 1);
                }
                if let Some((first, count)) = tokens {
                    let first = usize::from(first);
                    part = part.tokens(first..first + usize::from(count) + 1);
                }
                let (pieces, chunk_bytes, initiator_metadata) = rest;
                let initiator_metadata = initiator_metadata.into();
                let ticket = Ticket::new(terms, blocks).unwrap();
                OpenTicket { ticket, part, pieces, chunk_bytes, initiator_metadata, on_gpu_by }
            },
        )
    }

    fn refusal() -> impl Strategy<Value = GrantRefusal> {
        prop_oneof![
            Just(GrantRefusal::Stale),
            Just(GrantRefusal::NotGranted),
            any::<(u64, u64)>().prop_map(|(ready, asked)| GrantRefusal::NotReady { ready, asked }),
        ]
    }

    fn message() -> impl Strategy<Value = Message> {
        let kind = prop_oneof![Just(OperationKind::Read), Just(OperationKind::Write)];
        let process = any::<Option<NonZeroU32>>();
        let open = (offer(), kind, any::<u64>(), vec(any::<u8>(), 0..3000), process).prop_map(
            |(offer, kind, chunk_bytes, initiator_metadata, process)| {
                Message::Open(Open {
                    // Version 1 has no sections.
                    on_gpu_by: process.filter(|_| offer.proof != Proof::Key),
                    offer,
                    kind,
                    chunk_bytes,
                    initiator_metadata: initiator_metadata.into(),
                })
            },
        );
        let kind = prop_oneof![Just(OperationKind::Read), Just(OperationKind::Write)];
        let range = (any::<u64>(), vec(any::<u64>(), 1..40)).prop_map(|(name, offsets)| {
            let mut handle = [0; 72];
            handle[..8].copy_from_slice(&name.to_be_bytes());
            ExportedRange { handle, offsets }
        });
        let initiator_metadata = vec(any::<u8>(), 0..3000);
        let owner = (proptest::option::of(1..=u32::MAX), any::<[u8; 16]>());
        let copy_request = (offer(), kind, owner, vec(range, 0..6), initiator_metadata).prop_map(
            |(offer, kind, (process, gpu), ranges, initiator_metadata)| {
                let initiator_metadata = initiator_metadata.into();
                Message::RemoteCopyRequest(RemoteCopyRequest {
                    offer,
                    kind,
                    process,
                    gpu,
                    ranges,
                    initiator_metadata,
                })
            },
        );
        let cancel = (offer(), vec(any::<u8>(), 0..3000), "\\PC{0,60}").prop_map(
            |(offer, initiator_metadata, reason)| {
                Message::CancelCopy(CancelCopy {
                    offer,
                    initiator_metadata: initiator_metadata.into(),
                    reason,
                })
            },
        );
        let slot = any::<(u16, u32, u64, u64)>()
            .prop_map(|(slot, round, address, len)| SlotGrant { slot, round, address, len });
        prop_oneof![
            open,
            copy_request,
            cancel,
            Just(Message::NotFound),
            Just(Message::Accept),
            vec(slot, 0..=wire::MAX_GRANTS).prop_map(Message::Slots),
            (any::<u32>(), vec(any::<u64>(), 0..=wire::MAX_GRANTS))
                .prop_map(|(first, addresses)| Message::Places { first, addresses }),
            any::<(u64, Option<(u16, u32)>)>()
                .prop_map(|(chunk, slot)| Message::Filled { chunk, slot }),
            Just(Message::Done),
            "\\PC{0,60}".prop_map(|reason| Message::Stop { reason }),
            "\\PC{0,60}".prop_map(|reason| Message::Stopped { reason }),
            Just(Message::Ping),
            any::<(u64, u16, u32, u64, u64)>().prop_map(|(chunk, slot, round, name, offset)| {
                let mut handle = [0; 72];
                handle[..8].copy_from_slice(&name.to_be_bytes());
                Message::Ready(ReadyChunk { chunk, slot, round, handle, offset })
            }),
            any::<(u16, u32)>().prop_map(|(slot, round)| Message::Taken { slot, round }),
            open_ticket().prop_map(Message::OpenTicket),
            refusal().prop_map(Message::GrantRefused),
        ]
    }

    proptest! {
        #[test]
        fn it_comes_back(message in message(), session: u128) {
            let bytes = message.encode(SessionId(session));
            prop_assert_eq!(Message::decode(&bytes), Ok((SessionId(session), message)));
        }

        #[test]
        fn every_truncation_and_extension_is_refused(message in message(), chunking: prop::sample::Index) {
            let bytes = message.encode(SessionId(7));
            let cut = Message::decode(&bytes[..chunking.index(bytes.len())]);
            // Without its section it is another request.
            let is_shorter = |cut: &Message| match (cut, &message) {
                (Message::Open(cut), Message::Open(open)) => {
                    open.on_gpu_by.is_some() && *cut == Open { on_gpu_by: None, ..open.clone() }
                }
                (Message::OpenTicket(cut), Message::OpenTicket(open)) => {
                    let shorter = OpenTicket { on_gpu_by: None, ..open.clone() };
                    open.on_gpu_by.is_some() && *cut == shorter
                }
                _ => false,
            };
            prop_assert!(cut.is_err() || cut.is_ok_and(|(_, cut)| is_shorter(&cut)));
            prop_assert!(Message::decode(&[&bytes[..], b"\0"].concat()).is_err());
        }

        #[test]
        fn what_is_accepted_is_canonical(message in message(), at: prop::sample::Index, to: u8) {
            let mut bytes = message.encode(SessionId(7)).to_vec();
            let at = at.index(bytes.len());
            bytes[at] = to;
            crate::fuzz::staging(&bytes);
        }

        #[test]
        fn what_a_request_presents_is_read_without_the_rest(message in message(), chunking: prop::sample::Index) {
            let bytes = message.encode(SessionId(7));
            let offer = match &message {
                Message::Open(open) => Some(&open.offer),
                Message::RemoteCopyRequest(copy_request) => Some(&copy_request.offer),
                Message::CancelCopy(cancel) => Some(&cancel.offer),
                _ => None,
            };
            let expected = offer.map(|offer| (SessionId(7), offer.clone()));
            prop_assert_eq!(&PresentedOffer::peek(&bytes), &expected);
            let short = PresentedOffer::peek(&bytes[..chunking.index(bytes.len())]);
            prop_assert!(short.is_none() || short == expected);
            let expected = match &message {
                Message::OpenTicket(open) => Some((SessionId(7), open.ticket.export().value())),
                _ => None,
            };
            prop_assert_eq!(OpenTicket::peek(&bytes), expected);
            let short = OpenTicket::peek(&bytes[..chunking.index(bytes.len())]);
            prop_assert!(short.is_none() || short == expected);
        }

        #[test]
        fn sections_of_later_releases_are_skipped(
            message in message(),
            sections in proptest::collection::btree_map(1u16.., vec(any::<u8>(), 0..40), 0..4),
        ) {
            let plain = message.encode(SessionId(7));
            let mut bytes = plain.to_vec();
            for (number, content) in &sections {
                bytes.extend(number.to_be_bytes());
                bytes.extend((content.len() as u32).to_be_bytes());
                bytes.extend(content);
            }
            let decoded = Message::decode(&bytes);
            match message.version() {
                2 => prop_assert_eq!(decoded, Ok((SessionId(7), message))),
                _ => prop_assert_eq!(decoded.is_ok(), sections.is_empty()),
            }
            // Twice the same, or out of order.
            if let Some((number, _)) = sections.last_key_value() {
                bytes.extend(number.to_be_bytes());
                bytes.extend(0u32.to_be_bytes());
                prop_assert!(Message::decode(&bytes).is_err());
            }
        }

        #[test]
        fn noise_is_no_message(noise in vec(any::<u8>(), 0..200)) {
            let _ = Message::decode(&noise);
            let _ = Message::decode(&[&wire::MAGIC[..], &noise].concat());
            let _ = Message::decode(&[&b"nxs\x01"[..], &noise].concat());
            let _ = Message::decode(&[&b"nxs\x02"[..], &noise].concat());
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
        let offer = PresentedOffer { key: NotificationKey::random(), proof: Proof::Token(1) };
        let initiator_metadata = vec![0; wire::MAX_INITIATOR_METADATA + 1].into();
        let (kind, on_gpu_by) = (OperationKind::Read, None);
        let open = Open { offer, kind, chunk_bytes: 1, initiator_metadata, on_gpu_by };
        let refused = Message::decode(&Message::Open(open).encode(SessionId(1)));
        assert!(matches!(refused, Err(MessageError::Bad { .. })), "{refused:?}");
    }
}
