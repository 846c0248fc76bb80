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

/// The folders of the crates, which cargo fetches if they are not in its registry.
pub(super) fn folders(workspace: &Workspace) -> Result<Vec<(String, PathBuf)>> {
    let folder = workspace.root.join("target/style");
    fs::create_dir_all(folder.join("src"))?;
    fs::write(folder.join("src/lib.rs"), "")?;
    let list: String = CRATES
        .iter()
        .map(|(name, version)| {
            format!("{name} = {{ version = \"{version}\", default-features = false }}\n")
        })
        .collect();
    let package = "[package]\nname = \"style\"\nversion = \"0.0.0\"\nedition = \"2024\"\n\n[workspace]\n\n[dependencies]\n";
    fs::write(folder.join("Cargo.toml"), format!("{package}{list}"))?;
    let mut cargo: Command = workspace.cargo();
    let output = cargo
        .current_dir(&folder)
        .args(["metadata", "--format-version", "1"])
        .output()
        .context("cannot start cargo")?;
    if !output.status.success() {
        bail!("`cargo metadata` failed: {}", String::from_utf8_lossy(&output.stderr).trim());
    }
    let metadata: Value = serde_json::from_slice(&output.stdout)?;
    CRATES.iter().map(|(name, _)| find(&metadata, name)).collect()
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
