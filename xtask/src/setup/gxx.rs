//! The C++ compiler, which builds nixl-sys.

use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context as _, Result, ensure};

use crate::process;

/// The first major version that knows `-std=c++20`.
const OLDEST: u32 = 10;

/// Its version; an error says what to install.
pub(crate) fn version() -> Result<String> {
    let version = process::output(Command::new("g++").arg("-dumpfullversion")).context(
        "g++ is missing and nixl-sys needs it: install it \
         (apt install g++, dnf install gcc-c++, zypper install gcc-c++)",
    )?;
    let major = version
        .split('.')
        .next()
        .and_then(|major| major.parse().ok());
    ensure!(
        major.is_some_and(|major: u32| major >= OLDEST),
        "g++ {version} is too old: nixl-sys needs C++20, that is g++ {OLDEST} or newer"
    );
    Ok(version)
}

/// The folder of the headers that belong to the compiler, such as `stddef.h`.
pub(crate) fn headers() -> Result<PathBuf> {
    version()?;
    let dir = process::output(Command::new("g++").arg("-print-file-name=include"))
        .map(PathBuf::from)
        .filter(|dir| dir.join("stddef.h").is_file())
        .context("g++ has no headers of its own: install it anew (apt install --reinstall g++)")?;
    Ok(dir.canonicalize()?)
}
