//! Processes that have a file of memory open or mapped.

use std::collections::{HashMap, HashSet};
use std::ffi::CStr;
use std::fs::{self, File};
use std::io::{self, BufRead, BufReader, Read};
use std::os::fd::{AsFd, BorrowedFd};
use std::time::{Duration, Instant};

use rustix::fs::{AtFlags, Stat, fstat, makedev, statat};

use super::descriptors::{each_descriptor, socket_inode};
use super::identity::{self, proc_is_of_this_namespace};

/// A file, by whichever name or descriptor it is reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct FileIdentity {
    device: u64,
    inode: u64,
}

impl FileIdentity {
    /// As `stat` reports it: `st_dev`, and the number of the inode.
    #[must_use]
    pub const fn new(device: u64, inode: u64) -> Self {
        Self { device, inode }
    }

    /// The device, as `st_dev`.
    #[must_use]
    pub const fn device(self) -> u64 {
        self.device
    }

    /// The number of the inode.
    #[must_use]
    pub const fn inode(self) -> u64 {
        self.inode
    }

    /// That of an open file.
    ///
    /// # Errors
    ///
    /// The system's error.
    pub fn of(file: impl AsFd) -> io::Result<Self> {
        let stat = fstat(file)?;
        Ok(Self::of_stat(&stat))
    }

    fn of_stat(stat: &Stat) -> Self {
        Self { device: stat.st_dev, inode: stat.st_ino }
    }

    /// The file that this line of `/proc/PID/maps`, or the first part of it, maps:
    /// `7f00-7f10 rw-s 00001000 00:01 1034 /memfd:name (deleted)`. `None` if it maps none.
    fn mapped_by(line: &[u8]) -> Option<Self> {
        let mut fields = line.split(|byte| byte.is_ascii_whitespace()).skip(3);
        let mut field = || std::str::from_utf8(fields.next()?).ok();
        let (device, inode) = (field()?, field()?.parse().ok()?);
        if inode == 0 {
            return None;
        }
        let (high, low) = device.split_once(':')?;
        let number = |digits| u32::from_str_radix(digits, 16).ok();
        Some(Self { device: makedev(number(high)?, number(low)?), inode })
    }
}

/// Which processes have something open or mapped, as far as this one may know.
///
/// Only processes of this PID namespace are found. Not looked at are: descriptors that are under way in a Unix socket or
/// registered with `io_uring`; descriptors that only one thread of a process has (`unshare(CLONE_FILES)`).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Holders {
    pids: Vec<u32>,
    unreadable: usize,
    last_unreadable_start: Option<u64>,
    hidden: bool,
    cut_off: bool,
}

impl Holders {
    /// The processes other than this one that have an anonymous file (`memfd_create`) open or mapped.
    ///
    /// A look is not a moment: a holder that forks and ends meanwhile can be missed with its child. Ask once the process
    /// that is known to have the file has ended, and again if a child of its may have been forking. A child of this process
    /// counts too, also one that has not run its program yet, as it has copies of all descriptors until then.
    ///
    /// Takes some microseconds for each descriptor and mapping in the system, so this is for a thread that may block; the
    /// memory needed is bounded. Processes that are not looked into within `limit` are [`unreadable`](Self::unreadable).
    #[must_use]
    pub fn of_file(file: FileIdentity, limit: Duration) -> Self {
        Self::of_files(&HashSet::from([file]), limit).remove(&file).unwrap_or_default()
    }

    /// The same of several files, by one look into each process.
    #[must_use]
    pub fn of_files(files: &HashSet<FileIdentity>, limit: Duration) -> HashMap<FileIdentity, Self> {
        let budget = Budget::new(limit);
        let mut found = HashMap::<FileIdentity, Vec<u32>>::new();
        let rest = each_process(&budget, |pid, folder| {
            if pid == std::process::id() {
                return Look::Complete;
            }
            let mut held = HashSet::new();
            let look = look_for_files(files, folder, &budget, &mut held);
            held.into_iter().for_each(|file| found.entry(file).or_default().push(pid));
            look
        });
        let mut pids = |file| found.remove(file).unwrap_or_default();
        files.iter().map(|file| (*file, Self { pids: pids(file), ..rest.clone() })).collect()
    }

