//! The folder of NIXL: an installed one comes first, then the one that set-up provides. nixl-connector looks in the same
//! places in the same order.

use std::env::{self, consts::ARCH};
use std::fmt;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Result, bail};

use crate::process;

pub(crate) const LIBRARY: &str = "libnixl_capi.so";
/// Where NIXL's own build installs it unless told otherwise.
const USUAL_PREFIX: &str = "/opt/nvidia/nvda_nixl";

/// A NIXL library and how it was found.
#[derive(Debug, PartialEq)]
pub(crate) struct Found {
    pub(crate) library: PathBuf,
    pub(crate) by: By,
}

#[derive(Debug, PartialEq)]
pub(crate) enum By {
    Prefix,
    UsualPlace,
    Loader,
    Setup,
}

impl fmt::Display for By {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Prefix => "NIXL_PREFIX",
            Self::UsualPlace => "the usual place",
            Self::Loader => "the dynamic loader's path",
            Self::Setup => "cargo xtask setup",
        })
    }
}

/// The NIXL installed on this machine, if any.
///
/// An error means that `NIXL_PREFIX` names a place without it: what was asked for
/// explicitly is not replaced by something else.
pub(crate) fn installed() -> Result<Option<Found>> {
    if let Some(prefix) = env::var_os("NIXL_PREFIX").filter(|prefix| !prefix.is_empty()) {
        let prefix = PathBuf::from(prefix);
        let Some(library) = below(&prefix) else {
            bail!(
                "NIXL_PREFIX is {prefix}, but {LIBRARY} is not there (looked in {folders} below \
                 it): unset it, or set it to where NIXL 1.5 or newer is installed",
                prefix = prefix.display(),
                folders = folders().join(", "),
            );
        };
        return Ok(Some(Found { library, by: By::Prefix }));
    }
    let usual = below(Path::new(USUAL_PREFIX)).map(|library| Found { library, by: By::UsualPlace });
    Ok(usual.or_else(|| Some(Found { library: by_loader()?, by: By::Loader })))
}

/// The NIXL that programs of this workspace will use, if any.
pub(crate) fn in_use(store: &Path) -> Result<Option<Found>> {
    Ok(installed()?
        .or_else(|| Some(Found { library: below(&store.join("runtime"))?, by: By::Setup })))
}

/// The library below an installation's prefix, or below the folder of an unpacked wheel.
fn below(prefix: &Path) -> Option<PathBuf> {
    folders()
        .iter()
        .map(|folder| prefix.join(folder).join(LIBRARY))
        .find(|library| library.is_file())
}

fn folders() -> [String; 6] {
    [
        format!("lib/{ARCH}-linux-gnu"),
        "lib64".to_owned(),
        "lib".to_owned(),
        ".".to_owned(),
        ".nixl_cu12.mesonpy.libs".to_owned(),
        ".nixl_cu13.mesonpy.libs".to_owned(),
    ]
}

fn by_loader() -> Option<PathBuf> {
    let path = env::var_os("LD_LIBRARY_PATH").unwrap_or_default();
    env::split_paths(&path)
        .filter(|dir| !dir.as_os_str().is_empty())
        .map(|dir| dir.join(LIBRARY))
        .find(|library| library.is_file())
        .or_else(|| in_loader_cache(&loader_cache()?))
}

fn loader_cache() -> Option<String> {
    // Outside root's PATH on Debian.
    ["ldconfig", "/sbin/ldconfig"]
        .iter()
        .find_map(|ldconfig| process::output(Command::new(ldconfig).arg("-p")))
}

/// Lines read `\tlibx.so (libc6,x86-64) => /path/libx.so`.
fn in_loader_cache(cache: &str) -> Option<PathBuf> {
    cache
        .lines()
        .filter_map(|line| line.trim().split_once(" => "))
        .find(|(name, _)| name.split(' ').next() == Some(LIBRARY))
        .map(|(_, path)| PathBuf::from(path))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    #[test]
    fn finds_the_library_in_each_layout() {
        for folder in folders() {
            let prefix = tempfile::tempdir().unwrap();
            assert_eq!(below(prefix.path()), None);
            let dir = prefix.path().join(&folder);
            fs::create_dir_all(&dir).unwrap();
            fs::write(dir.join(LIBRARY), "").unwrap();
            assert_eq!(below(prefix.path()), Some(dir.join(LIBRARY)));
        }
    }

    #[test]
    fn reads_the_loader_cache() {
        let cache = "2 libs found in cache `/etc/ld.so.cache'\n\
                     \tlibnixl_capi.so.1 (libc6,x86-64) => /opt/old/libnixl_capi.so.1\n\
                     \tlibnixl_capi.so (libc6,x86-64) => /opt/nixl/lib/libnixl_capi.so\n";
        assert_eq!(in_loader_cache(cache), Some(PathBuf::from("/opt/nixl/lib/libnixl_capi.so")));
        assert_eq!(in_loader_cache("\tlibc.so.6 (libc6) => /lib/libc.so.6\n"), None);
        assert_eq!(in_loader_cache(""), None);
    }
}
