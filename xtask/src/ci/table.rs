//! `docs/CI.md` says of every job what it proves, and names every step.

use std::collections::BTreeSet;

use super::{AFTER_SETUP, FORMAT};
use crate::packages;

const WORKFLOW: &str = include_str!("../../../.github/workflows/ci.yml");
const TABLE: &str = include_str!("../../../docs/CI.md");

/// The keys right below `jobs:`.
fn jobs(workflow: &str) -> BTreeSet<&str> {
    let jobs = workflow.lines().skip_while(|line| *line != "jobs:").skip(1);
    jobs.take_while(|line| line.is_empty() || line.starts_with(' '))
        .filter_map(|line| line.strip_prefix("  ")?.strip_suffix(':'))
        .filter(|key| !key.starts_with([' ', '#', '-']))
        .collect()
}

/// The cells of the rows of the table whose first heading is `heading`.
fn rows<'a>(document: &'a str, heading: &str) -> Vec<Vec<&'a str>> {
    let is_heading = |line: &&str| line.starts_with(&format!("| {heading} |"));
    let rows = document.lines().skip_while(|line| !is_heading(line)).skip(2);
    rows.take_while(|line| line.starts_with('|'))
        .map(|line| line.trim_matches('|').split('|').map(str::trim).collect())
        .collect()
}

/// What is in backquotes.
fn quoted(text: &str) -> impl Iterator<Item = &str> {
    text.split('`').skip(1).step_by(2)
}

#[test]
fn every_job_has_a_row_and_every_row_a_job() {
    let rows = rows(TABLE, "job");
    let described: Vec<_> = rows.iter().flat_map(|row| quoted(row[0])).collect();
    assert_eq!(described.iter().copied().collect::<BTreeSet<_>>(), jobs(WORKFLOW));
    assert_eq!(described.len(), rows.len(), "one job in each row, and each once");
    assert!(rows.iter().all(|row| row.len() == 3 && row.iter().all(|cell| !cell.is_empty())));
}

#[test]
fn every_step_is_named_and_every_name_a_step() {
    let steps = AFTER_SETUP.iter().chain([&FORMAT]).map(|step| step.name);
    let steps: BTreeSet<_> = steps.chain([packages::STEP]).collect();
    let mut named: BTreeSet<_> = rows(TABLE, "job").iter().flat_map(|row| quoted(row[2])).collect();
    let besides = TABLE.lines().find(|line| line.starts_with("Besides,"));
    named.extend(besides.into_iter().flat_map(quoted));
    assert_eq!(named, steps);
}

#[test]
fn every_fuzz_target_is_named() {
    let targets = include_str!("../../../fuzz/Cargo.toml");
    let declared: BTreeSet<_> =
        targets.split("[[bin]]").skip(1).filter_map(|bin| bin.split('"').nth(1)).collect();
    let named: BTreeSet<_> = TABLE
        .lines()
        .find(|line| line.starts_with("Those of `fuzz/`"))
        .into_iter()
        .flat_map(quoted)
        .filter(|name| *name != "fuzz/")
        .collect();
    assert_eq!(named, declared);
}

#[test]
fn jobs_are_the_keys_below_jobs_alone() {
    let workflow = "on:\n  push:\njobs:\n  one:\n    steps:\n      - run: x\n\n  # two:\n  two-b:\n    env:\n      A: b\nafter:\n  three:\n";
    assert_eq!(jobs(workflow), BTreeSet::from(["one", "two-b"]));
}
