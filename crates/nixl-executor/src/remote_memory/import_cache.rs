//! The cache of peers' memory that is open in this process.

mod open;
mod sweep;

use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, Weak};

use nixl_descriptor::{Region, SharedName};
use nixl_device::SharedError;
use nixl_device::locks::lock;
use nixl_ops::BlockingThread;

use super::open_failures::OpenFailures;
use super::open_marks::OpenMarks;
use super::opened::Opened;
use super::{ImportLimits, RemoteMemoryKey};
use crate::local::{GpuBackend, TransferBuffer};

/// Opens each piece of memory once for each GPU, and keeps the latest open: opening takes some hundred microseconds, and
/// the memory of a cache of keys and values is a few allocations that are used all the time. What a process that has ended
/// had is closed at once, what a peer has released at the next [`sweep`](Self::sweep).
pub(crate) struct ImportCache {
    me: Weak<Self>,
    limits: ImportLimits,
    gpus: Arc<dyn GpuBackend>,
    background: Arc<dyn BlockingThread>,
    opened: Mutex<Opened>,
    /// Those of what is open.
    marks: Arc<OpenMarks>,
    pub(crate) refused: OpenFailures<RemoteMemoryKey>,
    /// Bytes of peers' memory that are pinned.
    pinned: Arc<AtomicUsize>,
    /// Bytes of address space that peers' host memory takes.
    mapped: Arc<AtomicUsize>,
    /// A sweep waits for its turn.
    sweeping: AtomicBool,
    /// The closing of what ended processes had waits for its turn.
    closing: AtomicBool,
    /// Queries of the system whether a peer has its memory.
    looks: AtomicU64,
}

/// What is known of a peer's memory.
pub(crate) enum Found {
    /// It is open here, and the peer had it too when that was [looked at](nixl_ops::RecentCheck).
    Open(Arc<dyn TransferBuffer>),
    /// It was open here, and the peer has released it or has ended.
    Gone,
    /// It is not open, or this process may not know any more whether the peer has it.
    Closed,
}

/// Why a peer's memory cannot be opened.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub(crate) enum ImportError {
    /// There is no such memory on this host: the peer has released it or has ended, or it runs on another host that calls
    /// itself as this one does.
    #[error("the process that it names does not have it open here")]
    Absent,
    /// The driver or the system refused.
    #[error("{0}")]
    Failed(#[source] SharedError),
    /// The peers' memory that is open takes too much of the address space.
    #[error("{bytes} bytes are too many to map beside {mapped}, of {most} allowed")]
    OverLimit { bytes: usize, mapped: usize, most: usize },
}

impl ImportCache {
    /// None is open yet. Blocking calls that nothing waits for are made in the `background`.
    pub(crate) fn with(
        limits: ImportLimits,
        gpus: Arc<dyn GpuBackend>,
        background: Arc<dyn BlockingThread>,
    ) -> Arc<Self> {
        let opened = Opened::default();
        Arc::new_cyclic(|me| Self {
            me: Weak::clone(me),
            limits,
            gpus,
            background,
            marks: Arc::clone(&opened.marks),
            opened: Mutex::new(opened),
            refused: OpenFailures::default(),
            pinned: Arc::default(),
            mapped: Arc::default(),
            sweeping: AtomicBool::new(false),
            closing: AtomicBool::new(false),
            looks: AtomicU64::new(0),
        })
    }

    /// With the default limits.
    #[cfg(test)]
    pub(crate) fn new(gpus: Arc<dyn GpuBackend>, background: Arc<dyn BlockingThread>) -> Arc<Self> {
        Self::with(ImportLimits::default(), gpus, background)
    }

    /// The bounds.
    pub(crate) fn limits(&self) -> ImportLimits {
        self.limits
    }

    /// The memory, if it is [open](Found::Open).
    pub(crate) fn get(&self, memory_key: &RemoteMemoryKey) -> Option<Arc<dyn TransferBuffer>> {
        match self.find(memory_key) {
            Found::Open(memory) => Some(memory),
            Found::Gone | Found::Closed => None,
        }
    }

    /// What is known of the memory.
    pub(crate) fn find(&self, memory_key: &RemoteMemoryKey) -> Found {
        let Some((memory, owner)) = self.lock().touch(memory_key) else { return Found::Closed };
        // Queries the system: not under the lock.
        match owner.seen.get_or(|| self.look(&owner)) {
            true => Found::Open(memory),
            false if owner.has_let_go() => Found::Gone,
            false => Found::Closed,
        }
    }

