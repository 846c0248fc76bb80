//! The NIXL runtime, from its wheel: the C library, its plugins, and the UCX they bring along.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};

use super::locate;
use super::pip::{Pip, any_python};
use super::store::{Component, Store};

/// Works on machines with CUDA 12 or 13 and on those without CUDA.
pub(super) const PACKAGE: &str = "nixl-cu12";
pub(crate) const VERSION: &str = "1.5.1";

/// Says which NIXL there is.
pub(super) fn provide(store: &Store) -> Result<String> {
    if let Some(found) = locate::installed()? {
        return Ok(format!("{} (by {})", found.library.display(), found.by));
    }
    let dir = provide_wheel(store)?;
    Ok(dir.join("lib").join(locate::LIBRARY).display().to_string())
}

/// The folder with the wheel's libraries, also beside other installations.
pub(super) fn provide_wheel(store: &Store) -> Result<PathBuf> {
    let requirement = format!("{PACKAGE}=={VERSION}");
    let component = Component {
        name: "runtime",
        stamp: &requirement,
        files: &["lib/libnixl_capi.so", "lib/plugins/libplugin_UCX.so"],
    };
    store.provide(&component, |dir| {
        let pip = Pip::find()?;
        eprintln!("installing {requirement}");
        let wheel = dir.join("wheel");
        pip.install(&wheel, any_python()?.iter().chain([&requirement]))?;
        keep(&wheel, dir)
    })
}

/// Keeps of the wheel what runs. The libraries find each other by paths relative to their own, so the two folders must
/// stay side by side; the name of the first is free.
fn keep(wheel: &Path, dir: &Path) -> Result<()> {
    let licences = format!("nixl_cu12-{VERSION}.dist-info");
    for (from, to) in [
        (".nixl_cu12.mesonpy.libs", "lib"),
        ("nixl_cu12.libs", "nixl_cu12.libs"),
        (&*licences, &*licences),
    ] {
        fs::rename(wheel.join(from), dir.join(to))
            .with_context(|| format!("the wheel has no {from}; see xtask/src/setup/runtime.rs"))?;
    }
    Ok(fs::remove_dir_all(wheel)?)
}
