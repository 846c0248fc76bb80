//! Published crates beside which this workspace's are counted, from cargo's registry.

use std::fs;
use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context as _, Result, bail};
use serde_json::Value;

use crate::workspace::Workspace;

/// Names and versions. They are only read, never built.
const CRATES: [(&str, &str); 3] =
    [("quinn-proto", "0.11"), ("rustls", "0.23"), ("object_store", "0.12")];

/// The crates, each with its name and version and its folder, or why it cannot be had.
pub(super) fn folders(workspace: &Workspace) -> Vec<(&'static str, Result<(String, PathBuf)>)> {
    CRATES.iter().map(|(name, version)| (*name, folder(workspace, name, version))).collect()
}

/// Where cargo has the crate, which it fetches if it is not in its registry; what is there serves offline.
fn folder(workspace: &Workspace, name: &str, version: &str) -> Result<(String, PathBuf)> {
    let folder = workspace.root.join("target/style").join(name);
    fs::create_dir_all(folder.join("src"))?;
    fs::write(folder.join("src/lib.rs"), "")?;
    let package = "[package]\nname = \"style\"\nversion = \"0.0.0\"\nedition = \"2024\"\n\n[workspace]\n\n[dependencies]\n";
    let dependency = format!("{name} = {{ version = \"{version}\", default-features = false }}\n");
    fs::write(folder.join("Cargo.toml"), format!("{package}{dependency}"))?;
    let metadata = |more: &[&str]| {
        let mut cargo: Command = workspace.cargo();
        let cargo = cargo.current_dir(&folder).args(["metadata", "--format-version", "1"]);
        cargo.args(more).output().context("cannot start cargo")
    };
    let mut output = metadata(&[])?;
    if !output.status.success() {
        let offline = metadata(&["--offline"])?;
        if !offline.status.success() {
            bail!("`cargo metadata` failed: {}", String::from_utf8_lossy(&output.stderr).trim());
        }
        output = offline;
    }
    find(&serde_json::from_slice(&output.stdout)?, name)
}

fn find(metadata: &Value, name: &str) -> Result<(String, PathBuf)> {
    let packages = metadata["packages"].as_array().into_iter().flatten();
    let package = packages.into_iter().find(|package| package["name"] == name);
    let package = package.with_context(|| format!("cargo has not fetched {name}"))?;
    let manifest = package["manifest_path"].as_str().unwrap_or_default();
    let folder = PathBuf::from(manifest).parent().map(PathBuf::from).unwrap_or_default();
    let version = package["version"].as_str().unwrap_or_default();
    Ok((format!("{name} {version}"), folder))
}
