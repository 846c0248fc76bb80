//! Memory of peers that is open in this process.
#![allow(unsafe_code, reason = "keeps memory of peers pinned while GPUs use it")]

use std::collections::HashMap;
use std::fmt;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use nixl_descriptor::{Presence, Region, SharedMemory, SharedName};
use nixl_device::ProcessWatch;
use nixl_ops::RecentCheck;

use crate::local::{Buffer, Gpus, SharedHandle};

/// Opens each piece of memory once for each GPU, and keeps the latest open: opening takes some hundred microseconds, and
/// the memory of a cache of keys and values is a few allocations that are used all the time.
pub(crate) struct Imports {
    gpus: Arc<dyn Gpus>,
    opened: Mutex<Opened>,
    /// Bytes of peers' memory that are pinned.
    pinned: Arc<AtomicUsize>,
}

/// Memory of a peer, as this process opens it.
#[derive(Clone, Copy, Eq, Hash, PartialEq)]
pub(crate) enum Foreign {
    /// An allocation on a GPU, for one GPU here.
    Gpu(u32, SharedHandle),
    /// Host memory.
    File(SharedName),
    /// Host memory for the GPUs here, pinned if it can be.
    Pinned(SharedName),
}

#[derive(Default)]
struct Opened {
    by_name: HashMap<Foreign, Import>,
    uses: u64,
}

struct Import {
    memory: Arc<dyn Buffer>,
    /// The number of its last use.
    used: u64,
    owner: Arc<Owner>,
}

/// Who has the memory, too.
struct Owner {
    foreign: Foreign,
    /// The process, if that of GPU memory is known.
    process: Option<ProcessWatch>,
    /// That the peer has it, too.
    seen: RecentCheck,
}

/// What is known of a peer's memory.
pub(crate) enum Found {
    /// It is open here, and the peer had it too when that was [looked at](RecentCheck).
    Open(Arc<dyn Buffer>),
    /// It was open here, and the peer has let go of it or has ended.
    Gone,
    /// It is not open, or this process may not know any more whether the peer has it.
    Closed,
}

/// Why a peer's memory cannot be opened.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub(crate) enum ImportError {
    /// There is no such memory on this host: the peer has let go of it or has ended, or it runs on another host that calls
    /// itself as this one does.
    #[error("the process that it names does not have it open here")]
    Absent,
    /// The driver or the system refused.
    #[error("{0}")]
    Failed(String),
}

impl Imports {
    /// Pieces of memory that are kept open.
    const KEPT: usize = 1024;
    /// Bytes of all that is pinned at most. A peer says how long its memory is, and pinning takes every page of it, and 0.1 s
    /// for each GiB.
    const MAX_PINNED: usize = 4 << 30;

    pub(crate) fn new(gpus: Arc<dyn Gpus>) -> Self {
        Self { gpus, opened: Mutex::default(), pinned: Arc::default() }
    }

    /// The memory, if it is [open](Found::Open).
    pub(crate) fn get(&self, foreign: &Foreign) -> Option<Arc<dyn Buffer>> {
        match self.find(foreign) {
            Found::Open(memory) => Some(memory),
            Found::Gone | Found::Closed => None,
        }
    }

    /// What is known of the memory.
    pub(crate) fn find(&self, foreign: &Foreign) -> Found {
        let mut opened = self.lock();
        opened.uses += 1;
        let used = opened.uses;
        let Some(import) = opened.by_name.get_mut(foreign) else { return Found::Closed };
        import.used = used;
        let (memory, owner) = (Arc::clone(&import.memory), Arc::clone(&import.owner));
        drop(opened);
        // Asks the system: not under the lock.
        match owner.seen.get_or(|| owner.may_have_it()) {
            true => Found::Open(memory),
            false if owner.has_let_go() => Found::Gone,
            false => Found::Closed,
        }
    }

    /// Whether memory of this process is open, so that its number means the same process here.
    pub(crate) fn reaches(&self, pid: u32) -> bool {
        let names: Vec<_> = self.lock().by_name.keys().filter_map(Foreign::name).copied().collect();
        names.iter().any(|name| name.pid == pid && name.is_there())
    }

    /// Whether the memory is open, whatever the peer has done since.
    pub(crate) fn has(&self, foreign: &Foreign) -> bool {
        self.lock().by_name.contains_key(foreign)
    }

