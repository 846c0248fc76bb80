//! The NIXL library: found by path, with every symbol checked, so that a call cannot abort the process.
#![allow(unsafe_code, reason = "opening a shared library runs its constructors")]

use std::env;
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::sync::Mutex;

use libloading::os::unix::{Library, RTLD_GLOBAL, RTLD_NOW};
use nixl_device::locks::lock;
use nixl_device::{AtWork, SharedError, enter_libraries};
use nixl_ops::Advice;
use thiserror::Error;

/// The library that holds NIXL's C API.
const LIBRARY: &str = "libnixl_capi.so";

/// The folder inside NIXL's Python wheels that holds the libraries, for each wheel.
const WHEEL_FOLDERS: [&str; 2] = [".nixl_cu12.mesonpy.libs", ".nixl_cu13.mesonpy.libs"];

/// Every symbol that this crate makes nixl-sys call. nixl-sys aborts the process if one is missing.
const SYMBOLS: [&str; 46] = [
    "nixl_capi_is_stub",
    "nixl_capi_create_configured_agent",
    "nixl_capi_destroy_agent",
    "nixl_capi_get_plugin_params",
    "nixl_capi_destroy_mem_list",
    "nixl_capi_destroy_params",
    "nixl_capi_params_add",
    "nixl_capi_create_backend",
    "nixl_capi_destroy_backend",
    "nixl_capi_create_opt_args",
    "nixl_capi_destroy_opt_args",
    "nixl_capi_opt_args_add_backend",
    "nixl_capi_opt_args_set_notif_msg",
    "nixl_capi_opt_args_set_has_notif",
    "nixl_capi_create_reg_dlist",
    "nixl_capi_destroy_reg_dlist",
    "nixl_capi_reg_dlist_clear",
    "nixl_capi_reg_dlist_add_desc",
    "nixl_capi_register_mem",
    "nixl_capi_deregister_mem",
    "nixl_capi_get_local_md",
    "nixl_capi_get_local_partial_md",
    "nixl_capi_load_remote_md",
    "nixl_capi_invalidate_remote_md",
    "nixl_capi_agent_make_connection",
    "nixl_capi_create_xfer_dlist",
    "nixl_capi_destroy_xfer_dlist",
    "nixl_capi_xfer_dlist_clear",
    "nixl_capi_xfer_dlist_add_desc",
    "nixl_capi_prep_xfer_dlist",
    "nixl_capi_release_xfer_dlist_handle",
    "nixl_capi_create_xfer_req",
    "nixl_capi_make_xfer_req",
    "nixl_capi_post_xfer_req",
    "nixl_capi_get_xfer_status",
    "nixl_capi_release_xfer_req",
    "nixl_capi_destroy_xfer_req",
    "nixl_capi_estimate_xfer_cost",
    "nixl_capi_gen_notif",
    "nixl_capi_get_notifs",
    "nixl_capi_create_notif_map",
    "nixl_capi_destroy_notif_map",
    "nixl_capi_notif_map_size",
    "nixl_capi_notif_map_get_agent_at",
    "nixl_capi_notif_map_get_notifs_size",
    "nixl_capi_notif_map_get_notif",
];

/// NIXL's library, opened and checked. It stays open until the process ends.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct NixlLibrary {
    path: PathBuf,
}

