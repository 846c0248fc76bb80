//! `cargo xtask soak`: set-up, then the soak test with all arguments passed on. The quick one is part of `cargo xtask test`.

use std::env;
use std::ffi::OsString;
use std::os::unix::process::CommandExt as _;
use std::process::{Command, ExitCode};

use anyhow::{Error, Result};

use crate::process;
use crate::setup;
use crate::workspace::Workspace;

/// The quick run among the tests, built as they are.
pub(crate) fn quick(workspace: &Workspace) -> Command {
    let mut soak = workspace.cargo();
    soak.args(["run", "--package", "nixl-benches", "--bin", "nixl-soak", "--", "--quick"]);
    soak
}

/// Returns only if the soak test cannot be started: it takes the place of this process.
pub(crate) fn run(workspace: &Workspace, args: &[OsString]) -> Result<ExitCode> {
    setup::run(workspace, false)?;
    let mut soak = workspace.cargo();
    soak.args(["run", "--release", "--package", "nixl-benches"])
        .args(["--bin", "nixl-soak", "--"])
        .args(args)
        // Paths among the arguments are the user's.
        .current_dir(env::current_dir()?);
    let error = soak.exec();
    Err(Error::from(error).context(format!("cannot start `{}`", process::display(&soak))))
}
