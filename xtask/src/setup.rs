//! `cargo xtask setup`: provides what is missing, without root, in `target/nixl`.
//!
//! Nothing here has to be exported by the user: `.cargo/config.toml` points the builds and the
//! programs at these folders.

mod interop;
mod libclang;
mod nvrtc;
mod pip;
mod runtime;
mod store;

pub(crate) mod gxx;
pub(crate) mod locate;

pub(crate) use libclang::find as find_libclang;
pub(crate) use pip::Pip;
pub(crate) use runtime::VERSION as RUNTIME_VERSION;

use std::path::PathBuf;

use anyhow::Result;

use crate::workspace::Workspace;
use store::Store;

/// Brings everything that builds and programs need up to date; the Python peer of the
/// interoperation tests only with `interop`. Does nothing, in milliseconds, where all is there.
pub(crate) fn run(workspace: &Workspace, interop: bool) -> Result<()> {
    gxx::version()?;
    let store = Store::open(&workspace.store())?;
    report("libclang", libclang::provide(&store)?);
    report("NIXL", runtime::provide(&store)?);
    if interop {
        report("interop", interop::provide(&store)?);
    }
    Ok(())
}

/// The folder of the NIXL runtime that can be carried to another machine: always the wheel's.
pub(crate) fn provide_runtime(workspace: &Workspace) -> Result<PathBuf> {
    runtime::provide_wheel(&Store::open(&workspace.store())?)
}

/// The library of the compiler for the kernels, which only `cargo xtask ptx` needs.
pub(crate) fn provide_nvrtc(workspace: &Workspace) -> Result<PathBuf> {
    nvrtc::provide(&Store::open(&workspace.store())?)
}

/// On stderr, as all progress: stdout belongs to what the command produces.
fn report(what: &str, found: String) {
    eprintln!("{:>9}  {found}", what);
}
