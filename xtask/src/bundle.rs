//! `cargo xtask bundle`: one archive with the benchmark, the GPU tests, the doctor and the NIXL runtime. Unpacked
//! anywhere on a bare Linux it runs by its script `run`; the machine needs neither a toolchain nor a network.

mod archive;
mod gpu_tests;
mod object;
mod programs;
mod runtime;
mod system;

pub(crate) use gpu_tests::run as run_gpu_tests;

use std::env::{self, consts::ARCH};
use std::fs::{self, File};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result};

use crate::process;
use crate::setup;
use crate::workspace::Workspace;

/// Where the script `run` says that its bundle is.
const BUNDLE: &str = "NIXL_BUNDLE";
/// The oldest glibc that the bundle runs with.
const GLIBC: (u32, u32) = (2, 36);
const RUN: &str = include_str!("bundle/run");
const README: &str = include_str!("bundle/README.in");

/// The unpacked bundle that this program runs in, if it does.
pub(crate) fn unpacked() -> Option<PathBuf> {
    env::var_os(BUNDLE).filter(|dir| !dir.is_empty()).map(PathBuf::from)
}

/// What the bundle at this place was made from.
pub(crate) fn version(bundle: &Path) -> Result<String> {
    let path = bundle.join("VERSION");
    let text =
        fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
    Ok(text.lines().collect::<Vec<_>>().join(", "))
}

/// Builds everything and packs it into `target/bundle`.
pub(crate) fn run(workspace: &Workspace) -> Result<()> {
    setup::run(workspace, false)?;
    let nixl = setup::provide_runtime(workspace)?;

    let name = format!("nixl-rs-{}-{ARCH}", env!("CARGO_PKG_VERSION"));
    let folder = workspace.root.join("target/bundle");
    let bundle = folder.join(&name);
    fs::create_dir_all(&folder).with_context(|| format!("cannot create {}", folder.display()))?;
    // Until the end: two at a time would pack each other's files.
    let lock = File::create(folder.join(".lock"))?;
    lock.lock().with_context(|| format!("cannot lock {}", folder.display()))?;
    if bundle.exists() {
        fs::remove_dir_all(&bundle)
            .with_context(|| format!("cannot remove {}", bundle.display()))?;
    }
    programs::add(workspace, &bundle)?;
    runtime::add(&nixl, &bundle.join("nixl"))?;
    system::add(&bundle)?;
    object::check_glibc(&bundle, GLIBC)?;

    write(&bundle.join("VERSION"), &provenance(workspace))?;
    write(&bundle.join("README"), README)?;
    let script = bundle.join("run");
    write(&script, RUN)?;
    fs::set_permissions(&script, fs::Permissions::from_mode(0o755))?;

    let (archive, bytes) = archive::pack(&folder, &name)?;
    println!("{} ({:.1} MiB)", archive.display(), bytes as f64 / archive::MIB as f64);
    Ok(())
}

/// Says what the bundle is made of; without git or a checkout not from which commit.
fn provenance(workspace: &Workspace) -> String {
    let git = |args: &[&str]| {
        let mut command = Command::new("git");
        process::output(command.current_dir(&workspace.root).args(args))
            .unwrap_or_else(|| "unknown".to_owned())
    };
    format!(
        "nixl-rs {}\ncommit {}\ndate {}\nNIXL {}\n",
        env!("CARGO_PKG_VERSION"),
        git(&["describe", "--always", "--abbrev=12", "--dirty"]),
        git(&["log", "-1", "--format=%cI"]),
        setup::RUNTIME_VERSION,
    )
}

fn write(path: &Path, text: &str) -> Result<()> {
    fs::write(path, text).with_context(|| format!("cannot write {}", path.display()))
}

/// Copies a file, links followed, and makes the folders for it; the copy can be changed and removed.
fn copy(from: &Path, to: &Path) -> Result<()> {
    let copied = to
        .parent()
        .map_or(Ok(()), fs::create_dir_all)
        .and_then(|()| fs::copy(from, to).map(drop))
        .and_then(|()| fs::set_permissions(to, fs::Permissions::from_mode(0o755)));
    copied.with_context(|| format!("cannot copy {} to {}", from.display(), to.display()))
}

