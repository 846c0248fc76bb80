//! The message that requests the owner's part in a read by a ticket, and the answer that the grant does not stand.
//!
//! | version 2 | bytes | content |
//! |---|---|---|
//! | request | 4 | magic: `nxs`, 2 |
//! | | 16 | session |
//! | | 1 | tag: 16 |
//! | | 8 | export |
//! | | 4 + | ticket |
//! | | 2, 2 | layers |
//! | | 2, 2 | outer parts, 0 and 0 for all |
//! | | 4, 4 | tokens, 0 and 0 for all |
//! | | 4 | pieces of each block |
//! | | 8 | bytes of a chunk |
//! | | 4 + | initiator metadata |
//! | | 2, 4, 4 | section 0: the initiator's process. The chunks are staged on a GPU |
//! | | 2, 4 + | sections, until the end, as in [the others](super::request) |
//!
//! Owners speak it from version 4 of staging messages on. The answer is tag 17 of version 1: a byte for the reason, and for layers that
//! are not ready their number and that of the read in 8 bytes each.

use std::num::NonZeroU32;
use std::ops::Range;

use bytes::{BufMut, Bytes, BytesMut};
use nixl_descriptor::layout::BlockPart;
use nixl_metadata::Ticket;
use nixl_ops::{StaleRead, TransportError};

use super::request::{put_process, read_process};
use super::wire::{self, MessageError, Reader, SessionId, bad, put_initiator_metadata};

pub(super) const OPEN_TICKET: u8 = 16;
pub(super) const GRANT_REFUSED: u8 = 17;

/// The longest ticket in a request: some 13,000 blocks at least.
pub(crate) const MAX_TICKET: usize = 1 << 16;

/// The initiator requests the owner's part in a read by a ticket.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct OpenTicket {
    pub(crate) ticket: Ticket,
    pub(crate) part: BlockPart,
    /// Pieces of each block, in whose order the bytes are.
    pub(crate) pieces: u32,
    pub(crate) chunk_bytes: u64,
    /// What the owner needs to reach the initiator, as it travels.
    pub(crate) initiator_metadata: Bytes,
    /// The initiator's process, if the chunks are staged on the source's GPU.
    pub(crate) on_gpu_by: Option<NonZeroU32>,
}

/// Why no more bytes come of a read by a ticket.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum GrantRefusal {
    /// The grant has ended.
    Stale,
    /// The owner gave out another ticket.
    NotGranted,
    /// Layers are not ready.
    NotReady { ready: u64, asked: u64 },
}

impl OpenTicket {
    /// The session and the export of a message, if it is such a request, read without the rest of it.
    pub(crate) fn peek(message: &[u8]) -> Option<(SessionId, u64)> {
        let (2, rest) = wire::split_magic(message)? else { return None };
        let mut rest = Reader(rest);
        let (id, tag) = (SessionId::read(&mut rest).ok()?, rest.u8("tag").ok()?);
        (tag == OPEN_TICKET).then_some((id, rest.u64("export").ok()?))
    }

    /// Whether a part of blocks can be named in a message.
    pub(crate) fn names(part: &BlockPart) -> bool {
        let fits = |range: Option<&Range<usize>>, most| {
            range.is_none_or(|range| range.start < range.end && range.end <= most)
        };
        fits(Some(part.layers()), usize::from(u16::MAX))
            && fits(part.outer_parts(), usize::from(u16::MAX))
            && fits(part.token_range(), u32::MAX as usize)
    }

    /// The ticket and the part have been found to [fit](Self::names).
    pub(super) fn put(&self, out: &mut BytesMut) {
        let all = 0..0;
        let part = &self.part;
        out.put_u8(OPEN_TICKET);
        out.put_u64(self.ticket.export().value());
        let ticket = self.ticket.encode();
        out.put_u32(ticket.len() as u32);
        out.put_slice(&ticket);
        for range in [part.layers(), part.outer_parts().unwrap_or(&all)] {
            out.put_u16(range.start as u16);
            out.put_u16(range.end as u16);
        }
        let tokens = part.token_range().unwrap_or(&all);
        out.put_u32(tokens.start as u32);
        out.put_u32(tokens.end as u32);
        out.put_u32(self.pieces);
        out.put_u64(self.chunk_bytes);
        put_initiator_metadata(out, &self.initiator_metadata);
        put_process(self.on_gpu_by, out);
    }

