//! `cargo xtask ci`: what CI runs, cheap things first; stops at the first failure.

use std::process::Command;
use std::time::Instant;

use anyhow::Result;

use crate::aarch64;
use crate::packages;
use crate::process;
use crate::setup;
use crate::workspace::Workspace;

struct Step {
    name: &'static str,
    args: &'static [&'static str],
    env: Option<(&'static str, &'static str)>,
    advice: &'static str,
}

const AARCH64: &str = "aarch64";

const FORMAT: Step = Step {
    name: "format",
    args: &["fmt", "--all", "--check"],
    env: None,
    advice: "run `cargo fmt --all` (if it is missing: `rustup component add rustfmt`)",
};

const AFTER_SETUP: [Step; 8] = [
    Step {
        name: "kernels",
        args: &["xtask", "ptx", "--check"],
        env: None,
        advice: "what to do is said above; after a change of a kernel: `cargo xtask ptx`",
    },
    Step {
        name: "lints",
        args: &["clippy", "--workspace", "--all-targets", "--all-features", "--", "-D", "warnings"],
        env: None,
        advice: "fix what clippy says; `cargo clippy --fix --workspace --all-targets --all-features` \
                 does some of it (if it is missing: `rustup component add clippy`)",
    },
    Step {
        name: AARCH64,
        args: &["xtask", "aarch64"],
        env: None,
        advice: "what to do is said above",
    },
    Step {
        name: "docs",
        args: &["doc", "--workspace", "--no-deps", "--all-features"],
        env: Some(("RUSTDOCFLAGS", "-D warnings")),
        advice: "fix the documentation comments that rustdoc names",
    },
    Step {
        name: "internal docs",
        args: &["doc", "--workspace", "--no-deps", "--all-features", "--document-private-items"],
        env: Some(("RUSTDOCFLAGS", "-D warnings")),
        advice: "fix the documentation comments that rustdoc names",
    },
    Step { name: "loom", args: &["xtask", "loom"], env: None, advice: "what to do is said above" },
    Step {
        name: "tests",
        args: &["xtask", "test"],
        env: None,
        advice: "run the failing test alone: `cargo test -p <crate> <name>`",
    },
    Step {
        name: "benches",
        args: &["test", "--workspace", "--all-features", "--benches"],
        env: None,
        advice: "each criterion bench runs once here; run it with `cargo bench`",
    },
];

pub(crate) fn run(workspace: &Workspace) -> Result<()> {
    let start = Instant::now();
    step(workspace, &FORMAT)?;
    println!("== {}", packages::STEP);
    timed(packages::STEP, || packages::check(workspace))?;
    timed("set-up", || setup::run(workspace, false))?;
    for each in &AFTER_SETUP {
        // The one thing that not every machine can get.
        if each.name == AARCH64 && !aarch64::is_installed() {
            println!("== {AARCH64}: SKIPPED: Rust's libraries for {} are missing", aarch64::TARGET);
            continue;
        }
        step(workspace, each)?;
    }
    println!("all passed in {:.0} s", start.elapsed().as_secs_f64());
    Ok(())
}

fn step(workspace: &Workspace, step: &Step) -> Result<()> {
    let mut command: Command = workspace.cargo();
    command.args(step.args).envs(step.env);
    println!("== {}: {}", step.name, process::display(&command));
    timed(step.name, || process::run_or_advise(&mut command, step.advice))
}

fn timed(name: &str, run: impl FnOnce() -> Result<()>) -> Result<()> {
    let start = Instant::now();
    let result = run();
    let verdict = if result.is_ok() { "passed" } else { "FAILED" };
    println!("== {name}: {verdict} in {:.0} s", start.elapsed().as_secs_f64());
    result
}

#[cfg(test)]
mod table;
