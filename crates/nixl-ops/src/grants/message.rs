//! Messages of readers about grants.
//!
//! It is the key of a [control message](crate::control), whose token is not used:
//!
//! | offset | bytes | content |
//! |---|---|---|
//! | 0 | 8 | the export |
//! | 8 | 4 | the slot |
//! | 12 | 8 | the generation |
//! | 20 | 16 | the token of the ticket |
//! | 36 | 16 | the reader, at random |
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
}

impl GrantMessage {
    const BYTES: usize = 52;

    pub(crate) fn encode(&self) -> [u8; Self::BYTES] {
        let mut bytes = [0; Self::BYTES];
        let (export, rest) = bytes.split_at_mut(8);
        let (slot, rest) = rest.split_at_mut(4);
        let (generation, rest) = rest.split_at_mut(8);
        let (token, reader) = rest.split_at_mut(16);
        export.copy_from_slice(&self.export.to_le_bytes());
        slot.copy_from_slice(&self.slot.to_le_bytes());
        generation.copy_from_slice(&self.generation.to_le_bytes());
        token.copy_from_slice(&self.token);
        reader.copy_from_slice(&self.reader);
        bytes
    }

    /// `None` if it is shorter or longer.
    pub(crate) fn decode(bytes: &[u8]) -> Option<Self> {
        let (export, rest) = bytes.split_first_chunk()?;
        let (slot, rest) = rest.split_first_chunk()?;
        let (generation, rest) = rest.split_first_chunk()?;
        let (token, rest) = rest.split_first_chunk()?;
        Some(Self {
            export: u64::from_le_bytes(*export),
            slot: u32::from_le_bytes(*slot),
            generation: u64::from_le_bytes(*generation),
            token: *token,
            reader: rest.try_into().ok()?,
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
            let message = GrantMessage { export, slot, generation, token, reader };
            let bytes = message.encode();
            prop_assert_eq!(GrantMessage::decode(&bytes), Some(message));
            for len in 0..bytes.len() {
                prop_assert_eq!(GrantMessage::decode(&bytes[..len]), None);
            }
            prop_assert_eq!(GrantMessage::decode(&[&bytes[..], &[0]].concat()), None);
        }
    }
}
