//! `docs/CI.md` has the command that runs each test which `cargo test` leaves out.

use std::collections::BTreeSet;
use std::fs;
use std::path::PathBuf;

use super::source::paths;

const PAGE: &str = include_str!("../../../docs/CI.md");

/// Every ignored test of a source: the name of the function that follows the attribute.
fn ignored(source: &str) -> impl Iterator<Item = &str> {
    let lines: Vec<_> = source.lines().map(str::trim).collect();
    let begins = |at: &usize| lines[*at].starts_with("#[ignore");
    let name = |at: usize| {
        let function = |line: &&&str| line.trim_start_matches("async ").starts_with("fn ");
        let line = lines[at..].iter().find(function)?;
        line.trim_start_matches("async ").strip_prefix("fn ")?.split('(').next()
    };
    (0..lines.len()).filter(begins).filter_map(name).collect::<Vec<_>>().into_iter()
}

#[test]
fn every_ignored_test_has_its_command() {
    let root: PathBuf = concat!(env!("CARGO_MANIFEST_DIR"), "/..").into();
    let mut there = BTreeSet::new();
    for folder in ["crates", "tests", "benches", "xtask"] {
        for path in paths(&root.join(folder)).unwrap() {
            let file = path.strip_prefix(&root).unwrap().display().to_string();
            let source = fs::read_to_string(&path).unwrap();
            there.extend(ignored(&source).map(|name| format!("{file}::{name}")));
        }
    }
    // The examples in this file's own tests.
    there.retain(|name| !name.starts_with("xtask/src/style/ignored.rs"));
    let rows = PAGE.lines().skip_while(|line| !line.starts_with("| ignored tests |")).skip(2);
    let rows = rows.take_while(|line| line.starts_with('|'));
    let named: Vec<_> = rows
        .flat_map(|row| {
            let cells: Vec<_> = row.trim_matches('|').split(" | ").collect();
            let [tests, command] = cells.as_slice() else { panic!("two cells: {row}") };
            assert!(command.contains('`'), "no command: {row}");
            tests.split('`').skip(1).step_by(2).map(str::to_owned).collect::<Vec<_>>()
        })
        .collect();
    assert_eq!(named.iter().cloned().collect::<BTreeSet<_>>(), there, "docs/CI.md, and the code");
    assert_eq!(named.len(), there.len(), "each once");
}

#[test]
fn the_function_behind_the_attribute_is_found() {
    let source = "#[test]\n#[ignore = \"x\"]\n#[allow(y)]\nasync fn a() {}\n#[ignore]\n#[test]\nfn b() {}\nfn c() {}\n";
    assert_eq!(ignored(source).collect::<Vec<_>>(), ["a", "b"]);
}
