//! Loads libraries in a child process and says what happened: a constructor that crashes or hangs
//! takes only the child with it.
#![allow(unsafe_code, reason = "loading libraries and asking UCX its version")]

use std::env;
use std::error::Error as _;
use std::ffi::{CStr, c_char};
use std::fs;
use std::io::Read as _;
use std::mem;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitCode, ExitStatus, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use libloading::os::unix::{Library, RTLD_GLOBAL, RTLD_LOCAL, RTLD_NOW};
use serde_json::{Value, json};

use crate::args::PROBE;
use crate::setup::locate::LIBRARY;

/// What nixl-connector calls, through nixl-sys.
const SYMBOLS: &str = include_str!("symbols.txt");

const PATIENCE: Duration = Duration::from_secs(30);

/// What a child found out.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Facts {
    /// Functions that NIXL's library lacks.
    pub(super) lacks: Vec<String>,
    /// The version of UCX that came along, and its file.
    pub(super) ucx: Option<(String, PathBuf)>,
}

pub(super) fn symbol_count() -> usize {
    SYMBOLS.lines().count()
}

/// Like [`load`], at the same time for each: what is first in common, and then one of `each`.
pub(super) fn load_each(first: &[&Path], each: &[(String, PathBuf)]) -> Vec<Result<Facts, String>> {
    thread::scope(|scope| {
        let children: Vec<_> = each
            .iter()
            .map(|(_, last)| {
                let libraries = [first, &[last]].concat();
                scope.spawn(move || load(&libraries))
            })
            .collect();
        children
            .into_iter()
            .map(|child| child.join().unwrap_or_else(|_| Err("was not tried".to_owned())))
            .collect()
    })
}

/// Loads the libraries in this order in one child; the error says why one of them does not load.
pub(super) fn load(libraries: &[&Path]) -> Result<Facts, String> {
    let mut child = env::current_exe()
        .and_then(|ourselves| {
            Command::new(ourselves)
                .arg(PROBE)
                .args(libraries)
                .stdout(Stdio::piped())
                .stderr(Stdio::null())
                .spawn()
        })
        .map_err(|error| format!("cannot start a child to load it: {error}"))?;
    let status = wait(&mut child)?;
    let mut output = String::new();
    if let Some(mut stdout) = child.stdout.take() {
        // Not text if a library printed something else: then there are no facts in it.
        let _ = stdout.read_to_string(&mut output);
    }
    read(&output, status)
}

fn wait(child: &mut Child) -> Result<ExitStatus, String> {
    let start = Instant::now();
    loop {
        match child.try_wait() {
            Ok(Some(status)) => return Ok(status),
            Ok(None) if start.elapsed() < PATIENCE => thread::sleep(Duration::from_millis(5)),
            Ok(None) => {
                // Best effort: it may have ended just now.
                let _ = child.kill();
                let _ = child.wait();
                return Err(format!("hangs for {} s when loaded", PATIENCE.as_secs()));
            }
            Err(error) => return Err(format!("cannot wait for the child: {error}")),
        }
    }
}

/// The facts are the last line: a library may print something when it is loaded.
fn read(output: &str, status: ExitStatus) -> Result<Facts, String> {
    let facts: Option<Value> = output
        .lines()
        .next_back()
        .and_then(|line| serde_json::from_str(line).ok())
        .filter(Value::is_object);
    let Some(facts) = facts else {
        return Err(format!("crashes when loaded ({status})"));
    };
    if let Some(error) = facts["error"].as_str() {
        return Err(error.to_owned());
    }
    let lacks = facts["lacks"].as_array().into_iter().flatten();
    Ok(Facts {
        lacks: lacks.filter_map(Value::as_str).map(String::from).collect(),
        ucx: facts["ucx_version"]
            .as_str()
            .zip(facts["ucx_library"].as_str())
            .map(|(version, library)| (version.to_owned(), library.into())),
    })
}

