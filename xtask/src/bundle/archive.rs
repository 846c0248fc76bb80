//! Making the bundle small, and one file.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, bail};

use crate::process;

pub(super) const MIB: u64 = 1 << 20;
/// More than this is not carried around lightly.
const LIMIT: u64 = 40 * MIB;

/// Removes what only debuggers and linkers read.
pub(super) fn strip(file: &Path) -> Result<()> {
    process::run_or_advise(
        Command::new("strip").arg("--strip-unneeded").arg(file),
        "install binutils, which comes with g++",
    )
}

/// Packs the folder `name` and returns the archive and its size.
///
/// With gzip, because that is what every machine can unpack. Equal contents give equal archives.
pub(super) fn pack(folder: &Path, name: &str) -> Result<(PathBuf, u64)> {
    let archive = folder.join(format!("{name}.tar.gz"));
    let partial = folder.join(format!("{name}.partial"));
    process::run(
        Command::new("tar")
            .args(["--sort=name", "--owner=0", "--group=0", "--numeric-owner", "--mtime=@0"])
            .args(["--use-compress-program", "gzip -9n", "--create", "--file"])
            .arg(&partial)
            .arg("--directory")
            .arg(folder)
            .arg(name),
    )?;
    let bytes = fs::metadata(&partial)?.len();
    if bytes > LIMIT {
        bail!(
            "the archive has {:.1} MiB, more than the {} MiB it may have: see what has grown in {}",
            bytes as f64 / MIB as f64,
            LIMIT / MIB,
            folder.join(name).display(),
        );
    }
    fs::rename(&partial, &archive)
        .with_context(|| format!("cannot create {}", archive.display()))?;
    Ok((archive, bytes))
}
