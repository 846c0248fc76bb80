//! The Python peer of the interoperation tests: Dynamo's `nixl_connect` on NIXL's Python binding.
//!
//! `target/nixl/python` is all that `PYTHONPATH` needs; `.cargo/config.toml` hands it to the tests
//! as `NIXL_TEST_PYTHONPATH`. `torch` there is a stand-in: the peer uses it for type checks only.

use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::Command;

use anyhow::Result;

use super::pip::{Pip, python_version};
use super::runtime;
use super::store::{Component, Store};
use crate::process;

const PEER: &str = "ai-dynamo-runtime==1.6.1";
/// The package of workers, of which the tests use the reader of media alone.
const WORKER: &str = "ai-dynamo==1.6.1";
/// Of the peer's dependencies those that `nixl_connect` imports, in the versions the peer asks for.
const WITH_DEPENDENCIES: [&str; 2] = ["numpy", "pydantic>=2.10.6,<=2.13.5"];
/// Seen from the component's folder, so that the checkout can be moved.
const TORCH: &str = "../../../tests/python/torch_standin/torch";

/// Says which peer there is.
pub(super) fn provide(store: &Store) -> Result<String> {
    let python = python_version()?;
    let nixl = ["nixl", runtime::PACKAGE].map(|package| format!("{package}=={}", runtime::VERSION));
    let component = Component {
        name: "python",
        // The packages have parts compiled for one version of Python.
        stamp: &format!("{PEER} {WORKER} {} {WITH_DEPENDENCIES:?} {python}", nixl.join(" ")),
        files: &[
            "dynamo/nixl_connect/__init__.py",
            "dynamo/common/utils/media_nixl.py",
            "torch/__init__.py",
        ],
    };
    let dir = store.provide(&component, |dir| {
        let pip = Pip::find()?;
        eprintln!("installing {PEER} and NIXL's Python binding");
        pip.install(dir, WITH_DEPENDENCIES)?;
        // Together, since both are parts of one package: pip leaves a folder that is there as it is.
        pip.install(
            dir,
            ["--no-deps", PEER, WORKER].into_iter().chain(nixl.iter().map(String::as_str)),
        )?;
        symlink(TORCH, dir.join("torch"))?;
        check(dir)
    })?;
    Ok(format!("{PEER} in {} ({python})", dir.display()))
}

/// Installed is not yet importable: a stamp is set only on what works.
fn check(dir: &Path) -> Result<()> {
    process::run_or_advise(
        Command::new("python3")
            .args(["-c", "import dynamo.nixl_connect"])
            .env("PYTHONPATH", dir)
            .env("PYTHONDONTWRITEBYTECODE", "1"),
        "the Python peer was installed but cannot be imported: its message is above",
    )
}
