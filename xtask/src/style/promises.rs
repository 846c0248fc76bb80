//! `docs/PROMISES.md` names a test that exists for each promise, and a heading that exists for each part.

use std::fs;
use std::path::PathBuf;

const PAGE: &str = include_str!("../../../docs/PROMISES.md");
const WORKFLOW: &str = include_str!("../../../.github/workflows/ci.yml");

fn root() -> PathBuf {
    concat!(env!("CARGO_MANIFEST_DIR"), "/..").into()
}

fn read(path: &str) -> Option<String> {
    fs::read_to_string(root().join(path)).ok()
}

/// The anchor of a heading, as GitHub makes it.
fn anchor(heading: &str) -> String {
    let kept = heading.trim_start_matches('#').trim().to_lowercase();
    let kept = kept.chars().filter(|c| c.is_alphanumeric() || matches!(c, ' ' | '-' | '_'));
    kept.map(|c| if c == ' ' { '-' } else { c }).collect()
}

/// Whether a function of that name is a test: marked as one, or a model of loom's.
fn has_test(source: &str, name: &str) -> bool {
    let lines: Vec<_> = source.lines().map(str::trim).collect();
    let declares = |line: &str| {
        let function = line.trim_start_matches("async ").strip_prefix("fn ");
        function.is_some_and(|rest| rest.strip_prefix(name).is_some_and(|r| r.starts_with('(')))
    };
    lines.iter().enumerate().filter(|(_, line)| declares(line)).any(|(at, _)| {
        // Attributes, and comments among them.
        let before = lines[..at].iter().rev();
        let mut before = before.take_while(|line| !line.is_empty() && !line.ends_with(['}', ';']));
        before.any(|line| line.starts_with("#[test]") || line.starts_with("#[tokio::test"))
    })
}

/// Whether a function of a suite is one of those that the file `conformance.rs` beside it runs for each implementation.
fn has_case((path, name): (&str, &str)) -> bool {
    let runs = read(&path.replace("suite.rs", "conformance.rs"));
    let is_run = runs.is_some_and(|runs| runs.lines().any(|line| line.trim() == name));
    is_run && read(path).is_some_and(|suite| suite.contains(&format!("async fn {name}(")))
}

/// Why an entry names no test, if it does not.
fn fault(entry: &str) -> Option<String> {
    let is_there = match entry.split_once(':') {
        Some(("job", job)) => WORKFLOW.lines().any(|line| line == format!("  {job}:")),
        Some(("doctest", path)) => read(path).is_some_and(|source| {
            source.contains("```compile_fail") || source.contains("#[cfg(doctest)]")
        }),
        Some(("suite", case)) => case.split_once("::").is_some_and(has_case),
        _ => entry
            .split_once("::")
            .is_some_and(|(path, name)| read(path).is_some_and(|source| has_test(&source, name))),
    };
    (!is_there).then(|| format!("{entry} is no test"))
}

/// What is in backquotes.
fn quoted(text: &str) -> impl Iterator<Item = &str> {
    text.split('`').skip(1).step_by(2)
}

#[test]
fn every_promise_names_tests_that_exist() {
    let rows = PAGE.lines().filter(|line| line.starts_with("| ") && *line != "| promise | tests |");
    let mut faults = Vec::new();
    let mut count = 0;
    for row in rows {
        count += 1;
        let cells: Vec<_> = row.trim_matches('|').split(" | ").collect();
        let &[promise, tests] = cells.as_slice() else { panic!("two cells: {row}") };
        if quoted(tests).count() == 0 {
            faults.push(format!("no test: {promise}"));
        }
        faults.extend(quoted(tests).filter_map(fault));
    }
    assert!(faults.is_empty() && count > 100, "{count} promises\n{}", faults.join("\n"));
}

#[test]
fn every_heading_is_in_its_document() {
    let links = PAGE.lines().filter_map(|line| line.strip_prefix("## ["));
    let mut faults = Vec::new();
    for link in links {
        let target = link.split_once("](").and_then(|(_, target)| target.strip_suffix(')'));
        let (path, wanted) = target.and_then(|target| target.split_once('#')).unwrap();
        let document = read(&format!("docs/{path}")).unwrap_or_default();
        let mut headings = document.lines().filter(|line| line.starts_with('#'));
        if !headings.any(|heading| anchor(heading) == wanted) {
            faults.push(format!("{path} has no heading #{wanted}"));
        }
    }
    assert!(faults.is_empty(), "{}", faults.join("\n"));
}

/// The pages about the crates and their use: ARCHITECTURE, and those that it links first.
const PAGES: [&str; 13] = [
    "ARCHITECTURE",
    "REFERENCE",
    "GUIDE",
    "OPERATIONS",
    "MEMORY",
    "TENSORS",
    "COPIES",
    "PATHS",
    "OFFERS",
    "EXPORTS",
    "LIMITS",
    "ENGINE",
    "PROCESS",
];

/// The widest line of their prose.
const PROSE_COLUMNS: usize = 160;

/// Headings that only say where things are.
const WITHOUT_PROMISES: [&str; 2] = ["birds-eye-view", "further-pages"];

fn pages() -> impl Iterator<Item = (&'static str, String)> {
    PAGES.into_iter().map(|page| (page, read(&format!("docs/{page}.md")).unwrap()))
}

#[test]
fn every_part_of_the_pages_has_its_promises() {
    let mut missing = Vec::new();
    for (page, document) in pages() {
        let anchors = document.lines().filter(|line| line.starts_with("## ")).map(anchor);
        let links = anchors
            .filter(|anchor| !WITHOUT_PROMISES.contains(&anchor.as_str()))
            .map(|anchor| format!("]({page}.md#{anchor})"));
        missing.extend(links.filter(|link| !PAGE.contains(link)));
    }
    assert!(missing.is_empty(), "docs/PROMISES.md says nothing of {missing:?}");
}

#[test]
fn the_pages_are_linked_and_their_prose_is_wrapped() {
    let architecture = read("docs/ARCHITECTURE.md").unwrap();
    let mut faults = Vec::new();
    for (page, document) in pages() {
        if page != "ARCHITECTURE" && !architecture.contains(&format!("[{page}]({page}.md)")) {
            faults.push(format!("docs/ARCHITECTURE.md does not list {page}.md"));
        }
        let prose = document.lines().enumerate().filter(|(_, line)| !line.starts_with('|'));
        let wide = prose.filter(|(_, line)| line.chars().count() > PROSE_COLUMNS);
        let fault =
            |(at, _)| format!("docs/{page}.md:{}: more than {PROSE_COLUMNS} columns", at + 1);
        faults.extend(wide.map(fault));
    }
    assert!(faults.is_empty(), "{}", faults.join("\n"));
}

#[test]
fn cases_of_a_suite_are_known_by_their_list() {
    let path = "crates/nixl-metadata/tests/channels/suite.rs";
    assert!(has_case((path, "later_starts_take_over_requests")));
    // A helper of the suite, which is not listed.
    assert!(!has_case((path, "gone")));
}

#[test]
fn tests_are_known_by_their_attributes() {
    let source = "#[test]\n#[ignore]\n/// Text.\nfn a() {}\n\nfn b() {}\n\n#[tokio::test]\nasync fn c(x: u8) {}\n";
    assert!(has_test(source, "a") && !has_test(source, "b") && has_test(source, "c"));
    assert!(!has_test(source, "d") && !has_test(source, ""));
    assert_eq!(anchor("## What a peer's \"end\" is, in code"), "what-a-peers-end-is-in-code");
}