    /// Whether it is proven that nothing has it.
    #[must_use]
    pub fn proves_none(&self) -> bool {
        self.pids.is_empty() && self.unreadable == 0 && !self.hidden
    }

    /// Whether it is proven that neither a process that started then nor a descendant of it has it, unless by a descriptor that it
    /// kept over `exec`: nothing is found to, and all that cannot be looked into is older or has run a program of its own, so it has
    /// inherited nothing from there.
    #[must_use]
    pub fn proves_none_since(&self, start_time: u64) -> bool {
        let older = self.last_unreadable_start.is_none_or(|last| last < start_time);
        self.pids.is_empty() && older && !self.hidden
    }

    /// Those that have it.
    #[must_use]
    pub fn pids(&self) -> &[u32] {
        &self.pids
    }

    /// How many processes this one may not look into (other users', usually), or did not look into before the limit of
    /// time. Kernel threads and processes that have ended are not counted. Even root may not look into all where a
    /// security module or a container says so.
    #[must_use]
    pub fn unreadable(&self) -> usize {
        self.unreadable
    }

    /// When the last of those started that run their parent's program, as
    /// [`ProcessIdentity::start_time`](super::ProcessIdentity::start_time); beyond any time if that is not known of one. `None` if
    /// there are none: the others have none of their parent's mappings, nor its files that close on `exec`.
    #[must_use]
    pub fn last_unreadable_start(&self) -> Option<u64> {
        self.last_unreadable_start
    }

    /// Whether the look ended by its limit of time: a longer one may find more, and leave fewer processes
    /// [`unreadable`](Self::unreadable).
    #[must_use]
    pub fn is_cut_off(&self) -> bool {
        self.cut_off
    }

    /// There may be processes that `/proc` does not show: it is mounted with `hidepid`, is of another PID namespace, or
    /// cannot be read.
    #[must_use]
    pub fn hidden(&self) -> bool {
        self.hidden
    }
}

/// The processes that have each of these sockets open, this one included, by one look into each process.
pub(crate) fn holders_of_sockets(inodes: &HashSet<u64>, limit: Duration) -> HashMap<u64, Holders> {
    let budget = Budget::new(limit);
    let mut found = HashMap::<u64, Vec<u32>>::new();
    let rest = each_process(&budget, |pid, folder| {
        look_at_descriptors(folder, &budget, |_, link, _| {
            if let Some(inode) = socket_inode(link).filter(|inode| inodes.contains(inode)) {
                let pids = found.entry(inode).or_default();
                // It may have several descriptors.
                if pids.last() != Some(&pid) {
                    pids.push(pid);
                }
            }
        })
    });
    let mut pids = |inode| found.remove(inode).unwrap_or_default();
    inodes.iter().map(|inode| (*inode, Holders { pids: pids(inode), ..rest.clone() })).collect()
}

/// The result of the scan of a process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Look {
    /// All that it has was seen, or it has ended.
    Complete,
    /// It may not be looked into, or the time was up.
    Refused,
}

impl From<io::Error> for Look {
    fn from(error: io::Error) -> Self {
        // ESRCH: it ended while it was looked into.
        let ended = error.kind() == io::ErrorKind::NotFound
            || error.raw_os_error() == Some(rustix::io::Errno::SRCH.raw_os_error());
        if ended { Self::Complete } else { Self::Refused }
    }
}

/// How long the search may take.
struct Budget {
    began: Instant,
    limit: Duration,
}

impl Budget {
    fn new(limit: Duration) -> Self {
        Self { began: Instant::now(), limit }
    }

    fn is_spent(&self) -> bool {
        self.began.elapsed() >= self.limit
    }
}

