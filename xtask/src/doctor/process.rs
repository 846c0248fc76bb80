//! The settings of a process: NIXL's file of settings, and open files.

use std::env;
use std::ffi::OsString;
use std::fs::{self, File, Metadata};
use std::io::{self, ErrorKind};
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _};
use std::path::PathBuf;

use super::report::Report;

/// An agent with a few network devices opens 20, and each peer over TCP one or two.
const FEW_FILES: u64 = 256;

pub(super) fn check(report: &mut Report) {
    check_configuration(report);
    check_files(report);
}

/// NIXL makes no agent where it may not look.
fn check_configuration(report: &mut Report) {
    const SECTION: &str = "NIXL";
    match configuration(|name| env::var_os(name)) {
        Ok(None) => report.ok_for(SECTION, "settings", "no file"),
        Ok(Some(file)) => report.ok_for(SECTION, "settings", file.display().to_string()),
        Err((file, error)) => report.missing(
            SECTION,
            "settings",
            format!("{} cannot be read: {error}", file.display()),
            "set HOME to a folder that this user may enter, or NIXL_CONFIG_FILE to a file (/dev/null will do)",
        ),
    }
}

/// The file that NIXL reads, or the one for which it fails.
fn configuration(
    variable: impl Fn(&str) -> Option<OsString>,
) -> Result<Option<PathBuf>, (PathBuf, io::Error)> {
    let readable = |path: PathBuf| {
        // A pipe would block this process until another one writes to it.
        let opened = fs::metadata(&path).and_then(|found| match is_read_to_its_end(&found) {
            true => File::open(&path),
            false => Err(io::Error::other("it is no regular file")),
        });
        match opened {
            Ok(_) => Ok(Some(path)),
            Err(error) => Err((path, error)),
        }
    };
    if let Some(named) = variable("NIXL_CONFIG_FILE") {
        return readable(named.into());
    }
    let of_user = variable("HOME").map(|home| PathBuf::from(home).join(".nixl.cfg"));
    for path in of_user.into_iter().chain(["/etc/nixl.cfg".into()]) {
        match fs::metadata(&path) {
            Ok(_) => return readable(path),
            Err(error)
                if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => {}
            Err(error) => return Err((path, error)),
        }
    }
    Ok(None)
}

/// Whether a file is one that a reader comes to the end of: a regular one, or `/dev/null`.
fn is_read_to_its_end(file: &Metadata) -> bool {
    let is_null = || fs::metadata("/dev/null").is_ok_and(|null| null.rdev() == file.rdev());
    file.is_file() || (file.file_type().is_char_device() && is_null())
}

fn check_files(report: &mut Report) {
    const SECTION: &str = "limits";
    let limits = fs::read_to_string("/proc/self/limits").unwrap_or_default();
    match soft_limit_of_files(&limits) {
        None => report.note(SECTION, "nofile", "unknown", None),
        Some(limit) if limit < FEW_FILES => report.note(
            SECTION,
            "nofile",
            format!("{limit}: an agent opens 20, two for each network device, and one or two for each peer"),
            Some("raise it: `ulimit -n`, LimitNOFILE=, or `docker run --ulimit nofile=`".to_owned()),
        ),
        Some(limit) => report.ok_for(SECTION, "nofile", limit.to_string()),
    }
}

fn soft_limit_of_files(limits: &str) -> Option<u64> {
    let line = limits.lines().find_map(|line| line.strip_prefix("Max open files"))?;
    match line.split_whitespace().next()? {
        "unlimited" => Some(u64::MAX),
        limit => limit.parse().ok(),
    }
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    #[test]
    fn the_limit_of_files_is_read() {
        let limits = "Limit                     Soft Limit           Hard Limit           Units\n\
            Max processes             unlimited            unlimited            processes\n\
            Max open files            1024                 524288               files\n";
        assert_eq!(soft_limit_of_files(limits), Some(1024));
        assert_eq!(soft_limit_of_files(&limits.replace("1024   ", "unlimited")), Some(u64::MAX));
        assert_eq!(soft_limit_of_files(""), None);
    }

    #[test]
    fn a_file_that_nixl_fails_for_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let with = |name: &'static str, value: PathBuf| {
            configuration(move |asked| (asked == name).then(|| value.clone().into()))
        };
        let gone = folder.path().join("gone");
        assert_eq!(with("NIXL_CONFIG_FILE", gone.clone()).unwrap_err().0, gone);
        let file = folder.path().join(".nixl.cfg");
        fs::write(&file, "").unwrap();
        assert_eq!(with("HOME", folder.path().to_owned()).unwrap(), Some(file));
        let pipe = folder.path().join("pipe");
        assert!(Command::new("mkfifo").arg(&pipe).status().unwrap().success());
        for endless in [pipe, "/dev/zero".into()] {
            assert_eq!(with("NIXL_CONFIG_FILE", endless.clone()).unwrap_err().0, endless);
        }
        assert!(with("NIXL_CONFIG_FILE", "/dev/null".into()).is_ok());
        let long = folder.path().join("x".repeat(300));
        assert_eq!(with("HOME", long.clone()).unwrap_err().0, long.join(".nixl.cfg"));
    }
}
