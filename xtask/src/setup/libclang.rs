//! libclang, which bindgen loads when nixl-sys is built: the system's, else the one of its wheel.
//!
//! `.cargo/config.toml` names `target/nixl/libclang` in two variables. `LIBCLANG_PATH` is where the
//! library is. `CLANG_PATH` is the compiler that bindgen asks where headers such as `stddef.h` are: a
//! script that asks g++, since a libclang without a clang often comes without them.

use std::env;
use std::env::consts::ARCH;
use std::fs::{self, Permissions};
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result};

use super::pip::Pip;
use super::store::{Component, Store};
use crate::process;

const VERSION: &str = "18.1.1";
/// Bindgen runs `clang -E -v` and reads English.
const CLANG: &str = "#!/bin/sh\nLC_ALL=C exec g++ \"$@\"\n";

/// Says which libclang there is.
pub(super) fn provide(store: &Store) -> Result<String> {
    const NAME: &str = "libclang";
    let ours = store.path(NAME).join("lib");
    if let Some(path) = chosen_by_user(&ours) {
        return Ok(format!("{} (by LIBCLANG_PATH)", path.display()));
    }
    let system = find();
    let component = Component {
        name: NAME,
        stamp: &match &system {
            Some(library) => library.display().to_string(),
            None => format!("libclang=={VERSION}"),
        },
        files: &["lib/libclang.so", "bin/clang"],
    };
    store.provide(&component, |dir| {
        fs::create_dir(dir.join("lib"))?;
        let library = dir.join("lib/libclang.so");
        match &system {
            Some(system) => symlink(system, library)?,
            None => install(dir, &library)?,
        }
        fs::create_dir(dir.join("bin"))?;
        let clang = dir.join("bin/clang");
        fs::write(&clang, CLANG)?;
        Ok(fs::set_permissions(&clang, Permissions::from_mode(0o755))?)
    })?;
    let library = system.unwrap_or_else(|| ours.join("libclang.so"));
    Ok(library.display().to_string())
}

/// `LIBCLANG_PATH` unless it is what `.cargo/config.toml` sets.
fn chosen_by_user(ours: &Path) -> Option<PathBuf> {
    env::var_os("LIBCLANG_PATH")
        .filter(|path| !path.is_empty())
        .map(PathBuf::from)
        .filter(|path| path != ours)
}

fn install(dir: &Path, library: &Path) -> Result<()> {
    let pip = Pip::find()?;
    eprintln!("installing libclang=={VERSION}");
    let wheel = dir.join("wheel");
    pip.install(&wheel, ["--no-deps", &format!("libclang=={VERSION}")])?;
    fs::rename(wheel.join("clang/native/libclang.so"), library)
        .context("the wheel has no clang/native/libclang.so; see xtask/src/setup/libclang.rs")?;
    Ok(fs::remove_dir_all(wheel)?)
}

/// The system's libclang.
pub(crate) fn find() -> Option<PathBuf> {
    let by_config = process::output(Command::new("llvm-config").arg("--libdir"));
    let mut folders: Vec<PathBuf> = by_config.into_iter().map(PathBuf::from).collect();
    folders.extend(versioned("/usr/lib", "llvm-"));
    folders.extend(versioned("/usr/lib64", "llvm"));
    folders.extend(
        ["/usr/lib64", "/usr/local/lib", "/usr/lib"]
            .map(PathBuf::from)
            .into_iter()
            .chain([format!("/usr/lib/{ARCH}-linux-gnu").into()]),
    );
    folders.iter().find_map(|folder| in_folder(folder))
}

/// The `lib` folders of `<parent>/<prefix><version>`, newest first.
fn versioned(parent: &str, prefix: &str) -> Vec<PathBuf> {
    let mut found: Vec<(u32, PathBuf)> = fs::read_dir(parent)
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|entry| {
            let name = entry.file_name();
            let version = name.to_str()?.strip_prefix(prefix)?.parse().ok()?;
            Some((version, entry.path()))
        })
        .collect();
    found.sort_by_key(|(version, _)| std::cmp::Reverse(*version));
    found.into_iter().flat_map(|(_, path)| [path.join("lib"), path.join("lib64")]).collect()
}

fn in_folder(folder: &Path) -> Option<PathBuf> {
    let mut libraries: Vec<PathBuf> = fs::read_dir(folder)
        .ok()?
        .flatten()
        .filter(|entry| entry.file_name().to_str().is_some_and(is_libclang))
        .map(|entry| entry.path())
        // Not a link that dangles.
        .filter(|library| library.is_file())
        .collect();
    libraries.sort();
    libraries.pop()
}

/// `libclang.so`, `libclang.so.18`, `libclang-18.so.1`; not `libclang-cpp.so.18`.
fn is_libclang(name: &str) -> bool {
    name.strip_prefix("libclang").and_then(|rest| rest.split_once(".so")).is_some_and(
        |(version, suffix)| {
            let number = |text: &str| text.split('.').all(|part| part.parse::<u32>().is_ok());
            (version.is_empty() || version.strip_prefix('-').is_some_and(number))
                && (suffix.is_empty() || suffix.strip_prefix('.').is_some_and(number))
        },
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn knows_libclang_by_its_names() {
        for name in ["libclang.so", "libclang.so.1", "libclang-14.so.1", "libclang.so.18.1.8"] {
            assert!(is_libclang(name), "{name}");
        }
        for name in ["libclang-cpp.so.14", "libclang.a", "libclangd.so", "libclang.so.gz", "clang"]
        {
            assert!(!is_libclang(name), "{name}");
        }
    }

    #[test]
    fn a_dangling_link_does_not_count() {
        let dir = tempfile::tempdir().unwrap();
        let library = dir.path().join("libclang.so");
        symlink(dir.path().join("libclang-14.so.1"), &library).unwrap();
        assert_eq!(in_folder(dir.path()), None);
        fs::write(dir.path().join("libclang-14.so.1"), "").unwrap();
        assert_eq!(in_folder(dir.path()), Some(library));
    }

    #[test]
    fn newest_versioned_folder_first() {
        let dir = tempfile::tempdir().unwrap();
        for name in ["llvm-9", "llvm-14", "llvm-x", "llvm"] {
            fs::create_dir(dir.path().join(name)).unwrap();
        }
        let found = versioned(dir.path().to_str().unwrap(), "llvm-");
        assert_eq!(found[0], dir.path().join("llvm-14/lib"));
        assert_eq!(found[2], dir.path().join("llvm-9/lib"));
        assert_eq!(found.len(), 4);
    }
}
