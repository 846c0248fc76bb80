//! Whether a process has ended.

use std::fs;
use std::io::ErrorKind;
use std::path::Path;

/// Whether a process of this PID namespace has ended: it is gone, or only its parent has not looked yet. Its memory is
/// unmapped then and its devices are closed, so nothing that it began touches memory any more.
///
/// A number that another process has got since counts as one that has not ended. Where `/proc` hides processes of other
/// users, theirs seem to have ended: ask once while the process must live, and believe it afterwards.
#[must_use]
pub fn process_has_ended(pid: u32) -> bool {
    has_ended(Path::new("/proc"), pid)
}

fn has_ended(proc: &Path, pid: u32) -> bool {
    let process = proc.join(pid.to_string());
    let stat = match fs::read(process.join("stat")) {
        Ok(stat) => stat,
        Err(error) => return error.kind() == ErrorKind::NotFound,
    };
    // `PID (NAME) STATE …`, where the name may hold anything.
    let state = stat.rsplit(|byte| *byte == b')').next().and_then(|rest| rest.trim_ascii().first());
    let dead = matches!(state, Some(b'Z' | b'X'));
    // The first thread may end before the others.
    dead && fs::read_dir(process.join("task")).is_ok_and(|tasks| tasks.count() <= 1)
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use std::process::{Command, Stdio};

    use super::*;

    #[test]
    fn a_child_has_ended_once_it_was_killed_even_if_nobody_waits() {
        let mut child = Command::new("cat").stdin(Stdio::piped()).spawn().unwrap();
        assert!(!process_has_ended(child.id()));
        child.kill().unwrap();
        // It becomes what only its parent can remove.
        while !process_has_ended(child.id()) {
            std::thread::yield_now();
        }
        child.wait().unwrap();
        assert!(process_has_ended(child.id()));
        assert!(!process_has_ended(std::process::id()));
    }

    #[test]
    fn a_process_with_threads_left_has_not_ended() {
        let proc = tempfile::tempdir().unwrap();
        let put = |stat: &str, threads: &[&str]| {
            let process = proc.path().join("7");
            let _ = fs::remove_dir_all(&process);
            threads.iter().for_each(|t| fs::create_dir_all(process.join("task").join(t)).unwrap());
            fs::write(process.join("stat"), stat).unwrap();
            has_ended(proc.path(), 7)
        };
        assert!(has_ended(proc.path(), 7));
        assert!(!put("7 (a) S 1", &["7"]));
        assert!(!put("7 (Z) Z) S 1", &["7"]));
        assert!(put("7 ((Z) a) Z 1", &["7"]));
        assert!(!put("7 (a) Z 1", &["7", "8"]));
        assert!(!put("", &["7"]));
    }
}
