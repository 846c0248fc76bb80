//! Shared host memory, which other processes of this machine can map.
//!
//! It is an anonymous file (`memfd_create`), which has no path: a process that gets its [`SharedName`], and
//! that may look into the owner (in `ptrace`'s sense: usually of the same user), opens it through the owner's
//! descriptors in `/proc`. The file cannot shrink, so a mapping of it stays valid, also
//! after the owner has ended.
#![allow(unsafe_code, reason = "maps files")]

mod name;

pub use name::{Presence, SharedName, Unprovable};

use std::collections::HashMap;
use std::fs::File;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU32, AtomicU64};
use std::sync::{Arc, Mutex, MutexGuard, Weak};

use memmap2::{MmapMut, MmapOptions};
use nixl_device::locks::lock;
use nixl_device::{Device, PerProcess, SharedError};
use rustix::fs::{FallocateFlags, OFlags, SealFlags};

use crate::access::Access;
use crate::huge_pages;
use crate::memfd;
use crate::memory::Memory;
use crate::pool::BufferPool;
use crate::region::{Region, RegionError};
use crate::rendezvous;

/// Host memory that other processes of this machine can map. Make a [`Region`] of it to use it.
#[derive(Debug)]
pub struct SharedMemory {
    map: MmapMut,
    /// What others reach, open as long as the memory lives or until it is withdrawn. `None` in a process that opened it.
    file: Mutex<Option<Arc<File>>>,
    name: SharedName,
}

/// Why memory that a process shares could not be mapped.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum SharedMemoryError {
    /// The operating system refused.
    #[error(
        "cannot {call} memory that another process shares: {error}. Both need one PID namespace and one user, or this \
         one the right to trace the other"
    )]
    Refused {
        /// What was tried.
        call: &'static str,
        /// The error of the system.
        #[source]
        error: SharedError,
    },
    /// The system is short of something: files, memory or mappings.
    #[error("cannot {call} memory that another process shares: {message}")]
    Exhausted {
        /// What was tried.
        call: &'static str,
        /// The system's error, and the remedy.
        message: String,
        /// The error of the system.
        #[source]
        error: SharedError,
    },
    /// What is there is not the memory of that name: its owner has released it, or never had it.
    #[error("the memory that another process shared is not there: its owner has released it")]
    Gone,
    /// It could become shorter under the mapping, or already is.
    #[error("the memory that another process shares is shorter than it stated, or may become so")]
    MayShrink,
    /// Processes other than the owner could write the words that it publishes.
    #[error(
        "the words that another process publishes can be written by others: it is no file of published words, or its owner \
         runs another version"
    )]
    MayBeWritten,
}

impl SharedMemory {
    /// `len` zero bytes. Pages are taken from the system when first touched.
    ///
    /// # Errors
    ///
    /// [`RegionError::Empty`], or [`RegionError::OutOfMemory`] with the system's error.
    pub fn new(len: usize) -> Result<Self, RegionError> {
        let (file, name) = memfd::create(len)?;
        let seals = SealFlags::SHRINK | SealFlags::GROW | SealFlags::SEAL;
        memfd::seal(&file, seals).map_err(|error| memfd::out_of_memory(len, error))?;
        let map = map(&file, len).map_err(|error| memfd::out_of_memory(len, error))?;
        let file = Arc::new(file);
        own().insert(name, Arc::downgrade(&file));
        let name = memfd::name_of(&file, name, len);
        Ok(Self { map, file: Mutex::new(Some(file)), name })
    }

