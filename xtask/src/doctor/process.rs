//! The settings of a process: NIXL's file of settings, and open files.

use std::env;
use std::fs;

use super::report::Report;
use super::settings_files;

/// An agent with a few network devices opens 20, and each peer over TCP one or two.
const FEW_FILES: u64 = 256;

pub(super) fn check(report: &mut Report) {
    check_configuration(report);
    check_files(report);
}

/// NIXL makes no agent where it may not look.
fn check_configuration(report: &mut Report) {
    const SECTION: &str = "NIXL";
    match settings_files::of_nixl(|name| env::var_os(name)) {
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
}
