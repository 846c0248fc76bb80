//! Scans of the processes and sockets of this host, shared by the watches of one connection.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, Weak};
use std::time::{Duration, Instant};

use nixl_device::locks::lock;
use nixl_device::{
    FileIdentity, Holders, ProcessError, ProcessWatch, SocketsError, TcpSocket, TcpState,
    is_this_host, named_thread,
};

use crate::agent_file::has_agent_of_its_own;

/// A look goes through `/proc`, in milliseconds on a small host and in seconds on a large one, for all watches and files at once.
#[derive(Debug)]
pub(super) struct Looks {
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    /// The files of all watches.
    files: Vec<Weak<Vec<FileIdentity>>>,
    last: Option<Arc<Look>>,
    /// Of the next look.
    limit: Duration,
    is_looking: bool,
    /// The next look does not begin before.
    next: Option<Instant>,
}

/// What one look has found.
#[derive(Debug)]
pub(super) struct Look {
    begun: Instant,
    holders: HashMap<FileIdentity, FileHolders>,
    sockets: SocketsLook,
    took: Duration,
    is_cut_off: bool,
}

/// The other processes that have a file open or mapped.
#[derive(Clone, Copy, Debug, Default)]
struct FileHolders {
    /// There is one.
    is_held: bool,
    /// When the last of those started that may have it by a fork, in clock ticks since boot; beyond any time if that is not known of
    /// one.
    last_start: Option<u64>,
    /// Processes that were not looked into.
    unreadable: usize,
    /// There may be processes that are not shown.
    hidden: bool,
}

#[derive(Debug, Default)]
struct SocketsLook {
    /// Those that may still bring bytes. `None` if they are not known.
    open: Option<Vec<TcpSocket>>,
    /// Every socket to an ownerless end on this host is past its end of stream.
    of_the_dead: bool,
    /// Every socket that does not lead back to this process is past its end of stream.
    of_others: bool,
}

impl Default for Looks {
    fn default() -> Self {
        let (files, limit) = (Vec::new(), Self::FIRST);
        let state = State { files, last: None, limit, is_looking: false, next: None };
        Self { state: Mutex::new(state) }
    }
}

impl Looks {
    /// The limit of time of the first look. A look that is cut off by it is followed by one that may take twice as long.
    const FIRST: Duration = Duration::from_millis(200);
    const LONGEST: Duration = Duration::from_secs(10);
    /// The pause after a look, in its durations.
    const PAUSE: u32 = 4;

    /// Has later looks include these files, as long as the list is kept.
    pub(super) fn include(&self, files: Vec<FileIdentity>) -> Arc<Vec<FileIdentity>> {
        let files = Arc::new(files);
        self.with(|state| state.files.push(Arc::downgrade(&files)));
        files
    }

    /// A look that began after `since`. `None` if it is too early for one, or while one is under way on a thread of its own: those that
    /// may take longer than the first.
    pub(super) fn after(self: &Arc<Self>, since: Instant) -> Option<Arc<Look>> {
        let next = self.with(|state| {
            let last = state.last.as_ref().filter(|last| last.begun > since);
            let is_early = state.next.is_some_and(|next| Instant::now() < next);
            if last.is_some() || state.is_looking || is_early {
                return Err(last.cloned());
            }
            state.is_looking = true;
            Ok((state.included(), state.limit))
        });
        let (files, limit) = match next {
            Ok(next) => next,
            Err(last) => return last,
        };
        let under_way = UnderWay(Arc::clone(self));
        if limit <= Self::FIRST {
            return Some(under_way.end(Look::take(&files, limit), limit));
        }
        let look = move || drop(under_way.end(Look::take(&files, limit), limit));
        if let Err(error) = named_thread("nixl-looks").spawn(look) {
            tracing::debug!(%error, "no thread for a look at the processes of this host");
        }
        None
    }

    fn with<T>(&self, body: impl FnOnce(&mut State) -> T) -> T {
        body(&mut lock(&self.state))
    }
}

/// A look under way.
struct UnderWay(Arc<Looks>);

impl UnderWay {
    fn end(self, look: Look, limit: Duration) -> Arc<Look> {
        let look = Arc::new(look);
        self.0.with(|state| {
            if look.is_cut_off {
                tracing::debug!(?limit, "not all processes could be looked into in time");
                state.limit = (limit * 2).min(Looks::LONGEST);
            }
            state.next = Some(Instant::now() + look.took * Looks::PAUSE);
            state.last = Some(Arc::clone(&look));
        });
        look
    }
}