    /// As [`new`](Self::new), and the system is asked for huge pages, of which it gives as many as it has: fewer page faults, and
    /// fewer entries of page tables and of a NIC's. For caches of gigabytes: a first touch clears 2 MiB, memory that is touched in parts
    /// takes whole huge pages, and bytes behind the last whole 2 MiB lie on small ones. For memory of this process alone, the system is
    /// asked through its own mapping (`madvise`), before that becomes a region.
    ///
    /// These are transparent huge pages. Those that an administrator reserves (`vm.nr_hugepages`) are not shared: a process that
    /// has the file may punch a hole into it, and the next access ends the owner if no reserved page is left.
    ///
    /// # Errors
    ///
    /// As there, and [`RegionError::NoHugePages`] if a setting of the system forbids them.
    pub fn with_huge_pages(len: usize) -> Result<Self, RegionError> {
        huge_pages::check()?;
        let memory = Self::new(len)?;
        let advised = memory.map.advise(memmap2::Advice::HugePage);
        advised.map_err(|error| memfd::out_of_memory(len, error))?;
        Ok(memory)
    }

    /// Maps the memory that another process calls this.
    ///
    /// # Errors
    ///
    /// [`SharedMemoryError`]
    pub fn open(name: &SharedName) -> Result<Self, SharedMemoryError> {
        let seals = SealFlags::empty();
        let (file, len) = memfd::open(name, OFlags::RDWR, seals, SharedMemoryError::MayShrink)?;
        let map = map(&file, len).map_err(memfd::refused("map"))?;
        Ok(Self { map, file: Mutex::new(None), name: *name })
    }

    /// What other processes open it by.
    #[must_use]
    pub fn name(&self) -> SharedName {
        self.name
    }

    pub(crate) fn into_memory(mut self) -> Result<Memory, RegionError> {
        let (address, len) = (self.map.as_mut_ptr(), self.map.len());
        let base = NonNull::new(address).ok_or(RegionError::Empty)?;
        // SAFETY: moving the owner does not move the mapping, which stays valid independently of the file. Only
        // regions reach the bytes: the owner's own, and those of processes that got its name, as peers do.
        unsafe { Memory::new(base, len, Device::HOST, Access::ReadWrite, Box::new(self)) }
    }

    /// Withdraws the file from other processes, and returns its pages to the system. Existing mappings stay, of peers and of this
    /// process: a late write goes to pages without an owner.
    ///
    /// For good: a peer may have pinned pages that are no longer the file's, so the two sides see different bytes from now on.
    pub(crate) fn withdraw(&self) {
        // A fork's child has the file in common with its parent.
        if self.name.pid != std::process::id() {
            return;
        }
        let file = lock(&self.file).take();
        let Some(file) = file else { return };
        disown(&self.name);
        let hole = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
        // If the system cannot, the pages stay until the mapping goes. Miri's memory has no file.
        if !cfg!(miri) {
            let _ = rustix::fs::fallocate(&file, hole, 0, self.name.len);
        }
    }

    /// The 8 bytes from `8 * index` on, which all processes that have the memory change atomically. `None` beyond the end.
    #[must_use]
    pub fn word(&self, index: usize) -> Option<&AtomicU64> {
        let at = index.checked_mul(size_of::<AtomicU64>())?;
        let end = at.checked_add(size_of::<AtomicU64>())?;
        if end > self.map.len() {
            return None;
        }
        // SAFETY: the word lies in the mapping, which stays valid as long as `self`, and is aligned, since mappings begin
        // with a page. In this process nothing else reaches the bytes while `self` is borrowed: a region of them takes
        // `self`. What other processes write may be any number, and any number is a word.
        Some(unsafe { &*self.map.as_ptr().wrapping_add(at).cast::<AtomicU64>() })
    }

    /// The 4 bytes from `4 * index` on, which all processes that have the memory change atomically, and on which they can wait
    /// (`futex`). `None` beyond the end. Bytes that are used so are never used as part of a [`word`](Self::word): processors
    /// and the language's memory model leave open what atomic accesses of two sizes to the same bytes come to.
    #[must_use]
    pub fn half_word(&self, index: usize) -> Option<&AtomicU32> {
        let at = index.checked_mul(size_of::<AtomicU32>())?;
        let end = at.checked_add(size_of::<AtomicU32>())?;
        if end > self.map.len() {
            return None;
        }
        // SAFETY: as for `word`.
        Some(unsafe { &*self.map.as_ptr().wrapping_add(at).cast::<AtomicU32>() })
    }
}

