//! Packages from wheels, by pip, into folders of our own.

use std::env::consts::ARCH;
use std::ffi::OsStr;
use std::io;
use std::os::fd::AsFd as _;
use std::path::Path;
use std::process::Command;

use anyhow::{Context as _, Result, ensure};

use crate::process;

const PYTHON: &str = "python3";

/// A Python that has pip.
#[derive(Debug)]
pub(crate) struct Pip {
    /// As `pip --version` prints it.
    pub(crate) version: String,
}

impl Pip {
    /// Errors say what to install.
    pub(crate) fn find() -> Result<Self> {
        let python = python_version()?;
        let version = process::output(Command::new(PYTHON).args(["-m", "pip", "--version"]))
            .with_context(|| {
                format!(
                    "{python} has no pip: run `{PYTHON} -m ensurepip --user`, or install it \
                     (apt install python3-pip, dnf install python3-pip)"
                )
            })?;
        Ok(Self { version })
    }

    /// Installs into `target`. Neither root nor a virtual environment is needed: `--target` is
    /// not subject to "externally managed environment".
    pub(super) fn install(
        &self,
        target: &Path,
        args: impl IntoIterator<Item = impl AsRef<OsStr>>,
    ) -> Result<()> {
        let mut pip = Command::new(PYTHON);
        pip.args(["-m", "pip", "install", "--only-binary=:all:", "--no-compile"])
            .args(["--disable-pip-version-check", "--no-input", "--target"])
            .arg(target)
            .args(args)
            // Settings that pip refuses together with `--target`.
            .env("PIP_USER", "0")
            .env("PIP_REQUIRE_VIRTUALENV", "0")
            .env("PIP_ROOT_USER_ACTION", "ignore")
            // Its progress is not what our caller's stdout is for.
            .stdout(io::stderr().as_fd().try_clone_to_owned()?);
        process::run_or_advise(
            &mut pip,
            "pip's message is above: check the network, the proxy and `python3 -m pip config list`, then run this again",
        )
    }
}

pub(crate) fn python_version() -> Result<String> {
    process::output(Command::new(PYTHON).arg("--version"))
        .context("python3 is missing: install it (apt install python3 python3-pip)")
}

/// Has pip take the wheel that runs here, with any Python: of such wheels we use the
/// native libraries only.
pub(super) fn any_python() -> Result<Vec<String>> {
    ensure!(
        matches!(ARCH, "x86_64" | "aarch64"),
        "there is no NIXL wheel for {ARCH}: build NIXL from source and set NIXL_PREFIX to where \
         it is installed"
    );
    let platform = format!("manylinux_2_28_{ARCH}");
    Ok([
        "--no-deps",
        "--python-version=3.12",
        "--implementation=cp",
        "--abi=cp312",
        "--platform",
        &platform,
    ]
    .map(String::from)
    .to_vec())
}
