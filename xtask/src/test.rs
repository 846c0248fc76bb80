//! `cargo xtask test`: set-up, then every test of the workspace, added up, and the quick soak test.
//!
//! A test that cannot run for want of something (a GPU, an RDMA NIC) returns early and appends
//! one line `SKIPPED(what is wanted): name` to the file that the variable `NIXL_TEST_SKIP_LOG`
//! names; a single `write` of the whole line, the file opened for appending, keeps the lines of
//! concurrent tests apart. Skips are counted here and never pass silently.

use std::ffi::OsString;
use std::io::{self, BufRead as _, BufReader, Write};
use std::num::NonZero;
use std::path::Path;
use std::process::{Command, Stdio};
use std::{fs, thread};

use anyhow::{Context as _, Result, bail};

use crate::lanes;
use crate::process;
use crate::programs;
use crate::setup;
use crate::soak;
use crate::tally::Tally;
use crate::workspace::Workspace;

/// Tells tests where to log that they ended early.
pub(crate) const SKIP_LOG: &str = "NIXL_TEST_SKIP_LOG";

/// The folder of the tests of the whole workspace.
const WHOLE: &str = "tests";

/// With `cargo_args` only what they select, without them all there is.
pub(crate) fn run(workspace: &Workspace, cargo_args: &[OsString]) -> Result<()> {
    setup::run(workspace, true)?;
    let skip_log = workspace.root.join("target/skipped-tests.log");
    start_skip_log(&skip_log)?;
    let mut tally = Tally::default();
    let failed = match cargo_args {
        [] => all(workspace, &skip_log, &mut tally)?,
        _ => selected(workspace, cargo_args, &skip_log, &mut tally)?,
    };
    finish(&mut tally, &skip_log)?;
    if failed.is_empty() {
        return Ok(());
    }
    for Failed { name, end } in failed.iter().filter(|failed| !failed.end.is_empty()) {
        println!("\nthe end of the output of `{name}`:\n{end}");
    }
    let names: Vec<_> = failed.iter().map(|failed| format!("`{}`", failed.name)).collect();
    bail!("{} failed: see above", names.join(" and "));
}

/// A program that failed.
struct Failed {
    name: String,
    /// The last lines of what it printed, if other programs printed after it.
    end: String,
}

impl Failed {
    const LINES: usize = 40;

    fn new(name: String, output: &str) -> Self {
        let lines: Vec<_> = output.lines().collect();
        let end = lines[lines.len().saturating_sub(Self::LINES)..].join("\n");
        Self { name, end }
    }
}

/// Returns the command if it failed.
fn selected(
    workspace: &Workspace,
    cargo_args: &[OsString],
    skip_log: &Path,
    tally: &mut Tally,
) -> Result<Vec<Failed>> {
    let mut tests = workspace.cargo();
    tests.args(["test", "--no-fail-fast"]).args(cargo_args).env(SKIP_LOG, skip_log);
    println!("$ {}", process::display(&tests));
    let succeeded = counted(&mut tests, tally, &mut io::stdout())?;
    Ok(if succeeded { Vec::new() } else { vec![Failed::new(process::display(&tests), "")] })
}

/// Every program that the workspace's tests are, its documentation's and the quick soak, beside each other. Returns those that
/// failed.
///
/// Most of the long ones wait for peers, deadlines and each other, and leave the processors to those that compute.
fn all(workspace: &Workspace, skip_log: &Path, tally: &mut Tally) -> Result<Vec<Failed>> {
    let mut build = workspace.cargo();
    // One build of all: each selection of packages and targets of its own would have other features, and be another build.
    build.args(["build", "--workspace", "--all-features", "--bins", "--examples", "--tests"]);
    println!("$ {}", process::display(&build));
    let programs = programs::built(&mut build)?;
    let soak = programs.iter().find(|program| !program.is_test && program.name == soak::PROGRAM);
    let soak = soak.context("the build made no soak test")?;
    let mut commands = vec![soak::quick(&soak.path)];
    let mut tests: Vec<_> = programs.iter().filter(|program| program.is_test).collect();
    // The longest first.
    tests.sort_by_key(|program| (program.package != WHOLE, program.package != "nixl-executor"));
    commands.extend(tests.into_iter().map(|program| {
        let mut test = Command::new(&program.path);
        test.current_dir(&program.folder).env("CARGO_MANIFEST_DIR", &program.folder);
        test
    }));
    let mut docs = workspace.cargo();
    docs.args(["test", "--workspace", "--all-features", "--doc", "--no-fail-fast"]);
    commands.insert(1, docs);
    for command in &mut commands {
        command.env(SKIP_LOG, skip_log);
    }

    let lanes = thread::available_parallelism().map_or(1, NonZero::get) + 1;
    let (mut failed, mut out) = (Vec::new(), io::stdout());
    lanes::run(commands, lanes, |ended| {
        println!("\n$ {} ({:.1} s)", ended.name, ended.time.as_secs_f64());
        out.write_all(&ended.output)?;
        let failed_before = tally.failed();
        let output = String::from_utf8_lossy(&ended.output);
        output.lines().for_each(|line| tally.add_output(line));
        if !ended.succeeded {
            if tally.failed() == failed_before {
                tally.add_crash();
            }
            failed.push(Failed::new(ended.name, &output));
        }
        Ok(())
    })?;
    Ok(failed)
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