    /// *Blocking.* Opens the memory, unless it is open. `pid` is the process that has it, where that is known.
    ///
    /// # Errors
    ///
    /// Why it cannot be opened.
    pub(crate) fn open(
        &self,
        foreign: &Foreign,
        pid: Option<u32>,
    ) -> Result<Arc<dyn Buffer>, ImportError> {
        if let Some(memory) = self.get(foreign) {
            return Ok(memory);
        }
        // What a peer has let go of would be kept from the system.
        self.sweep();
        let (memory, process): (Arc<dyn Buffer>, _) = match foreign {
            Foreign::Gpu(gpu, handle) => {
                let memory = self.gpus.open(*gpu, handle);
                let memory = memory.map_err(|e| ImportError::Failed(e.to_string()))?;
                (Arc::from(memory), pid.and_then(|pid| ProcessWatch::open(pid).ok()))
            }
            Foreign::File(name) => (Arc::new(map(name)?), None),
            Foreign::Pinned(name) => (self.pin(map(name)?), None),
        };
        let owner = Arc::new(Owner { foreign: *foreign, process, seen: RecentCheck::default() });
        let mut opened = self.lock();
        opened.uses += 1;
        let import = Import { memory: Arc::clone(&memory), used: opened.uses, owner };
        let replaced = opened.by_name.insert(*foreign, import);
        let evicted = (opened.by_name.len() > Self::KEPT).then(|| opened.evict());
        drop(opened);
        // Closing is a call of the driver or the system: not under the lock.
        drop((replaced, evicted));
        Ok(memory)
    }

    /// What cannot be pinned is copied through pinned slots.
    fn pin(&self, memory: Region) -> Arc<dyn Buffer> {
        let Some(allowance) = Allowance::take(&self.pinned, memory.len()) else {
            return Arc::new(memory);
        };
        // SAFETY: transfers keep what they got from here as long as a GPU may use it, and leak it if they cannot tell.
        match unsafe { self.gpus.pin(&memory) } {
            Ok(buffer) => Arc::new(Pinned { buffer, _allowance: allowance }),
            Err(error) => {
                tracing::debug!(%error, "a peer's memory cannot be pinned");
                Arc::new(memory)
            }
        }
    }

    /// *Blocking.* Closes what peers have let go of.
    pub(crate) fn sweep(&self) {
        let owners: Vec<_> =
            self.lock().by_name.values().map(|import| Arc::clone(&import.owner)).collect();
        for owner in owners.iter().filter(|owner| !owner.may_have_it()) {
            let closed = self.lock().by_name.remove(&owner.foreign);
            drop(closed);
        }
    }

    fn lock(&self) -> MutexGuard<'_, Opened> {
        self.opened.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Foreign {
    fn name(&self) -> Option<&SharedName> {
        match self {
            Self::Gpu(..) => None,
            Self::File(name) | Self::Pinned(name) => Some(name),
        }
    }
}

impl Owner {
    /// Whether the peer has it, too, as far as this process may know. Of a GPU's memory only the end of the process tells.
    fn may_have_it(&self) -> bool {
        match self.foreign.name() {
            Some(name) => name.is_there(),
            None => !self.process.as_ref().is_some_and(ProcessWatch::has_ended),
        }
    }

    /// Whether it certainly has it no more.
    fn has_let_go(&self) -> bool {
        match self.foreign.name() {
            Some(name) => name.presence() == Presence::Absent,
            None => self.process.as_ref().is_some_and(ProcessWatch::has_ended),
        }
    }
}

/// Pinned memory of a peer. Field order: unpinned before it is given back.
struct Pinned {
    buffer: Box<dyn Buffer>,
    _allowance: Allowance,
}

// SAFETY: as the buffer that it holds.
unsafe impl Buffer for Pinned {
    fn address(&self) -> u64 {
        self.buffer.address()
    }
}

/// A part of the bytes that may be pinned, until dropped.
struct Allowance {
    taken: Arc<AtomicUsize>,
    bytes: usize,
}

impl Allowance {
    fn take(taken: &Arc<AtomicUsize>, bytes: usize) -> Option<Self> {
        let fits = |now: usize| now.checked_add(bytes).filter(|sum| *sum <= Imports::MAX_PINNED);
        taken.fetch_update(Ordering::AcqRel, Ordering::Acquire, fits).ok()?;
        Some(Self { taken: Arc::clone(taken), bytes })
    }
}

impl Drop for Allowance {
    fn drop(&mut self) {
        self.taken.fetch_sub(self.bytes, Ordering::AcqRel);
    }
}

fn map(name: &SharedName) -> Result<Region, ImportError> {
    let memory = SharedMemory::open(name).map_err(|error| match name.presence() {
        Presence::Absent => ImportError::Absent,
        _ => ImportError::Failed(error.to_string()),
    })?;
    Region::try_from(memory).map_err(|e| ImportError::Failed(e.to_string()))
}

impl Opened {
    /// Takes out the one whose last use is longest ago. It is closed when the transfers that use it have ended.
    fn evict(&mut self) -> Option<Import> {
        let oldest = *self.by_name.iter().min_by_key(|(_, import)| import.used)?.0;
        self.by_name.remove(&oldest)
    }
}

impl fmt::Debug for Imports {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Imports").field("open", &self.lock().by_name.len()).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use std::process::{Command, Stdio};

    use nixl_device::Device;

    use super::*;
    use crate::local::{Abilities, MemoryKind, SimulatedGpus};

    fn gpus() -> Arc<SimulatedGpus> {
        let abilities = Abilities { gpus: 1, ..Abilities::default() };
        Arc::new(SimulatedGpus::new(abilities).unwrap())
    }

