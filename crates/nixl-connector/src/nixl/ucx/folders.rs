//! The folders in which UCX looks for its configuration file, and in which order.
//!
//! UCX reads the file of `/etc/ucx`, then of `../etc/ucx` beside the folder of its library, of `HOME`, of `UCX_CONFIG_DIR`, and of
//! the folder that the process runs in; a later file overrides an earlier one.
//!
//! `cargo xtask doctor` compiles this file too.

use std::env::{self, consts};
use std::ffi::OsString;
use std::fs;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};

const OF_THE_SYSTEM: &str = "/etc/ucx";
/// Below the folder of the library.
const OF_THE_LIBRARY: &str = "../etc/ucx";

/// The folders, the last of which overrides the others, for a library in this folder.
pub(super) fn folders(
    variable: impl Fn(&str) -> Option<OsString>,
    library: Option<&Path>,
) -> Vec<PathBuf> {
    let named = ["HOME", "UCX_CONFIG_DIR"].into_iter().filter_map(variable).map(|mut folder| {
        // As UCX makes the path: an empty variable names the root.
        folder.push("/");
        PathBuf::from(folder)
    });
    [PathBuf::from(OF_THE_SYSTEM)]
        .into_iter()
        .chain(library.map(|library| library.join(OF_THE_LIBRARY)))
        .chain(named)
        .chain([PathBuf::from(".")])
        .collect()
}

/// The folder of UCX's library: of the loaded one, or of the one that NIXL's plugin will load. `None` if it is found in none of
/// the usual places. `files` are those of the loaded libraries.
pub(super) fn folder_of_library(files: &[PathBuf]) -> Option<PathBuf> {
    let loaded = |name: &str| {
        let is_it =
            |file: &&PathBuf| file.file_name().is_some_and(|f| is_named(f.as_bytes(), name));
        files.iter().find(is_it).and_then(|file| file.parent()).map(Path::to_owned)
    };
    loaded(UCX).or_else(|| expected(loaded(NIXL).as_deref(), |name| env::var_os(name)))
}

const UCX: &str = "libucs";
const NIXL: &str = "libnixl";

/// The first folder with the library, in the order of the loader: the folders of NIXL, which its wheels have their plugin search,
/// then those of the environment and of the system.
fn expected(nixl: Option<&Path>, variable: impl Fn(&str) -> Option<OsString>) -> Option<PathBuf> {
    let plugins = variable("NIXL_PLUGIN_DIR").map(PathBuf::from);
    let plugins = plugins.or_else(|| nixl.map(|folder| folder.join("plugins")));
    let of_wheel = ["../nixl_cu12.libs", "../nixl_cu13.libs"];
    let of_nixl = nixl.into_iter().flat_map(|folder| of_wheel.map(|libs| folder.join(libs)));
    let of_environment = variable("LD_LIBRARY_PATH").unwrap_or_default();
    let multiarch = format!("{}-linux-gnu", consts::ARCH);
    let of_system = ["/usr/local/lib", "/lib", "/usr/lib"].into_iter().flat_map(|folder| {
        let of_words = PathBuf::from(format!("{folder}64"));
        [Path::new(folder).join(&multiarch), of_words, PathBuf::from(folder)]
    });
    plugins
        .iter()
        .flat_map(|plugins| [plugins.join(".."), plugins.clone()])
        .chain(nixl.map(Path::to_owned))
        .chain(of_nixl)
        .chain(env::split_paths(&of_environment))
        .chain(of_system)
        .find(|folder| has_ucx(folder))
}

fn has_ucx(folder: &Path) -> bool {
    let is_it = |file: fs::DirEntry| is_named(file.file_name().as_bytes(), UCX);
    fs::read_dir(folder).is_ok_and(|mut files| files.any(|file| file.is_ok_and(is_it)))
}

/// Whether a file is the library of this name: `libucs.so.0`, or `libucs-14c218c5.so.0.0.0` in a wheel.
fn is_named(file: &[u8], name: &str) -> bool {
    let rest = file.strip_prefix(name.as_bytes());
    rest.is_some_and(|rest| rest.starts_with(b".so") || rest.starts_with(b"-"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn folders_are_in_ucxs_order() {
        let variable = |name: &str| (name == "HOME").then(|| OsString::from("/home/of"));
        let found = folders(variable, Some(Path::new("/opt/ucx/lib")));
        let expected = ["/etc/ucx", "/opt/ucx/lib/../etc/ucx", "/home/of", "."];
        assert_eq!(found, expected.map(PathBuf::from));
        assert_eq!(folders(|_| Some(OsString::new()), None)[1], Path::new("/"));
    }

    #[test]
    fn the_library_is_looked_for_where_nixls_plugin_finds_it() {
        let root = tempfile::tempdir().unwrap();
        let at = |path: &str| root.path().join(path);
        let put = |folder: &str, file: &str| {
            fs::create_dir_all(at(folder)).unwrap();
            fs::write(at(folder).join(file), "").unwrap();
        };
        let found = |variables: &[(&str, PathBuf)]| {
            let variable = |name: &str| {
                let found = variables.iter().find(|(of, _)| *of == name);
                found.map(|(_, value)| value.as_os_str().to_owned())
            };
            expected(Some(&at("lib")), variable)?.canonicalize().ok()
        };
        put("lib", "libucs_signal.so.0");
        put("other", "libucs.so.0");
        let elsewhere = [("LD_LIBRARY_PATH", at("other"))];
        assert_eq!(found(&elsewhere), Some(at("other")), "not beside NIXL");
        put("nixl_cu12.libs", "libucs-14c218c5.so.0.0.0");
        assert_eq!(found(&elsewhere), Some(at("nixl_cu12.libs")));
        put("chosen/plugins", "libplugin_UCX.so");
        put("chosen", "libucs.so.0");
        let plugins = [("NIXL_PLUGIN_DIR", at("chosen/plugins"))];
        assert_eq!(found(&plugins), Some(at("chosen")));
    }
}