impl Drop for UnderWay {
    fn drop(&mut self) {
        self.0.with(|state| state.is_looking = false);
    }
}

impl State {
    fn included(&mut self) -> HashSet<FileIdentity> {
        self.files.retain(|files| files.strong_count() > 0);
        let kept = self.files.iter().filter_map(Weak::upgrade);
        kept.flat_map(|files| files.to_vec()).collect()
    }
}

impl Look {
    fn take(files: &HashSet<FileIdentity>, limit: Duration) -> Self {
        let begun = Instant::now();
        let found = match files.is_empty() {
            true => HashMap::new(),
            false => Holders::of_files(files, limit),
        };
        let mut is_cut_off = found.values().any(Holders::is_cut_off);
        // Peers hold several files.
        let mut starts = HashMap::new();
        let mut start = |pid: &u32| *starts.entry(*pid).or_insert_with(|| start_as_child(*pid));
        let holders = found.into_iter().map(|(file, holders)| {
            let starts = holders.pids().iter().filter_map(&mut start);
            let last_start = starts.max().max(holders.last_unreadable_start());
            let holders = FileHolders {
                is_held: !holders.pids().is_empty(),
                last_start,
                unreadable: holders.unreadable(),
                hidden: holders.hidden(),
            };
            (file, holders)
        });
        let holders = holders.collect();
        let sockets = sockets(limit, &mut is_cut_off).unwrap_or_else(|error| {
            tracing::debug!(%error, "the sockets of this process are not known");
            SocketsLook::default()
        });
        Self { begun, holders, sockets, took: begun.elapsed(), is_cut_off }
    }

    /// Whether no process that started at `offered` or later has the file by a fork. Older processes are peers in their own right:
    /// a fork copies an operation only after its begin.
    pub(super) fn no_child_has(&self, file: &FileIdentity, offered: u64) -> bool {
        let holders = self.holders.get(file);
        holders.is_some_and(|holders| {
            !holders.hidden && holders.last_start.is_none_or(|start| start < offered)
        })
    }

    /// Whether no other process has the file. `of_all`: also none that may not be looked into.
    pub(super) fn no_other_has(&self, file: &FileIdentity, of_all: bool) -> bool {
        let holders = self.holders.get(file);
        !self.is_cut_off
            && holders.is_some_and(|holders| {
                !holders.is_held && !holders.hidden && (!of_all || holders.unreadable == 0)
            })
    }

    /// The sockets that are not past their end of stream. `None` if they are not known.
    pub(super) fn open_sockets(&self) -> Option<&[TcpSocket]> {
        self.sockets.open.as_deref()
    }

    /// Whether all sockets to ends on this host without an owner are past their end of stream.
    pub(super) fn sockets_of_the_dead_are_over(&self) -> bool {
        self.sockets.of_the_dead
    }

    /// Whether all sockets to others are past their end of stream.
    pub(super) fn sockets_of_others_are_over(&self) -> bool {
        self.sockets.of_others
    }
}

/// When a process started that may have its files by a fork, in clock ticks since boot; beyond any time if that is not known. `None`
/// if it has ended; if it has made an agent of its own since it started, so that it goes on with nothing of its parent; and if its
/// parent is this process, so that it has the files from here.
fn start_as_child(pid: u32) -> Option<u64> {
    match ProcessWatch::open(pid) {
        Ok(watch) if watch.is_child() => None,
        Ok(watch) => match watch.start_time() {
            Some(start) => (!has_agent_of_its_own(pid, start)).then_some(start),
            None => (!watch.has_ended()).then_some(u64::MAX),
        },
        Err(ProcessError::NotThere { .. }) => None,
        Err(_) => Some(u64::MAX),
    }
}

