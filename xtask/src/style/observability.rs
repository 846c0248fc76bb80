//! docs/OBSERVABILITY.md against the metrics in the code: names, kinds, units and labels.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;

use super::source::{Source, is_test, paths};
use super::{CRATES, tidy};

const PAGE: &str = include_str!("../../../docs/OBSERVABILITY.md");

/// The kinds of metric of the crate `metrics`, as in its macros.
const KINDS: [&str; 3] = ["counter", "gauge", "histogram"];

/// The sources of the crates, without tests.
fn sources() -> Vec<String> {
    let folders = CRATES.iter().map(|name| tidy::root().join("crates").join(name).join("src"));
    let files = folders.flat_map(|folder| {
        let found = paths(&folder).unwrap().into_iter();
        found.filter(move |path| !is_test(path, &folder)).collect::<Vec<_>>()
    });
    let read = |path| Source::without_tests(&fs::read_to_string(path).unwrap()).lines.join("\n");
    files.map(read).collect()
}

/// The calls of a macro or a function in a code: what precedes each, and what follows its parenthesis.
fn calls<'a>(code: &'a str, call: &str) -> Vec<(&'a str, &'a str)> {
    let is_part = |at: usize| code[..at].ends_with(|c: char| c.is_alphanumeric() || c == '_');
    let found = code.match_indices(call).filter(|(at, _)| !is_part(*at));
    found.map(|(at, _)| (&code[..at], &code[at + call.len()..])).collect()
}

/// The name of a metric at the start of the arguments, and the rest of them.
fn name(arguments: &str) -> Option<(&str, &str)> {
    let (name, rest) = arguments.trim_start().strip_prefix('"')?.split_once('"')?;
    name.starts_with("nixl_").then_some((name, rest))
}

/// The names that a macro of the crate `metrics` or a `GaugeShare` has in quotes, or that code before a `GaugeShare` chooses from.
fn named(code: &str) -> BTreeSet<String> {
    let macros = KINDS.map(|kind| format!("{kind}!("));
    let others = ["GaugeShare::new(", "PinPermit::take("].map(str::to_owned);
    let mut names = BTreeSet::new();
    for call in macros.iter().chain(&others) {
        for (before, rest) in calls(code, call) {
            match name(rest) {
                Some((name, _)) => names.extend([name.to_owned()]),
                None if call == &others[0] => {
                    let chosen = before.split('"').skip(1).step_by(2);
                    names
                        .extend(chosen.filter(|text| text.starts_with("nixl_")).map(str::to_owned));
                }
                None => {}
            }
        }
    }
    names
}

/// The kind and the unit of each described metric.
fn described(code: &str) -> BTreeMap<String, (&'static str, String)> {
    let mut found = BTreeMap::new();
    for kind in KINDS {
        for (_, rest) in calls(code, &format!("describe_{kind}!(")) {
            let Some((name, rest)) = name(rest) else { continue };
            let unit = rest.split(',').nth(1).unwrap_or_default().trim().to_owned();
            found.insert(name.to_owned(), (kind, unit));
        }
    }
    found
}

/// The labels with which each metric is recorded: the keys of the array `labels` before the macro, or the first of them.
fn labelled(code: &str) -> BTreeMap<String, BTreeSet<String>> {
    let mut found = BTreeMap::new();
    for kind in KINDS {
        for (before, rest) in calls(code, &format!("{kind}!(")) {
            let Some((name, rest)) = name(rest) else { continue };
            let argument = rest.split(')').next().unwrap_or_default();
            let array = before.rsplit("let labels").next().filter(|_| argument.contains("&labels"));
            let array = array.and_then(|array| array.split(';').next()).unwrap_or_default();
            let keys = array.split("(\"").skip(1).filter_map(|part| part.split('"').next());
            let most = argument.split_once("[..").and_then(|(_, most)| most.split(']').next());
            let most = most.map_or(usize::MAX, |most| most.parse().unwrap());
            found.insert(name.to_owned(), keys.take(most).map(str::to_owned).collect());
        }
    }
    found
}

/// A row of the page's tables of metrics.
struct Row {
    name: String,
    kind: String,
    labels: BTreeSet<String>,
    unit: String,
}

fn rows() -> Vec<Row> {
    let rows = PAGE.lines().filter(|line| line.starts_with("| `nixl_"));
    let row = |row: &str| {
        let cells: Vec<_> = row.split('|').map(str::trim).collect();
        Row {
            name: tidy::names(cells[1]).remove(0),
            kind: cells[2].to_owned(),
            labels: tidy::names(cells[3]).into_iter().collect(),
            unit: cells[4].to_owned(),
        }
    };
    rows.map(row).collect()
}

#[test]
fn the_page_of_metrics_lists_those_of_the_code() {
    let in_code: BTreeSet<_> = sources().iter().flat_map(|code| named(code)).collect();
    assert!(in_code.len() > 10, "the names are not found: {in_code:?}");
    let listed: BTreeSet<_> = rows().into_iter().map(|row| row.name).collect();
    assert_eq!(listed, in_code, "docs/OBSERVABILITY.md, and the code");
}

#[test]
fn the_page_of_metrics_has_the_kinds_and_units_of_their_descriptions() {
    let sources = sources();
    let described: BTreeMap<_, _> = sources.iter().flat_map(|code| described(code)).collect();
    tidy::holds(rows().into_iter().filter_map(|Row { name, kind, unit, .. }| {
        let unit = match &*unit {
            "bytes" => "Bytes",
            "seconds" => "Seconds",
            _ => "Count",
        };
        let Some((in_code, unit_in_code)) = described.get(&name) else {
            return Some(format!("{name} is not described to the recorder"));
        };
        let is_same = *in_code == kind && unit_in_code == unit;
        (!is_same)
            .then(|| format!("{name}: {kind} of {unit}; in the code {in_code} of {unit_in_code}"))
    }));
}

#[test]
fn the_page_of_metrics_has_the_labels_of_the_code() {
    let sources = sources();
    let labelled: BTreeMap<_, _> = sources.iter().flat_map(|code| labelled(code)).collect();
    tidy::holds(rows().into_iter().filter_map(|Row { name, labels, .. }| {
        let in_code = labelled.get(&name).cloned().unwrap_or_default();
        (in_code != labels).then(|| format!("{name}: labels {labels:?}; in the code {in_code:?}"))
    }));
}

#[test]
fn names_kinds_and_labels_are_found() {
    let code = "let labels = [(\"a\", a), (\"b\", b)];\ncounter!(\"nixl_a\", &labels);\nhistogram!(\"nixl_c\", &labels[..1]);\nGaugeShare::new(\n    \"nixl_b\", 1)\ngauge!(name);\ndescribe_gauge!(\n    \"nixl_b\",\n    Bytes,\n    \"text\"\n);";
    assert_eq!(named(code), ["nixl_a", "nixl_b", "nixl_c"].map(str::to_owned).into());
    assert_eq!(described(code)["nixl_b"], ("gauge", "Bytes".to_owned()));
    let labelled = labelled(code);
    assert_eq!(labelled["nixl_a"], ["a", "b"].map(str::to_owned).into());
    assert_eq!(labelled["nixl_c"], ["a".to_owned()].into());
}