/// All plain files below the folder, in order.
fn files(folder: &Path) -> Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(folder) = folders.pop() {
        let entries = fs::read_dir(&folder)
            .with_context(|| format!("cannot read the folder {}", folder.display()))?;
        for entry in entries {
            let entry = entry?;
            if entry.file_type()?.is_dir() {
                folders.push(entry.path());
            } else {
                files.push(entry.path());
            }
        }
    }
    files.sort();
    Ok(files)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;
    use std::process::Output;

    /// Makes a program of a few lines of shell. Another process writes it: this one could be forked by a test beside
    /// us while it has the file open, and a file that is open for writing cannot be run.
    pub(super) fn script(path: &Path, text: &str) {
        let write = r#"printf '#!/bin/sh\n%s\n' "$2" > "$1" && chmod +x "$1""#;
        let status =
            Command::new("sh").args(["-c", write, "sh"]).arg(path).arg(text).status().unwrap();
        assert!(status.success());
    }

    /// A bundle whose programs say how they were called; `probe` stands for loading NIXL.
    fn stand_in(probe: &str) -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        let bundle = dir.path().join("a bundle");
        fs::create_dir_all(bundle.join("bin")).unwrap();
        script(&bundle.join("run"), RUN);
        let says = r#"echo "$NIXL_BUNDLE,$NIXL_PREFIX,${NIXL_BENCH_DIR-},${LD_LIBRARY_PATH-},$*""#;
        script(
            &bundle.join("bin/xtask"),
            &format!("if [ \"$1\" = __probe ]; then {probe}; else {says}; fi"),
        );
        script(&bundle.join("bin/nixl-bench"), says);
        fs::create_dir(dir.path().join("elsewhere")).unwrap();
        symlink(bundle.join("run"), dir.path().join("link")).unwrap();
        symlink("../link", dir.path().join("elsewhere/link")).unwrap();
        dir
    }

    /// Calls the bundle's `run` by way of links, from another folder.
    fn call(dir: &Path, args: &[&str]) -> Output {
        Command::new("./link")
            .args(args)
            .current_dir(dir.join("elsewhere"))
            .env_remove("LD_LIBRARY_PATH")
            .env_remove("NIXL_BENCH_DIR")
            .env("NIXL_PREFIX", "/another")
            .output()
            .unwrap()
    }

    fn said(output: &Output) -> Vec<String> {
        assert!(output.status.success(), "{output:?}");
        let text = String::from_utf8(output.stdout.clone()).unwrap();
        text.trim_end().split(',').map(String::from).collect()
    }

    #[test]
    fn the_script_finds_its_bundle_from_everywhere() {
        let dir = stand_in(r#"echo '{"lacks":[]}'"#);
        let root = dir.path().canonicalize().unwrap();
        let bundle = root.join("a bundle").display().to_string();
        let nixl = format!("{bundle}/nixl");
        let tests = format!("__test-gpu {bundle}/tests one two");
        let reports = root.join("elsewhere/report").display().to_string();
        for (args, bench_dir, call_of) in [
            (["doctor", "--json"].as_slice(), "", "doctor --json"),
            (&["test-gpu", "one", "two"], "", &tests),
            (&["bench", "--quick"], &reports, "--quick"),
        ] {
            assert_eq!(said(&call(&root, args)), [&*bundle, &nixl, bench_dir, "", call_of]);
        }
    }

    #[test]
    fn the_bundles_libraries_stand_in_only_where_nixl_does_not_load() {
        for probe in [r#"echo '{"error":"libssl.so.3: cannot open"}'"#, "exit 127"] {
            let dir = stand_in(probe);
            let root = dir.path().canonicalize().unwrap();
            let system = root.join("a bundle/system").display().to_string();
            assert_eq!(said(&call(&root, &["doctor"])).get(3), Some(&system), "{probe}");
        }
    }

    #[test]
    fn an_unknown_command_is_named() {
        let dir = stand_in("exit 1");
        let output = call(dir.path(), &["benhc"]);
        assert_eq!(output.status.code(), Some(2));
        assert!(String::from_utf8_lossy(&output.stderr).contains("`benhc`"));
        assert!(call(dir.path(), &[]).status.success());
    }
}
