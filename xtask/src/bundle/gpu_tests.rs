//! `./run test-gpu` in an unpacked bundle: every test program of it, added up.

use std::env;
use std::ffi::OsString;
use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::{self, Command, ExitCode};

use anyhow::{Result, bail};

use super::files;
use crate::tally::Tally;
use crate::test;

/// How many tests of a program run at a time.
const THREADS: &str = "RUST_TEST_THREADS";

/// Runs the test programs in the folder, each with `args`. The last line of the output is
/// `P passed, F failed, S skipped`.
pub(crate) fn run(folder: &Path, args: &[OsString]) -> Result<ExitCode> {
    let programs = files(folder)?;
    if programs.is_empty() {
        bail!("{} has no test programs: unpack the bundle anew", folder.display());
    }
    let skip_log = env::temp_dir().join(format!("nixl-rs-{}-skipped.log", process::id()));
    test::start_skip_log(&skip_log)?;
    let (mut tally, failed) = run_each(&programs, args, &skip_log, &mut io::stdout())?;
    if !failed.is_empty() {
        println!("\nfailed: {}", failed.join(", "));
    }
    test::finish(&mut tally, &skip_log)?;
    fs::remove_file(&skip_log)?;
    Ok(if failed.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Returns the counts and the names of the programs that failed.
fn run_each(
    programs: &[PathBuf],
    args: &[OsString],
    skip_log: &Path,
    out: &mut impl Write,
) -> Result<(Tally, Vec<String>)> {
    let mut tally = Tally::default();
    let mut failed = Vec::new();
    for program in programs {
        let name = program.file_name().unwrap_or_default().to_string_lossy().into_owned();
        writeln!(out, "\n{name}")?;
        let mut command = Command::new(program);
        command.args(args).env(test::SKIP_LOG, skip_log);
        // Tests of devices would take each other's memory and time.
        if env::var_os(THREADS).is_none() {
            command.env(THREADS, "1");
        }
        let failed_before = tally.failed();
        if !test::counted(&mut command, &mut tally, out)? {
            if tally.failed() == failed_before {
                tally.add_crash();
            }
            failed.push(name);
        }
    }
    Ok((tally, failed))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bundle::tests::script;

    #[test]
    fn a_crash_counts_as_a_failure_and_the_next_program_still_runs() {
        let dir = tempfile::tempdir().unwrap();
        for (name, text) in [
            (
                "a",
                "echo 'test result: FAILED. 3 passed; 2 failed; 0 ignored; 0 measured'; exit 101",
            ),
            ("b", "kill -ABRT $$"),
            ("c", "echo \"test result: ok. 1 passed; 0 failed; $# ignored; 0 measured\""),
        ] {
            script(&dir.path().join(name), text);
        }
        let programs = files(dir.path()).unwrap();
        let args = ["x", "y"].map(OsString::from);
        // Not to our own output, where it would count.
        let mut out = Vec::new();
        let (tally, failed) =
            run_each(&programs, &args, &dir.path().join("log"), &mut out).unwrap();
        assert!(String::from_utf8(out).unwrap().contains("3 passed"));
        assert_eq!(tally.total(), "4 passed, 3 failed, 2 skipped");
        assert_eq!(failed, ["a", "b"]);
    }

    #[test]
    fn no_programs_is_an_error() {
        let dir = tempfile::tempdir().unwrap();
        let error = run(dir.path(), &[]).unwrap_err().to_string();
        assert!(error.contains("no test programs"), "{error}");
    }
}
