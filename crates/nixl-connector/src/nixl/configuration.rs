//! NIXL's configuration file.
//!
//! NIXL searches it for the first agent of the process. If the search is denied, NIXL makes no agent, and reports only that its
//! backend failed.

use std::env;
use std::ffi::OsString;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};

use super::library::NixlUnavailable;
use super::settings_files;

/// Whether NIXL has read the file; it reads it once.
static WAS_READ: AtomicBool = AtomicBool::new(false);

/// The file that NIXL will read, if any.
///
/// # Errors
///
/// [`NixlUnavailable::Configuration`] if reading it will fail.
pub(super) fn check() -> Result<Option<PathBuf>, NixlUnavailable> {
    if WAS_READ.load(Ordering::Relaxed) { Ok(None) } else { find(|name| env::var_os(name)) }
}

/// Called after an agent was made.
pub(super) fn was_read() {
    WAS_READ.store(true, Ordering::Relaxed);
}

fn find(variable: impl Fn(&str) -> Option<OsString>) -> Result<Option<PathBuf>, NixlUnavailable> {
    let refused = |(path, error): (PathBuf, std::io::Error)| NixlUnavailable::Configuration {
        path,
        error: error.into(),
    };
    settings_files::of_nixl(variable).map_err(refused)
}

#[cfg(test)]
mod tests {
    use std::fs::{self, File};
    use std::path::Path;

    use rustix::fs::{CWD, FileType, Mode, mknodat};

    use super::settings_files::{LONGEST, OF_THE_SYSTEM};
    use super::*;

    fn with(name: &'static str, value: &Path) -> Result<Option<PathBuf>, NixlUnavailable> {
        let value = value.as_os_str().to_owned();
        find(move |asked| (asked == name).then(|| value.clone()))
    }

    #[test]
    fn a_folder_without_the_file_is_well() {
        if Path::new(OF_THE_SYSTEM).exists() {
            return;
        }
        let home = tempfile::tempdir().unwrap();
        assert_eq!(with("HOME", home.path()), Ok(None));
        assert_eq!(with("HOME", &home.path().join("gone")), Ok(None));
        assert_eq!(find(|_| None), Ok(None));
        let file = home.path().join(".nixl.cfg");
        fs::write(&file, "").unwrap();
        assert_eq!(with("HOME", home.path()), Ok(Some(file.clone())));
        assert_eq!(with("NIXL_CONFIG_FILE", &file), Ok(Some(file)));
    }

    #[test]
    fn what_nixl_cannot_look_at_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let gone = folder.path().join("gone");
        let error = with("NIXL_CONFIG_FILE", &gone).unwrap_err();
        assert!(matches!(&error, NixlUnavailable::Configuration { path, .. } if *path == gone));
        let pipe = folder.path().join("pipe");
        mknodat(CWD, &pipe, FileType::Fifo, Mode::RUSR, 0).unwrap();
        assert!(with("NIXL_CONFIG_FILE", &pipe).is_err());
        assert!(with("NIXL_CONFIG_FILE", Path::new("/dev/zero")).is_err());
        assert!(with("NIXL_CONFIG_FILE", folder.path()).is_err());
        let endless = folder.path().join("endless");
        File::create(&endless).unwrap().set_len(LONGEST + 1).unwrap();
        assert!(with("NIXL_CONFIG_FILE", &endless).unwrap_err().to_string().contains("bytes"));
        let null = Path::new("/dev/null");
        assert_eq!(with("NIXL_CONFIG_FILE", null), Ok(Some(null.to_owned())));
        // A path that no system call takes stands for one that may not be looked at: the tests run as root.
        let long = folder.path().join("x".repeat(300));
        let error = with("HOME", &long).unwrap_err();
        assert!(error.to_string().contains("HOME"), "{error}");
    }
}
