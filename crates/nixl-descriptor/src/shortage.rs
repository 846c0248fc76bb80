//! Shortages of the operating system, and their remedies.

use std::io;

use rustix::io::Errno;

/// The exhausted resource of an error, and the remedy. `None` for other errors.
pub(crate) fn shortage(error: &io::Error) -> Option<&'static str> {
    Some(match Errno::from_io_error(error)? {
        Errno::MFILE => {
            "this process has as many files open as it may; raise its limit (ulimit -n), or keep fewer files, connections \
             and shared regions"
        }
        Errno::NFILE => "the system has as many files open as it may; raise fs.file-max",
        Errno::NOSPC => {
            "no space is left for shared memory; free some, or raise the limit of memory or of /dev/shm of the container"
        }
        Errno::NOMEM => {
            "no memory or no mapping is left; free some, or raise the limit of memory of the container (ulimit -v) or \
             vm.max_map_count"
        }
        _ => return None,
    })
}

/// The error, and what is exhausted if that is why.
pub(crate) fn explained(error: &io::Error) -> String {
    match shortage(error) {
        Some(shortage) => format!("{error}: {shortage}"),
        None => error.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_shortage_is_named_with_what_helps() {
        let explained = |errno: Errno| explained(&errno.into());
        assert!(explained(Errno::MFILE).contains("ulimit -n"));
        assert!(explained(Errno::NFILE).contains("fs.file-max"));
        assert!(explained(Errno::NOSPC).contains("/dev/shm"));
        assert!(explained(Errno::NOMEM).contains("vm.max_map_count"));
        assert_eq!(explained(Errno::ACCESS), io::Error::from(Errno::ACCESS).to_string());
        assert_eq!(shortage(&io::Error::other("something else")), None);
    }
}
