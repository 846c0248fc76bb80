//! `cargo xtask soak`: set-up, then the soak test with all arguments passed on. The quick one is part of `cargo xtask test`.

use std::env;
use std::ffi::OsString;
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{Command, ExitCode};

use anyhow::{Error, Result};

use crate::process;
use crate::setup;
use crate::workspace::Workspace;

/// The name of its program.
pub(crate) const PROGRAM: &str = "nixl-soak";

/// The quick run among the tests, built as they are.
pub(crate) fn quick(program: &Path) -> Command {
    let mut soak = Command::new(program);
    soak.arg("--quick");
    soak
}

/// Returns only if the soak test cannot be started: it takes the place of this process.
pub(crate) fn run(workspace: &Workspace, args: &[OsString]) -> Result<ExitCode> {
    setup::run(workspace, false)?;
    let mut soak = workspace.cargo();
    soak.args(["run", "--release", "--package", "nixl-benches"])
        .args(["--bin", PROGRAM, "--"])
        .args(args)
        // Paths among the arguments are the user's.
        .current_dir(env::current_dir()?);
    let error = soak.exec();
    Err(Error::from(error).context(format!("cannot start `{}`", process::display(&soak))))
}
