//! Messages of readers about grants.
//!
//! The message is the key of a [control message](crate::control), whose token is unused:
//!
//! | offset | bytes | content |
//! |---|---|---|
//! | 0 | 8 | the export |
//! | 8 | 4 | the slot |
//! | 12 | 8 | the generation |
//! | 20 | 16 | the token of the ticket |
//! | 36 | 16 | the reader, at random |
//! | 52 | 0 or 1 | nothing: the reader is done; a byte 1: a request for the time to live anew |
//!
//! Integers are little-endian.

use std::fmt;

use nixl_metadata::Ticket;

use super::error::GrantError;
use super::outstanding::OutstandingTickets;
use super::table::GrantTable;

/// A message of a reader about a grant.
#[derive(Clone, Copy, Eq, PartialEq)]
pub struct GrantMessage {
    /// The export's number.
    pub(super) export: u64,
    /// The slot of the grant.
    slot: u32,
    /// The generation of the grant.
    generation: u64,
    /// The token of the ticket.
    token: [u8; 16],
    /// The reader's number, at random.
    reader: [u8; 16],
    /// The reader's request.
    kind: GrantMessageKind,
}

/// A reader's request to a grant.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[non_exhaustive]
pub enum GrantMessageKind {
    /// It is done with the grant: no read by its ticket is under way, and none begins.
    Done,
    /// The grant's time to live begins anew. Owners of earlier releases ignore it, and none answers: the words of the grant
    /// [say](crate::WordCheck::renewed_until) whether it is so.
    Renew,
}

impl GrantMessage {
    /// About the grant of a ticket. `reader` is the reader's number, at random.
    #[must_use]
    pub fn about(ticket: &Ticket, reader: [u8; 16], kind: GrantMessageKind) -> Self {
        Self {
            export: ticket.export().value(),
            slot: ticket.slot(),
            generation: ticket.generation(),
            token: *ticket.token(),
            reader,
            kind,
        }
    }

    /// The reader's number.
    pub(super) fn reader(&self) -> &[u8; 16] {
        &self.reader
    }

    /// The slot and the generation of the grant, and the token of the ticket.
    pub(super) fn grant(&self) -> (u32, u64, &[u8; 16]) {
        (self.slot, self.generation, &self.token)
    }

    pub(super) fn encode(&self) -> Vec<u8> {
        let (slot, generation) = (self.slot.to_le_bytes(), self.generation.to_le_bytes());
        let kind: &[u8] = match self.kind {
            GrantMessageKind::Done => &[],
            GrantMessageKind::Renew => &[1],
        };
        [&self.export.to_le_bytes(), &slot[..], &generation, &self.token, &self.reader, kind]
            .concat()
    }

    /// `None` if it is of another length or kind.
    pub(super) fn decode(bytes: &[u8]) -> Option<Self> {
        let (export, rest) = bytes.split_first_chunk()?;
        let (slot, rest) = rest.split_first_chunk()?;
        let (generation, rest) = rest.split_first_chunk()?;
        let (token, rest) = rest.split_first_chunk()?;
        let (reader, rest) = rest.split_first_chunk()?;
        let kind = match rest {
            [] => GrantMessageKind::Done,
            [1] => GrantMessageKind::Renew,
            _ => return None,
        };
        Some(Self {
            export: u64::from_le_bytes(*export),
            slot: u32::from_le_bytes(*slot),
            generation: u64::from_le_bytes(*generation),
            token: *token,
            reader: *reader,
            kind,
        })
    }
}

impl GrantMessage {
    /// Records that the reader is done, if the message reports it. Returns whether its grant's ticket is not outstanding any more.
    pub(super) fn is_done_with(&self, tickets: &OutstandingTickets) -> bool {
        let is_done = self.kind == GrantMessageKind::Done;
        is_done && tickets.done(self.generation, &self.token, self.reader)
    }
}

impl fmt::Debug for GrantMessage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // The export's number and the token admit messages.
        f.debug_struct("GrantMessage")
            .field("slot", &self.slot)
            .field("generation", &self.generation)
            .field("kind", &self.kind)
            .finish_non_exhaustive()
    }
}

impl GrantTable {
    /// Carries out a reader's request to a grant of this table.
    ///
    /// # Errors
    ///
    /// As [`done`](Self::done) and [`renew`](Self::renew).
    pub fn receive(&self, message: &GrantMessage) -> Result<(), GrantError> {
        let GrantMessage { slot, generation, token, reader, kind, .. } = message;
        match kind {
            GrantMessageKind::Done => self.done(*slot, *generation, token, *reader).map(drop),
            GrantMessageKind::Renew => self.renew(*slot, *generation, token).map(drop),
        }
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn what_is_encoded_decodes_and_nothing_of_another_length_does(
            (export, slot, generation, token, reader) in any::<(u64, u32, u64, [u8; 16], [u8; 16])>(),
        ) {
            let message =
                |kind| GrantMessage { export, slot, generation, token, reader, kind };
            let bytes = message(GrantMessageKind::Done).encode();
            prop_assert_eq!(GrantMessage::decode(&bytes), Some(message(GrantMessageKind::Done)));
            for len in 0..bytes.len() {
                prop_assert_eq!(GrantMessage::decode(&bytes[..len]), None);
            }
            prop_assert_eq!(GrantMessage::decode(&[&bytes[..], &[0]].concat()), None);
            let bytes = message(GrantMessageKind::Renew).encode();
            prop_assert_eq!(GrantMessage::decode(&bytes), Some(message(GrantMessageKind::Renew)));
            prop_assert_eq!(GrantMessage::decode(&[&bytes[..], &[0]].concat()), None);
        }
    }
}
