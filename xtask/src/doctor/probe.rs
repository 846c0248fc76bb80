//! Loads libraries in a child process and says what happened: a constructor that crashes or hangs
//! takes only the child with it.
#![allow(unsafe_code, reason = "loading libraries and asking UCX its version")]

use std::env;
use std::error::Error as _;
use std::ffi::{CStr, c_char, c_int, c_uint, c_void};
use std::fs;
use std::io::{self, Read as _};
use std::mem;
use std::os::fd::{AsFd as _, IntoRawFd as _};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitCode, ExitStatus, Stdio};
use std::ptr;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use libloading::os::unix::{Library, RTLD_GLOBAL, RTLD_LOCAL, RTLD_NOW};
use serde_json::{Value, json};

use crate::args::PROBE;
use crate::setup::locate::LIBRARY;

/// What nixl-connector calls, through nixl-sys.
const SYMBOLS: &str = include_str!("symbols.txt");

/// The beginning of the name of UCX's library.
const UCX: &str = "libucp";

const PATIENCE: Duration = Duration::from_secs(30);

/// What a child found out.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Facts {
    /// Functions that NIXL's library lacks.
    pub(super) lacks: Vec<String>,
    /// The version of UCX that came along, and its file.
    pub(super) ucx: Option<(String, PathBuf)>,
    /// The transports and devices that UCX has when it is started, as in `tcp/eth0`. Empty if the library is not UCX's.
    pub(super) resources: Vec<String>,
}

impl Facts {
    /// The names of the transports.
    pub(super) fn transports(&self) -> impl Iterator<Item = &str> {
        self.resources.iter().filter_map(|resource| Some(resource.split_once('/')?.0))
    }

    /// The devices of those transports.
    pub(super) fn devices(&self) -> impl Iterator<Item = &str> {
        self.resources.iter().filter_map(|resource| Some(resource.split_once('/')?.1))
    }
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
    load_with(libraries, &[])
}

/// The same, with these variables added to the child's environment. Where the last library is UCX, it is started.
pub(super) fn load_with(libraries: &[&Path], variables: &[(&str, &str)]) -> Result<Facts, String> {
    let mut child = env::current_exe()
        .and_then(|ourselves| {
            Command::new(ourselves)
                .arg(PROBE)
                .args(libraries)
                .envs(variables.iter().copied())
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
        resources: output.lines().filter_map(resource).collect(),
    })
}

/// In a line such as `#      resource 1  :  md 1  dev 1  flags -- tcp/eth0`, as UCX prints them.
fn resource(line: &str) -> Option<String> {
    let resource = line.strip_prefix('#')?.trim_start().strip_prefix("resource ")?;
    let (_, resource) = resource.rsplit_once(' ')?;
    resource.contains('/').then(|| resource.to_owned())
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
            let is_ucx = last.file_name().is_some_and(|n| n.to_string_lossy().starts_with(UCX));
            if is_ucx && let Err(error) = start_ucx(&library) {
                println!("\n{}", json!({ "error": format!("does not start: {error}") }));
                return Ok(ExitCode::SUCCESS);
            }
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

/// Makes a context as NIXL does, and has UCX print what it has found.
fn start_ucx(library: &Library) -> Result<(), String> {
    type Init =
        unsafe extern "C" fn(c_uint, c_uint, *const u64, *const c_void, *mut *mut c_void) -> i8;
    type Print = unsafe extern "C" fn(*const c_void, *mut c_void);
    type StatusString = unsafe extern "C" fn(i8) -> *const c_char;
    /// `UCP_PARAM_FIELD_FEATURES`, which is followed by the features: remote memory, atomics, active messages.
    const FEATURES: u64 = 1;
    const RMA_AND_MESSAGES: u64 = 1 << 1 | 1 << 2 | 1 << 3 | 1 << 6;
    unsafe extern "C" {
        fn fdopen(fd: c_int, mode: *const c_char) -> *mut c_void;
        fn fclose(stream: *mut c_void) -> c_int;
    }
    let missing = |error: libloading::Error| reason(&error);
    // SAFETY: this is the type that UCX's ucp.h declares, with the parameters as words.
    let init = unsafe { library.get::<Init>(b"ucp_init_version") }.map_err(missing)?;
    // SAFETY: this is the type that UCX's ucp.h declares, with the stream as a pointer.
    let print = unsafe { library.get::<Print>(b"ucp_context_print_info") }.map_err(missing)?;
    // SAFETY: this is the type that UCX's status.h declares.
    let status_string =
        unsafe { library.get::<StatusString>(b"ucs_status_string") }.map_err(missing)?;
    // Longer than the structure, whose first word says which others count.
    let mut parameters = [0_u64; 64];
    (parameters[0], parameters[1]) = (FEATURES, RMA_AND_MESSAGES);
    let mut context = ptr::null_mut();
    // SAFETY: the parameters and the place for the result outlive the call; UCX reads its settings by itself. The versions are
    // those of the first UCX that NIXL could use.
    let status = unsafe { init(1, 10, parameters.as_ptr(), ptr::null(), &raw mut context) };
    if status != 0 {
        // SAFETY: any status is allowed.
        let text = unsafe { status_string(status) };
        // SAFETY: UCX returns a string that is there for good, or makes one for this thread.
        return Err(unsafe { CStr::from_ptr(text) }.to_string_lossy().into_owned());
    }
    let out = io::stdout().as_fd().try_clone_to_owned().map_err(|e| e.to_string())?;
    // SAFETY: the descriptor is open, and from here on the stream's.
    let stream = unsafe { fdopen(out.into_raw_fd(), c"w".as_ptr()) };
    if !stream.is_null() {
        // SAFETY: UCX made the context, and the stream is open.
        unsafe { print(context, stream) };
        // SAFETY: the stream is open, and not used again.
        unsafe { fclose(stream) };
    }
    // The context stays: the process ends now.
    Ok(())
}

/// The file of the UCX that this process has loaded.
fn ucx_library() -> Option<String> {
    let maps = fs::read_to_string("/proc/self/maps").ok()?;
    maps.lines()
        .filter_map(|line| line.find('/').and_then(|start| line.get(start..)))
        .find(|path| {
            let name = path.rsplit('/').next().unwrap_or(path);
            name.starts_with(UCX) && name.contains(".so")
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
            Ok(Facts {
                lacks: vec!["f".into()],
                ucx: Some(("1.2".into(), "/u".into())),
                resources: vec![],
            })
        );
        assert_eq!(
            read("{\"error\":\"no libx.so\"}", ExitStatus::from_raw(0)),
            Err("no libx.so".into())
        );
    }

    #[test]
    fn what_ucx_has_found_is_read() {
        let output = "#            md 1  :  component 1  tcp \n\
            #      resource 1  :  md 1  dev 1  flags -- tcp/eth0\n\
            #      resource 2  :  md 3  dev 2  flags -- rc_mlx5/mlx5_0:1\n{\"lacks\":[]}\n";
        let facts = read(output, ExitStatus::from_raw(0)).unwrap();
        assert_eq!(facts.resources, ["tcp/eth0", "rc_mlx5/mlx5_0:1"]);
        assert_eq!(facts.transports().collect::<Vec<_>>(), ["tcp", "rc_mlx5"]);
        assert_eq!(facts.devices().collect::<Vec<_>>(), ["eth0", "mlx5_0:1"]);
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
