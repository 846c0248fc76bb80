//! Golden files: messages of every version, as the release that introduced the version wrote them.
//!
//! The files of a version never change once a release has written them. For a new version, add its cases to [`cases`]
//! and run `cargo test -p nixl-metadata -- --ignored write_golden`, which creates the files that are absent.

use std::fs;
use std::path::{Path, PathBuf};

use crate::support::{golden, minimal, without_doorbell};

/// The files that the current encoders write, by name.
fn cases() -> Vec<(&'static str, Vec<u8>)> {
    let native = [
        ("v3-full.bin", golden()),
        ("v3-no-doorbell.bin", without_doorbell()),
        ("v3-minimal.bin", minimal()),
    ]
    .map(|(name, metadata)| (name, metadata.to_native_bytes().unwrap()));
    let json = [("dynamo-full.json", golden()), ("dynamo-minimal.json", minimal())]
        .map(|(name, metadata)| (name, metadata.to_dynamo_json().into_bytes()));
    native.into_iter().chain(json).collect()
}

fn path(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(name)
}

#[test]
#[ignore = "writes into the source tree; run it once for a new version"]
fn write_golden() {
    for (name, bytes) in cases() {
        if !path(name).exists() {
            fs::write(path(name), bytes).unwrap();
        }
    }
}

#[test]
fn the_encoders_write_the_golden_bytes() {
    for (name, bytes) in cases() {
        assert!(fs::read(path(name)).unwrap() == bytes, "{name}: a version never changes");
    }
}
