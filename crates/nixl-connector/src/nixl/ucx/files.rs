//! Checks of the files and settings that UCX reads as its library loads: an unwritable log ends the process, a pipe blocks it for ever.

use std::env;
use std::ffi::{OsStr, OsString};
use std::fs::{self, OpenOptions};
use std::io;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use rustix::fs::{Access, OFlags, access};

use super::configured::{self, Configured};
use super::fatal;
use super::folders::{folder_of_library, folders};
use super::library::loaded_files;
use crate::nixl::NixlUnavailable;

/// Refuses files and settings at which UCX would hang or end the process.
pub(in crate::nixl) fn check() -> Result<(), NixlUnavailable> {
    let variable = |name: &str| env::var_os(name);
    check_with(variable, &folders(variable, folder_of_library(&loaded_files()).as_deref()))
}

/// The settings in UCX's files.
pub(super) fn configured() -> Configured {
    let variable = |name: &str| env::var_os(name);
    configured::read(&folders(variable, folder_of_library(&loaded_files()).as_deref()))
}

fn check_with(
    variable: impl Fn(&str) -> Option<OsString>,
    folders: &[PathBuf],
) -> Result<(), NixlUnavailable> {
    if let Some(reason) = configured::hindrance(folders) {
        return Err(NixlUnavailable::Start { what: "backend", reason });
    }
    for name in ["NIXL_PLUGIN_DIR", "UCX_MODULE_DIR"] {
        let Some(folder) = variable(name) else { continue };
        if let Some(path) = pipe_among_libraries(Path::new(&folder)) {
            let reason = format!("{} is no regular file, and its load would wait", path.display());
            let (name, value) = (name.to_owned(), folder.to_string_lossy().into_owned());
            return Err(NixlUnavailable::Setting { name, value, reason });
        }
    }
    let configured = configured::read(folders);
    // The value in force, and the file that it is from.
    let in_force = |name: &str| match variable(&format!("UCX_{name}")) {
        Some(value) => Some((value, None)),
        None => configured.get(name).map(|(value, file)| (value.into(), Some(file))),
    };
    let refused = |name: &str, value: &OsStr, reason: String, file: Option<&PathBuf>| {
        let file = file.map(|file| format!(" (it is set in {})", file.display()));
        let (name, value) = (format!("UCX_{name}"), value.to_string_lossy().into_owned());
        NixlUnavailable::Setting { name, value, reason: reason + &file.unwrap_or_default() }
    };
    for name in configured.keys() {
        if let Some((value, file)) = in_force(name)
            && let Some(reason) = fatal::reason(name, &value.to_string_lossy())
        {
            return Err(refused(name, &value, reason, file));
        }
    }
    if let Some((size, file)) = in_force("LOG_FILE_SIZE") {
        let message =
            in_force("LOG_BUFFER").map(|(message, _)| message.to_string_lossy().into_owned());
        if let Some(reason) = fatal::reason_of_size(&size.to_string_lossy(), message.as_deref()) {
            return Err(refused("LOG_FILE_SIZE", &size, reason, file));
        }
    }
    let Some((log, file)) = in_force("LOG_FILE") else { return Ok(()) };
    can_be_log(&log).map_err(|error| {
        let reason = format!(
            "UCX would end the process, since it cannot write there: {error}; name a writable file"
        );
        refused("LOG_FILE", &log, reason, file)
    })
}

/// A file in a folder of libraries that the loader would wait for.
fn pipe_among_libraries(folder: &Path) -> Option<PathBuf> {
    let libraries = fs::read_dir(folder).ok()?.flatten().map(|entry| entry.path());
    let mut libraries = libraries.filter(|path| {
        path.file_name().is_some_and(|name| name.as_bytes().windows(3).any(|at| at == b".so"))
    });
    libraries.find(|path| fs::metadata(path).is_ok_and(|found| !found.is_file() && !found.is_dir()))
}

/// UCX's format: the name of a stream or of a file, with `%` before placeholders.
fn can_be_log(setting: &OsStr) -> io::Result<()> {
    /// UCX cuts longer paths.
    const LONGEST: usize = 255;
    /// The longest text for a placeholder.
    const EXPANDED: usize = 64;
    let setting = setting.as_bytes();
    let named = setting.strip_prefix(b"file:").unwrap_or(setting);
    let path = named.split(|byte| *byte == b':').next().unwrap_or(named);
    if path.is_empty()
        || (named == setting && [&b"stdout"[..], b"stderr"].iter().any(|s| s.starts_with(path)))
    {
        return Ok(());
    }
    let placeholders = path.iter().filter(|byte| **byte == b'%').count();
    if path.len() + EXPANDED * placeholders > LONGEST {
        return Err(io::Error::other(
            "the path may become longer than the 255 bytes that UCX takes",
        ));
    }
    let path = Path::new(OsStr::from_bytes(path));
    if placeholders > 0 {
        let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty());
        return Ok(access(folder.unwrap_or(Path::new(".")), Access::WRITE_OK)?);
    }
    // A pipe without a reader refuses at once.
    let flags = OFlags::NONBLOCK.bits().cast_signed();
    OpenOptions::new().append(true).create(true).custom_flags(flags).open(path).map(drop)
}

#[cfg(test)]
mod tests {
    use std::fs::File;

    use super::*;
    use rustix::fs::{CWD, FileType, Mode, mknodat};

