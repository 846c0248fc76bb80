//! Agreement of the owner's checks and the receiver's.

use crate::support::{any_metadata, golden_v4};
use nixl_device::Device;
use nixl_metadata::{
    AgentMetadata, Field, Limits, MetadataError as E, NativeVersion, NotificationKey,
    OperationKind, RdmaMetadata, SerializedDescriptor, Share, ShareKind,
};
use proptest::prelude::*;

/// Every encoding of an offer.
fn encodings(metadata: &RdmaMetadata) -> Vec<Vec<u8>> {
    let native = [NativeVersion::V4, NativeVersion::V3];
    let native = native.into_iter().filter_map(|v| metadata.to_native_bytes_as(v).ok());
    native.chain([metadata.to_dynamo_json().into_bytes()]).collect()
}

fn any_limits() -> impl Strategy<Value = Limits> {
    (1..8000usize, 1..2500usize, 1..60usize, 1..90usize).prop_map(
        |(encoded, compressed, descriptors, names)| {
            Limits::default()
                .encoded_bytes(encoded)
                .compressed_bytes(compressed)
                .descriptors(descriptors)
                .name_bytes(names)
        },
    )
}

proptest! {
    #[test]
    fn what_passes_is_accepted_and_what_is_refused_does_not_pass(
        metadata in any_metadata(),
        limits in any_limits(),
    ) {
        prop_assert_eq!(Limits::default().check(&metadata), Ok(()));
        let encodings = encodings(&metadata);
        for message in &encodings {
            prop_assert!(RdmaMetadata::decode(message).is_ok());
        }
        let accepted = encodings
            .iter()
            .all(|message| RdmaMetadata::decode_with(message, &limits).is_ok());
        match limits.check(&metadata) {
            Ok(()) => prop_assert!(accepted),
            Err(E::TooManyDescriptors { .. } | E::TooLarge { .. }) => {
                // Version 3 is counted although an offer that demands claims is not written in it.
                prop_assert!(!accepted || encodings.len() == 2);
            }
            Err(other) => prop_assert!(false, "{}", other),
        }
    }

    #[test]
    fn the_computed_size_is_exact(metadata in any_metadata()) {
        let longest = encodings(&metadata).iter().map(Vec::len).max().unwrap();
        let with = |bytes| Limits::default().encoded_bytes(bytes).check(&metadata);
        if metadata.terms().is_none_or(|terms| !terms.claims().is_binding()) {
            prop_assert_eq!(with(longest), Ok(()));
        }
        let limit = longest - 1;
        let field = Field::Document;
        let refused = matches!(
            with(limit),
            Err(E::TooLarge { field: at, len, limit: stated }) if at == field && len > limit && stated == limit
        );
        prop_assert!(refused);
    }
}

#[test]
fn native_encodings_are_as_long_as_computed() {
    // The vector is allocated once, by the computed size.
    for version in [NativeVersion::V3, NativeVersion::V4] {
        let plain = shared(100, 100).to_native_bytes_as(version).unwrap();
        assert_eq!(plain.capacity(), plain.len());
    }
    let full = golden_v4().to_native_bytes().unwrap();
    assert_eq!(full.capacity(), full.len());
}

/// An offer with so many descriptors, each shared by a handle of its own, and a blob of this size once compressed.
fn shared(descriptors: usize, blob: usize) -> RdmaMetadata {
    let kind = ShareKind::CudaIpc { handle: [0xff; 72] };
    let shares = (0..descriptors).map(|at| Share::new(at..at + 1, kind, 0)).collect();
    let device = Device::cuda(u32::MAX);
    let descriptor = SerializedDescriptor::new(device, 1 << 63, 1).unwrap();
    let mut stream = vec![0x78, 0x9c];
    stream.resize(blob, 0);
    let agent = AgentMetadata::from_compressed(
        stream.into(),
        &Limits::default().compressed_bytes(usize::MAX),
    );
    RdmaMetadata::new(
        OperationKind::Read,
        vec![descriptor; descriptors],
        agent.unwrap(),
        NotificationKey::random(),
    )
    .and_then(|metadata| metadata.with_shares(shares))
    .unwrap()
}

#[test]
fn the_largest_offer_within_the_default_limits_is_read() {
    let (descriptors, blob) = (1 << 16, 4 << 20);
    let limits = Limits::default();
    let largest = shared(descriptors, blob).with_peer(golden_v4().peer().unwrap().clone());
    assert_eq!(limits.check(&largest), Ok(()));
    for message in encodings(&largest) {
        assert!(RdmaMetadata::decode(&message).is_ok());
    }

    let refused = |descriptors, blob, error: E| {
        let offer = shared(descriptors, blob);
        assert_eq!(limits.check(&offer), Err(error.clone()));
        for message in encodings(&offer) {
            assert_eq!(RdmaMetadata::decode(&message), Err(error.clone()));
        }
    };
    refused(descriptors + 1, 100, E::TooManyDescriptors { limit: descriptors });
    let field = Field::NixlMetadata;
    refused(1, blob + 1, E::TooLarge { field, len: blob + 1, limit: blob });
}

#[test]
fn names_are_checked() {
    let longest = "3f0c9d52-7f5e-4f43-8a0e-8c7d1a0b6f11".len();
    let with = |bytes| Limits::default().name_bytes(bytes).check(&golden_v4());
    assert_eq!(with(longest), Ok(()));
    let (field, limit) = (Field::BootId, longest - 1);
    assert_eq!(with(limit), Err(E::TooLarge { field, len: longest, limit }));
}
