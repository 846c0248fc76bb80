//! Libraries that are on nearly every machine: this machine's copies stand in where one is missing.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, bail};

use super::object::{Object, is_elf};
use super::{archive, copy, files};
use crate::process;

/// The machine's own glibc is always used.
const GLIBC: [&str; 6] =
    ["libc.so.6", "libm.so.6", "libdl.so.2", "libpthread.so.0", "librt.so.1", "ld-linux"];

/// Adds to the bundle's folder `system` what its files need and it does not hold.
pub(super) fn add(bundle: &Path) -> Result<()> {
    let all: Vec<PathBuf> = files(bundle)?.into_iter().filter(|path| is_elf(path)).collect();
    let mut known: BTreeSet<String> = all
        .iter()
        .filter_map(|path| path.file_name())
        .map(|name| name.to_string_lossy().into_owned())
        .collect();
    let mut queue = all;
    // UCX's modules need the drivers of what they drive, and UCX does without a module that does not load.
    queue.retain(|path| path.parent().is_none_or(|dir| !dir.ends_with("ucx")));
    while let Some(path) = queue.pop() {
        for name in Object::read(&path)?.needed {
            if GLIBC.iter().any(|glibc| name.starts_with(glibc)) || !known.insert(name.clone()) {
                continue;
            }
            let copied = bundle.join("system").join(&name);
            copy(&find(&name)?, &copied)?;
            archive::strip(&copied)?;
            queue.push(copied);
        }
    }
    Ok(())
}

fn find(name: &str) -> Result<PathBuf> {
    let found = process::output(Command::new("g++").arg(format!("-print-file-name={name}")))
        .context("cannot ask g++ for its libraries")?;
    let path = PathBuf::from(found);
    if !path.is_absolute() {
        bail!("the bundle needs {name}, which is not installed: install the package that has it");
    }
    Ok(path)
}