/// NIXL cannot be used.
#[derive(Clone, Debug, Eq, Error, PartialEq)]
#[non_exhaustive]
pub enum NixlUnavailable {
    /// No library was found.
    #[error(
        "NIXL was not found: looked for {LIBRARY} in {}; install NIXL, or give the folder that it is installed in by \
         NIXL_PREFIX or NixlOptions::prefix (`pip install --no-deps --target DIR nixl-cu12` makes one)",
        join(searched)
    )]
    NotFound {
        /// The searched places.
        searched: Vec<PathBuf>,
    },
    /// A library was found but the loader refused it.
    #[error("{} cannot be loaded: {reason}", path.display())]
    NotLoadable {
        /// The file.
        path: PathBuf,
        /// Text of the loader.
        reason: String,
    },
    /// The library is too old, or something else.
    #[error("{} has no {symbol}; NIXL 1.5 or newer is needed", path.display())]
    MissingSymbol {
        /// The file.
        path: PathBuf,
        /// The missing symbol.
        symbol: &'static str,
    },
    /// The library loads but cannot be reached under its name.
    #[error("{} is loaded, but not found again as {LIBRARY}: it was renamed, or built with another name; restore the name", path.display())]
    WrongName {
        /// The file.
        path: PathBuf,
    },
    /// A process has one NIXL, and it has opened another.
    #[error(
        "NIXL below {} is requested, and this process has opened {}: give all its connectors the same NixlOptions::prefix",
        prefix.display(),
        path.display()
    )]
    OtherInForce {
        /// The library that is open.
        path: PathBuf,
        /// The requested folder.
        prefix: PathBuf,
    },
    /// NIXL cannot search its configuration file, and would make no agent.
    #[error(
        "NIXL looks for its settings in {}, which cannot be read: {error}; set HOME to a folder that this user may enter, or \
         NIXL_CONFIG_FILE to a file (/dev/null will do), before the program starts",
        path.display()
    )]
    Configuration {
        /// The searched place.
        path: PathBuf,
        /// The error of the operating system.
        #[source]
        error: SharedError,
    },
    /// The limit on open files is too low for the engine.
    #[error(
        "{open} of {limit} files are open, and an agent with {devices} network devices needs {needed} more: raise the limit \
         (`ulimit -n`), or choose fewer devices with NixlOptions::network_devices"
    )]
    Files {
        /// The open files.
        open: u64,
        /// The limit.
        limit: u64,
        /// The files that the agent needs.
        needed: u64,
        /// The network devices that UCX would use.
        devices: usize,
    },
    /// The limit on threads is too low for the engine.
    #[error(
        "an agent needs {needed} threads, and the system refused one after {started}: {error}; raise the limit (`ulimit -u`, \
         pids.max of the control group), or the one on memory (`ulimit -v`)"
    )]
    Threads {
        /// The threads that the agent needs.
        needed: usize,
        /// The started threads.
        started: usize,
        /// The error of the operating system.
        #[source]
        error: SharedError,
    },
    /// A limit on memory is too low for the engine.
    #[error(
        "{used} of {limit} bytes of memory are in use, and the engine needs {needed} more: raise the limit (`{name}`)"
    )]
    Memory {
        /// The shell's command for the limit.
        name: &'static str,
        /// The limit, in bytes.
        limit: u64,
        /// The bytes in use that count.
        used: u64,
        /// The bytes that the engine needs.
        needed: u64,
    },
    /// The limit on file size is too low for the engine.
    #[error(
        "UCX needs files of {needed} bytes in memory, and this process may write {limit}: raise the limit (`ulimit -f`)"
    )]
    FileSize {
        /// The largest file that the process may write, in bytes.
        limit: u64,
        /// The size that UCX needs, in bytes.
        needed: u64,
    },
    /// A setting of UCX cannot be set.
    #[error("{name}={value} cannot be set: {reason}")]
    Setting {
        /// Its name.
        name: String,
        /// The requested value.
        value: String,
        /// The reason, and the remedy.
        reason: String,
    },
    /// UCX has one value for the process, and an earlier connector has set another.
    #[error(
        "{name}={value} cannot be set: UCX has one value for the process, and an earlier connector has set {in_force}; give all \
         connectors of the process the same"
    )]
    SettingInForce {
        /// Its name.
        name: String,
        /// The requested value.
        value: String,
        /// The value in force.
        in_force: String,
    },
    /// No backend was chosen.
    #[error("an agent needs a backend: name one in NixlOptions::backends")]
    NoBackend,
    /// NIXL cannot load the plugin of a backend, or has none.
    #[error(
        "NIXL has no plugin for its backend {backend}, or cannot load it{}{variables}; `cargo xtask doctor` in this project's \
         repository says what it lacks",
        of_variable(folder.as_deref())
    )]
    NoPlugin {
        /// The backend's name for NIXL.
        backend: &'static str,
        /// The folder that the variable `NIXL_PLUGIN_DIR` names.
        folder: Option<PathBuf>,
        /// The variables of NIXL in the environment, as a part of a sentence: it may fail for the value of one. Empty without any.
        variables: String,
    },
    /// This process cannot start NIXL.
    #[error(
        "NIXL could not start its {what}: {reason}; run `cargo xtask doctor` in this project's repository for details"
    )]
    Start {
        /// The part that did not start.
        what: &'static str,
        /// The reason, and the remedy.
        reason: String,
    },
    /// NIXL refused a call of its start.
    #[error(
        "NIXL could not start its {what}: {reason}; run `cargo xtask doctor` in this project's repository for details"
    )]
    Engine {
        /// The part that did not start.
        what: &'static str,
        /// NIXL's text, with what is known of the cause.
        reason: String,
        /// NIXL's error.
        #[source]
        error: SharedError,
    },
}

