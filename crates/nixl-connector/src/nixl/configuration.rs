//! NIXL's configuration file.
//!
//! NIXL searches it for the first agent of the process. If the search is denied, NIXL makes no agent, and reports only that its
//! backend failed.

use std::env;
use std::ffi::OsString;
use std::fs::{self, File, Metadata};
use std::io::{self, ErrorKind};
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::fs::makedev;

use super::library::NixlUnavailable;

const OF_THE_SYSTEM: &str = "/etc/nixl.cfg";

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

/// Whether a file is one that a reader comes to the end of: a regular one, or `/dev/null`.
pub(super) fn is_read_to_its_end(file: &Metadata) -> bool {
    let is_null = || file.file_type().is_char_device() && file.rdev() == makedev(1, 3);
    file.is_file() || is_null()
}

fn find(variable: impl Fn(&str) -> Option<OsString>) -> Result<Option<PathBuf>, NixlUnavailable> {
    let refused = |path: &PathBuf, error: io::Error| NixlUnavailable::Configuration {
        path: path.clone(),
        error: error.into(),
    };
    let readable = |path: PathBuf| {
        // A pipe or a terminal would block NIXL for ever.
        let opened = fs::metadata(&path).and_then(|found| match is_read_to_its_end(&found) {
            true => File::open(&path),
            false => Err(io::Error::other("it is no regular file")),
        });
        match opened {
            Ok(_) => Ok(Some(path)),
            Err(error) => Err(refused(&path, error)),
        }
    };
    if let Some(named) = variable("NIXL_CONFIG_FILE") {
        return readable(PathBuf::from(named));
    }
    let of_user = variable("HOME").map(|home| PathBuf::from(home).join(".nixl.cfg"));
    for path in of_user.into_iter().chain([PathBuf::from(OF_THE_SYSTEM)]) {
        match fs::metadata(&path) {
            Ok(_) => return readable(path),
            Err(error)
                if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => {}
            Err(error) => return Err(refused(&path, error)),
        }
    }
    Ok(None)
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use rustix::fs::{CWD, FileType, Mode, mknodat};

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
        let null = Path::new("/dev/null");
        assert_eq!(with("NIXL_CONFIG_FILE", null), Ok(Some(null.to_owned())));
        // A path that no system call takes stands for one that may not be looked at: the tests run as root.
        let long = folder.path().join("x".repeat(300));
        let error = with("HOME", &long).unwrap_err();
        assert!(error.to_string().contains("HOME"), "{error}");
    }
}
