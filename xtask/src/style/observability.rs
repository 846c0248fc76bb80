//! docs/OBSERVABILITY.md against the names of metrics in the code.

use std::collections::BTreeSet;
use std::fs;

use super::source::{Source, is_test, paths};
use super::{CRATES, tidy};

const PAGE: &str = include_str!("../../../docs/OBSERVABILITY.md");

/// The names that a macro of the crate `metrics` or a `GaugeShare` has in quotes.
fn named(code: &str) -> BTreeSet<String> {
    let calls = ["counter!(", "gauge!(", "histogram!(", "GaugeShare::new(", "PinPermit::take("];
    let mut names = BTreeSet::new();
    for call in calls {
        for (at, _) in code.match_indices(call) {
            let rest = &code[at + call.len()..];
            let mut quoted = rest.split('"').skip(1);
            names.extend(quoted.next().filter(|name| name.starts_with("nixl_")).map(str::to_owned));
        }
    }
    names
}

/// Those of the first column of the page's tables.
fn listed() -> BTreeSet<String> {
    let rows = PAGE.lines().filter_map(|line| line.strip_prefix("| `nixl_"));
    rows.filter_map(|row| Some(format!("nixl_{}", row.split_once('`')?.0))).collect()
}

#[test]
fn the_page_of_metrics_lists_those_of_the_code() {
    let mut in_code = BTreeSet::new();
    for name in CRATES {
        let folder = tidy::root().join("crates").join(name).join("src");
        for path in paths(&folder).unwrap() {
            if !is_test(&path, &folder) {
                let text = fs::read_to_string(path).unwrap();
                in_code.extend(named(&Source::without_tests(&text).lines.join("\n")));
            }
        }
    }
    assert!(in_code.len() > 10, "the names are not found: {in_code:?}");
    assert_eq!(listed(), in_code, "docs/OBSERVABILITY.md, and the code");
}

#[test]
fn names_are_found_after_each_call() {
    let code =
        "counter!(\"nixl_a\", &labels);\nGaugeShare::new(\n    \"nixl_b\", 1)\ngauge!(name);";
    assert_eq!(named(code), ["nixl_a", "nixl_b"].map(str::to_owned).into());
}