impl NixlUnavailable {
    /// The remedy: [`Advice::Retry`] where files or threads ran out, else [`Advice::GiveUp`].
    #[must_use]
    pub fn advice(&self) -> Advice {
        match self {
            Self::Files { .. } | Self::Threads { .. } => Advice::Retry,
            Self::NotFound { .. }
            | Self::NotLoadable { .. }
            | Self::MissingSymbol { .. }
            | Self::WrongName { .. }
            | Self::OtherInForce { .. }
            | Self::Configuration { .. }
            | Self::FileSize { .. }
            | Self::Memory { .. }
            | Self::Setting { .. }
            | Self::SettingInForce { .. }
            | Self::NoBackend
            | Self::NoPlugin { .. }
            | Self::Start { .. }
            | Self::Engine { .. } => Advice::GiveUp,
        }
    }
}

fn of_variable(folder: Option<&Path>) -> String {
    let told = |folder: &Path| {
        format!(
            ": NIXL_PLUGIN_DIR has it look in {}, so set that to its folder of plugins or unset it",
            folder.display()
        )
    };
    folder.map(told).unwrap_or_default()
}

fn join(paths: &[PathBuf]) -> String {
    paths.iter().map(|p| p.display().to_string()).collect::<Vec<_>>().join(", ")
}

