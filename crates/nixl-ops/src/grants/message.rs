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
//! | 52 | 0 or 1 | nothing: the reader is done; 1: it asks for the time to live anew |
//!
//! Integers are little-endian.

/// Which grant a message is about, and whose word it is.
#[derive(Clone, Copy, Eq, PartialEq)]
#[cfg_attr(test, derive(Debug))]
pub(crate) struct GrantMessage {
    pub(crate) export: u64,
    pub(crate) slot: u32,
    pub(crate) generation: u64,
    pub(crate) token: [u8; 16],
    pub(crate) reader: [u8; 16],
    pub(crate) says: ReaderSays,
}

/// What a reader says of a grant.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum ReaderSays {
    Done,
    /// Owners of earlier releases ignore it.
    Renew,
}

impl GrantMessage {
    pub(crate) fn encode(&self) -> Vec<u8> {
        let (slot, generation) = (self.slot.to_le_bytes(), self.generation.to_le_bytes());
        let says: &[u8] = match self.says {
            ReaderSays::Done => &[],
            ReaderSays::Renew => &[1],
        };
        [&self.export.to_le_bytes(), &slot[..], &generation, &self.token, &self.reader, says]
            .concat()
    }

    /// `None` if it is of another length, or says something else.
    pub(crate) fn decode(bytes: &[u8]) -> Option<Self> {
        let (export, rest) = bytes.split_first_chunk()?;
        let (slot, rest) = rest.split_first_chunk()?;
        let (generation, rest) = rest.split_first_chunk()?;
        let (token, rest) = rest.split_first_chunk()?;
        let (reader, rest) = rest.split_first_chunk()?;
        let says = match rest {
            [] => ReaderSays::Done,
            [1] => ReaderSays::Renew,
            _ => return None,
        };
        Some(Self {
            export: u64::from_le_bytes(*export),
            slot: u32::from_le_bytes(*slot),
            generation: u64::from_le_bytes(*generation),
            token: *token,
            reader: *reader,
            says,
        })
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
                |says| GrantMessage { export, slot, generation, token, reader, says };
            let bytes = message(ReaderSays::Done).encode();
            prop_assert_eq!(GrantMessage::decode(&bytes), Some(message(ReaderSays::Done)));
            for len in 0..bytes.len() {
                prop_assert_eq!(GrantMessage::decode(&bytes[..len]), None);
            }
            prop_assert_eq!(GrantMessage::decode(&[&bytes[..], &[0]].concat()), None);
            let bytes = message(ReaderSays::Renew).encode();
            prop_assert_eq!(GrantMessage::decode(&bytes), Some(message(ReaderSays::Renew)));
            prop_assert_eq!(GrantMessage::decode(&[&bytes[..], &[0]].concat()), None);
        }
    }
}
