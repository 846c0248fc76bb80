//! NIXL, its plugins, and UCX.

use std::env;
use std::fs;
use std::path::{Path, PathBuf};

use nixl_device::Topology;

use super::probe;
use super::report::Report;
use super::{settings_files, started};
use crate::setup::locate;

/// The plugin that moves bytes between processes.
const NEEDED_PLUGIN: &str = "UCX";

/// `remedy` is what brings NIXL where it is missing.
pub(super) fn check(report: &mut Report, topology: &Topology, store: &Path, remedy: &str) {
    if let Some(library) = check_library(report, store, remedy) {
        let ucx = check_plugins(report, &library, remedy);
        check_ucx(report, &library, ucx.as_ref());
        if let Some((_, file)) = &ucx {
            started::check(report, topology, &library, file);
        }
    }
}

fn check_library(report: &mut Report, store: &Path, remedy: &str) -> Option<PathBuf> {
    const SECTION: &str = "NIXL";
    let found = match locate::in_use(store) {
        Ok(Some(found)) => found,
        Ok(None) => {
            report.missing(SECTION, "library", "not found", remedy);
            return None;
        }
        Err(error) => {
            report.missing(
                SECTION,
                "library",
                error.to_string(),
                format!("unset NIXL_PREFIX, then {remedy}"),
            );
            return None;
        }
    };
    let library = found.library;
    let place = format!("{} (by {})", library.display(), found.by);
    // Its load, or that of its plugins, would wait or end.
    if !started::check_files(report, &library) {
        report.ok_for(SECTION, "library", place);
        return None;
    }
    let facts = match probe::load(&[&library]) {
        Ok(facts) => facts,
        Err(error) => {
            let found = format!("{place}: {error}");
            report.missing(SECTION, "library", found, advice(&error));
            return None;
        }
    };
    report.ok_for(SECTION, "library", place);
    match version(&library) {
        Some(version) => report.ok_for(SECTION, "version", version),
        None => report.note(
            SECTION,
            "version",
            "unknown: neither a wheel's nor pkg-config's files are beside the library",
            None,
        ),
    }
    let count = probe::symbol_count();
    if facts.lacks.is_empty() {
        report.ok_for(SECTION, "functions", format!("all {count}"));
    } else {
        report.missing(
            SECTION,
            "functions",
            format!("{} of {count} missing: {}", facts.lacks.len(), facts.lacks.join(", ")),
            "it is too old: install NIXL 1.5.1 or newer, or remove it (unset NIXL_PREFIX) and \
             run `cargo xtask setup`",
        );
    }
    Some(library)
}

/// What a wheel or pkg-config say about the library beside them.
fn version(library: &Path) -> Option<String> {
    let dir = library.parent()?;
    let by_wheel = || {
        fs::read_dir(dir.parent()?).ok()?.flatten().find_map(|entry| {
            let name = entry.file_name().into_string().ok()?;
            let wheel = name.strip_prefix("nixl_cu")?.strip_suffix(".dist-info")?;
            Some(wheel.split_once('-')?.1.to_owned())
        })
    };
    let by_pkg_config = || {
        let path = dir.join("pkgconfig/nixl.pc");
        settings_files::check(&path)
            .and_then(|()| fs::read_to_string(path))
            .ok()?
            .lines()
            .find_map(|line| Some(line.strip_prefix("Version:")?.trim().to_owned()))
    };
    by_wheel().or_else(by_pkg_config)
}

/// Returns the UCX that NIXL's plugin uses: version and file.
fn check_plugins(report: &mut Report, library: &Path, remedy: &str) -> Option<(String, PathBuf)> {
    const SECTION: &str = "plugins";
    let dir = env::var_os("NIXL_PLUGIN_DIR")
        .map_or_else(|| library.with_file_name("plugins"), PathBuf::from);
    let plugins = files(&dir, "libplugin_");
    let mut ucx = None;
    let loaded = probe::load_each(&[library], &plugins);
    for ((name, path), loaded) in plugins.iter().zip(loaded) {
        match loaded {
            Ok(facts) => {
                report.ok_for(SECTION, name, path.display().to_string());
                if name == NEEDED_PLUGIN {
                    ucx = facts.ucx;
                }
            }
            Err(error) if name == NEEDED_PLUGIN => {
                report.missing(SECTION, name, &error, advice(&error));
            }
            Err(error) => {
                let advice = format!("only if you need {name}: {}", advice(&error));
                report.note(SECTION, name, error, Some(advice));
            }
        }
    }
    if !plugins.iter().any(|(name, _)| name == NEEDED_PLUGIN) {
        report.missing(
            SECTION,
            NEEDED_PLUGIN,
            format!("not in {}", dir.display()),
            format!("set NIXL_PLUGIN_DIR to where the plugins are, or unset it; else {remedy}"),
        );
    }
    ucx
}

