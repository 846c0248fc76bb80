//! `cargo xtask loom`: the models of what threads and processes share without locks.

use anyhow::Result;

use crate::process;
use crate::workspace::Workspace;

/// The packages with models: arguments that select them.
const RUNS: [&[&str]; 4] = [
    &["--package", "nixl-device"],
    &["--package", "nixl-ops"],
    &["--package", "nixl-descriptor"],
    // Its models need no NIXL.
    &["--package", "nixl-connector", "--no-default-features"],
];

/// A build of its own, since the atomics and locks of the crate with the models are others there.
pub(crate) fn run(workspace: &Workspace) -> Result<()> {
    for selection in RUNS {
        let mut models = workspace.cargo();
        models
            .arg("test")
            .args(selection)
            .args(["--lib", "--target-dir", "target/loom", "loom_model"])
            // Of switches that no wait forces. Without a bound some models take many minutes.
            .env("LOOM_MAX_PREEMPTIONS", "3")
            // The whole of what cargo would pass: the variable takes the place of what a configuration says.
            .env("RUSTFLAGS", "--cfg loom");
        process::run_or_advise(
            &mut models,
            "run the model that fails alone, with LOOM_LOG=trace LOOM_LOCATION=1, which print the interleaving",
        )?;
    }
    Ok(())
}
