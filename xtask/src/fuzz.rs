//! `cargo xtask fuzz`: every fuzz target for a while. It needs a nightly toolchain and cargo-fuzz.

use std::process::Command;

use anyhow::{Context as _, Result};

use crate::process;
use crate::workspace::Workspace;

pub(crate) fn run(workspace: &Workspace, seconds: u32) -> Result<()> {
    let mut list = fuzz(workspace, &["list"]);
    let targets = process::output(&mut list).with_context(|| {
        format!(
            "`{}` failed\n  -> `rustup toolchain install nightly` and `cargo install cargo-fuzz`",
            process::display(&list)
        )
    })?;
    for target in targets.lines() {
        println!("== {target}");
        let mut run = fuzz(workspace, &["run", target, "--"]);
        run.arg(format!("-max_total_time={seconds}"))
            .args(["-max_len=8192", "-print_final_stats=1"]);
        let advice = "the input is in fuzz/artifacts: `cargo +nightly fuzz run TARGET INPUT` shows where it fails";
        process::run_or_advise(&mut run, advice)?;
    }
    Ok(())
}

/// By rustup, since the toolchain of the cargo that runs us is another.
fn fuzz(workspace: &Workspace, args: &[&str]) -> Command {
    let mut fuzz = Command::new("rustup");
    fuzz.args(["run", "nightly", "cargo", "fuzz"]).args(args).current_dir(&workspace.root);
    fuzz.env_remove("CARGO");
    fuzz
}
