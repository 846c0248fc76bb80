//! `docs/CI.md` has each module with an atomic: those that a model of loom covers, and those without one, with the reason.

use std::collections::BTreeSet;
use std::path::PathBuf;

use super::source::{file, is_test, paths};

const PAGE: &str = include_str!("../../../docs/CI.md");

/// Whether a line of code names an atomic type.
fn names_an_atomic(line: &str) -> bool {
    const TYPES: [&str; 10] =
        ["Bool", "I32", "I64", "Instant", "Ptr", "U16", "U32", "U64", "U8", "Usize"];
    let is_code = !line.trim_start().starts_with("//") && !line.contains("use ");
    let names = |rest: &str| TYPES.iter().any(|name| rest.starts_with(name));
    is_code && line.split("Atomic").skip(1).any(names)
}

#[test]
fn every_module_with_an_atomic_is_in_the_table() {
    let root: PathBuf = concat!(env!("CARGO_MANIFEST_DIR"), "/../crates").into();
    let mut there = BTreeSet::new();
    for path in paths(&root).unwrap() {
        let name = path.strip_prefix(&root).unwrap();
        let is_source = name.iter().nth(1).is_some_and(|folder| folder == "src");
        if is_source && !is_test(&path, &root) && !name.ends_with("sync/model.rs") {
            let source = file(&path).unwrap();
            if source.lines.iter().any(|line| names_an_atomic(line)) {
                there.insert(name.display().to_string());
            }
        }
    }
    let section = PAGE.split("## Loom models").nth(1).unwrap().split("\n## ").next().unwrap();
    let rows = section.split("| modules with").skip(1).flat_map(str::lines);
    let named: Vec<_> = rows.flat_map(|row| row.split('`').skip(1).step_by(2)).collect();
    let covers = |module: &str, file: &str| {
        let rest = file.strip_prefix(module);
        rest.is_some_and(|rest| rest == ".rs" || rest.starts_with('/'))
    };
    for file in &there {
        assert!(named.iter().any(|module| covers(module, file)), "not in docs/CI.md: {file}");
    }
    for module in &named {
        assert!(there.iter().any(|file| covers(module, file)), "no atomic is there: {module}");
    }
    assert_eq!(named.iter().collect::<BTreeSet<_>>().len(), named.len(), "each once");
}

#[test]
fn an_atomic_is_found_in_code_alone() {
    assert!(names_an_atomic("    count: AtomicUsize,") && names_an_atomic("x: [AtomicU64; 2],"));
    assert!(!names_an_atomic("use std::sync::atomic::AtomicU8;"));
    assert!(!names_an_atomic("// An AtomicBool.") && !names_an_atomic("Atomically"));
}
