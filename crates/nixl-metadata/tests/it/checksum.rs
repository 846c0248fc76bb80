//! Checksums of offers, and what becomes of them in a form that cannot carry them.

use crate::support::{golden_v4, minimal, with_checksum};
use nixl_metadata::{Checksum, MetadataError as E, NativeVersion, RdmaMetadata};

#[test]
fn a_writable_offer_has_none() {
    assert_eq!(golden_v4().with_checksum(Checksum::xxh3(7)), Err(E::ChecksumOfWritable));
    assert_eq!(minimal().checksum(), None);
    assert_eq!(with_checksum().checksum(), Some(Checksum::xxh3(0x0123_4567_89ab_cdef)));
}

#[test]
fn other_forms_drop_it() {
    let native = with_checksum().to_native_bytes_as(NativeVersion::V3).unwrap();
    assert_eq!(RdmaMetadata::decode(&native), Ok(minimal()));
    assert_eq!(with_checksum().to_dynamo_json(), minimal().to_dynamo_json());
}

#[test]
fn the_number_is_not_printed() {
    let printed = format!("{:?}", with_checksum());
    assert!(printed.contains("xxh3"), "{printed}");
    for number in ["0123456789abcdef", "123456789abcdef", "81985529216486895"] {
        assert!(!printed.contains(number), "{printed}");
    }
}
