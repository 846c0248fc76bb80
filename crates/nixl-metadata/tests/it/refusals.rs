//! Every kind of bad input gets its own error, and no error or debug output gives a secret away.

use crate::golden::V3_FULL;
use crate::support::{DYNAMO_READ, DYNAMO_WRITE, DYNAMO_WRITE_HEX, golden, golden_v4};
use crate::targets;
use bytes::Bytes;
use nixl_device::Device;
use nixl_metadata::{
    AgentMetadata, Field, HostIdentity, Limits, MetadataError as E, NotificationKey, OperationKind,
    PeerDevice, PeerInfo, RdmaMetadata, SerializedDescriptor,
};

const KEY: &str = "0f6b4f0e-8a1d-4c1b-9a53-4a7c0d9f2b11";

fn json(text: &str) -> E {
    RdmaMetadata::decode(text.as_bytes()).unwrap_err()
}

/// The error after replacing a part of a good message.
fn replaced(from: &str, to: &str) -> E {
    assert!(DYNAMO_READ.contains(from), "{from}");
    json(&DYNAMO_READ.replacen(from, to, 1))
}

fn one(device: &str, ptr: &str, size: &str) -> E {
    replaced(
        r#"{"device":"cpu","ptr":139638282145792,"size":4096}"#,
        &format!(r#"{{"device":{device},"ptr":{ptr},"size":{size}}}"#),
    )
}

#[test]
fn what_is_not_json() {
    assert_eq!(json("hello"), E::NotJson { line: 1, column: 1 });
    assert_eq!(json("{\n\"descriptors\" 1}"), E::NotJson { line: 2, column: 15 });
    assert_eq!(json("\u{feff}{}"), E::NotJson { line: 1, column: 1 });
    let field = Field::Document;
    for cut in ["", " ", "{", DYNAMO_READ.strip_suffix('}').unwrap()] {
        assert_eq!(json(cut), E::Truncated { field });
    }
    for more in ["x", "{}", "\0"] {
        assert_eq!(json(&format!("{DYNAMO_READ}{more}")), E::TrailingBytes { field });
    }
    let deep = "[".repeat(100_000);
    assert_eq!(json(&deep), E::WrongType { field, expected: "an object" });
    let deep = replaced("4096", &deep);
    assert_eq!(deep, E::WrongType { field: Field::Size(0), expected: "an integer" });
}

#[test]
fn fields_that_are_unknown_repeated_or_missing() {
    assert_eq!(
        replaced("\"size\"", "\"length\""),
        E::UnknownField { parent: Field::Descriptor(0), name: "length".to_owned() }
    );
    // Only what looks like a name is quoted, and only its start.
    let error = replaced("operation_kind", &"kind".repeat(1000));
    assert_eq!(error, E::UnknownField { parent: Field::Document, name: "kind".repeat(10) });
    assert_eq!(
        replaced("\"ptr\"", "\"ptr\\u001b:1396382\""),
        E::UnknownField { parent: Field::Descriptor(0), name: "ptr".to_owned() }
    );

    let twice = [
        ("\"operation_kind\":1", Field::OperationKind),
        ("\"descriptors\":[]", Field::Descriptors),
        ("\"nixl_metadata\":\"\"", Field::NixlMetadata),
        ("\"notification_key\":\"k\"", Field::NotificationKey),
    ];
    for (text, field) in twice {
        assert_eq!(replaced("1}", &format!("1,{text}}}")), E::DuplicateField { field });
    }
    for (text, field) in [
        ("\"size\":1", Field::Size(0)),
        ("\"ptr\":1", Field::Ptr(0)),
        ("\"device\":\"cpu\"", Field::Device(0)),
    ] {
        assert_eq!(replaced("4096}", &format!("4096,{text}}}")), E::DuplicateField { field });
    }

    assert_eq!(json("{}"), E::MissingField { field: Field::Descriptors });
    assert_eq!(
        replaced(",\"operation_kind\":1", ""),
        E::MissingField { field: Field::OperationKind }
    );
    assert_eq!(replaced(",\"size\":4096", ""), E::MissingField { field: Field::Size(0) });
    assert_eq!(replaced("\"ptr\":139638282145792,", ""), E::MissingField { field: Field::Ptr(0) });
}

#[test]
fn values_of_another_type() {
    let wrong = |field, expected| E::WrongType { field, expected };
    assert_eq!(json("null"), wrong(Field::Document, "an object"));
    assert_eq!(json("{\"descriptors\":{}}"), wrong(Field::Descriptors, "an array"));
    assert_eq!(json("{\"descriptors\":[1]}"), wrong(Field::Descriptor(0), "an object"));
    assert_eq!(one("0", "1", "1"), wrong(Field::Device(0), "a string"));
    assert_eq!(one("\"cpu\"", "\"1\"", "1"), wrong(Field::Ptr(0), "an integer"));
    assert_eq!(one("\"cpu\"", "1", "true"), wrong(Field::Size(0), "an integer"));
    assert_eq!(json("{\"nixl_metadata\":[]}"), wrong(Field::NixlMetadata, "a string"));
    assert_eq!(json("{\"notification_key\":null}"), wrong(Field::NotificationKey, "a string"));
    assert_eq!(replaced(":1}", ":null}"), wrong(Field::OperationKind, "an integer"));
}

#[test]
fn numbers_that_are_no_counts() {
    for number in ["-1", "-0", "1.0", "1e3", "18446744073709551616"] {
        let field = Field::Size(0);
        assert_eq!(one("\"cpu\"", "1", number), E::NotUnsigned { field });
    }
    // No number at all for the parser.
    for number in ["1e400", "01", "+1", "0x10", "NaN"] {
        let error = one("\"cpu\"", "1", number);
        assert!(matches!(error, E::NotJson { line: 1, .. }), "{number}");
    }
    assert_eq!(one("\"cpu\"", "-5", "1"), E::NotUnsigned { field: Field::Ptr(0) });
    assert_eq!(replaced(":1}", ":1.5}"), E::NotUnsigned { field: Field::OperationKind });
    for value in [0, 3, u64::MAX] {
        assert_eq!(replaced(":1}", &format!(":{value}}}")), E::WrongKind { value });
    }
}

#[test]
fn descriptors_that_name_no_memory() {
    assert_eq!(one("\"cpu\"", "0", "1"), E::NullPointer { index: 0 });
    assert_eq!(one("\"cpu\"", "1", "0"), E::ZeroSize { index: 0 });
    assert_eq!(one("\"cpu\"", "18446744073709551615", "1"), E::WrapAround { index: 0 });
    assert!(matches!(one("\"tpu:1\"", "1", "1"), E::BadDevice { index: 0, .. }));
    let empty = r#"{"descriptors":[],"#;
    let start = DYNAMO_READ.find("\"nixl_metadata\"").unwrap();
    assert_eq!(json(&format!("{empty}{}", &DYNAMO_READ[start..])), E::NoDescriptors);
    let second = DYNAMO_WRITE.replace("\"size\":1}", "\"size\":0}");
    assert_eq!(json(&second), E::ZeroSize { index: 1 });
    let half = r#"{"ptr":1,"size":9223372036854775808}"#;
    let total = replaced("],", &format!(",{half},{half}],"));
    assert_eq!(total, E::TotalOverflow);

    // The same from local code, and the last range that is fine.
    assert_eq!(SerializedDescriptor::new(Device::HOST, 0, 0), Err(E::NullPointer { index: 0 }));
    assert_eq!(
        SerializedDescriptor::new(Device::HOST, 2, u64::MAX - 1),
        Err(E::WrapAround { index: 0 })
    );
    assert!(SerializedDescriptor::new(Device::HOST, 1, u64::MAX - 1).is_ok());
}

#[test]
fn blobs_that_are_no_blobs() {
    assert_eq!(replaced("b64:eJ", "b64:e!"), E::BadBase64);
    assert_eq!(replaced("qQ==", "qQ="), E::BadBase64);
    assert_eq!(replaced("qQ==", "qR=="), E::BadBase64); // bits beyond the last byte
    assert_eq!(replaced("b64:eJ", "b64: eJ"), E::BadBase64);
    assert_eq!(replaced("b64:", "B64:"), E::BadHex);
    assert_eq!(json(&DYNAMO_WRITE_HEX.replace("789c63", "789c6")), E::BadHex);
    assert_eq!(json(&DYNAMO_WRITE_HEX.replace("789c63", "78 9c63")), E::BadHex);
    assert_eq!(json(&DYNAMO_WRITE_HEX.replace("789c63", "779c63")), E::BadZlib);
    let field = Field::NixlMetadata;
    assert_eq!(json("{\"nixl_metadata\":\"b64:\"}"), E::Empty { field });
    assert_eq!(json("{\"nixl_metadata\":\"\"}"), E::Empty { field });
    assert_eq!(json("{\"nixl_metadata\":\"789c\"}"), E::BadZlib);
}

#[test]
fn keys_and_names_that_could_do_harm() {
    let field = Field::NotificationKey;
    assert_eq!(NotificationKey::new(""), Err(E::Empty { field }));
    assert_eq!(NotificationKey::new("a\0b"), Err(E::BadName { field }));
    assert_eq!(NotificationKey::new("a\nb"), Err(E::BadName { field }));
    let long = "é".repeat(101);
    assert_eq!(NotificationKey::new(&long), Err(E::TooLarge { field, len: 202, limit: 200 }));
    assert_eq!(replaced(KEY, ""), E::Empty { field });
    assert_eq!(replaced(KEY, "\\u0000"), E::BadName { field });
    assert_eq!(replaced(KEY, &long), E::TooLarge { field, len: 202, limit: 200 });

    assert_eq!(HostIdentity::new("", "b", 1), Err(E::Empty { field: Field::HostName }));
    assert_eq!(HostIdentity::new("h", "", 1).unwrap().boot_id(), None);
    assert_eq!(HostIdentity::new("h", "\t", 1), Err(E::BadName { field: Field::BootId }));
    let host = HostIdentity::new("h", "b", 1).unwrap();
    assert_eq!(
        PeerInfo::new("a".repeat(256), 0, host.clone()),
        Err(E::TooLarge { field: Field::AgentName, len: 256, limit: 255 })
    );
    let peer = PeerInfo::new("a", 0, host).unwrap();
    assert_eq!(
        peer.clone().with_transports(["tcp", ""]),
        Err(E::Empty { field: Field::Transport(1) })
    );
    assert_eq!(
        peer.clone().with_transports(vec!["x"; 33]),
        Err(E::TooManyTransports { limit: 32 })
    );
    let devices = || (0..).map(PeerDevice::cuda);
    assert!(peer.clone().with_devices(devices().take(64)).is_ok());
    assert_eq!(peer.with_devices(devices()), Err(E::TooManyDevices { limit: 64 }));
}

#[test]
fn limits_hold_to_the_byte() {
    let metadata = golden();
    let native = metadata.to_native_bytes().unwrap();
    let text = metadata.to_dynamo_json();
    let compressed = metadata.agent_metadata().compressed().len();
    for message in [&native[..], text.as_bytes()] {
        let cases = [
            (
                Limits::default().encoded_bytes(message.len()),
                Limits::default().encoded_bytes(message.len() - 1),
            ),
            (
                Limits::default().compressed_bytes(compressed),
                Limits::default().compressed_bytes(compressed - 1),
            ),
            (Limits::default().descriptors(3), Limits::default().descriptors(2)),
        ];
        for (enough, short) in cases {
            assert!(RdmaMetadata::decode_with(message, &enough).is_ok());
            let error = RdmaMetadata::decode_with(message, &short).unwrap_err();
            assert!(matches!(error, E::TooLarge { .. } | E::TooManyDescriptors { limit: 2 }));
        }
    }
    let longest = "3f0c9d52-7f5e-4f43-8a0e-8c7d1a0b6f11".len();
    let names = |bytes| RdmaMetadata::decode_with(&native, &Limits::default().name_bytes(bytes));
    assert!(names(longest).is_ok());
    let field = Field::BootId;
    assert_eq!(names(longest - 1), Err(E::TooLarge { field, len: longest, limit: longest - 1 }));
}

#[test]
fn a_message_beyond_the_limit_is_not_parsed() {
    let limits = Limits::default().encoded_bytes(3);
    let field = Field::Document;
    let error = E::TooLarge { field, len: 4, limit: 3 };
    assert_eq!(RdmaMetadata::from_dynamo_json_with(b"nope", &limits), Err(error.clone()));
    assert_eq!(RdmaMetadata::from_native_bytes_with(b"nope", &limits), Err(error));
}

#[test]
fn a_zip_bomb_is_given_up_at_the_limit() {
    let bomb = AgentMetadata::compress(&vec![0; 64 << 20]).unwrap();
    assert!(bomb.compressed().len() < 100_000);
    // It travels, as nothing looks inside, and is found out where it is opened.
    let key = NotificationKey::random();
    let descriptor = SerializedDescriptor::new(Device::HOST, 1, 1).unwrap();
    let metadata = RdmaMetadata::new(OperationKind::Read, vec![descriptor], bomb, key).unwrap();
    let received = RdmaMetadata::decode(metadata.to_dynamo_json().as_bytes()).unwrap();
    let limit = 16 << 20;
    assert!(matches!(
        received.agent_metadata().inflate(&Limits::default()),
        Err(E::TooLarge { field: Field::InflatedMetadata, len, limit: stated })
            if stated == limit && len == limit + 1
    ));
    let roomy = Limits::default().inflated_bytes(64 << 20);
    assert_eq!(received.agent_metadata().inflate(&roomy).unwrap().len(), 64 << 20);
}

#[test]
fn damaged_zlib_streams_do_not_inflate_to_something_else() {
    const RAW: &[u8] = b"some agent metadata, some agent metadata";
    let limits = Limits::default();
    let good = AgentMetadata::compress(RAW).unwrap();
    let good = good.compressed();
    let inflate = |bytes: &[u8]| {
        AgentMetadata::from_compressed(Bytes::copy_from_slice(bytes), &limits)
            .and_then(|agent| agent.inflate(&limits))
    };
    let field = Field::NixlMetadata;
    for cut in 7..good.len() {
        assert_eq!(inflate(&good[..cut]), Err(E::Truncated { field }), "{cut}");
    }
    for cut in 1..7 {
        assert_eq!(inflate(&good[..cut]), Err(E::BadZlib), "{cut}");
    }
    assert_eq!(inflate(b""), Err(E::Empty { field }));
    assert_eq!(inflate(&[good, &b"x"[..]].concat()), Err(E::TrailingBytes { field }));
    assert_eq!(inflate(&[good, &good[..]].concat()), Err(E::TrailingBytes { field }));
    for bit in 0..good.len() * 8 {
        let mut bad = good.to_vec();
        bad[bit / 8] ^= 1 << (bit % 8);
        // Adler-32 covers the content; a bit that no content depends on may change.
        if let Ok(inflated) = inflate(&bad) {
            assert_eq!(inflated, RAW, "bit {bit}");
        }
    }
    let empty = [0x78, 0x9c, 3, 0, 0, 0, 0, 1];
    assert_eq!(inflate(&empty), Err(E::Empty { field: Field::InflatedMetadata }));
    assert_eq!(AgentMetadata::compress(b""), Err(E::Empty { field: Field::InflatedMetadata }));
}

#[test]
fn native_envelopes_that_are_not_ours_or_not_whole() {
    let good = golden_v4().to_native_bytes().unwrap();
    let with = |at: usize, byte: u8| {
        let mut bad = good.clone();
        bad[at] = byte;
        RdmaMetadata::from_native_bytes(&bad).unwrap_err()
    };
    assert_eq!(RdmaMetadata::from_native_bytes(b""), Err(E::BadMagic));
    assert_eq!(RdmaMetadata::from_native_bytes(DYNAMO_READ.as_bytes()), Err(E::BadMagic));
    assert_eq!(with(3, b'm'), E::BadMagic);
    for version in [0, 1, 2, 5, 255] {
        assert_eq!(with(4, version), E::UnsupportedVersion { version: version.into() });
    }
    assert_eq!(with(7, 1), E::UnsupportedFlags { flags: 0x100 });
    assert_eq!(with(11, 1), E::Truncated { field: Field::Payload });
    assert_eq!(with(12, !good[12]), E::Checksum);
    assert_eq!(with(40, !good[40]), E::Checksum);
    let more = [&good[..], b"x"].concat();
    assert_eq!(RdmaMetadata::decode(&more), Err(E::TrailingBytes { field: Field::Document }));
}

#[test]
fn every_truncation_and_every_flipped_bit_of_the_native_profile_is_noticed() {
    for good in [V3_FULL.to_vec(), golden_v4().to_native_bytes().unwrap()] {
        for cut in 0..good.len() {
            assert!(RdmaMetadata::decode(&good[..cut]).is_err(), "{cut}");
        }
        for bit in 0..good.len() * 8 {
            let mut bad = good.clone();
            bad[bit / 8] ^= 1 << (bit % 8);
            assert!(RdmaMetadata::decode(&bad).is_err(), "bit {bit}");
        }
    }
}

#[test]
fn every_truncation_of_the_json_is_noticed_and_no_flipped_bit_does_harm() {
    for cut in 0..DYNAMO_READ.len() {
        let cut = &DYNAMO_READ.as_bytes()[..cut];
        assert!(RdmaMetadata::decode(cut).is_err());
        targets::dynamo(cut);
    }
    for bit in 0..DYNAMO_WRITE.len() * 8 {
        let mut bad = DYNAMO_WRITE.as_bytes().to_vec();
        bad[bit / 8] ^= 1 << (bit % 8);
        targets::check(RdmaMetadata::decode(&bad), &Limits::default());
    }
}

#[test]
fn intact_envelopes_around_damaged_payloads_of_version_3() {
    let payload = &V3_FULL[16..];
    let open = |payload: &[u8]| RdmaMetadata::decode(&targets::seal(3, payload));
    let field = Field::Payload;
    for cut in 0..payload.len() {
        assert_eq!(open(&payload[..cut]), Err(E::Truncated { field }), "{cut}");
    }
    assert_eq!(open(&[payload, b"x"].concat()), Err(E::TrailingBytes { field }));
    let with = |at: usize, bytes: &[u8]| {
        let mut bad = payload.to_vec();
        bad[at..at + bytes.len()].copy_from_slice(bytes);
        open(&bad).unwrap_err()
    };
    assert_eq!(with(0, &[3]), E::WrongKind { value: 3 });
    assert_eq!(with(9, &[0xff]), E::Malformed); // not UTF-8
    // Claims of 2^40 elements or bytes where there are a few.
    let bomb = (1u64 << 40).to_le_bytes();
    let agent_at = 1 + 8 + 36 + 8 + 3 * 21;
    for at in [1, 45, agent_at] {
        assert_eq!(with(at, &bomb), E::Truncated { field }, "{at}");
        assert_eq!(with(at, &[0xff; 8]), E::Truncated { field }, "{at}");
    }
    let descriptors_at = 53;
    let unsupported = |kind, ordinal| E::UnsupportedDevice { index: 0, kind, ordinal };
    assert_eq!(with(descriptors_at, &[9]), unsupported(9, 3));
    assert_eq!(with(descriptors_at, &[1]), unsupported(1, 3)); // there is one host
    assert_eq!(with(descriptors_at + 21 + 5, &[0; 8]), E::NullPointer { index: 1 });
    assert_eq!(with(descriptors_at + 42 + 13, &[0; 8]), E::ZeroSize { index: 2 });
    assert_eq!(with(descriptors_at + 13, &[0xff; 8]), E::WrapAround { index: 0 });
    assert_eq!(with(agent_at + 8, &[0]), E::BadZlib);
    let peer_at = agent_at + 8 + golden().agent_metadata().compressed().len();
    assert_eq!(with(peer_at, &[2]), E::Malformed); // neither some nor none
    assert_eq!(with(peer_at + 9, b"\n"), E::BadName { field: Field::AgentName });

    // From the end: two shares, the doorbell, two devices, two transports, and before them the capabilities.
    let file_at = payload.len() - (4 + 4 + 8 + 4 + 4 + 4 + 16 + 8);
    let ipc_at = file_at - (4 + 4 + 8 + 4 + 8 + 72);
    let doorbell_at = ipc_at - 8 - (4 + 4 + 16 + 8 + 4 + 8);
    let devices_at = doorbell_at - 1 - 2 * (4 + 16 + 1);
    let capabilities_at = devices_at - 8 - (8 + 8 + 4 + 8 + 3) - 4;
    // Capabilities that this release does not know are ignored.
    let mut newer = payload.to_vec();
    newer[capabilities_at + 3] = 0x80;
    assert_eq!(open(&newer), Ok(golden()));
    // Claims of more elements than there are run into what follows, or into the end.
    assert_eq!(with(devices_at - 8, &bomb), E::Malformed);
    assert_eq!(with(ipc_at - 8, &bomb), E::Truncated { field });
    assert_eq!(with(devices_at + 20, &[2]), E::Malformed); // neither yes nor no
    let duplicate = E::DuplicateDevice { index: 1, device: Device::cuda(3) };
    assert_eq!(with(devices_at + 21, &[3]), duplicate);
    assert_eq!(with(doorbell_at - 1, &[2]), E::Malformed); // neither some nor none
    assert_eq!(with(doorbell_at + 32, &[0, 16]), E::BadSlotAddress { slot: 4096 });
    assert_eq!(with(doorbell_at + 36, &[0; 8]), E::BadSlotAddress { slot: 4095 });
    assert_eq!(with(ipc_at, &[3]), E::ShareRange { index: 0, count: 3 });
    assert_eq!(with(ipc_at + 4, &[0]), E::ShareRange { index: 0, count: 3 });
    assert_eq!(with(ipc_at + 4, &[0xff; 4]), E::ShareRange { index: 0, count: 3 });
    assert_eq!(with(ipc_at + 4, &[2]), E::ShareDevice { index: 0, descriptor: 1 });
    assert_eq!(with(ipc_at + 8, &[1]), E::ShareBounds { index: 0, descriptor: 0 });
    assert_eq!(with(ipc_at + 16, &[2]), E::Malformed); // a kind that does not exist
    assert_eq!(with(file_at, &[0]), E::ShareDevice { index: 1, descriptor: 0 });
    assert_eq!(with(file_at + 8, &[9]), E::ShareBounds { index: 1, descriptor: 2 });

    // Handles of another size.
    let resized = |at: usize, len: usize| {
        let old = u64::from_le_bytes(payload[at..at + 8].try_into().unwrap()) as usize;
        let mut bad = payload[..at].to_vec();
        bad.extend((len as u64).to_le_bytes());
        bad.extend(vec![0; len]);
        bad.extend(&payload[at + 8 + old..]);
        open(&bad).unwrap_err()
    };
    for len in [0, 63, 71, 73] {
        assert_eq!(resized(ipc_at + 20, len), E::Malformed, "{len}");
    }
}

#[test]
fn debug_output_and_errors_keep_secrets() {
    let metadata = golden_v4();
    let shown = format!("{metadata:?} {:#?}", metadata.descriptors());
    let blob = DYNAMO_WRITE.split("b64:").nth(1).unwrap();
    let secrets = [
        KEY,
        &blob[..16],
        "139637976727552",
        "7f0000000000",
        "120, 156",
        "165, 165",
        "4243",
        "107, 107",
        "6b6b",
        "100, 100",
        "6464",
        "9223372036854775808",
        "fd:",
        "18369614221190020847",
        "feedf00d",
    ];
    for secret in secrets {
        assert!(!shown.to_lowercase().contains(&secret.to_lowercase()), "{secret}: {shown}");
    }
    assert!(shown.contains("total_bytes: 4611686019501129729"), "{shown}");
    assert!(shown.contains("claims: SameHost"), "{shown}");

    // No message quotes the sent bytes.
    for bit in 0..DYNAMO_WRITE.len() * 8 {
        let mut bad = DYNAMO_WRITE.as_bytes().to_vec();
        bad[bit / 8] ^= 1 << (bit % 8);
        if let Err(error) = RdmaMetadata::decode(&bad) {
            let shown = format!("{error} {error:?}");
            for secret in [&KEY[..13], &KEY[24..], &blob[..16], "13963797672", "7976727552"] {
                assert!(!shown.contains(secret), "{secret}: {shown}");
            }
        }
    }
}
