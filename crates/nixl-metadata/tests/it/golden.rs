//! Golden files: messages of every version, as the release that introduced the version wrote them.
//!
//! A file never changes once a release has written it. For a new version or new content, add a case to [`cases`] and run
//! `cargo test -p nixl-metadata --test it -- --ignored write_golden`, which creates the files that are absent.
//! `make_native.py` prints the full native ones and those with a checksum, a trace context, a tensor and a word from the documented
//! layout alone, and `make_export.py` the tickets and the export.

use std::fs;
use std::path::{Path, PathBuf};

use crate::support::{
    export_with_tensors, golden, golden_export, golden_ticket, golden_v4, minimal, minimal_export,
    minimal_ticket, with_checksum, with_tensor, with_trace, with_word, without_doorbell,
};
use nixl_metadata::{ExportMetadata, MessageVersions, NativeVersion, RdmaMetadata, Ticket};

/// Version 3 with all that it can carry, as build 4a20e0c wrote it.
pub(crate) const V3_FULL: &[u8] = include_bytes!("../golden/v3-full.bin");

/// The files that the current encoders write, and what each means.
fn cases() -> Vec<(&'static str, Vec<u8>, RdmaMetadata)> {
    let native = [
        ("v3-no-doorbell.bin", NativeVersion::V3, without_doorbell()),
        ("v3-minimal.bin", NativeVersion::V3, minimal()),
        ("v4-full.bin", NativeVersion::V4, golden_v4()),
        ("v4-minimal.bin", NativeVersion::V4, minimal()),
        ("v4-checksum.bin", NativeVersion::V4, with_checksum()),
        ("v4-trace-context.bin", NativeVersion::V4, with_trace()),
        ("v4-tensor.bin", NativeVersion::V4, with_tensor()),
        ("v4-word.bin", NativeVersion::V4, with_word()),
    ];
    let native = native.into_iter().map(|(name, version, metadata)| {
        (name, metadata.to_native_bytes_as(version).unwrap(), metadata)
    });
    let json = [("dynamo-full.json", golden_v4()), ("dynamo-minimal.json", minimal())];
    let json = json.into_iter().map(|(name, metadata)| {
        let json = metadata.to_dynamo_json();
        let carried = RdmaMetadata::new(
            metadata.operation_kind(),
            metadata.descriptors().to_vec(),
            metadata.agent_metadata().clone(),
            metadata.notification_key().clone(),
        );
        (name, json.into_bytes(), carried.unwrap())
    });
    native.chain(json).collect()
}

/// The same for tickets.
fn tickets() -> [(&'static str, Ticket); 2] {
    [("ticket-1-write.bin", golden_ticket()), ("ticket-1-minimal.bin", minimal_ticket())]
}

/// The same for exports.
fn exports() -> [(&'static str, ExportMetadata); 3] {
    [
        ("export-1-full.bin", golden_export()),
        ("export-1-minimal.bin", minimal_export()),
        ("export-1-tensors.bin", export_with_tensors()),
    ]
}

fn path(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(name)
}

#[test]
#[ignore = "writes into the source tree; run it once for a new version"]
fn write_golden() {
    let offers = cases().into_iter().map(|(name, bytes, _)| (name, bytes));
    let tickets = tickets().map(|(name, ticket)| (name, ticket.encode()));
    let exports = exports().map(|(name, export)| (name, export.encode().unwrap()));
    for (name, bytes) in offers.chain(tickets).chain(exports) {
        if !path(name).exists() {
            fs::write(path(name), bytes).unwrap();
        }
    }
}

#[test]
fn golden_files_are_written_and_read_as_ever() {
    for (name, bytes, metadata) in cases() {
        let file = fs::read(path(name)).unwrap();
        assert!(file == bytes, "{name}: encode anew only with a new version");
        assert_eq!(RdmaMetadata::decode(&file), Ok(metadata), "{name}");
    }
}

#[test]
fn golden_tickets_and_exports_are_written_and_read_as_ever() {
    for (name, ticket) in tickets() {
        let file = fs::read(path(name)).unwrap();
        assert!(file == ticket.encode(), "{name}: encode anew only with a new version");
        assert_eq!(Ticket::decode(&file), Ok(ticket), "{name}");
    }
    for (name, export) in exports() {
        let file = fs::read(path(name)).unwrap();
        assert!(file == export.encode().unwrap(), "{name}: encode anew only with a new version");
        assert_eq!(ExportMetadata::decode(&file), Ok(export), "{name}");
    }
}

#[test]
fn version_3_is_read_with_its_doorbell_and_written_without() {
    let received = RdmaMetadata::decode(V3_FULL).unwrap();
    assert_eq!(received, golden());
    assert_eq!(received.terms(), None);
    let versions = received.peer().unwrap().versions();
    assert_eq!(versions, MessageVersions::default());
    let stated =
        [versions.staging(), versions.remote_copy(), versions.doorbell(), versions.claims()];
    assert_eq!(stated, [1, 1, 1, 0]);

    let written = received.to_native_bytes_as(NativeVersion::V3).unwrap();
    assert_eq!(written, without_doorbell().to_native_bytes_as(NativeVersion::V3).unwrap());
}
