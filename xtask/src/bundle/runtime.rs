//! The part of the NIXL runtime that is used: the C library, two plugins, the modules of their UCX, and what these
//! need. Every file keeps its place, because they find each other by relative paths.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use anyhow::{Result, ensure};

use super::object::Object;
use super::{archive, copy, files};

/// What is loaded by its path; the rest is found from here.
const ROOTS: [&str; 3] =
    ["lib/libnixl_capi.so", "lib/plugins/libplugin_UCX.so", "lib/plugins/libplugin_POSIX.so"];
/// UCX loads its modules when what they drive is there.
const MODULES: &str = "nixl_cu12.libs/ucx";
/// The modules that transfers use; the others are for UCX's own benchmark.
const MODULE_NAMES: [&str; 2] = ["libuct_", "libucm_"];
/// Where the libraries' run paths lead. The wheel has the plugins a second time, elsewhere.
const FOLDERS: [&str; 3] = ["lib", "nixl_cu12.libs", MODULES];

/// Copies it from the folder that set-up made.
pub(super) fn add(nixl: &Path, to: &Path) -> Result<()> {
    for library in closure(nixl)? {
        let copied = to.join(library.strip_prefix(nixl)?);
        copy(&library, &copied)?;
        archive::strip(&copied)?;
    }
    for notice in files(nixl)?.iter().filter(|path| is_notice(path)) {
        copy(notice, &to.join(notice.strip_prefix(nixl)?))?;
    }
    Ok(())
}

/// The roots, the modules, and all they need that is there.
fn closure(nixl: &Path) -> Result<BTreeSet<PathBuf>> {
    let mut queue = Vec::new();
    for root in ROOTS {
        let library = nixl.join(root);
        ensure!(
            library.is_file(),
            "the NIXL runtime has no {root}: remove target/nixl/runtime and try again"
        );
        queue.push(library);
    }
    queue.extend(files(&nixl.join(MODULES))?.into_iter().filter(|path| is_module(path)));

    let mut kept = BTreeSet::new();
    while let Some(library) = queue.pop() {
        if kept.contains(&library) {
            continue;
        }
        for name in Object::read(&library)?.needed {
            // What is not there comes with the machine, or in the bundle's folder `system`.
            let places = FOLDERS.map(|folder| nixl.join(folder).join(&name));
            queue.extend(places.into_iter().find(|path| path.is_file()));
        }
        kept.insert(library);
    }
    Ok(kept)
}

fn is_module(path: &Path) -> bool {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    name.contains(".so") && MODULE_NAMES.iter().any(|prefix| name.starts_with(prefix))
}

/// The licences, and what says the version.
fn is_notice(path: &Path) -> bool {
    let in_licences = path.components().any(|part| part.as_os_str() == "licenses");
    in_licences || path.file_name().is_some_and(|name| name == "METADATA")
}
