//! Round trips of both profiles, and forms that other programs print.

use crate::support::{BLOB, DYNAMO_READ, DYNAMO_WRITE, DYNAMO_WRITE_HEX, any_metadata, golden_v4};
use crate::targets;
use nixl_device::Device;
use nixl_metadata::{AgentMetadata, Limits, NotificationKey, OperationKind, RdmaMetadata};
use proptest::prelude::*;

proptest! {
    #[test]
    fn both_profiles_keep_every_value(metadata in any_metadata()) {
        // Encodes in both profiles, decodes each, compares, and compares the second encoding with the first.
        targets::check(Ok(metadata.clone()), &Limits::default());
        let native = metadata.to_native_bytes().unwrap();
        prop_assert_eq!(RdmaMetadata::decode(&native), Ok(metadata.clone()));
        let json = RdmaMetadata::decode(metadata.to_dynamo_json().as_bytes()).unwrap();
        prop_assert_eq!(json.peer(), None);
        prop_assert_eq!(json.shares(), []);
        prop_assert_eq!(json.descriptors(), metadata.descriptors());
    }

    #[test]
    fn the_json_is_what_any_parser_reads(metadata in any_metadata()) {
        let json: serde_json::Value = serde_json::from_str(&metadata.to_dynamo_json()).unwrap();
        let object = json.as_object().unwrap();
        prop_assert_eq!(object.len(), 4);
        prop_assert_eq!(&object["notification_key"], metadata.notification_key().as_str());
        let list = object["descriptors"].as_array().unwrap();
        prop_assert_eq!(list.len(), metadata.descriptors().len());
        for (value, descriptor) in list.iter().zip(metadata.descriptors()) {
            prop_assert_eq!(value.as_object().unwrap().len(), 3);
            prop_assert_eq!(value["ptr"].as_u64(), Some(descriptor.ptr()));
            prop_assert_eq!(value["size"].as_u64(), Some(descriptor.size()));
            prop_assert_eq!(value["device"].as_str().unwrap().parse(), Ok(descriptor.device()));
        }
    }

    #[test]
    fn agent_metadata_inflates_to_what_was_compressed(raw in proptest::collection::vec(any::<u8>(), 1..5000)) {
        let agent = AgentMetadata::compress(&raw).unwrap();
        prop_assert_eq!(&agent, &AgentMetadata::compress(&raw).unwrap());
        prop_assert_eq!(&agent.inflate(&Limits::default()).unwrap()[..], &raw[..]);
        targets::inflate(agent.compressed());
    }
}

#[test]
fn the_json_of_dynamo_is_printed_byte_for_byte() {
    for json in [DYNAMO_READ, DYNAMO_WRITE] {
        let metadata = RdmaMetadata::from_dynamo_json(json.as_bytes()).unwrap();
        assert_eq!(metadata.to_dynamo_json(), json);
    }
}

#[test]
fn the_json_of_dynamo_means_what_it_says() {
    let read = RdmaMetadata::from_dynamo_json(DYNAMO_READ.as_bytes()).unwrap();
    assert_eq!(read.operation_kind(), OperationKind::Read);
    assert_eq!(read.total_bytes(), 4096);
    assert_eq!(read.descriptors()[0].ptr(), 0x7f00_1234_5000);
    assert_eq!(read.notification_key().as_bytes(), b"0f6b4f0e-8a1d-4c1b-9a53-4a7c0d9f2b11");
    let raw = read.agent_metadata().inflate(&Limits::default()).unwrap();
    assert_eq!(raw, BLOB);

    let write = RdmaMetadata::from_dynamo_json(DYNAMO_WRITE.as_bytes()).unwrap();
    assert_eq!(write.operation_kind(), OperationKind::Write);
    let descriptors: Vec<_> =
        write.descriptors().iter().map(|d| (d.device(), d.ptr(), d.size())).collect();
    assert_eq!(
        descriptors,
        [
            (Device::cuda(3), 0x7f00_0000_0000, 1 << 30),
            (Device::cuda(0), (1 << 63) + 8, 1),
            (Device::HOST, 1, 1 << 62),
        ]
    );
    // Old senders print hexadecimal. Either spelling is the same agent, also for a cache keyed by it.
    let hex = RdmaMetadata::from_dynamo_json(DYNAMO_WRITE_HEX.as_bytes()).unwrap();
    assert_eq!(hex, write);
    let upper = DYNAMO_WRITE_HEX.replace("789c6360646266", "789C6360646266");
    assert_ne!(upper, DYNAMO_WRITE_HEX);
    assert_eq!(RdmaMetadata::decode(upper.as_bytes()), Ok(write));
}

#[test]
fn json_may_be_spaced_reordered_and_escaped() {
    let json = DYNAMO_READ
        .replace(',', " ,\n\t")
        .replace("\"cpu\"", "\" HOST\"")
        .replace("notification_key", "notification\\u005fkey")
        .replace("b64:eJ", "b64\\u003aeJ");
    assert_eq!(RdmaMetadata::decode(json.as_bytes()), RdmaMetadata::decode(DYNAMO_READ.as_bytes()));
    let (head, kind) = DYNAMO_READ.rsplit_once(',').unwrap();
    let reordered = format!("{{{},{}}}", kind.trim_end_matches('}'), &head[1..]);
    assert_eq!(
        RdmaMetadata::decode(reordered.as_bytes()),
        RdmaMetadata::decode(DYNAMO_READ.as_bytes())
    );
    // Dynamo's schema has `cpu` as the default.
    let defaulted = DYNAMO_READ.replace("\"device\":\"cpu\",", "");
    assert_eq!(
        RdmaMetadata::decode(defaulted.as_bytes()),
        RdmaMetadata::decode(DYNAMO_READ.as_bytes())
    );
}

#[test]
fn the_native_profile_is_laid_out_as_documented() {
    let bytes = golden_v4().to_native_bytes().unwrap();
    assert_eq!(bytes, targets::seal(4, &bytes[16..]));
    let mut at = 16;
    let mut next = |count: usize| {
        at += count;
        &bytes[at - count..at]
    };
    let core: usize = u32::from_le_bytes(next(4).try_into().unwrap()).try_into().unwrap();
    assert_eq!(next(1), [2]); // WRITE
    assert_eq!(next(8), 36u64.to_le_bytes());
    assert_eq!(next(36), b"0f6b4f0e-8a1d-4c1b-9a53-4a7c0d9f2b11");
    assert_eq!(next(8), 3u64.to_le_bytes());
    assert_eq!(next(1), [2]); // CUDA
    assert_eq!(next(4), 3u32.to_le_bytes());
    assert_eq!(next(8), 0x7f00_0000_0000u64.to_le_bytes());
    assert_eq!(next(8), (1u64 << 30).to_le_bytes());
    next(core - (1 + 8 + 36 + 8 + 21));
    assert_eq!(next(4), [1, 0, 0, 0]); // the peer, optional
}

#[test]
fn keys_are_version_4_uuids_and_differ() {
    let (a, b) = (NotificationKey::random(), NotificationKey::random());
    assert_ne!(a, b);
    assert_eq!(a.as_str().len(), 36);
    assert_eq!(a.as_bytes()[14], b'4');
}

#[test]
fn a_map_of_keys_is_asked_with_plain_text() {
    let key = NotificationKey::random();
    let text = key.as_str().to_owned();
    let map = std::collections::HashMap::from([(key, 7)]);
    assert_eq!(map.get(text.as_str()), Some(&7));
}