    /// Host memory that is open, as it is mapped here.
    pub(crate) fn mapped_region(&self, name: &SharedName) -> Option<Region> {
        let opened = self.lock();
        let import = opened.by_name.get(&RemoteMemoryKey::File(*name))?;
        import.owner.mapped.clone()
    }

    /// Whether memory of this process is open, so that its number means the same process here.
    pub(crate) fn reaches(&self, pid: u32) -> bool {
        let opened = self.lock();
        let names = opened.by_name.keys().filter_map(RemoteMemoryKey::name);
        let names = names.filter(|name| name.pid == pid && !name.is_by_rendezvous());
        let names: Vec<_> = names.copied().collect();
        drop(opened);
        names.iter().any(SharedName::is_there)
    }

    /// Whether the memory is open, even if the peer has released it since. Takes no lock of what was opened lately.
    pub(crate) fn has(&self, memory_key: &RemoteMemoryKey) -> bool {
        self.marks.has(memory_key) || self.lock().by_name.contains_key(memory_key)
    }

    /// Bytes of address space that peers' host memory takes.
    pub(crate) fn mapped(&self) -> usize {
        self.mapped.load(Ordering::Acquire)
    }

    /// Pieces of memory that are open, and bytes of them that are pinned.
    pub(crate) fn held(&self) -> (usize, usize) {
        (self.lock().by_name.len(), self.pinned.load(Ordering::Acquire))
    }

    fn lock(&self) -> MutexGuard<'_, Opened> {
        lock(&self.opened)
    }
}

impl fmt::Debug for ImportCache {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ImportCache")
            .field("open", &self.lock().by_name.len())
            .field("looks", &self.looks)
            .finish_non_exhaustive()
    }
}

/// Runs every job at once.
#[cfg(test)]
#[derive(Debug)]
pub(crate) struct Now;

#[cfg(test)]
impl Now {
    pub(crate) fn here() -> Arc<dyn BlockingThread> {
        Arc::new(Self)
    }
}

#[cfg(test)]
impl BlockingThread for Now {
    fn run(&self, job: Box<dyn FnOnce() + Send>) {
        job();
    }
}

#[cfg(test)]
mod tests {
    use std::io::{BufRead, BufReader};
    use std::process::{Command, Stdio};
    use std::time::{Duration, Instant};

    use nixl_descriptor::{AllocationKind, SharedMemory};
    use nixl_device::Device;
    use nixl_ops::RecentCheck;

    use super::*;
    use crate::local::{GpuCapabilities, MemoryKind, SharedHandle, SimulatedGpus, allocation_of};
    use crate::remote_memory::OwnerId;

    const BY: OwnerId<'_> = OwnerId { peer: "peer", pid: None };
    /// In which what is looked at comes to be.
    const LIMIT: Duration = Duration::from_secs(30);

