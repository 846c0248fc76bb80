//! Features of the crates: the table of them in the documents, and what `nixl-metadata` compiles.

use std::collections::BTreeSet;
use std::process::Command;

use serde_json::Value;

use super::CRATES;
use super::tidy::{REFERENCE, names, root};

fn cargo(arguments: &[&str]) -> String {
    let output = Command::new(env!("CARGO")).args(arguments).current_dir(root()).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

/// `nixl-metadata` names memories of CUDA's, and has neither the driver nor the system behind them.
#[test]
fn metadata_compiles_no_cuda() {
    let tree = ["tree", "-p", "nixl-metadata", "--no-default-features", "-e", "normal,build"];
    let tree = cargo(&[&tree[..], &["--prefix", "none", "--format", "{p}|{f}"]].concat());
    let packages: BTreeSet<(&str, &str)> = tree
        .lines()
        .map(|line| (line.split(' ').next().unwrap(), line.rsplit('|').next().unwrap()))
        .collect();
    assert!(packages.contains(&("nixl-device", "")), "with no feature: {packages:?}");
    let refused =
        ["libloading", "nix", "rustix", "memmap2", "cudarc", "nixl-sys", "nixl-descriptor"];
    let there: Vec<_> = packages.iter().filter(|(name, _)| refused.contains(name)).collect();
    assert!(there.is_empty(), "nixl-metadata depends on {there:?}");
}

/// The rows of the table: crate, feature, whether it is on by default.
fn listed() -> BTreeSet<(String, String, bool)> {
    let rows = REFERENCE.lines().skip_while(|line| !line.starts_with("| crate | feature |"));
    let rows = rows.skip(2).take_while(|line| line.starts_with('|'));
    rows.map(|row| {
        let cells: Vec<_> = row.split('|').collect();
        let name = |at: usize| names(cells[at]).remove(0);
        (name(1), name(2), cells[3].trim() != "no")
    })
    .collect()
}

/// The same of the manifests. A default turns on what it names in its own crate, and so on.
fn declared() -> BTreeSet<(String, String, bool)> {
    let metadata: Value =
        serde_json::from_str(&cargo(&["metadata", "--format-version", "1", "--no-deps"])).unwrap();
    let packages = metadata["packages"].as_array().unwrap().iter();
    let ours = packages.filter(|package| CRATES.iter().any(|name| package["name"] == *name));
    ours.flat_map(|package| {
        let features = package["features"].as_object().unwrap();
        let mut on = BTreeSet::new();
        let mut next = vec!["default".to_owned()];
        while let Some(name) = next.pop() {
            let turns_on = features.get(&name).and_then(Value::as_array).into_iter().flatten();
            next.extend(turns_on.filter_map(Value::as_str).map(str::to_owned));
            on.insert(name);
        }
        let named = features.keys().filter(|feature| *feature != "default");
        named
            .map(|feature| {
                let package = package["name"].as_str().unwrap().to_owned();
                (package, feature.clone(), on.contains(feature))
            })
            .collect::<Vec<_>>()
    })
    .collect()
}

#[test]
fn the_table_of_features_is_that_of_the_manifests() {
    assert_eq!(listed(), declared(), "docs/REFERENCE.md, and Cargo.toml");
}