/// Looks into each process. The result has no [`pids`](Holders::pids).
fn each_process(budget: &Budget, mut look: impl FnMut(u32, &str) -> Look) -> Holders {
    let mut found = Holders { hidden: may_hide(), ..Holders::default() };
    let Ok(entries) = fs::read_dir("/proc") else {
        return Holders { hidden: true, ..found };
    };
    for entry in entries {
        let Ok(entry) = entry else {
            found.hidden = true;
            break;
        };
        let name = entry.file_name();
        let Some(pid) = name.to_str().and_then(|name| name.parse::<u32>().ok()) else { continue };
        let folder = format!("/proc/{pid}");
        let is_late = budget.is_spent();
        match if is_late { Look::Refused } else { look(pid, &folder) } {
            Look::Complete => {}
            Look::Refused => {
                let stat = identity::Stat::read(&folder);
                let has_nothing = |stat: identity::Stat| {
                    stat.is_kernel_thread || (stat.is_zombie && stat.threads <= 1)
                };
                if !stat.is_some_and(has_nothing) {
                    found.unreadable += 1;
                    let start = match stat {
                        // What its parent had mapped, and what closes at `exec`, is gone.
                        Some(stat) if !stat.is_fork && !is_late => None,
                        Some(stat) => Some(stat.start_time),
                        None => Some(u64::MAX),
                    };
                    found.last_unreadable_start = found.last_unreadable_start.max(start);
                }
            }
        }
    }
    found.cut_off = budget.is_spent();
    found
}

fn look_for_files(
    files: &HashSet<FileIdentity>,
    folder: &str,
    budget: &Budget,
    held: &mut HashSet<FileIdentity>,
) -> Look {
    let mut look = |folder: &str| {
        let open = look_at_descriptors(folder, budget, |name, link, folder| {
            // Files of other file systems are not queried: the answer may take for ever.
            if link.starts_with(b"/memfd:")
                && let Ok(stat) = statat(folder, name, AtFlags::empty())
            {
                held.extend(files.get(&FileIdentity::of_stat(&stat)));
            }
        });
        match open {
            Look::Complete => look_at_mappings(files, folder, budget, held),
            Look::Refused => (open, true),
        }
    };
    let (found, has_memory) = look(folder);
    if has_memory {
        return found;
    }
    // The kernel's, or one whose first thread has ended and whose others may not.
    let Ok(threads) = fs::read_dir(format!("{folder}/task")) else { return found };
    let threads =
        threads.flatten().filter_map(|thread| Some(thread.file_name().to_str()?.to_owned()));
    let threads = threads.filter(|thread| !folder.ends_with(&format!("/{thread}")));
    let mut looks = threads.map(|thread| look(&format!("{folder}/task/{thread}")).0);
    looks.find(|look| *look == Look::Refused).unwrap_or(found)
}

