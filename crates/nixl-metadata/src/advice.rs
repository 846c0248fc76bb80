//! Advice on the errors of parsers: ask again or give up.

use nixl_device::Advice;

use crate::{MetadataError, ParseTraceContextError};

impl MetadataError {
    /// What to do about it: [`AskAgain`](Advice::AskAgain) for a message that was damaged on the way, else
    /// [`GiveUp`](Advice::GiveUp).
    #[must_use]
    pub fn advice(&self) -> Advice {
        match self {
            Self::NotJson { .. }
            | Self::Truncated { .. }
            | Self::TrailingBytes { .. }
            | Self::BadMagic
            | Self::Checksum
            | Self::BadBase64
            | Self::BadHex
            | Self::NotBase64 { .. }
            | Self::BadZlib
            | Self::TicketAltered => Advice::AskAgain,
            Self::WrongType { .. }
            | Self::NotUnsigned { .. }
            | Self::UnknownField { .. }
            | Self::DuplicateField { .. }
            | Self::MissingField { .. }
            | Self::Empty { .. }
            | Self::WrongKind { .. }
            | Self::TooLarge { .. }
            | Self::TooManyDescriptors { .. }
            | Self::TooManyTransports { .. }
            | Self::TooManyDevices { .. }
            | Self::DuplicateDevice { .. }
            | Self::TooManyShares { .. }
            | Self::ShareRange { .. }
            | Self::ShareOrder { .. }
            | Self::ShareDevice { .. }
            | Self::ShareBounds { .. }
            | Self::BadSlotAddress { .. }
            | Self::BadExpiry
            | Self::NoReaders
            | Self::ReadersOfWritable { .. }
            | Self::NoToken
            | Self::UnknownClaimDemand { .. }
            | Self::ClaimsNotCarried { .. }
            | Self::ChecksumOfWritable
            | Self::UnknownChecksum { .. }
            | Self::MessageVersionOrder { .. }
            | Self::NoDescriptors
            | Self::NullPointer { .. }
            | Self::ZeroSize { .. }
            | Self::WrapAround { .. }
            | Self::TotalOverflow
            | Self::BadDevice { .. }
            | Self::UnsupportedDevice { .. }
            | Self::BadName { .. }
            | Self::UnsupportedVersion { .. }
            | Self::UnsupportedFlags { .. }
            | Self::UnknownSection { .. }
            | Self::UnsupportedSectionFlags { .. }
            | Self::SectionOverrun { .. }
            | Self::TooManySections { .. }
            | Self::Malformed
            | Self::OtherMessage { .. }
            | Self::NoLayouts { .. }
            | Self::TooManyLayouts { .. }
            | Self::TooManyParts { .. }
            | Self::DuplicateLayout { .. }
            | Self::ZeroDimension { .. }
            | Self::LayoutBlocks { .. }
            | Self::LayoutParts { .. }
            | Self::BadPart { .. }
            | Self::UnknownLayoutKind { .. }
            | Self::UnsupportedLayoutDevice { .. }
            | Self::BadWords { .. }
            | Self::BadOfferWord { .. }
            | Self::ShortClaims { .. }
            | Self::TensorRank { .. }
            | Self::TensorSize { .. }
            | Self::TensorBits { .. }
            | Self::TensorBytes { .. }
            | Self::TensorLayout { .. }
            | Self::BlockTensorBytes { .. }
            | Self::BadMedia { .. }
            | Self::MediaMemory { .. }
            | Self::BadContentHash
            | Self::MediaOffer
            | Self::MediaFrames { .. }
            | Self::MediaFrameLimit { .. }
            | Self::MediaNumber
            | Self::UnsupportedTicketVersion { .. }
            | Self::UnsupportedTicketFlags { .. }
            | Self::EmptyLayers { .. }
            | Self::NoBlocks { .. }
            | Self::TooManyBlocks { .. }
            | Self::DuplicateBlock { .. }
            | Self::BadBlock { .. } => Advice::GiveUp,
        }
    }
}

impl ParseTraceContextError {
    /// The remedy: [`Advice::GiveUp`], since the text is no `traceparent`.
    #[must_use]
    pub fn advice(&self) -> Advice {
        Advice::GiveUp
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Field, OperationKind, RdmaMetadata};

    #[test]
    fn damage_on_the_way_is_worth_another_message() {
        let field = Field::Document;
        for error in [
            MetadataError::NotJson { line: 1, column: 0 },
            MetadataError::Truncated { field },
            MetadataError::TrailingBytes { field },
            MetadataError::BadMagic,
            MetadataError::Checksum,
            MetadataError::BadBase64,
            MetadataError::BadHex,
            MetadataError::BadZlib,
        ] {
            assert_eq!(error.advice(), Advice::AskAgain, "{error:?}");
        }
    }

    #[test]
    fn what_the_peer_means_does_not_change_by_asking() {
        for error in [
            MetadataError::MissingField { field: Field::NixlMetadata },
            MetadataError::WrongKind { value: 3 },
            MetadataError::TooManyDescriptors { limit: 1 },
            MetadataError::NullPointer { index: 0 },
            MetadataError::UnsupportedVersion { version: 9 },
            MetadataError::UnknownSection { id: 99 },
            MetadataError::UnknownChecksum { algorithm: 7 },
            MetadataError::Malformed,
        ] {
            assert_eq!(error.advice(), Advice::GiveUp, "{error:?}");
        }
    }

    /// Any byte of a message of the native profile is damaged, or lost with all after it.
    #[test]
    fn a_damaged_message_is_asked_for_again() {
        let descriptor = crate::SerializedDescriptor::new(nixl_device::Device::HOST, 4096, 64);
        let offer = RdmaMetadata::new(
            OperationKind::Read,
            vec![descriptor.unwrap()],
            crate::AgentMetadata::compress(b"agent").unwrap(),
            crate::NotificationKey::random(),
        );
        let message = offer.unwrap().to_native_bytes().unwrap();
        assert!(RdmaMetadata::decode(&message).is_ok());
        for len in 0..message.len() {
            let error = RdmaMetadata::decode(&message[..len]).unwrap_err();
            assert_eq!(error.advice(), Advice::AskAgain, "{len}: {error:?}");
        }
        // The fields of the header that are read before the checksum say what is wrong with them.
        for at in 12..message.len() {
            let mut damaged = message.to_vec();
            damaged[at] ^= 0x10;
            let error = RdmaMetadata::decode(&damaged).unwrap_err();
            assert_eq!(error.advice(), Advice::AskAgain, "{at}: {error:?}");
        }
    }
}
