//! The C++ compiler, which nixl-sys needs.

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
    let major = version.split('.').next().and_then(|major| major.parse().ok());
    ensure!(
        major.is_some_and(|major: u32| major >= OLDEST),
        "g++ {version} is too old: nixl-sys needs C++20, that is g++ {OLDEST} or newer"
    );
    Ok(version)
}