impl NixlLibrary {
    /// Finds and opens the library, once for the process: later calls return the one that was opened.
    ///
    /// The search order is `NIXL_PREFIX`, `/opt/nvidia/nvda_nixl`, the search path of the system's loader, and
    /// `NIXL_RUNTIME_DIR`, which this project's commands fill. A program that was built with `NIXL_RUNTIME_DIR` searches that
    /// folder even without the variable at run time.
    ///
    /// # Errors
    ///
    /// [`NixlUnavailable`], with the searched places. The next call tries again.
    pub fn open() -> Result<&'static Self, NixlUnavailable> {
        let _building = building()?;
        Self::open_below(None)
    }

    /// As [`open`](Self::open), but with a `prefix` only in that folder, after `NIXL_PREFIX`.
    ///
    /// # Errors
    ///
    /// [`NixlUnavailable`], with the searched places; [`NixlUnavailable::OtherInForce`] if the process has opened another.
    pub(super) fn open_below(prefix: Option<&Path>) -> Result<&'static Self, NixlUnavailable> {
        static LIBRARY: Mutex<Option<&'static NixlLibrary>> = Mutex::new(None);
        let candidates = candidates(|name| env::var_os(name), prefix);
        let mut opened = lock(&LIBRARY);
        match (*opened, prefix) {
            (Some(library), None) => Ok(library),
            (Some(library), Some(_)) if library.is_among(&candidates) => Ok(library),
            (Some(library), Some(prefix)) => {
                let (path, prefix) = (library.path.clone(), prefix.to_owned());
                Err(NixlUnavailable::OtherInForce { path, prefix })
            }
            (None, _) => {
                // The library stays open until the process ends, and the record with it.
                let library: &Self = Box::leak(Box::new(Self::find(&candidates)?));
                let version = super::version::version(&library.path);
                tracing::info!(path = %library.path.display(), version, "NIXL's library is open");
                Ok(opened.insert(library))
            }
        }
    }

    fn is_among(&self, candidates: &[PathBuf]) -> bool {
        let ours = self.path.canonicalize().ok();
        let is_ours = |path: &PathBuf| {
            *path == self.path || (ours.is_some() && path.canonicalize().ok() == ours)
        };
        candidates.iter().any(is_ours)
    }

    fn find(candidates: &[PathBuf]) -> Result<Self, NixlUnavailable> {
        for path in candidates {
            // The loader resolves a bare name; a miss is no error of its own.
            let bare = path.components().count() == 1;
            if !bare && !path.is_file() {
                continue;
            }
            match Self::load(path) {
                Err(NixlUnavailable::NotLoadable { .. }) if bare => {}
                done => return done,
            }
        }
        Err(NixlUnavailable::NotFound { searched: candidates.to_vec() })
    }

    fn load(path: &Path) -> Result<Self, NixlUnavailable> {
        // SAFETY: opening runs the library's constructors. NIXL's set up logging and read the environment; they
        // have no other preconditions. The library is never closed, so nothing of it can dangle.
        let library =
            unsafe { Library::open(Some(path), RTLD_NOW | RTLD_GLOBAL) }.map_err(|e| {
                let reason =
                    std::error::Error::source(&e).map_or(e.to_string(), ToString::to_string);
                NixlUnavailable::NotLoadable { path: path.to_owned(), reason }
            })?;
        for symbol in SYMBOLS {
            // SAFETY: only the presence of the symbol matters; the pointer is dropped unused.
            let found = unsafe { library.get::<*const ()>(symbol.as_bytes()) };
            if found.is_err() {
                return Err(NixlUnavailable::MissingSymbol { path: path.to_owned(), symbol });
            }
        }
        std::mem::forget(library);
        // nixl-sys looks the library up by its name from here on; the open above satisfies that.
        if !reachable_by_name() {
            return Err(NixlUnavailable::WrongName { path: path.to_owned() });
        }
        Ok(Self { path: path.to_owned() })
    }

    /// The path of the library; the bare file name if the system's loader found it.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }
}

/// Begins the start of an agent: it loads NIXL and UCX, and takes locks of theirs and of this library that a child inherits. **Blocks.**
///
/// # Errors
///
/// In the child of a fork during which another thread was at such work, or held the lock of the loader.
pub(super) fn building() -> Result<AtWork, NixlUnavailable> {
    enter_libraries().ok_or_else(|| {
        let reason = "this process was forked while a thread loaded a library, or built or dropped a connector, and the locks \
             of that thread are held here for ever: fork before or after that, or start the process by exec";
        let reason = reason.to_owned();
        NixlUnavailable::Start { what: "agent in a forked process", reason }
    })
}

/// Whether the loader finds the library by name, as nixl-sys will ask it to.
fn reachable_by_name() -> bool {
    // SAFETY: as in `load`; the library is open already or this is the very open that nixl-sys would do.
    match unsafe { Library::open(Some(LIBRARY), RTLD_NOW) } {
        Ok(library) => {
            std::mem::forget(library);
            true
        }
        Err(_) => false,
    }
}

/// The folder that this project's commands had filled when the program was built.
const RUNTIME_DIR: Option<&str> = option_env!("NIXL_RUNTIME_DIR");

fn candidates(var: impl Fn(&str) -> Option<OsString>, prefix: Option<&Path>) -> Vec<PathBuf> {
    let mut found = Vec::new();
    // An empty value would be a path relative to the working folder.
    let below = |dir: OsString| match dir.is_empty() {
        true => Vec::new(),
        false => layouts(Path::new(&dir)),
    };
    found.extend(var("NIXL_PREFIX").map(below).unwrap_or_default());
    if let Some(prefix) = prefix {
        found.extend(layouts(prefix));
        return found;
    }
    found.extend(layouts(Path::new("/opt/nvidia/nvda_nixl")));
    found.push(PathBuf::from(LIBRARY));
    let runtime = var("NIXL_RUNTIME_DIR").or_else(|| RUNTIME_DIR.map(OsString::from));
    found.extend(runtime.map(below).unwrap_or_default());
    found
}