impl Drop for SharedMemory {
    fn drop(&mut self) {
        if self.file.get_mut().is_ok_and(|file| file.is_some()) {
            disown(&self.name);
        }
    }
}

/// The names and files of what this process has made. Its number does not tell: those of its threads lead to its files too.
pub(crate) fn own() -> MutexGuard<'static, HashMap<[u8; 16], Weak<File>>> {
    static OWN: PerProcess<Mutex<HashMap<[u8; 16], Weak<File>>>> = PerProcess::new(Mutex::default);
    lock(OWN.get())
}

/// The file of this name, if this process has made it and has it open.
pub(crate) fn own_file(name: &[u8; 16]) -> Option<Arc<File>> {
    own().get(name)?.upgrade()
}

/// This process has the file no more.
pub(crate) fn disown(name: &SharedName) {
    let was_own = own().remove(&name.name);
    if was_own.is_some() {
        rendezvous::released(&name.name);
    }
}

/// Comes back from [`Region::try_into_inner`].
impl TryFrom<SharedMemory> for Region {
    type Error = RegionError;

    fn try_from(owner: SharedMemory) -> Result<Self, RegionError> {
        owner.into_memory().map(Self::from_memory)
    }
}

impl Region {
    /// A region of `len` zero bytes that other processes of this machine can map, page-aligned: host memory that peers
    /// reach without a copy in between. Panics: never.
    ///
    /// It is a buffer of the [`BufferPool`], made zero if it was in use before, and goes back there when the last handle is
    /// gone. Peers that map it, and engines without finer rights, reach the whole slab that it is in. A region of
    /// [`SharedMemory`] has a file of its own, with nothing else in it.
    ///
    /// # Errors
    ///
    /// As [`BufferPool::buffer`].
    pub fn shared(len: usize) -> Result<Self, RegionError> {
        BufferPool::global().block(len)?.into_zeroed(len)
    }

    /// As [`shared`](Self::shared), and pinned as long as it lives, so that the GPUs of this process copy to and from it at
    /// the full speed of the link. Pinning touches every page: it takes about 100 us for each MiB.
    ///
    /// # Errors
    ///
    /// As [`BufferPool::buffer`]; [`RegionError::OutOfMemory`] with the driver's error if it cannot be pinned.
    #[cfg(feature = "cuda")]
    pub fn shared_pinned(
        context: &nixl_device::cuda::Context,
        len: usize,
    ) -> Result<Self, RegionError> {
        BufferPool::global().block(len)?.into_pinned(context, len)
    }

    /// What other processes of this machine open the memory by, if it was [made](Self::shared) so that they can. It begins
    /// [`shared_offset`](Self::shared_offset) bytes into what they open, which has other regions too.
    #[must_use]
    pub fn shared_name(&self) -> Option<SharedName> {
        self.whole_region().memory().owner::<SharedMemory>().map(SharedMemory::name)
    }

    /// Where the region begins in the memory that [`shared_name`](Self::shared_name) names.
    #[must_use]
    pub fn shared_offset(&self) -> u64 {
        self.address() - self.whole_region().address()
    }
}

