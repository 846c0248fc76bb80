//! `cargo xtask loom`: the models of what threads and processes share without locks.

use anyhow::Result;

use crate::process;
use crate::workspace::Workspace;

/// A build of its own, since all atomics and locks of the crate are others there.
pub(crate) fn run(workspace: &Workspace) -> Result<()> {
    let mut models = workspace.cargo();
    models
        .args(["test", "--package", "nixl-ops", "--lib", "--target-dir", "target/loom"])
        .args(["loom_model"])
        // Of switches that no wait forces. Without a bound some models take many minutes.
        .env("LOOM_MAX_PREEMPTIONS", "3")
        // The whole of what cargo would pass: the variable takes the place of what a configuration says.
        .env("RUSTFLAGS", "--cfg loom");
    process::run_or_advise(
        &mut models,
        "run the model that fails alone, with LOOM_LOG=trace LOOM_LOCATION=1, which print the interleaving",
    )
}
