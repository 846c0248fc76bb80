//! `cargo xtask bench`: set-up, then the benchmark with all arguments passed on.

use std::env;
use std::ffi::OsString;
use std::os::unix::process::CommandExt as _;
use std::process::ExitCode;

use anyhow::{Error, Result};

use crate::process;
use crate::setup;
use crate::workspace::Workspace;

/// Tells the benchmark where its reports go unless its arguments say otherwise.
const REPORT_DIR: &str = "NIXL_BENCH_DIR";

/// Returns only if the benchmark cannot be started: it takes the place of this process.
pub(crate) fn run(workspace: &Workspace, args: &[OsString]) -> Result<ExitCode> {
    setup::run(workspace, false)?;
    let mut bench = workspace.cargo();
    bench
        .args(["run", "--release", "--package", "nixl-benches"])
        .args(["--bin", "nixl-bench", "--"])
        .args(args)
        // Paths among the arguments are the user's.
        .current_dir(env::current_dir()?)
        .env(REPORT_DIR, workspace.root.join("target/bench"));
    let error = bench.exec();
    Err(Error::from(error).context(format!("cannot start `{}`", process::display(&bench))))
}
