//! Checks of the files that UCX opens as its library loads: an unwritable log ends the process, a pipe blocks it for ever.

use std::env;
use std::ffi::OsString;
use std::fs::{self, OpenOptions};
use std::io;
use std::os::unix::fs::{FileTypeExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use rustix::fs::{Access, OFlags, access};

use crate::nixl::NixlUnavailable;

/// The name of UCX's configuration file, in each of some folders.
const SETTINGS: &str = "ucx.conf";

/// Refuses files at which UCX would hang or end the process.
pub(in crate::nixl) fn check() -> Result<(), NixlUnavailable> {
    check_with(|name| env::var_os(name))
}

fn check_with(variable: impl Fn(&str) -> Option<OsString>) -> Result<(), NixlUnavailable> {
    let named = ["HOME", "UCX_CONFIG_DIR"].into_iter().filter_map(&variable);
    let folders = named.map(PathBuf::from).chain([PathBuf::from(".")]);
    if let Some(path) = folders.map(|folder| folder.join(SETTINGS)).find(|path| is_pipe(path)) {
        let reason = format!("UCX reads its settings from {}, which is a pipe", path.display());
        return Err(NixlUnavailable::Start { what: "backend", reason });
    }
    let Some(log) = variable("UCX_LOG_FILE").and_then(|log| log.into_string().ok()) else {
        return Ok(());
    };
    can_be_log(&log).map_err(|error| NixlUnavailable::Setting {
        name: "UCX_LOG_FILE".to_owned(),
        value: log,
        reason: format!(
            "UCX would end the process, since it cannot write there: {error}; name a writable file"
        ),
    })
}

fn is_pipe(path: &Path) -> bool {
    fs::metadata(path).is_ok_and(|found| found.file_type().is_fifo())
}

/// UCX's format: the name of a stream or of a file, with `%` before placeholders.
fn can_be_log(setting: &str) -> io::Result<()> {
    let named = setting.strip_prefix("file:").unwrap_or(setting);
    let path = named.split(':').next().unwrap_or(named);
    if path.is_empty()
        || (named == setting && ["stdout", "stderr"].iter().any(|s| s.starts_with(path)))
    {
        return Ok(());
    }
    if path.contains('%') {
        let folder = Path::new(path).parent().filter(|folder| !folder.as_os_str().is_empty());
        return Ok(access(folder.unwrap_or(Path::new(".")), Access::WRITE_OK)?);
    }
    // A pipe without a reader refuses at once.
    let flags = OFlags::NONBLOCK.bits().cast_signed();
    OpenOptions::new().append(true).create(true).custom_flags(flags).open(path).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::fs::{CWD, FileType, Mode, mknodat};

    fn refuses(name: &'static str, value: &Path) -> bool {
        let value = value.as_os_str().to_owned();
        check_with(move |asked| (asked == name).then(|| value.clone())).is_err()
    }

    #[test]
    fn a_log_that_cannot_be_written_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        for written in ["ucx.log", "ucx.%p.log"] {
            assert!(!refuses("UCX_LOG_FILE", &at(written)));
        }
        for stream in ["stdout", "stderr", ""] {
            assert!(!refuses("UCX_LOG_FILE", Path::new(stream)));
        }
        for bad in ["", "gone/ucx.log", "gone/ucx.%p.log"] {
            assert!(refuses("UCX_LOG_FILE", &at(bad)), "{bad:?}");
            let file = format!("file:{}:bin", at(bad).display());
            assert!(refuses("UCX_LOG_FILE", Path::new(&file)), "{file:?}");
        }
        mknodat(CWD, at("pipe"), FileType::Fifo, Mode::RUSR | Mode::WUSR, 0).unwrap();
        assert!(refuses("UCX_LOG_FILE", &at("pipe")));
    }

    #[test]
    fn settings_in_a_pipe_are_refused() {
        let folder = tempfile::tempdir().unwrap();
        assert!(!refuses("HOME", folder.path()));
        mknodat(CWD, folder.path().join(SETTINGS), FileType::Fifo, Mode::RUSR, 0).unwrap();
        assert!(refuses("HOME", folder.path()) && refuses("UCX_CONFIG_DIR", folder.path()));
    }
}
