//! Memory of peers that is open in this process.

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::local::{Buffer, GpuError, Gpus, SharedHandle};

/// Opens each allocation once for each GPU, and keeps the latest open: opening takes the driver some hundred
/// microseconds, and the memory of a cache of keys and values is a few allocations that are used all the time.
pub(crate) struct Imports {
    gpus: Arc<dyn Gpus>,
    opened: Mutex<Opened>,
}

#[derive(Default)]
struct Opened {
    by_handle: HashMap<(u32, SharedHandle), Import>,
    uses: u64,
}

struct Import {
    memory: Arc<dyn Buffer>,
    /// The number of its last use.
    used: u64,
}

impl Imports {
    /// Allocations that are kept open.
    const KEPT: usize = 256;

    pub(crate) fn new(gpus: Arc<dyn Gpus>) -> Self {
        Self { gpus, opened: Mutex::default() }
    }

    /// The memory, if it is open.
    pub(crate) fn get(&self, gpu: u32, handle: &SharedHandle) -> Option<Arc<dyn Buffer>> {
        let mut opened = self.lock();
        opened.uses += 1;
        let used = opened.uses;
        let import = opened.by_handle.get_mut(&(gpu, *handle))?;
        import.used = used;
        Some(Arc::clone(&import.memory))
    }

    /// *Blocking.* Opens the memory, unless it is open.
    pub(crate) fn open(
        &self,
        gpu: u32,
        handle: &SharedHandle,
    ) -> Result<Arc<dyn Buffer>, GpuError> {
        if let Some(memory) = self.get(gpu, handle) {
            return Ok(memory);
        }
        let memory: Arc<dyn Buffer> = Arc::from(self.gpus.open(gpu, handle)?);
        let mut opened = self.lock();
        opened.uses += 1;
        let import = Import { memory: Arc::clone(&memory), used: opened.uses };
        let replaced = opened.by_handle.insert((gpu, *handle), import);
        let evicted = (opened.by_handle.len() > Self::KEPT).then(|| opened.evict());
        drop(opened);
        // Closing is a driver's call: not under the lock.
        drop((replaced, evicted));
        Ok(memory)
    }

    fn lock(&self) -> MutexGuard<'_, Opened> {
        self.opened.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Opened {
    /// Takes out the one whose last use is longest ago. It is closed when the transfers that use it have ended.
    fn evict(&mut self) -> Option<Import> {
        let oldest = self.by_handle.iter().min_by_key(|(_, import)| import.used)?.0;
        let oldest = *oldest;
        self.by_handle.remove(&oldest)
    }
}

impl fmt::Debug for Imports {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Imports")
            .field("open", &self.lock().by_handle.len())
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::local::{Abilities, MemoryKind, SimulatedGpus};

    fn gpus() -> Arc<SimulatedGpus> {
        let abilities = Abilities { gpus: 1, ..Abilities::default() };
        Arc::new(SimulatedGpus::new(abilities).unwrap())
    }

    #[test]
    fn what_was_opened_is_found_and_what_was_not_is_not() {
        let gpus = gpus();
        let memory = gpus.region(MemoryKind::Gpu(0), 64).unwrap();
        let address = memory.descriptor(0..1).unwrap().address();
        let (handle, _) = gpus.share(0, address).unwrap();
        let imports = Imports::new(gpus.clone());
        assert!(imports.get(0, &handle).is_none());
        imports.open(0, &handle).unwrap();
        assert_eq!(imports.get(0, &handle).unwrap().address(), address);
        assert!(imports.open(0, &[9; 72]).is_err());
        assert!(imports.open(1, &handle).is_err(), "there is one GPU");
    }

    #[test]
    fn the_longest_unused_is_closed_first() {
        let gpus = gpus();
        let imports = Imports::new(gpus.clone());
        let memories: Vec<_> =
            (0..Imports::KEPT + 2).map(|_| gpus.region(MemoryKind::Gpu(0), 8).unwrap()).collect();
        let handle = |index: usize| {
            let address = memories[index].descriptor(0..1).unwrap().address();
            gpus.share(0, address).unwrap().0
        };
        for index in 0..Imports::KEPT {
            imports.open(0, &handle(index)).unwrap();
        }
        assert!(imports.get(0, &handle(0)).is_some());
        for index in Imports::KEPT..Imports::KEPT + 2 {
            imports.open(0, &handle(index)).unwrap();
        }
        let open = |index| imports.get(0, &handle(index)).is_some();
        assert!(open(0) && !open(1) && !open(2) && open(3));
    }
}
