//! `cargo xtask miri`: the tests that hold the unsafe code, run by an interpreter that knows what the language leaves undefined.
//!
//! What needs the system's own (files in memory, other processes, the CUDA driver, NIXL) is marked `cfg_attr(miri, ignore)` with
//! its reason, or left out here as a whole.

use std::process::Command;

use anyhow::Result;

use crate::process;
use crate::workspace::Workspace;

/// What is run: arguments that select tests of a package, and the names of those tests; all of them without names.
const RUNS: [(&[&str], &[&str]); 2] = [
    (&["--package", "nixl-descriptor", "--all-features", "--lib", "--test", "all"], &[]),
    // Copies within the process, by the processor and by simulated GPUs. Other modules open files in memory, or take hours.
    (
        &["--package", "nixl-executor", "--no-default-features", "--lib"],
        &["local::gpu::", "local::host::"],
    ),
];

pub(crate) fn run(workspace: &Workspace) -> Result<()> {
    for (selection, names) in RUNS {
        // By rustup, since the toolchain of the cargo that runs us is another.
        let mut miri = Command::new("rustup");
        miri.args(["run", "nightly", "cargo", "miri", "test"])
            .args(selection)
            .args(["--target-dir", "target/miri", "--"])
            .args(names)
            .current_dir(&workspace.root)
            .env_remove("CARGO")
            // The system's clock, and files that property tests look for; the thread that gives memory back does not end.
            .env("MIRIFLAGS", "-Zmiri-disable-isolation -Zmiri-ignore-leaks")
            // Each case takes thousands of times as long.
            .env("PROPTEST_CASES", "4");
        println!("$ {}", process::display(&miri));
        process::run_or_advise(
            &mut miri,
            "if the toolchain is missing: `rustup toolchain install nightly --component miri,rust-src`",
        )?;
    }
    Ok(())
}
