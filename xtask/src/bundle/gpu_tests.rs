//! `./run test-gpu` in an unpacked bundle: every test program of it, added up.

use std::env;
use std::ffi::OsString;
use std::fs;
use std::path::Path;
use std::process::{self, Command, ExitCode};

use anyhow::{Result, bail};

use super::files;
use crate::tally::Tally;
use crate::test;

/// Runs the test programs in the folder, each with `args`. The last line of the output is
/// `P passed, F failed, S skipped`.
pub(crate) fn run(folder: &Path, args: &[OsString]) -> Result<ExitCode> {
    let programs = files(folder)?;
    if programs.is_empty() {
        bail!("{} has no test programs: unpack the bundle anew", folder.display());
    }
    let skip_log = env::temp_dir().join(format!("nixl-rs-{}-skipped.log", process::id()));
    test::start_skip_log(&skip_log)?;
    let mut tally = Tally::default();
    let mut failed = Vec::new();
    for program in &programs {
        let name = program.file_name().unwrap_or_default().to_string_lossy().into_owned();
        println!("\n{name}");
        let mut command = Command::new(program);
        command.args(args).env(test::SKIP_LOG, &skip_log);
        // Tests of devices would take each other's memory and time.
        if env::var_os("RUST_TEST_THREADS").is_none() {
            command.env("RUST_TEST_THREADS", "1");
        }
        let failed_before = tally.failed();
        if !test::counted(&mut command, &mut tally)? {
            if tally.failed() == failed_before {
                tally.add_crash();
            }
            failed.push(name);
        }
    }
    if !failed.is_empty() {
        println!("\nfailed: {}", failed.join(", "));
    }
    test::finish(&mut tally, &skip_log)?;
    fs::remove_file(&skip_log)?;
    Ok(if failed.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