    const NAME: &str = "ucx.conf";

    fn refuses(name: &'static str, value: &Path) -> bool {
        let value = value.as_os_str().to_owned();
        let variable = move |asked: &str| (asked == name).then(|| value.clone());
        check_with(&variable, &folders(&variable, None)).is_err()
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
        mknodat(CWD, folder.path().join(NAME), FileType::Fifo, Mode::RUSR, 0).unwrap();
        assert!(refuses("HOME", folder.path()) && refuses("UCX_CONFIG_DIR", folder.path()));
    }

    #[test]
    fn pipes_among_libraries_are_refused() {
        for variable in ["NIXL_PLUGIN_DIR", "UCX_MODULE_DIR"] {
            let folder = tempfile::tempdir().unwrap();
            fs::write(folder.path().join("libplugin_UCX.so"), "").unwrap();
            mknodat(CWD, folder.path().join("readme"), FileType::Fifo, Mode::RUSR, 0).unwrap();
            assert!(!refuses(variable, folder.path()) && !refuses(variable, Path::new("/gone")));
            let library = folder.path().join("libuct_ib.so.0");
            mknodat(CWD, library, FileType::Fifo, Mode::RUSR, 0).unwrap();
            assert!(refuses(variable, folder.path()));
        }
    }

    #[test]
    fn settings_of_more_than_some_megabytes_are_refused() {
        let folder = tempfile::tempdir().unwrap();
        let file = File::create(folder.path().join(NAME)).unwrap();
        file.set_len(16 << 20).unwrap();
        assert!(!refuses("HOME", folder.path()));
        file.set_len(1 << 40).unwrap();
        assert!(refuses("HOME", folder.path()));
    }

    #[test]
    fn a_terminal_for_settings_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let at = folder.path().join(NAME);
        std::os::unix::fs::symlink("/dev/zero", &at).unwrap();
        assert!(refuses("HOME", folder.path()));
        fs::remove_file(&at).unwrap();
        std::os::unix::fs::symlink("/dev/null", &at).unwrap();
        assert!(!refuses("HOME", folder.path()));
    }

    #[test]
    fn a_log_whose_path_ucx_would_cut_or_that_is_no_text_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let deep = folder.path().join("d".repeat(150)).join("e".repeat(150));
        fs::create_dir_all(&deep).unwrap();
        assert!(refuses("UCX_LOG_FILE", &deep.join("log")));
        assert!(refuses("UCX_LOG_FILE", &folder.path().join("%h".repeat(5))));
        let no_text =
            |path: &str| folder.path().join(OsStr::from_bytes(path.as_bytes())).into_os_string();
        for (path, expected) in [("log\u{ff}", false), ("gone\u{ff}/log", true)] {
            let mut path = no_text(path).into_encoded_bytes();
            // The first byte of a letter of two, alone.
            path.retain(|byte| *byte != 0xbf);
            assert!(str::from_utf8(&path).is_err());
            assert_eq!(refuses("UCX_LOG_FILE", Path::new(OsStr::from_bytes(&path))), expected);
        }
    }

    #[test]
    fn a_setting_of_a_file_that_would_end_the_process_is_refused_with_the_files_name() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join(NAME);
        let check = |content: &str, size: Option<&'static str>| {
            fs::write(&file, content).unwrap();
            let of = folder.path().as_os_str().to_owned();
            let variable = move |name: &str| match name {
                "UCX_CONFIG_DIR" => Some(of.clone()),
                "UCX_LOG_FILE_SIZE" => size.map(OsString::from),
                _ => None,
            };
            check_with(&variable, &folders(&variable, None))
        };
        for line in [
            "UCX_LOG_FILE_SIZE=100",
            "UCX_LOG_FILE_ROTATE=-1",
            "UCX_NET_DEVICES=eth[0-99]",
            "UCX_LOG_FILE=/nonexistent/log",
        ] {
            let error = check(line, None).unwrap_err();
            assert!(matches!(error, NixlUnavailable::Setting { .. }), "{error:?}");
            assert!(error.to_string().contains(&*file.to_string_lossy()), "{error}");
        }
        assert_eq!(check("UCX_LOG_FILE_SIZE=100", Some("1M")), Ok(()), "the environment counts");
        let error = check("UCX_LOG_BUFFER=2K", Some("1100")).unwrap_err();
        assert!(!error.to_string().contains("is set in"), "{error}");
        assert_eq!(check("UCX_TLS=tcp", None), Ok(()));
    }

    #[test]
    fn a_file_beside_the_folder_of_ucxs_library_counts_before_those_of_the_user() {
        let root = tempfile::tempdir().unwrap();
        let at = |folder: &str| root.path().join(folder);
        for folder in ["lib", "etc/ucx", "home"] {
            fs::create_dir_all(at(folder)).unwrap();
        }
        let check = || {
            let variable = |name: &str| (name == "HOME").then(|| at("home").into_os_string());
            check_with(variable, &folders(variable, Some(&at("lib"))))
        };
        fs::write(at("etc/ucx").join(NAME), "UCX_LOG_FILE_SIZE=100").unwrap();
        let error = check().unwrap_err().to_string();
        assert!(error.contains("lib/../etc/ucx/ucx.conf"), "{error}");
        fs::write(at("home").join(NAME), "UCX_LOG_FILE_SIZE=1M").unwrap();
        assert_eq!(check(), Ok(()));
    }
}
