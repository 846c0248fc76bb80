//! Metadata of withdrawn offers, which reaches no memory.

use std::sync::Arc;

use super::RdmaMetadata;
use crate::encodings::Encodings;
use crate::{NotificationKey, OfferTerms};

impl RdmaMetadata {
    /// An offer of the same form that reaches no memory: its terms have expired, its key is of no offer, and its addresses are
    /// in a page that no process maps, so that holders that know no terms are refused by their engine.
    #[must_use]
    pub fn withdrawn(&self) -> Self {
        let nowhere = self.descriptors.iter().map(|descriptor| descriptor.nowhere()).collect();
        Self {
            descriptors: Arc::new(nowhere),
            notification_key: NotificationKey::random(),
            slot_address: None,
            shares: Arc::default(),
            encodings: Encodings::default(),
            terms: Some(OfferTerms::EXPIRED),
            checksum: None,
            word: None,
            ..self.clone()
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::SystemTime;

    use nixl_device::Device;

    use super::*;
    use crate::{AgentMetadata, OperationKind, SerializedDescriptor};

    #[test]
    fn it_names_neither_the_memory_nor_the_offer_in_any_form() {
        let descriptors = [(0x10_0000, 64), (0x20_0000, 1 << 40)]
            .map(|(ptr, size)| SerializedDescriptor::new(Device::cuda(3), ptr, size).unwrap());
        let (agent, key) = (AgentMetadata::compress(b"agent").unwrap(), NotificationKey::random());
        let offer =
            RdmaMetadata::new(OperationKind::Write, descriptors.to_vec(), agent, key).unwrap();
        let withdrawn = offer.withdrawn();
        let native = RdmaMetadata::decode(&withdrawn.to_native_bytes().unwrap()).unwrap();
        assert!(native.terms().unwrap().expires() < SystemTime::now());
        let json = RdmaMetadata::decode(withdrawn.to_dynamo_json().as_bytes()).unwrap();
        for read in [native, json] {
            assert_ne!(read.notification_key(), offer.notification_key());
            assert!(read.descriptors().iter().all(|descriptor| descriptor.ptr() == 1));
            assert_eq!(read.total_bytes(), offer.total_bytes());
            assert_eq!(read.operation_kind(), offer.operation_kind());
        }
    }
}