/// Calls `see` with each descriptor: its number, its link, and the folder of both.
fn look_at_descriptors(
    folder: &str,
    budget: &Budget,
    mut see: impl FnMut(&CStr, &[u8], BorrowedFd<'_>),
) -> Look {
    let mut seen = 0_u32;
    let listed = each_descriptor(folder, |name, link, folder| {
        seen += 1;
        see(name, link, folder);
        !seen.is_multiple_of(256) || !budget.is_spent()
    });
    match listed {
        Err(errno) => io::Error::from(errno).into(),
        Ok(()) if budget.is_spent() => Look::Refused,
        Ok(()) => Look::Complete,
    }
}

/// Also returns whether there are any mappings.
fn look_at_mappings(
    files: &HashSet<FileIdentity>,
    folder: &str,
    budget: &Budget,
    held: &mut HashSet<FileIdentity>,
) -> (Look, bool) {
    match read_mappings(files, &format!("{folder}/maps"), budget, held) {
        Ok(result) => result,
        // Without memory there is no such file for some kernels, an empty one for others.
        Err(error) => {
            let look = Look::from(error);
            (look, look != Look::Complete)
        }
    }
}

fn read_mappings(
    files: &HashSet<FileIdentity>,
    path: &str,
    budget: &Budget,
    held: &mut HashSet<FileIdentity>,
) -> io::Result<(Look, bool)> {
    /// More than all fields before the path have.
    const HEAD: u64 = 128;
    let mut maps = BufReader::with_capacity(1 << 16, File::open(path)?);
    let mut head = Vec::new();
    for seen in 0_u64.. {
        head.clear();
        if maps.by_ref().take(HEAD).read_until(b'\n', &mut head)? == 0 {
            return Ok((Look::Complete, seen > 0));
        }
        if head.last() != Some(&b'\n') {
            maps.skip_until(b'\n')?;
        }
        if let Some(file) = FileIdentity::mapped_by(&head) {
            held.extend(files.get(&file));
        }
        if seen.is_multiple_of(256) && budget.is_spent() {
            break;
        }
    }
    Ok((Look::Refused, true))
}

/// Whether `/proc` may not list all processes.
fn may_hide() -> bool {
    let mounts = fs::read("/proc/self/mountinfo");
    !proc_is_of_this_namespace() || mounts.map_or(true, |mounts| hides(&mounts))
}

/// Of lines such as `22 27 0:20 / /proc rw,relatime shared:1 - proc proc rw,hidepid=invisible`.
fn hides(mounts: &[u8]) -> bool {
    let mut mounted = false;
    let mut hides = false;
    for line in mounts.split(|byte| *byte == b'\n') {
        let line = String::from_utf8_lossy(line);
        let Some((mount, system)) = line.split_once(" - ") else { continue };
        let mut system = system.split(' ');
        if mount.split(' ').nth(4) != Some("/proc") || system.next() != Some("proc") {
            continue;
        }
        mounted = true;
        // With 1, `noaccess`, they are listed and may not be looked into.
        let options = system.next_back().unwrap_or_default().split(',');
        hides |= options
            .filter_map(|option| option.strip_prefix("hidepid="))
            .any(|value| !matches!(value, "0" | "off" | "1" | "noaccess"));
    }
    hides || !mounted
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    #[test]
    fn lines_of_mappings_are_told_apart() {
        let file = FileIdentity { device: makedev(0x103, 0x12), inode: 77 };
        let maps = |line: &str| FileIdentity::mapped_by(line.as_bytes()) == Some(file);
        let line = "7f0000000000-7f0000001000 rw-s 00000000 103:12 77";
        assert!(maps(line) && maps(&format!("{line}   /memfd:a b\\012c (deleted)\n")));
        assert!(!maps("7f00-7f01 rw-s 00000000 103:12 770 /x"));
        assert!(!maps("7f00-7f01 rw-s 00000000 103:13 77 /x"));
        assert!(!maps("7f00-7f01 rw-s 00000000 12:103 77 /x"));
        assert!(!maps("7f00-7f01 rw-s 00000000 10312 77 /x"));
        // A path does not count.
        assert!(!maps("7f00-7f01 rw-s 00000000 00:00 0 103:12 77\n"));
        assert!(!maps("") && !maps("\n"));
        assert_eq!(FileIdentity::mapped_by(b"7f00-7f01 rw-p 00000000 00:00 0\n"), None);
    }

    #[test]
    fn long_lines_and_many_are_read_in_bounded_memory() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("maps");
        let path = path.to_str().unwrap();
        let files = HashSet::from([FileIdentity { device: makedev(0, 1), inode: 9 }]);
        let long = format!("1-2 r--p 0 00:00 0 {}\n", "7-8 rw-s 0 00:01 9 ".repeat(1_000));
        let budget = Budget::new(Duration::MAX);
        let read = |budget: &Budget| {
            let mut held = HashSet::new();
            let (look, has_memory) = read_mappings(&files, path, budget, &mut held).unwrap();
            (look, has_memory, held.len())
        };
        fs::write(path, long.repeat(300)).unwrap();
        assert_eq!(read(&budget), (Look::Complete, true, 0));
        fs::write(path, format!("{}7-8 rw-s 0 00:01 9", long.repeat(300))).unwrap();
        assert_eq!(read(&budget), (Look::Complete, true, 1));
        assert_eq!(read(&Budget::new(Duration::ZERO)), (Look::Refused, true, 0));
        fs::write(path, "").unwrap();
        assert_eq!(read(&budget), (Look::Complete, false, 0));
    }

    #[test]
    fn a_mount_of_proc_tells_whether_it_hides() {
        let line = |options: &str| {
            format!(
                "1 2 8:1 / / rw - ext4 /dev/a rw,hidepid=2\n3 1 0:20 / /proc rw - proc proc {options}\n"
            )
        };
        for shown in ["rw", "rw,gid=3", "rw,hidepid=0", "rw,hidepid=noaccess", "rw,hidepid=1"] {
            assert!(!hides(line(shown).as_bytes()), "{shown}");
        }
        for hidden in
            ["rw,hidepid=2", "rw,gid=1,hidepid=invisible", "hidepid=ptraceable", "hidepid=4"]
        {
            assert!(hides(line(hidden).as_bytes()), "{hidden}");
        }
        assert!(hides(b"1 2 8:1 / / rw - ext4 /dev/a rw\n"), "there is no /proc");
    }
}
