//! The files of settings of NIXL and UCX, which read them to the end: a pipe or a terminal would block them for ever.
//!
//! `cargo xtask doctor` compiles this file too: so it refuses what connectors refuse.

use std::ffi::OsString;
use std::fs::{self, File, Metadata};
use std::io::{self, ErrorKind};
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};

/// NIXL's file of the system.
pub(super) const OF_THE_SYSTEM: &str = "/etc/nixl.cfg";

/// The longest file of settings. A longer one, of zeros for instance, would be read for minutes.
pub(super) const LONGEST: u64 = 16 << 20;

/// Whether a reader comes to the end of a file soon.
///
/// # Errors
///
/// The system's, or why it does not.
pub(super) fn check(path: &Path) -> io::Result<()> {
    let found = fs::metadata(path)?;
    if !is_read_to_its_end(&found) {
        return Err(io::Error::other("it is no regular file"));
    }
    if found.len() > LONGEST {
        let len = found.len();
        return Err(io::Error::other(format!(
            "it has {len} bytes, and at most {LONGEST} are read"
        )));
    }
    Ok(())
}

/// Whether it is a regular file, or `/dev/null`.
fn is_read_to_its_end(file: &Metadata) -> bool {
    let is_null = || fs::metadata("/dev/null").is_ok_and(|null| null.rdev() == file.rdev());
    file.is_file() || (file.file_type().is_char_device() && is_null())
}

/// The file that NIXL reads, if any.
///
/// # Errors
///
/// The file for which NIXL makes no agent, and why.
pub(super) fn of_nixl(
    variable: impl Fn(&str) -> Option<OsString>,
) -> Result<Option<PathBuf>, (PathBuf, io::Error)> {
    let readable = |path: PathBuf| match check(&path).and_then(|()| File::open(&path)) {
        Ok(_) => Ok(Some(path)),
        Err(error) => Err((path, error)),
    };
    if let Some(named) = variable("NIXL_CONFIG_FILE") {
        return readable(named.into());
    }
    let of_user = variable("HOME").map(|home| PathBuf::from(home).join(".nixl.cfg"));
    for path in of_user.into_iter().chain([OF_THE_SYSTEM.into()]) {
        match fs::metadata(&path) {
            Ok(_) => return readable(path),
            Err(error)
                if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => {}
            Err(error) => return Err((path, error)),
        }
    }
    Ok(None)
}
