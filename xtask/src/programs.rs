//! The programs of a build.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, bail};
use serde_json::Value;

use crate::process;

/// A program that cargo has built.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct Program {
    /// The name of its package's folder.
    pub(crate) package: String,
    /// Its package's folder, in which cargo runs tests.
    pub(crate) folder: PathBuf,
    /// The name of the target.
    pub(crate) name: String,
    /// It runs tests.
    pub(crate) is_test: bool,
    pub(crate) path: PathBuf,
}

/// Runs the build and returns the programs it made.
pub(crate) fn built(build: &mut Command) -> Result<Vec<Program>> {
    build.arg("--message-format=json-render-diagnostics");
    let name = process::display(build);
    let output = build
        .stderr(Stdio::inherit())
        .output()
        .with_context(|| format!("cannot start `{name}`"))?;
    if !output.status.success() {
        bail!("`{name}` failed: {}", output.status);
    }
    let programs: Vec<_> =
        String::from_utf8_lossy(&output.stdout).lines().filter_map(program).collect();
    if programs.is_empty() {
        bail!("`{name}` made no program");
    }
    Ok(programs)
}

/// The program, if a message of cargo tells of one.
fn program(message: &str) -> Option<Program> {
    let message: Value = serde_json::from_str(message).ok()?;
    let path = message["executable"].as_str()?.into();
    let folder = Path::new(message["manifest_path"].as_str()?).parent()?.to_owned();
    let package = folder.file_name()?.to_string_lossy().into_owned();
    let name = message["target"]["name"].as_str()?.to_owned();
    let is_test = message["profile"]["test"].as_bool()?;
    Some(Program { package, folder, name, is_test, path })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_messages_about_programs_count() {
        let message = r#"{"reason":"compiler-artifact","manifest_path":"/w/crates/nixl-device/Cargo.toml",
            "target":{"name":"gpu"},"profile":{"test":true},"executable":"/w/target/release/deps/gpu-0ad4"}"#;
        let expected = Program {
            package: "nixl-device".to_owned(),
            folder: "/w/crates/nixl-device".into(),
            name: "gpu".to_owned(),
            is_test: true,
            path: "/w/target/release/deps/gpu-0ad4".into(),
        };
        assert_eq!(program(message), Some(expected));
        for other in [
            r#"{"reason":"compiler-artifact","manifest_path":"/w/Cargo.toml","executable":null}"#,
            r#"{"reason":"build-finished","success":true}"#,
            "warning: something else",
            "",
        ] {
            assert_eq!(program(other), None, "{other:?}");
        }
    }
}
