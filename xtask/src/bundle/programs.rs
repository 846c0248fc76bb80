//! The benchmark, the doctor and the GPU tests, built for release.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, bail};
use serde_json::Value;

use super::{archive, copy};
use crate::process;
use crate::workspace::Workspace;

/// What runs on any machine, by package.
const PROGRAMS: [(&str, &str); 2] = [("nixl-benches", "nixl-bench"), ("xtask", "xtask")];
/// The packages that have a test `gpu`.
const GPU_TESTED: [&str; 2] = ["nixl-device", "nixl-executor"];

pub(super) fn add(workspace: &Workspace, bundle: &Path) -> Result<()> {
    // One at a time, as `cargo xtask bench` builds: together they would be built with other features.
    for (package, name) in PROGRAMS {
        let mut build = workspace.cargo();
        build.args(["build", "--release", "--package", package, "--bin", name]);
        for (_, program) in built(&mut build)? {
            add_stripped(&program, &bundle.join("bin").join(name))?;
        }
    }
    let mut tests = workspace.cargo();
    tests.args(["test", "--no-run", "--release", "--test", "gpu"]);
    for package in GPU_TESTED {
        tests.args(["--package", package]);
    }
    for (package, program) in built(&mut tests)? {
        add_stripped(&program, &bundle.join("tests").join(format!("{package}-gpu")))?;
    }
    Ok(())
}

fn add_stripped(program: &Path, to: &Path) -> Result<()> {
    copy(program, to)?;
    archive::strip(to)
}

/// Runs the build and returns the programs it made, each with the name of its package's folder.
fn built(build: &mut Command) -> Result<Vec<(String, PathBuf)>> {
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
        String::from_utf8_lossy(&output.stdout).lines().filter_map(executable).collect();
    if programs.is_empty() {
        bail!("`{name}` made no program");
    }
    Ok(programs)
}

/// The package and the file, if a message of cargo tells of a program.
fn executable(message: &str) -> Option<(String, PathBuf)> {
    let message: Value = serde_json::from_str(message).ok()?;
    let program = message["executable"].as_str()?;
    let package = Path::new(message["manifest_path"].as_str()?).parent()?.file_name()?;
    Some((package.to_string_lossy().into_owned(), program.into()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_messages_about_programs_count() {
        let message = r#"{"reason":"compiler-artifact","manifest_path":"/w/crates/nixl-device/Cargo.toml",
            "executable":"/w/target/release/deps/gpu-0ad4"}"#;
        let program = ("nixl-device".to_owned(), PathBuf::from("/w/target/release/deps/gpu-0ad4"));
        assert_eq!(executable(message), Some(program));
        for other in [
            r#"{"reason":"compiler-artifact","manifest_path":"/w/Cargo.toml","executable":null}"#,
            r#"{"reason":"build-finished","success":true}"#,
            "warning: something else",
            "",
        ] {
            assert_eq!(executable(other), None, "{other:?}");
        }
    }
}
