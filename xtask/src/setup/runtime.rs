//! The NIXL runtime, from its wheel: the C library, its plugins, and the UCX they bring along.

use std::fs;
use std::path::Path;

use anyhow::{Context as _, Result};

use super::locate;
use super::pip::{Pip, any_python};
use super::store::{Component, Store};

/// Works on machines with CUDA 12 or 13 and on those without CUDA.
pub(super) const PACKAGE: &str = "nixl-cu12";
pub(super) const VERSION: &str = "1.5.1";

/// What is kept of the wheel, and as what. The libraries find each other by paths relative to
/// their own, so the folders must stay side by side; the name of the first is free.
const KEPT: [(&str, &str); 3] = [
    (".nixl_cu12.mesonpy.libs", "lib"),
    ("nixl_cu12.libs", "nixl_cu12.libs"),
    ("nixl_cu12-1.5.1.dist-info", "nixl_cu12-1.5.1.dist-info"),
];

/// Says which NIXL there is.
pub(super) fn provide(store: &Store) -> Result<String> {
    const NAME: &str = "runtime";
    if let Some(found) = locate::installed()? {
        // So that nobody wonders which of the two is used.
        store.remove(NAME)?;
        return Ok(format!("{} (by {})", found.library.display(), found.by));
    }
    let requirement = format!("{PACKAGE}=={VERSION}");
    let component = Component {
        name: NAME,
        stamp: &requirement,
        files: &["lib/libnixl_capi.so", "lib/plugins/libplugin_UCX.so"],
    };
    let dir = store.provide(&component, |dir| {
        let pip = Pip::find()?;
        eprintln!("installing {requirement}");
        let wheel = dir.join("wheel");
        pip.install(&wheel, any_python()?.iter().chain([&requirement]))?;
        keep(&wheel, dir)
    })?;
    Ok(dir.join("lib").join(locate::LIBRARY).display().to_string())
}

fn keep(wheel: &Path, dir: &Path) -> Result<()> {
    for (from, to) in KEPT {
        fs::rename(wheel.join(from), dir.join(to))
            .with_context(|| format!("the wheel has no {from}; see xtask/src/setup/runtime.rs"))?;
    }
    Ok(fs::remove_dir_all(wheel)?)
}