fn sockets(limit: Duration, is_cut_off: &mut bool) -> Result<SocketsLook, SocketsError> {
    let mut open = TcpSocket::all_of_this_process()?;
    open.retain(|socket| socket.state() != TcpState::Listen && !socket.is_past_end_of_stream());
    let owners = TcpSocket::owners_of_remote_ends(&open, limit)?;
    let (mut of_the_dead, mut of_others) = (true, true);
    for (socket, owners) in open.iter().zip(owners) {
        let is_near = socket.remote().map_or(Some(true), |end| is_this_host(end.ip()));
        if is_near != Some(true) {
            of_others = false;
            of_the_dead &= is_near.is_some();
            continue;
        }
        let pids = owners.as_ref().map(Holders::pids).unwrap_or_default();
        // Another owner may be among the processes that were not looked into.
        let some_missed = owners.as_ref().is_some_and(Holders::is_cut_off);
        *is_cut_off |= some_missed;
        of_the_dead &= !pids.is_empty();
        of_others &= pids == [std::process::id()] && !some_missed;
    }
    Ok(SocketsLook { open: Some(open), of_the_dead, of_others })
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use std::net::{TcpListener, TcpStream};
    use std::thread;

    use nixl_device::ProcessIdentity;

    use super::*;

    fn memory(name: &str) -> (std::fs::File, FileIdentity) {
        let file = rustix::fs::memfd_create(name, rustix::fs::MemfdFlags::empty()).unwrap();
        let identity = FileIdentity::of(&file).unwrap();
        (file.into(), identity)
    }

    #[test]
    fn a_look_serves_all_that_came_before_it() {
        let looks = Arc::<Looks>::default();
        let (_a, first) = memory("looks-a");
        let files = looks.include(vec![first]);
        let before = Instant::now();
        let look = looks.after(before).unwrap();
        assert!(Arc::ptr_eq(&look, &looks.after(before).unwrap()));
        // A watch that came later needs another look, which waits.
        let (_b, second) = memory("looks-b");
        let _kept = looks.include(vec![second]);
        assert!(!look.no_child_has(&second, 0), "it was not looked for");
        drop(files);
        looks.with(|state| state.next = None);
        let since = Instant::now();
        let later = looks.after(since).unwrap();
        assert!(!Arc::ptr_eq(&look, &later) && later.begun > since);
        assert!(!later.no_child_has(&first, 0), "no watch wants it any more");
        assert!(looks.with(|state| state.included()) == HashSet::from([second]));
    }

    #[test]
    fn looks_that_are_cut_off_may_take_longer_and_pauses_follow_them() {
        let looks = Arc::<Looks>::default();
        let (_file, identity) = memory("looks-late");
        let _kept = looks.include(vec![identity]);
        looks.with(|state| state.limit = Duration::from_nanos(1));
        let look = looks.after(Instant::now()).unwrap();
        assert!(!look.no_child_has(&identity, 0), "not all processes were looked into");
        assert_eq!(looks.with(|state| state.limit), Duration::from_nanos(2));
        looks.with(|state| state.next = Some(Instant::now() + Duration::from_secs(60)));
        assert!(looks.after(Instant::now()).is_none());
        looks.with(|state| (state.next, state.limit) = (None, Looks::LONGEST));
        // On a thread of its own.
        let since = Instant::now();
        let look = loop {
            match looks.after(since) {
                Some(look) => break look,
                None => thread::sleep(Duration::from_millis(1)),
            }
        };
        assert!(!look.is_cut_off);
        assert_eq!(looks.with(|state| state.limit), Looks::LONGEST);
        assert!(look.no_child_has(&identity, u64::MAX) || look.holders[&identity].hidden);
    }

    #[test]
    fn children_of_this_process_have_its_files_from_here() {
        // Not closed at the child's exec.
        let (_file, identity) = memory("looks-child");
        let mut child = std::process::Command::new("sleep").arg("1000").spawn().unwrap();
        let holders = Holders::of_file(identity, Looks::LONGEST);
        let look = Look::take(&HashSet::from([identity]), Looks::LONGEST);
        child.kill().unwrap();
        child.wait().unwrap();
        assert!(holders.pids().contains(&child.id()), "{holders:?}");
        assert!(!look.no_other_has(&identity, false), "it is another process all the same");
        let start = ProcessIdentity::current().unwrap().start_time();
        assert!(look.no_child_has(&identity, start) || holders.hidden());
    }

    #[test]
    fn a_socket_back_to_this_process_is_no_others() {
        // Other tests of this process have sockets too, so only what is not over can be told.
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let ours = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let not_accepted = Look::take(&HashSet::new(), Looks::LONGEST);
        assert!(!not_accepted.sockets_of_the_dead_are_over());
        assert!(!not_accepted.sockets_of_others_are_over());
        drop(ours);
    }
}