/// The places below a prefix in which installers and wheels put the library.
fn layouts(prefix: &Path) -> Vec<PathBuf> {
    let triplet = format!("lib/{}-linux-gnu", env::consts::ARCH);
    [triplet.as_str(), "lib64", "lib", ""]
        .into_iter()
        .chain(WHEEL_FOLDERS)
        .map(|folder| prefix.join(folder).join(LIBRARY))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_prefix_comes_first_and_the_runtime_folder_last() {
        let found = candidates(|name| Some(OsString::from(format!("/{name}"))), None);
        assert!(found.first().unwrap().starts_with("/NIXL_PREFIX"));
        assert!(found.last().unwrap().starts_with("/NIXL_RUNTIME_DIR"));
        assert!(found.contains(&PathBuf::from(LIBRARY)));
    }

    #[test]
    fn a_folder_given_in_code_is_the_only_one_but_for_the_environments() {
        let given = Path::new("/given");
        let found = candidates(|_| None, Some(given));
        assert_eq!(found, layouts(given));
        let found = candidates(|name| Some(OsString::from(format!("/{name}"))), Some(given));
        assert_eq!(found, [layouts(Path::new("/NIXL_PREFIX")), layouts(given)].concat());
    }

    #[test]
    fn an_empty_variable_is_no_folder() {
        let found = candidates(|_| Some(OsString::new()), None);
        let is_relative = |path: &&PathBuf| path.is_relative();
        assert_eq!(found.iter().filter(is_relative).collect::<Vec<_>>(), [Path::new(LIBRARY)]);
    }

    #[test]
    fn a_program_looks_where_set_up_put_it_when_it_was_built() {
        let found = candidates(|_| None, None);
        let built = RUNTIME_DIR
            .map_or(PathBuf::from(LIBRARY), |dir| layouts(Path::new(dir)).pop().unwrap());
        assert_eq!(*found.last().unwrap(), built);
    }

    #[test]
    fn the_library_that_is_open_is_known_by_its_file() {
        let dir = tempfile::tempdir().unwrap();
        let (lib, other) = (dir.path().join("lib"), dir.path().join("other"));
        std::fs::create_dir(&lib).unwrap();
        std::fs::write(lib.join(LIBRARY), "").unwrap();
        std::os::unix::fs::symlink(&lib, &other).unwrap();
        let library = NixlLibrary { path: lib.join(LIBRARY) };
        assert!(library.is_among(&layouts(dir.path())));
        assert!(library.is_among(&layouts(&other)), "the same by another name");
        assert!(!library.is_among(&layouts(&dir.path().join("absent"))));
        assert!(!NixlLibrary { path: "/absent".into() }.is_among(&layouts(dir.path())));
    }

    #[test]
    fn what_was_searched_is_told() {
        let nowhere = vec![PathBuf::from("/nonexistent/libnixl_capi.so")];
        let error = NixlLibrary::find(&nowhere).unwrap_err();
        assert_eq!(error, NixlUnavailable::NotFound { searched: nowhere });
        assert!(error.to_string().contains("/nonexistent/libnixl_capi.so"), "{error}");
        assert!(error.to_string().contains("NIXL_PREFIX"), "{error}");
    }

    #[test]
    fn a_file_that_is_no_library_is_an_error() {
        let file = env::current_exe().unwrap().with_extension("d");
        let file = if file.is_file() { file } else { PathBuf::from("/etc/passwd") };
        let error = NixlLibrary::find(&[file]).unwrap_err();
        assert!(matches!(error, NixlUnavailable::NotLoadable { .. }), "{error:?}");
    }

    #[test]
    fn another_library_is_told_apart() {
        // The C library is there on every machine and is not NIXL.
        let libc = ["/lib/x86_64-linux-gnu/libc.so.6", "/lib64/libc.so.6", "/usr/lib/libc.so.6"]
            .into_iter()
            .map(PathBuf::from)
            .find(|p| p.is_file());
        if let Some(libc) = libc {
            let error = NixlLibrary::find(&[libc]).unwrap_err();
            assert!(matches!(error, NixlUnavailable::MissingSymbol { .. }), "{error:?}");
        }
    }
}