    pub(super) fn read(rest: &mut Reader<'_>) -> Result<Self, MessageError> {
        let export = rest.u64("export")?;
        let len = rest.u32("ticket")?;
        if len as usize > MAX_TICKET {
            return Err(bad("ticket's length", len));
        }
        let ticket = Ticket::decode(rest.take(len as usize, "ticket")?);
        let ticket = ticket.map_err(|_| bad("ticket", len))?;
        if ticket.export().value() != export {
            return Err(bad("export", export));
        }
        let mut range = || Ok((rest.u16("part")?.into(), rest.u16("part")?.into()));
        let (layers, outer): ((usize, usize), (usize, usize)) = (range()?, range()?);
        let tokens = (rest.u32("tokens")? as usize, rest.u32("tokens")? as usize);
        if layers.0 >= layers.1 {
            return Err(bad("end of the layers", layers.1 as u64));
        }
        let mut part = BlockPart::of_layers(layers.0..layers.1);
        if let Some(outer) = some("end of the outer parts", outer)? {
            part = part.outer(outer);
        }
        if let Some(tokens) = some("end of the tokens", tokens)? {
            part = part.tokens(tokens);
        }
        let (pieces, chunk_bytes) = (rest.u32("pieces")?, rest.u64("chunk size")?);
        let initiator_metadata = rest.initiator_metadata()?;
        let on_gpu_by = read_process(rest)?;
        Ok(Self { ticket, part, pieces, chunk_bytes, initiator_metadata, on_gpu_by })
    }
}

/// A range that is not all.
fn some(
    field: &'static str,
    (start, end): (usize, usize),
) -> Result<Option<Range<usize>>, MessageError> {
    match (start, end) {
        (0, 0) => Ok(None),
        (start, end) if start < end => Ok(Some(start..end)),
        _ => Err(bad(field, end as u64)),
    }
}

impl GrantRefusal {
    /// The reason in an error of the owner's, if it is that the grant does not stand.
    pub(crate) fn of(error: &TransportError) -> Option<Self> {
        match *error {
            TransportError::Stale => Some(Self::Stale),
            TransportError::NotGranted => Some(Self::NotGranted),
            TransportError::NotReady { ready, asked } => Some(Self::NotReady { ready, asked }),
            _ => None,
        }
    }

    /// The error of the read.
    pub(crate) fn error(self) -> TransportError {
        match self {
            Self::Stale => TransportError::Stale,
            Self::NotGranted => TransportError::NotGranted,
            Self::NotReady { ready, asked } => TransportError::NotReady { ready, asked },
        }
    }

    pub(super) fn put(self, out: &mut BytesMut) {
        out.put_u8(GRANT_REFUSED);
        match self {
            Self::Stale => out.put_u8(0),
            Self::NotGranted => out.put_u8(1),
            Self::NotReady { ready, asked } => {
                out.put_u8(2);
                out.put_u64(ready);
                out.put_u64(asked);
            }
        }
    }

    pub(super) fn read(rest: &mut Reader<'_>) -> Result<Self, MessageError> {
        Ok(match rest.u8("refusal")? {
            0 => Self::Stale,
            1 => Self::NotGranted,
            2 => Self::NotReady { ready: rest.u64("layers")?, asked: rest.u64("layers")? },
            other => return Err(bad("refusal", other)),
        })
    }
}

impl From<StaleRead> for GrantRefusal {
    fn from(stale: StaleRead) -> Self {
        match stale {
            StaleRead::NotGranted | StaleRead::NoSlot { .. } => Self::NotGranted,
            StaleRead::NotReady { ready, asked } => Self::NotReady { ready, asked },
            _ => Self::Stale,
        }
    }
}