/// Maps the first bytes of a file that has as many and cannot shrink.
fn map(file: &File, len: usize) -> std::io::Result<MmapMut> {
    if cfg!(miri) {
        return MmapOptions::new().len(len).map_anon();
    }
    // SAFETY: the file keeps these bytes. No reference to them is ever made: a region copies them.
    unsafe { MmapOptions::new().len(len).map_mut(file) }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use std::io::{BufRead, BufReader, Read};
    use std::os::fd::AsRawFd;

    use nixl_device::ProcessWatch;
    use rustix::fs::MemfdFlags;
    use rustix::process::{Resource, getrlimit};

    use super::*;
    use crate::memfd::file_name;

    #[test]
    #[cfg_attr(miri, ignore = "opens files in memory")]
    fn bytes_are_seen_on_the_other_side_and_outlive_the_owner() {
        let ours = Region::try_from(SharedMemory::new(10_000).unwrap()).unwrap();
        let name = ours.shared_name().unwrap();
        assert_eq!(name.pid, std::process::id());
        let theirs = Region::try_from(SharedMemory::open(&name).unwrap()).unwrap();
        assert_ne!(ours.address(), theirs.address());
        ours.copy_from_slice(9_990, &[1; 10]).unwrap();
        theirs.copy_from_slice(0, &[2; 10]).unwrap();
        assert_eq!(ours.to_vec().unwrap(), theirs.to_vec().unwrap());
        assert!(name.is_there() && name.is_own());
        let owner: SharedMemory = ours.try_into_inner().unwrap();
        drop(owner);
        assert!(!name.is_there() && !name.is_own());
        assert_eq!(theirs.to_vec().unwrap()[9_989..9_992], [0, 1, 1]);
        // Another test may have the number by now.
        let gone = SharedMemory::open(&name).unwrap_err();
        assert!(matches!(gone, SharedMemoryError::Gone | SharedMemoryError::Refused { .. }));
    }

    #[test]
    #[cfg_attr(miri, ignore = "opens files in memory")]
    fn a_buffer_lies_where_its_offset_says() {
        let ours = [(); 2].map(|()| Region::shared(10_000).unwrap());
        assert!(ours.iter().any(|region| region.shared_offset() != 0));
        for region in ours {
            region.copy_from_slice(1, &[3; 9_999]).unwrap();
            let all = SharedMemory::open(&region.shared_name().unwrap()).unwrap();
            let mut bytes = vec![1; 10_000];
            let at = usize::try_from(region.shared_offset()).unwrap();
            Region::try_from(all).unwrap().copy_to_slice(at, &mut bytes).unwrap();
            assert!(bytes[0] == 0 && bytes[1..].iter().all(|&byte| byte == 3));
        }
    }

    #[test]
    #[cfg_attr(miri, ignore = "opens files in memory")]
    fn what_was_withdrawn_stays_mapped_without_its_bytes() {
        let ours = SharedMemory::new(10_000).unwrap();
        let name = ours.name();
        let theirs = SharedMemory::open(&name).unwrap();
        theirs.word(0).unwrap().store(7, std::sync::atomic::Ordering::Relaxed);
        ours.withdraw();
        ours.withdraw();
        assert!(!name.is_there() && !name.is_own());
        let word = |memory: &SharedMemory| {
            memory.word(0).unwrap().fetch_add(1, std::sync::atomic::Ordering::Relaxed)
        };
        assert_eq!((word(&ours), word(&theirs)), (0, 1));
    }

    #[test]
    #[cfg_attr(miri, ignore = "opens files in memory")]
    fn words_are_the_same_on_both_sides() {
        use std::sync::atomic::Ordering::SeqCst;
        let ours = SharedMemory::new(20).unwrap();
        let theirs = SharedMemory::open(&ours.name()).unwrap();
        ours.word(1).unwrap().store(7, SeqCst);
        assert_eq!(theirs.word(1).unwrap().fetch_add(1, SeqCst), 7);
        assert_eq!(ours.word(1).unwrap().load(SeqCst), 8);
        assert_eq!(ours.word(0).unwrap().load(SeqCst), 0);
        assert!(ours.word(2).is_none(), "half of it is beyond the end");
        assert!(ours.word(usize::MAX).is_none() && ours.word(usize::MAX / 8).is_none());
        theirs.half_word(4).unwrap().store(9, SeqCst);
        assert_eq!(ours.half_word(4).unwrap().load(SeqCst), 9);
        assert!(ours.half_word(5).is_none() && ours.half_word(usize::MAX / 4).is_none());
    }

    #[test]
    fn other_memory_has_no_name() {
        assert_eq!(Region::zeroed(10).unwrap().shared_name(), None);
        assert_eq!(Region::shared(0).unwrap_err(), RegionError::Empty);
        assert_eq!(SharedMemory::new(0).unwrap_err(), RegionError::Empty);
        let message = format!("{:?}", SharedMemory::new(10).unwrap().name());
        assert_eq!(message, "SharedName { len: 10, .. }");
    }

    #[test]
    #[cfg_attr(miri, ignore = "opens files in memory")]
    fn what_is_not_that_memory_is_refused() {
        let ours = SharedMemory::new(100).unwrap();
        let name = ours.name();
        let open = |name| SharedMemory::open(&name).unwrap_err();
        assert_eq!(open(SharedName { name: [0; 16], ..name }), SharedMemoryError::Gone);
        assert_eq!(open(SharedName { len: 101, ..name }), SharedMemoryError::MayShrink);
        assert_eq!(open(SharedName { len: u64::MAX, ..name }), SharedMemoryError::MayShrink);
        assert_eq!(open(SharedName { len: 0, ..name }), SharedMemoryError::MayShrink);
        let refused = |error| matches!(error, SharedMemoryError::Refused { .. });
        assert!(refused(open(SharedName { fd: u32::MAX, ..name })));
        assert!(refused(open(SharedName { pid: u32::MAX, ..name })));
        // Part of it may be mapped.
        assert_eq!(SharedMemory::open(&SharedName { len: 50, ..name }).unwrap().map.len(), 50);
    }

    #[test]
    #[cfg_attr(miri, ignore = "opens files in memory")]
    fn memory_that_may_shrink_is_refused() {
        let file =
            rustix::fs::memfd_create(file_name(&[7; 16]), MemfdFlags::ALLOW_SEALING).unwrap();
        rustix::fs::ftruncate(&file, 100).unwrap();
        let fd = file.as_raw_fd().unsigned_abs();
        let name = SharedName { pid: std::process::id(), fd, name: [7; 16], len: 100 };
        assert_eq!(SharedMemory::open(&name).unwrap_err(), SharedMemoryError::MayShrink);
        rustix::fs::fcntl_add_seals(&file, SealFlags::SHRINK).unwrap();
        SharedMemory::open(&name).unwrap();
        rustix::fs::fcntl_add_seals(&file, SealFlags::FUTURE_WRITE).unwrap();
        let refused = SharedMemory::open(&name).unwrap_err();
        assert!(matches!(refused, SharedMemoryError::Refused { call: "map", .. }), "{refused}");
    }

    #[test]
    #[cfg_attr(miri, ignore = "opens files in memory")]
    fn a_pipe_of_the_owner_is_not_opened() {
        let (reader, _writer) = std::io::pipe().unwrap();
        let fd = reader.as_raw_fd();
        let name =
            SharedName { pid: std::process::id(), fd: fd.unsigned_abs(), name: [1; 16], len: 1 };
        assert_eq!(SharedMemory::open(&name).unwrap_err(), SharedMemoryError::Gone);
    }

    /// What a child is told, and what it answers with.
    const TASK: &str = "NIXL_TEST_SHARED_CHILD";
    const MARK: &str = "@@";

    /// No test, but what a child runs.
    #[test]
    #[ignore = "run by the other tests, in processes of their own"]
    fn child() {
        let Ok(task) = std::env::var(TASK) else { return };
        let words: Vec<_> = task.split(' ').collect();
        let number = |index: usize| words[index].parse::<u64>().unwrap();
        let name = SharedName {
            pid: number(0) as u32,
            fd: number(1) as u32,
            name: u128::from_str_radix(words[2], 16).unwrap().to_be_bytes(),
            len: number(3),
        };
        let mapped = SharedMemory::open(&name).is_ok();
        println!(
            "{MARK}{:?} {mapped} {:?} {}",
            name.presence(),
            name.file().is_some(),
            name.is_gone()
        );
        let _map = SharedMemory::open(&name);
        std::io::stdin().read_line(&mut String::new()).unwrap();
    }

    /// A process that looks at memory, and what it sees. It holds what it could map until it is killed.
    struct Looker(std::process::Child, String);

    impl Looker {
        fn new(mut command: std::process::Command, name: &SharedName) -> Self {
            use std::process::Stdio;
            let SharedName { pid, fd, len, .. } = name;
            let random = u128::from_be_bytes(name.name);
            command
                .args(["--exact", "shared::tests::child", "--ignored", "--nocapture"])
                .env(TASK, format!("{pid} {fd} {random:x} {len}"));
            let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
            let mut output = BufReader::new(child.stdout.take().unwrap());
            let said = output
                .by_ref()
                .lines()
                .find_map(|line| line.unwrap().split_once(MARK).map(|(_, said)| said.to_owned()));
            // It writes more when it ends.
            child.stdout = Some(output.into_inner());
            Self(child, said.unwrap())
        }

        fn kill(&mut self) {
            self.0.kill().unwrap();
            self.0.wait().unwrap();
        }
    }

    impl Drop for Looker {
        fn drop(&mut self) {
            self.kill();
        }
    }

    fn this_program() -> std::process::Command {
        std::process::Command::new("/proc/self/exe")
    }

    /// Whether this process may become other users and have namespaces of its own, or a note that the test is skipped.
    fn is_root(test: &str) -> bool {
        let unshare = std::process::Command::new("unshare").args(["-fpm", "true"]).output();
        let may =
            rustix::process::geteuid().is_root() && unshare.is_ok_and(|out| out.status.success());
        if !may {
            use std::io::Write;
            let line = format!("SKIPPED(root): {test}\n");
            // Past the test harness, which would keep it for failures.
            std::io::stderr().write_all(line.as_bytes()).unwrap();
            if let Some(log) = std::env::var_os("NIXL_TEST_SKIP_LOG") {
                let mut log = File::options().create(true).append(true).open(log).unwrap();
                log.write_all(line.as_bytes()).unwrap();
            }
        }
        may
    }

    #[test]
    #[cfg_attr(miri, ignore = "opens files in memory")]
    fn presence_is_of_that_memory_in_that_process() {
        let ours = SharedMemory::new(100).unwrap();
        let name = ours.name();
        assert_eq!(name.presence(), Presence::Here);
        let absent = |name: SharedName| {
            assert_eq!(name.presence(), Presence::Absent);
            assert!(name.is_gone());
        };
        absent(SharedName { name: [0; 16], ..name });
        absent(SharedName { fd: u32::MAX, ..name });
        absent(SharedName { pid: u32::MAX, ..name });
        let mut other = Looker::new(this_program(), &name);
        let pid = other.0.id();
        assert_eq!(other.1, "Here true true false");
        // What a clone of another host, or another container, would say.
        absent(SharedName { pid, ..name });
        other.0.kill().unwrap();
        while !ProcessWatch::open(pid).unwrap().has_ended() {
            std::thread::yield_now();
        }
        absent(SharedName { pid, ..name });
        other.0.wait().unwrap();
        absent(SharedName { pid, ..name });
        drop(ours);
        absent(name);
        assert_eq!(name.file(), None);
    }

    #[test]
    #[cfg_attr(miri, ignore = "asks the system for huge pages")]
    fn huge_pages_are_asked_for_or_the_setting_that_forbids_them_is_named() {
        const LEN: usize = 5 << 20;
        let memory = match SharedMemory::with_huge_pages(LEN) {
            Ok(memory) => memory,
            Err(error) => {
                assert_eq!(Err(error), huge_pages::check());
                return;
            }
        };
        let name = memory.name();
        let region = Region::try_from(memory).unwrap();
        let maps = std::fs::read_to_string("/proc/self/smaps").unwrap();
        let mapping = &maps[maps.find(&format!("{:x}-", region.address())).unwrap()..];
        let flags = mapping.lines().find(|line| line.starts_with("VmFlags:")).unwrap();
        assert!(flags.split_whitespace().any(|flag| flag == "hg"), "{flags}");
        crate::populate(&region, 0..LEN).unwrap();
        region.copy_from_slice(LEN - 3, &[1, 2, 3]).unwrap();
        let there = Region::try_from(SharedMemory::open(&name).unwrap()).unwrap();
        let mut last = [0; 4];
        there.copy_to_slice(LEN - 4, &mut last).unwrap();
        assert_eq!(last, [0, 1, 2, 3]);
    }

    /// No test, but what the next one runs, with a limit of open files that is reached.
    #[test]
    #[ignore = "run by another test, in a process of its own"]
    fn without_files() {
        use rustix::process::{Rlimit, setrlimit};
        let ours = SharedMemory::new(100).unwrap();
        let limits = getrlimit(Resource::Nofile);
        setrlimit(Resource::Nofile, Rlimit { current: Some(0), ..limits }).unwrap();
        let (made, opened) = (SharedMemory::new(100), SharedMemory::open(&ours.name()));
        setrlimit(Resource::Nofile, limits).unwrap();
        println!("\n{MARK}{}\n{MARK}{}", made.unwrap_err(), opened.unwrap_err());
    }

    #[test]
    #[cfg_attr(miri, ignore = "opens files in memory")]
    fn a_full_table_of_files_is_named() {
        let child = this_program()
            .args(["--exact", "shared::tests::without_files", "--ignored", "--nocapture"])
            .output()
            .unwrap();
        let said = String::from_utf8(child.stdout).unwrap();
        let errors: Vec<_> = said.lines().filter_map(|line| line.strip_prefix(MARK)).collect();
        assert_eq!(errors.len(), 2, "{said}");
        assert!(errors.iter().all(|error| error.contains("ulimit -n")), "{errors:?}");
        assert!(!errors[1].contains("namespace"), "{errors:?}");
    }

    #[test]
    #[cfg_attr(miri, ignore = "opens files in memory")]
    fn a_process_that_only_maps_the_memory_holds_it() {
        let ours = SharedMemory::new(10_000).unwrap();
        let file = ours.name().file().unwrap();
        let limit = std::time::Duration::from_secs(60);
        // What another test starts has copies of all descriptors until it runs its program.
        let until_held_by = |pids: &[u32]| {
            let began = std::time::Instant::now();
            while nixl_device::Holders::of_file(file, limit).pids() != pids {
                assert!(began.elapsed() < limit, "{pids:?}");
                std::thread::yield_now();
            }
        };
        until_held_by(&[]);
        let mut other = Looker::new(this_program(), &ours.name());
        // It maps the memory again after it has answered, and closes the descriptor each time.
        until_held_by(&[other.0.id()]);
        other.kill();
        until_held_by(&[]);
    }

    #[test]
    #[cfg_attr(miri, ignore = "opens files in memory")]
    fn memory_of_another_user_is_not_called_absent() {
        use std::os::unix::process::CommandExt;
        if !is_root("shared::tests::memory_of_another_user_is_not_called_absent") {
            return;
        }
        let ours = SharedMemory::new(100).unwrap();
        let mut unprivileged = this_program();
        unprivileged.uid(65_534).gid(65_534).current_dir("/");
        let said = Looker::new(unprivileged, &ours.name()).1.clone();
        assert!(
            said.starts_with("Unknown(NotAllowed") && said.ends_with("false false false"),
            "{said}"
        );
        // The program is reached by a descriptor: that user may not see its folder.
        let script = "mount -t proc -o hidepid=2 proc /proc && exec 9<$0 && cd / && \
            exec setpriv --reuid 65534 --regid 65534 --clear-groups /proc/self/fd/9 \"$@\"";
        let by = |arguments: &[&str]| {
            let mut command = std::process::Command::new("unshare");
            command.args(arguments).arg(std::env::current_exe().unwrap());
            Looker::new(command, &ours.name()).1.clone()
        };
        let hidden = by(&["-m", "sh", "-c", script]);
        assert_eq!(hidden, "Unknown(Hidden) false false false");
        // The `/proc` of this namespace in another: it would show the memory, under a number that means another process.
        assert_eq!(by(&["-fp", "--kill-child"]), "Unknown(NoProc) true true false");
    }
}
