//! `cargo xtask aarch64`: the crates for the other processor that NIXL is made for.
//!
//! Without NIXL's transport, whose build needs a C++ compiler and headers for that processor.

use std::path::Path;
use std::process::Command;

use anyhow::Result;

use crate::process;
use crate::workspace::Workspace;

pub(crate) const TARGET: &str = "aarch64-unknown-linux-gnu";
/// What builds without NIXL.
const PACKAGES: [&str; 6] = [
    "nixl-device",
    "nixl-descriptor",
    "nixl-metadata",
    "nixl-ops",
    "nixl-connector",
    "nixl-executor",
];

/// Whether Rust's libraries for that processor are there.
pub(crate) fn is_installed() -> bool {
    let mut folder = Command::new("rustc");
    folder.args(["--target", TARGET, "--print", "target-libdir"]);
    process::output(&mut folder).is_some_and(|folder| Path::new(&folder).is_dir())
}

/// Clippy, or with `test` the unit tests in an emulator, which takes long.
pub(crate) fn run(workspace: &Workspace, test: bool) -> Result<()> {
    if test {
        let mut tests = cargo(workspace, "test");
        tests
            .args(["--lib", "--no-fail-fast"])
            .env("CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_LINKER", "aarch64-linux-gnu-gcc")
            .env(
                "CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_RUNNER",
                "qemu-aarch64 -L /usr/aarch64-linux-gnu",
            )
            // An emulated processor takes some twenty times as long.
            .env("PROPTEST_CASES", "16");
        let advice = "if the emulator or the linker is missing: install qemu-user, gcc-aarch64-linux-gnu and libc6-dev-arm64-cross";
        return process::run_or_advise(&mut tests, advice);
    }
    let mut clippy = cargo(workspace, "clippy");
    clippy.args(["--all-targets", "--", "-D", "warnings"]);
    let advice = format!("if the target is missing: `rustup target add {TARGET}`");
    process::run_or_advise(&mut clippy, &advice)
}

fn cargo(workspace: &Workspace, command: &str) -> Command {
    let mut cargo = workspace.cargo();
    cargo.args([command, "--target", TARGET, "--no-default-features"]);
    cargo.args(["--features", "nixl-descriptor/dlpack,nixl-connector/conformance"]);
    for package in PACKAGES {
        cargo.args(["--package", package]);
    }
    cargo
}
