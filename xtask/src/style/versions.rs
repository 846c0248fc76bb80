//! Versions on the wire: the table of `docs/VERSIONING.md` against the code.

use std::fs;

use super::tidy::root;

const VERSIONING: &str = include_str!("../../../docs/VERSIONING.md");

fn read(path: &str) -> String {
    fs::read_to_string(root().join(path)).unwrap()
}

/// The number behind `name` in a source.
fn number(path: &str, name: &str) -> u16 {
    let source = read(path);
    let (_, rest) = source.split_once(name).unwrap_or_else(|| panic!("{path} has no `{name}`"));
    let digits: String = rest.chars().take_while(char::is_ascii_digit).collect();
    digits.parse().unwrap()
}

/// The second cell of the row that begins with `data`.
fn named(data: &str) -> &'static str {
    let row = VERSIONING.lines().find_map(|line| line.strip_prefix(&format!("| {data} | ")));
    row.unwrap_or_else(|| panic!("docs/VERSIONING.md has no row of {data}")).trim_end_matches(" |")
}

#[test]
fn the_versions_of_native_metadata_are_those_of_the_code() {
    const CODE: &str = "crates/nixl-metadata/src/native/version.rs";
    let source = read(CODE);
    let (_, variants) = source.split_once("pub enum NativeVersion {").unwrap();
    let variants: Vec<_> = variants
        .lines()
        .take_while(|line| *line != "}")
        .filter_map(|line| line.trim().strip_suffix(',')?.split_once(" = "))
        .map(|(_, number)| number)
        .collect();
    let [old, new] = variants[..] else { panic!("two versions are read: {variants:?}") };
    assert_eq!(number(CODE, "pub const CURRENT: Self = Self::V").to_string(), new);
    let expected = format!(
        "reads {old} and {new}; writes {new}, or {old} by `to_native_bytes_as(NativeVersion::V{old})`"
    );
    assert_eq!(named("native metadata"), expected);
}

#[test]
fn the_versions_of_slots_exports_tickets_and_claims_are_those_of_the_code() {
    let slots = number("crates/nixl-ops/src/slots/remote.rs", "pub const VERSION: u16 = ");
    let expected = format!("{slots}; each release supports its own and the one before");
    assert_eq!(named("slots of offers in shared memory"), expected);
    let exports = number("crates/nixl-metadata/src/native/export.rs", "const VERSION: u16 = ");
    let tickets = number("crates/nixl-metadata/src/ticket/codec.rs", "const VERSION: u8 = ");
    let claims = number("crates/nixl-ops/src/control/message.rs", "const VERSION: u8 = ");
    let expected = format!("{exports}, {tickets}, {claims}");
    assert_eq!(named("metadata of exports, tickets, claims"), expected);
    let spoken = "pub const LAYER_WAITS_SINCE: u16 = ";
    let spoken = number("crates/nixl-ops/src/grants/layers/send.rs", spoken);
    let row = named("messages about offers and exports (`MessageVersions::claims`)");
    assert!(row.starts_with(&format!("{spoken}: ")), "{row}");
}

#[test]
fn the_profile_of_dynamo_is_that_of_the_tests() {
    let setup = read("xtask/src/setup/interop.rs");
    let (_, rest) = setup.split_once("const PEER: &str = \"ai-dynamo-runtime==").unwrap();
    let version = rest.split('"').next().unwrap();
    let expected = format!("that of `nixl_connect` {version}, and changes with it");
    assert_eq!(named("Dynamo's profile"), expected);
}