    /// In a file of its own.
    fn shared(len: usize) -> Region {
        SharedMemory::new(len).unwrap().try_into().unwrap()
    }

    #[test]
    fn what_was_opened_is_found_and_what_was_not_is_not() {
        let gpus = gpus();
        let memory = gpus.region(MemoryKind::Gpu(0), 64).unwrap();
        let (handle, _) = gpus.share(0, memory.address()).unwrap();
        let imports = Imports::new(gpus.clone());
        let there = Foreign::Gpu(0, handle);
        assert!(imports.get(&there).is_none());
        imports.open(&there, None).unwrap();
        assert_ne!(imports.get(&there).unwrap().address(), memory.address());
        assert!(imports.open(&Foreign::Gpu(0, [9; 72]), None).is_err());
        assert!(imports.open(&Foreign::Gpu(1, handle), None).is_err(), "there is one GPU");
    }

    #[test]
    fn the_longest_unused_is_closed_first() {
        let gpus = gpus();
        let imports = Imports::new(gpus.clone());
        let memories: Vec<_> =
            (0..Imports::KEPT + 2).map(|_| gpus.region(MemoryKind::Gpu(0), 8).unwrap()).collect();
        let there =
            |index: usize| Foreign::Gpu(0, gpus.share(0, memories[index].address()).unwrap().0);
        for index in 0..Imports::KEPT {
            imports.open(&there(index), None).unwrap();
        }
        assert!(imports.get(&there(0)).is_some());
        for index in Imports::KEPT..Imports::KEPT + 2 {
            imports.open(&there(index), None).unwrap();
        }
        let open = |index| imports.get(&there(index)).is_some();
        assert!(open(0) && !open(1) && !open(2) && open(3));
    }

    #[test]
    fn host_memory_is_pinned_for_gpus_alone_and_if_it_can_be() {
        let gpus = gpus();
        let imports = Imports::new(gpus.clone());
        let region = shared(100);
        let name = region.shared_name().unwrap();
        let kind = |foreign| {
            let address = imports.open(&foreign, None).unwrap().address();
            gpus.memory_kind(Device::HOST, address)
        };
        assert_eq!(kind(Foreign::File(name)), MemoryKind::Pageable);
        assert_eq!(kind(Foreign::Pinned(name)), MemoryKind::Pinned);
        imports.pinned.store(Imports::MAX_PINNED - 50, Ordering::Relaxed);
        let (long, short) = (shared(51), shared(50));
        assert_eq!(kind(Foreign::Pinned(long.shared_name().unwrap())), MemoryKind::Pageable);
        assert_eq!(kind(Foreign::Pinned(short.shared_name().unwrap())), MemoryKind::Pinned);
        imports.pinned.store(0, Ordering::Relaxed);
        let other = shared(100);
        gpus.fail();
        assert_eq!(kind(Foreign::Pinned(other.shared_name().unwrap())), MemoryKind::Pageable);
    }

    #[test]
    fn host_memory_is_let_go_once_the_peer_has() {
        let imports = Imports::new(gpus());
        let shared = || {
            let region = shared(100);
            let there = Foreign::File(region.shared_name().unwrap());
            (region, there)
        };
        let ((one, first), (two, second), (_three, third)) = (shared(), shared(), shared());
        let mapped = imports.open(&first, None).unwrap();
        assert_ne!(mapped.address(), one.address());
        imports.open(&second, None).unwrap();
        drop(one);
        std::thread::sleep(2 * RecentCheck::TTL);
        assert!(matches!(imports.find(&first), Found::Gone));
        assert!(matches!(imports.open(&first, None), Err(ImportError::Absent)));
        assert!(matches!(imports.find(&first), Found::Closed), "it is closed here, too");
        assert!(imports.reaches(std::process::id()) && !imports.reaches(1));
        assert_eq!(Arc::strong_count(&mapped), 1, "it is closed once no transfer uses it");
        imports.open(&third, None).unwrap();
        drop(two);
        imports.sweep();
        assert_eq!(imports.lock().by_name.len(), 1);
    }

    #[test]
    fn memory_of_a_gpu_is_let_go_once_its_process_has_ended() {
        let gpus = gpus();
        let imports = Imports::new(gpus.clone());
        let mut process = Command::new("cat").stdin(Stdio::piped()).spawn().unwrap();
        let memory = gpus.region(MemoryKind::Gpu(0), 64).unwrap();
        let there = Foreign::Gpu(0, gpus.share(0, memory.address()).unwrap().0);
        imports.open(&there, Some(process.id())).unwrap();
        imports.sweep();
        assert!(matches!(imports.find(&there), Found::Open(_)));
        process.kill().unwrap();
        process.wait().unwrap();
        std::thread::sleep(2 * RecentCheck::TTL);
        assert!(matches!(imports.find(&there), Found::Gone));
        imports.sweep();
        assert!(matches!(imports.find(&there), Found::Closed));
    }
}
