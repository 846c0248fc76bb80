//! The tools that building this workspace needs.

use std::env;
use std::path::{Path, PathBuf};

use super::report::Report;
use crate::setup::{self, Pip, gxx};

const SECTION: &str = "tools";

pub(super) fn check(report: &mut Report, store: &Path) {
    match gxx::version() {
        Ok(version) => report.ok_for(SECTION, "g++", version),
        Err(error) => report.missing(SECTION, "g++", "unusable", error.to_string()),
    }
    match libclang(store) {
        Some(path) => report.ok_for(SECTION, "libclang", path.display().to_string()),
        None => report.missing(SECTION, "libclang", "not found", "run `cargo xtask setup`"),
    }
    match Pip::find() {
        Ok(pip) => report.ok_for(SECTION, "pip", pip.version),
        Err(error) => report.note(
            SECTION,
            "pip",
            "unusable: set-up cannot install anything",
            Some(error.to_string()),
        ),
    }
    if store.join("python/.stamp").exists() {
        report.ok_for(SECTION, "interop", store.join("python").display().to_string());
    } else {
        report.note(
            SECTION,
            "interop",
            "the Python peer of the tests is not installed",
            Some("run `cargo xtask test` or `cargo xtask setup --interop`".to_owned()),
        );
    }
}

/// The one that builds use, or would after set-up.
fn libclang(store: &Path) -> Option<PathBuf> {
    let configured = env::var_os("LIBCLANG_PATH").map(PathBuf::from);
    configured
        .into_iter()
        .chain([store.join("libclang/lib")])
        .find(|path| path.is_file() || path.join("libclang.so").exists())
        .or_else(setup::find_libclang)
}