/// The child's side.
pub(crate) fn child(paths: &[PathBuf]) -> Result<ExitCode> {
    let (last, context) = paths.split_last().context("nothing to load")?;
    let loaded = context
        .iter()
        .try_for_each(|path| open(path, RTLD_GLOBAL).map(mem::forget))
        .and_then(|()| open(last, RTLD_LOCAL));
    let facts = match loaded {
        Err(error) => json!({ "error": reason(&error) }),
        Ok(library) => {
            let facts = json!({
                "lacks": lacks(last, &library),
                "ucx_version": ucx_version(&library),
                "ucx_library": ucx_library(),
            });
            // Unloading could crash too, and the libraries in use are never unloaded.
            mem::forget(library);
            facts
        }
    };
    println!("\n{facts}");
    // A library that crashes from here on has been loaded all the same.
    Ok(ExitCode::SUCCESS)
}

fn open(path: &Path, scope: i32) -> Result<Library, libloading::Error> {
    // SAFETY: its constructors may do anything; that is why this process does nothing else.
    unsafe { Library::open(Some(path), RTLD_NOW | scope) }
}

/// The loader's own message, which libloading keeps one level down.
fn reason(error: &libloading::Error) -> String {
    error.source().unwrap_or(error).to_string()
}

fn lacks(path: &Path, library: &Library) -> Vec<&'static str> {
    if path.file_name().is_none_or(|name| name != LIBRARY) {
        return Vec::new();
    }
    let has = |symbol: &str| {
        // SAFETY: the address is not used.
        unsafe { library.get::<*const ()>(symbol.as_bytes()) }.is_ok()
    };
    SYMBOLS.lines().filter(|symbol| !has(symbol)).collect()
}

/// Also finds the function in what the library depends on.
fn ucx_version(library: &Library) -> Option<String> {
    type Function = unsafe extern "C" fn() -> *const c_char;
    // SAFETY: this is the type that UCX's ucp.h declares.
    let version = unsafe { library.get::<Function>(b"ucp_get_version_string") }.ok()?;
    // SAFETY: takes nothing and may be called at any time.
    let version = unsafe { version() };
    if version.is_null() {
        return None;
    }
    // SAFETY: a string literal inside UCX, which stays loaded.
    let version = unsafe { CStr::from_ptr(version) };
    Some(version.to_string_lossy().into_owned())
}

/// The file of the UCX that this process has loaded.
fn ucx_library() -> Option<String> {
    let maps = fs::read_to_string("/proc/self/maps").ok()?;
    maps.lines()
        .filter_map(|line| line.find('/').and_then(|start| line.get(start..)))
        .find(|path| {
            let name = path.rsplit('/').next().unwrap_or(path);
            name.starts_with("libucp") && name.contains(".so")
        })
        .map(String::from)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::process::ExitStatusExt as _;

    #[test]
    fn facts_survive_the_pipe() {
        let output =
            "noise\n\n{\"lacks\":[\"f\"],\"ucx_version\":\"1.2\",\"ucx_library\":\"/u\"}\n";
        assert_eq!(
            read(output, ExitStatus::from_raw(0)),
            Ok(Facts { lacks: vec!["f".into()], ucx: Some(("1.2".into(), "/u".into())) })
        );
        assert_eq!(
            read("{\"error\":\"no libx.so\"}", ExitStatus::from_raw(0)),
            Err("no libx.so".into())
        );
    }

    #[test]
    fn a_crash_is_a_finding() {
        for output in ["", "half a li", "\n[]\n"] {
            let error = read(output, ExitStatus::from_raw(11)).unwrap_err();
            assert!(error.contains("signal: 11"), "{error}");
        }
    }

    #[test]
    fn a_child_that_ends_is_waited_for() {
        let mut child = Command::new("/bin/sh").args(["-c", "exit 7"]).spawn().unwrap();
        assert_eq!(wait(&mut child).unwrap().code(), Some(7));
    }

    #[test]
    fn symbols_are_those_that_the_connector_calls() {
        let source = Path::new(env!("CARGO_MANIFEST_DIR"))
            .join("../crates/nixl-connector/src/nixl/library.rs");
        let source = fs::read_to_string(source).unwrap();
        let mut called: Vec<&str> =
            source.split('"').filter(|literal| literal.starts_with("nixl_capi_")).collect();
        called.sort_unstable();
        let listed: Vec<&str> = SYMBOLS.lines().collect();
        assert_eq!(listed, called, "bring xtask/src/doctor/symbols.txt up to date");
    }
}
