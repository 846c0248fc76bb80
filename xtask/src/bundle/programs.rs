//! The benchmark, the doctor and the GPU tests, built for release.

use std::path::Path;

use anyhow::Result;

use super::{archive, copy};
use crate::programs::{Program, built};
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
        for program in built(&mut build)? {
            add_stripped(&program.path, &bundle.join("bin").join(name))?;
        }
    }
    let mut tests = workspace.cargo();
    tests.args(["test", "--no-run", "--release", "--test", "gpu"]);
    for package in GPU_TESTED {
        tests.args(["--package", package]);
    }
    for Program { package, path, .. } in built(&mut tests)? {
        add_stripped(&path, &bundle.join("tests").join(format!("{package}-gpu")))?;
    }
    Ok(())
}

fn add_stripped(program: &Path, to: &Path) -> Result<()> {
    copy(program, to)?;
    archive::strip(to)
}
