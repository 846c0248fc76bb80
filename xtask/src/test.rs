//! `cargo xtask test`: set-up, then every test of the workspace, added up, and the quick soak test.
//!
//! A test that cannot run for want of something (a GPU, an RDMA NIC) returns early and appends
//! one line `SKIPPED(what is wanted): name` to the file that the variable `NIXL_TEST_SKIP_LOG`
//! names; a single `write` of the whole line, the file opened for appending, keeps the lines of
//! concurrent tests apart. Skips are counted here and never pass silently.

use std::ffi::OsString;
use std::fs;
use std::io::{self, BufRead as _, BufReader, Write};
use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, bail};

use crate::process;
use crate::setup;
use crate::soak;
use crate::tally::Tally;
use crate::workspace::Workspace;

/// Tells tests where to log that they ended early.
pub(crate) const SKIP_LOG: &str = "NIXL_TEST_SKIP_LOG";

/// With `cargo_args` only what they select, without them all there is.
pub(crate) fn run(workspace: &Workspace, cargo_args: &[OsString]) -> Result<()> {
    setup::run(workspace, true)?;
    let skip_log = workspace.root.join("target/skipped-tests.log");
    start_skip_log(&skip_log)?;

    // The root is a virtual workspace: this means all members, their doc tests and examples too.
    let mut tests = workspace.cargo();
    tests.args(["test", "--no-fail-fast"]).args(cargo_args);
    let mut commands = vec![tests];
    if cargo_args.is_empty() {
        commands.push(loom(workspace));
        commands.push(soak::quick(workspace));
    }

    let mut tally = Tally::default();
    let mut failed = Vec::new();
    for command in &mut commands {
        println!("$ {}", process::display(command));
        if !counted(command.env(SKIP_LOG, &skip_log), &mut tally, &mut io::stdout())? {
            failed.push(format!("`{}`", process::display(command)));
        }
    }
    finish(&mut tally, &skip_log)?;
    if !failed.is_empty() {
        bail!("{} failed: see above", failed.join(" and "));
    }
    Ok(())
}

/// The completion cell under every interleaving; its locks differ, so it is a build of its own.
fn loom(workspace: &Workspace) -> Command {
    let mut loom = workspace.cargo();
    loom.args(["test", "--package", "nixl-ops", "--lib", "loom_model"])
        .args(["--release", "--target-dir", "target/loom"])
        .env("RUSTFLAGS", "--cfg loom");
    loom
}

/// Empties the log, so that only what comes from here on counts.
pub(crate) fn start_skip_log(skip_log: &Path) -> Result<()> {
    fs::write(skip_log, "").with_context(|| format!("cannot write {}", skip_log.display()))
}

/// Runs the command, passes its output on as it comes and counts; says whether it succeeded.
pub(crate) fn counted(
    command: &mut Command,
    tally: &mut Tally,
    out: &mut impl Write,
) -> Result<bool> {
    let name = process::display(command);
    let mut child =
        command.stdout(Stdio::piped()).spawn().with_context(|| format!("cannot start `{name}`"))?;
    if let Some(stdout) = child.stdout.take() {
        let mut stdout = BufReader::new(stdout);
        let mut line = Vec::new();
        while stdout.read_until(b'\n', &mut line)? > 0 {
            out.write_all(&line)?;
            tally.add_output(&String::from_utf8_lossy(&line));
            line.clear();
        }
    }
    Ok(child.wait()?.success())
}

/// Adds what the log says and prints the sums; the last line is for scripts.
pub(crate) fn finish(tally: &mut Tally, skip_log: &Path) -> Result<()> {
    let log = fs::read(skip_log).with_context(|| format!("cannot read {}", skip_log.display()))?;
    tally.add_skips(&String::from_utf8_lossy(&log));
    println!();
    if let Some(skips) = tally.skips() {
        println!("{skips}");
    }
    println!("{}", tally.total());
    Ok(())
}