    fn until(what: &str, mut condition: impl FnMut() -> bool) {
        let began = Instant::now();
        while !condition() {
            assert!(began.elapsed() < LIMIT, "{what}");
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    fn gpus() -> Arc<SimulatedGpus> {
        let capabilities = GpuCapabilities { gpus: 1, ..GpuCapabilities::default() };
        Arc::new(SimulatedGpus::new(capabilities).unwrap())
    }

    /// What names memory of the GPU.
    fn handle(gpus: &SimulatedGpus, memory: &Region) -> SharedHandle {
        *gpus.allocation(0, memory.address()).unwrap().ipc_handle().unwrap()
    }

    /// In a file of its own.
    fn shared(len: usize) -> Region {
        SharedMemory::new(len).unwrap().try_into().unwrap()
    }

    #[test]
    fn what_was_opened_is_found_and_what_was_not_is_not() {
        let gpus = gpus();
        let memory = gpus.region(MemoryKind::Gpu(0), 64).unwrap();
        let handle = handle(&gpus, &memory);
        let imports = ImportCache::new(gpus.clone(), Now::here());
        let there = RemoteMemoryKey::Gpu(0, handle);
        assert!(imports.get(&there).is_none());
        imports.open(&there, BY).unwrap();
        assert_ne!(imports.get(&there).unwrap().address(), memory.address());
        assert!(imports.open(&RemoteMemoryKey::Gpu(0, [9; 72]), BY).is_err());
        assert!(imports.open(&RemoteMemoryKey::Gpu(1, handle), BY).is_err(), "there is one GPU");
    }

    #[test]
    fn the_longest_unused_is_closed_first() {
        let gpus = gpus();
        let imports = ImportCache::new(gpus.clone(), Now::here());
        let memories: Vec<_> = (0..ImportLimits::default().pieces + 2)
            .map(|_| gpus.region(MemoryKind::Gpu(0), 8).unwrap())
            .collect();
        let there = |index: usize| RemoteMemoryKey::Gpu(0, handle(&gpus, &memories[index]));
        for index in 0..ImportLimits::default().pieces {
            imports.open(&there(index), BY).unwrap();
        }
        assert!(imports.get(&there(0)).is_some());
        for index in ImportLimits::default().pieces..ImportLimits::default().pieces + 2 {
            imports.open(&there(index), BY).unwrap();
        }
        let open = |index| imports.get(&there(index)).is_some();
        assert!(open(0) && !open(1) && !open(2) && open(3));
    }

    #[test]
    fn host_memory_is_pinned_for_gpus_alone_and_if_it_can_be() {
        let gpus = gpus();
        let imports = ImportCache::new(gpus.clone(), Now::here());
        let region = shared(100);
        let name = region.shared_name().unwrap();
        let kind = |memory_key| {
            let address = imports.open(&memory_key, BY).unwrap().address();
            gpus.memory_kind(Device::HOST, address)
        };
        assert_eq!(kind(RemoteMemoryKey::File(name)), MemoryKind::Pageable);
        assert_eq!(kind(RemoteMemoryKey::Pinned(name)), MemoryKind::Pinned);
        imports.pinned.store(ImportLimits::default().pinned_bytes - 50, Ordering::Relaxed);
        let (long, short) = (shared(51), shared(50));
        assert_eq!(
            kind(RemoteMemoryKey::Pinned(long.shared_name().unwrap())),
            MemoryKind::Pageable
        );
        assert_eq!(kind(RemoteMemoryKey::Pinned(short.shared_name().unwrap())), MemoryKind::Pinned);
        imports.pinned.store(0, Ordering::Relaxed);
        let other = shared(100);
        gpus.fail();
        assert_eq!(
            kind(RemoteMemoryKey::Pinned(other.shared_name().unwrap())),
            MemoryKind::Pageable
        );
    }

    #[test]
    fn each_limit_has_an_effect() {
        let gpus = gpus();
        let with = |limits| ImportCache::with(limits, gpus.clone(), Now::here());
        let memories = [shared(100), shared(100)];
        let [first, second] = memories.each_ref().map(|region| region.shared_name().unwrap());
        let limits = ImportLimits::default;

        let imports = with(limits().pieces(1));
        imports.open(&RemoteMemoryKey::File(first), BY).unwrap();
        imports.open(&RemoteMemoryKey::File(second), BY).unwrap();
        assert!(!imports.has(&RemoteMemoryKey::File(first)));
        assert_eq!(imports.held().0, 1);

        for (bytes, kind) in [(99, MemoryKind::Pageable), (100, MemoryKind::Pinned)] {
            let imports = with(limits().pinned_bytes(bytes));
            let address = imports.open(&RemoteMemoryKey::Pinned(first), BY).unwrap().address();
            assert_eq!(gpus.memory_kind(Device::HOST, address), kind);
        }

        let refused = with(limits().mapped_bytes(99)).open(&RemoteMemoryKey::File(first), BY);
        let expected = ImportError::OverLimit { bytes: 100, mapped: 0, most: 99 };
        assert_eq!(refused.err(), Some(expected));
        assert!(with(limits().mapped_bytes(100)).open(&RemoteMemoryKey::File(first), BY).is_ok());
    }

    #[test]
    fn files_with_holes_do_not_take_all_address_space() {
        let imports = ImportCache::new(gpus(), Now::here());
        let (old, new) = (shared(4096), shared(8192));
        let [old, new] =
            [&old, &new].map(|region| RemoteMemoryKey::File(region.shared_name().unwrap()));
        imports.open(&old, BY).unwrap();
        assert_eq!(imports.mapped(), 4096);
        // The longest unused makes room.
        imports.mapped.fetch_add(ImportLimits::default().mapped_bytes - 8192, Ordering::Relaxed);
        imports.open(&new, BY).unwrap();
        assert!(!imports.has(&old) && imports.has(&new));
        imports.mapped.store(8192, Ordering::Relaxed);
        let RemoteMemoryKey::File(name) = new else { unreachable!() };
        let endless = SharedName { len: 96 << 40, fd: name.fd + 1, ..name };
        let refused = imports.open(&RemoteMemoryKey::File(endless), BY).map(|_| ()).unwrap_err();
        assert!(refused.to_string().contains("too many to map beside 8192"), "{refused}");
        assert!(imports.has(&new), "only unused memory was closed");
        assert_eq!(imports.mapped(), 8192);
    }

    #[test]
    fn host_memory_is_let_go_once_the_peer_has() {
        let imports = ImportCache::new(gpus(), Now::here());
        let shared = || {
            let region = shared(100);
            let there = RemoteMemoryKey::File(region.shared_name().unwrap());
            (region, there)
        };
        let ((one, first), (two, second), (_three, third)) = (shared(), shared(), shared());
        let mapped = imports.open(&first, BY).unwrap();
        assert_ne!(mapped.address(), one.address());
        imports.open(&second, BY).unwrap();
        drop(one);
        std::thread::sleep(2 * RecentCheck::TTL);
        assert!(matches!(imports.find(&first), Found::Gone));
        assert!(matches!(imports.open(&first, BY), Err(ImportError::Absent)));
        assert!(matches!(imports.find(&first), Found::Closed), "it is closed here, too");
        assert!(imports.reaches(std::process::id()) && !imports.reaches(1));
        assert_eq!(Arc::strong_count(&mapped), 1, "it is closed once no transfer uses it");
        imports.open(&third, BY).unwrap();
        drop(two);
        imports.sweep();
        assert_eq!(imports.lock().by_name.len(), 1);
    }

    #[test]
    fn memory_in_pieces_is_let_go_once_the_peer_has_withdrawn_it() {
        let gpus = gpus();
        let imports = ImportCache::new(gpus.clone(), Now::here());
        let open = || {
            let memory = gpus.region_of(0, (AllocationKind::Virtual, 1), 3 * 4096 + 5).unwrap();
            let allocation = *allocation_of(&*gpus, &memory).unwrap();
            assert!(allocation.is_in_pieces() && format!("{memory:?}").contains("pieces: true"));
            let there = RemoteMemoryKey::Gpu(0, *allocation.ipc_handle().unwrap());
            let opened = imports.open(&there, BY).unwrap();
            assert_ne!(opened.address(), memory.address());
            (memory, there)
        };
        let ((one, first), (other, second)) = (open(), open());
        imports.sweep();
        assert!(matches!(imports.find(&first), Found::Open(_)));
        drop(one);
        std::thread::sleep(2 * RecentCheck::TTL);
        assert!(matches!(imports.find(&first), Found::Gone));
        assert!(imports.open(&first, BY).is_err());
        drop(other);
        imports.sweep();
        assert!(!imports.has(&second) && imports.held().0 == 0);
    }

    #[test]
    fn memory_of_a_gpu_is_let_go_once_its_process_has_ended() {
        let gpus = gpus();
        let imports = ImportCache::new(gpus.clone(), Now::here());
        let mut process = Command::new("cat").stdin(Stdio::piped()).spawn().unwrap();
        let open = || {
            let memory = gpus.region(MemoryKind::Gpu(0), 64).unwrap();
            let there = RemoteMemoryKey::Gpu(0, handle(&gpus, &memory));
            let by = OwnerId { pid: Some(process.id()), ..BY };
            let used = imports.open(&there, by).unwrap();
            (memory, there, used)
        };
        let (one, other) = (open(), open());
        imports.sweep();
        assert!(matches!(imports.find(&one.1), Found::Open(_)));
        process.kill().unwrap();
        until("both are closed", || imports.lock().by_name.is_empty());
        assert!(matches!(imports.find(&other.1), Found::Closed));
        assert_eq!(Arc::strong_count(&one.2), 1, "what a transfer uses is kept by it alone");
        process.wait().unwrap();
        let late = imports.open(&one.1, OwnerId { pid: Some(process.id()), ..BY });
        assert!(late.is_ok(), "a number that no process has says nothing");
    }

    /// No test, but what the next one runs in a process of its own.
    #[test]
    #[ignore = "run by another test, in a process of its own"]
    fn owner() {
        let region = shared(100);
        let SharedName { pid, fd, name, len } = region.shared_name().unwrap();
        println!("\n@{pid} {fd} {} {len}", u128::from_ne_bytes(name));
        // Until it is killed, or its parent has ended.
        let _ = std::io::stdin().read_line(&mut String::new());
    }

    #[test]
    fn host_memory_is_let_go_once_its_process_was_killed() {
        let mut process = Command::new("/proc/self/exe")
            .args([
                "--exact",
                "remote_memory::import_cache::tests::owner",
                "--ignored",
                "--nocapture",
            ])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let lines = BufReader::new(process.stdout.take().unwrap()).lines();
        let line =
            lines.map_while(Result::ok).find_map(|line| line.strip_prefix('@').map(str::to_owned));
        let words = line.unwrap();
        let words: Vec<_> = words.split(' ').collect();
        let name = SharedName {
            pid: words[0].parse().unwrap(),
            fd: words[1].parse().unwrap(),
            name: words[2].parse::<u128>().unwrap().to_ne_bytes(),
            len: words[3].parse().unwrap(),
        };
        let imports = ImportCache::new(gpus(), Now::here());
        imports.open(&RemoteMemoryKey::File(name), BY).unwrap();
        imports.open(&RemoteMemoryKey::Pinned(name), BY).unwrap();
        assert_eq!(imports.held(), (2, 100));
        process.kill().unwrap();
        until("it is closed without another look", || imports.held() == (0, 0));
        assert_eq!(imports.looks.load(Ordering::Relaxed), 0);
        process.wait().unwrap();
    }

    #[test]
    fn what_a_peer_named_is_closed_when_the_peer_is_gone() {
        let imports = ImportCache::new(gpus(), Now::here());
        let (one, other) = (shared(100), shared(100));
        let there = |region: &Region| RemoteMemoryKey::File(region.shared_name().unwrap());
        imports.open(&there(&one), BY).unwrap();
        imports.open(&there(&other), OwnerId { peer: "other", pid: None }).unwrap();
        imports.close_of("peer");
        assert!(!imports.has(&there(&one)) && imports.has(&there(&other)));
    }

    #[test]
    fn opening_many_pieces_takes_as_many_looks() {
        const PIECES: usize = 4000;
        let gpus = gpus();
        let imports = ImportCache::new(gpus.clone(), Now::here());
        let memories: Vec<_> =
            (0..PIECES).map(|_| gpus.region(MemoryKind::Gpu(0), 8).unwrap()).collect();
        for memory in &memories {
            let handle = handle(&gpus, memory);
            imports.open(&RemoteMemoryKey::Gpu(0, handle), BY).unwrap();
        }
        let looks = imports.looks.load(Ordering::Relaxed);
        assert!(looks <= 2 * PIECES as u64, "{looks}");
        let opened = imports.lock();
        assert_eq!(
            (opened.by_name.len(), opened.by_use.len()),
            (ImportLimits::default().pieces, ImportLimits::default().pieces)
        );
    }

    #[test]
    fn a_sweep_is_queued_once_and_only_if_something_is_open() {
        #[derive(Debug, Default)]
        struct Queue(Mutex<Vec<String>>);
        impl BlockingThread for Queue {
            fn run(&self, _: Box<dyn FnOnce() + Send>) {
                self.0.lock().unwrap().push(String::new());
            }
        }
        let queue = Arc::new(Queue::default());
        let imports = ImportCache::new(gpus(), queue.clone());
        imports.sweep_soon();
        assert!(queue.0.lock().unwrap().is_empty());
        let region = shared(100);
        imports.open(&RemoteMemoryKey::File(region.shared_name().unwrap()), BY).unwrap();
        imports.sweep_soon();
        imports.sweep_soon();
        assert_eq!(queue.0.lock().unwrap().len(), 1);
        imports.sweep();
        imports.sweep_soon();
        assert_eq!(queue.0.lock().unwrap().len(), 2);
    }
}