fn check_ucx(report: &mut Report, library: &Path, ucx: Option<&(String, PathBuf)>) {
    const SECTION: &str = "UCX";
    let Some((version, file)) = ucx else {
        return;
    };
    report.ok_for(SECTION, "version", format!("{version} ({})", file.display()));
    report.ok_for(SECTION, "built in", "self, tcp, sysv, posix");
    let modules =
        env::var_os("UCX_MODULE_DIR").map_or_else(|| file.with_file_name("ucx"), PathBuf::from);
    let modules = files(&modules, "libuct_");
    let loaded = probe::load_each(&[library, file], &modules);
    for ((name, _), loaded) in modules.iter().zip(loaded) {
        let transports = transports(name);
        match loaded {
            // It needs the system's libraries, which are better not beside those of a wheel.
            _ if name == "ib_efa" && !started::has_efa() => {
                report.ok_for(
                    SECTION,
                    name,
                    format!("{transports}: left out, no EFA device is here"),
                );
            }
            Ok(_) => report.ok_for(SECTION, name, transports),
            Err(error) => {
                let found = format!("{transports}: unavailable, {error}");
                report.note(SECTION, name, found, Some(advice(&error)));
            }
        }
    }
}

/// What a module of UCX brings.
fn transports(module: &str) -> &'static str {
    match module {
        "cma" => "cma (reads and writes the memory of another process)",
        "cuda" => "cuda_copy, cuda_ipc",
        "gdrcopy" => "gdr_copy",
        "ib" => "rc, ud (RDMA)",
        "ib_mlx5" => "rc_x, dc_x, ud_x (RDMA)",
        "ib_efa" => "srd (RDMA on AWS)",
        _ => "a module of UCX",
    }
}

/// Shared libraries `<prefix><name>.so…` in the folder, by name.
fn files(dir: &Path, prefix: &str) -> Vec<(String, PathBuf)> {
    let mut files: Vec<(String, PathBuf)> = fs::read_dir(dir)
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|entry| {
            let file = entry.file_name();
            let (name, _) = file.to_str()?.strip_prefix(prefix)?.split_once(".so")?;
            // The load of a pipe would wait.
            entry.path().is_file().then(|| (name.to_owned(), entry.path()))
        })
        .collect();
    files.sort();
    // A library and the links to it are one.
    files.dedup_by(|next, kept| next.0 == kept.0);
    files
}

/// What to do about a loader's message.
fn advice(error: &str) -> String {
    let Some((library, _)) = error.split_once(": cannot open shared object file") else {
        return "install NIXL anew: remove target/nixl/runtime, then run `cargo xtask setup`"
            .into();
    };
    let name = library.split(".so").next().unwrap_or(library);
    match name {
        "libcuda" | "libnvidia-ml" => {
            "install the NVIDIA driver, or give the container access to it".into()
        }
        "libcudart" => "install the CUDA runtime".into(),
        "libcufile" => "install GPUDirect Storage (libcufile, part of the CUDA toolkit)".into(),
        "libibverbs" | "libmlx5" | "librdmacm" | "libefa" => {
            format!("install rdma-core ({library})")
        }
        "libstdc++" => "install the C++ runtime (apt install libstdc++6)".into(),
        _ => format!("install {library}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn version_by_wheel_or_pkg_config() {
        let dir = tempfile::tempdir().unwrap();
        let lib = dir.path().join("lib");
        fs::create_dir_all(lib.join("pkgconfig")).unwrap();
        let library = lib.join("libnixl_capi.so");
        assert_eq!(version(&library), None);
        fs::write(lib.join("pkgconfig/nixl.pc"), "Name: nixl\nVersion: 1.6.0\n").unwrap();
        assert_eq!(version(&library).as_deref(), Some("1.6.0"));
        fs::create_dir(dir.path().join("nixl_cu12-1.5.1.dist-info")).unwrap();
        assert_eq!(version(&library).as_deref(), Some("1.5.1"));
    }

    #[test]
    fn a_library_and_its_links_are_one() {
        let dir = tempfile::tempdir().unwrap();
        for file in
            ["libuct_ib.so", "libuct_ib.so.0.0.0", "libuct_ib.la", "libuct_cma.so.0", "x.so"]
        {
            fs::write(dir.path().join(file), "").unwrap();
        }
        let names: Vec<_> =
            files(dir.path(), "libuct_").into_iter().map(|(name, _)| name).collect();
        assert_eq!(names, ["cma", "ib"]);
        assert!(files(&dir.path().join("none"), "libuct_").is_empty());
    }

    #[test]
    fn advice_names_what_to_install() {
        let message = |library: &str| {
            advice(&format!("{library}: cannot open shared object file: No such file or directory"))
        };
        assert!(message("libcuda.so.1").contains("NVIDIA driver"));
        assert!(message("libxyz.so.3").contains("libxyz.so.3"));
        assert!(advice("undefined symbol: f").contains("cargo xtask setup"));
    }
}
