//! Opening of peers' memory: within the limits on address space and pinned memory, with a watch of the process.
#![allow(unsafe_code, reason = "keeps memory of peers pinned while GPUs use it")]

use std::sync::atomic::Ordering;
use std::sync::{Arc, Weak};

use nixl_descriptor::{Presence, Region, SharedMemory, SharedName};
use nixl_device::{ExitWatch, ProcessError, ProcessExits};
use nixl_ops::RecentCheck;

use super::{Found, ImportCache, ImportError};
use crate::local::TransferBuffer;
use crate::remote_memory::opened::Owner;
use crate::remote_memory::permit::{Mapped, PinPermit, Pinned};
use crate::remote_memory::{OwnerId, RemoteMemoryKey};

impl ImportCache {
    /// Pieces that are opened between two sweeps at least.
    const SWEPT_AFTER: usize = 16;

    /// *Blocking.* Opens the memory, unless it is open.
    ///
    /// # Errors
    ///
    /// Why it cannot be opened.
    pub(crate) fn open(
        &self,
        memory_key: &RemoteMemoryKey,
        by: OwnerId<'_>,
    ) -> Result<Arc<dyn TransferBuffer>, ImportError> {
        match self.find(memory_key) {
            Found::Open(memory) => return Ok(memory),
            Found::Gone => {
                let closed = self.lock().remove(memory_key);
                drop(closed);
            }
            Found::Closed => {}
        }
        // Memory that a peer has released would be kept from the system. The number of checks is that of the pieces.
        let due = {
            let opened = self.lock();
            opened.fresh >= Self::SWEPT_AFTER.max(opened.by_name.len().min(self.limits.pieces))
        };
        if due {
            self.sweep();
        }
        // Before the memory: a process that has not ended afterwards had the number all along.
        let process = match (memory_key.name(), memory_key.pieces()) {
            (Some(name), _) if name.is_by_rendezvous() => {
                noticed(name.watch_owner(self.closing())).map(Arc::new)
            }
            (Some(name), _) => self.process(name.pid),
            (None, Some(pieces)) => noticed(pieces.watch_owner(self.closing())).map(Arc::new),
            (None, None) => by.pid.and_then(|pid| self.process(pid)),
        };
        let mut mapped = None;
        let memory: Arc<dyn TransferBuffer> = match memory_key {
            RemoteMemoryKey::Gpu(gpu, handle) => {
                let memory = self.gpus.open(*gpu, handle);
                Arc::from(memory.map_err(|e| ImportError::Failed(e.into()))?)
            }
            RemoteMemoryKey::File(name) | RemoteMemoryKey::Pinned(name) => {
                let allowance = self.allow(name)?;
                let region = map(name)?;
                mapped = Some(region.clone());
                let buffer: Arc<dyn TransferBuffer> = match memory_key {
                    RemoteMemoryKey::Pinned(_) => self.pin(region),
                    _ => Arc::new(region),
                };
                Arc::new(Mapped { buffer, _allowance: allowance })
            }
        };
        let watched = process.clone();
        let ended = || watched.as_ref().is_some_and(|process| process.process().has_ended());
        if ended() {
            return Err(ImportError::Absent);
        }
        let owner = Arc::new(Owner {
            memory_key: *memory_key,
            peer: by.peer.into(),
            process,
            mapped,
            seen: RecentCheck::default(),
        });
        let closed = self.lock().insert(owner, Arc::clone(&memory), self.limits.pieces);
        // Closing is a call of the driver or the system: not under the lock.
        drop(closed);
        // Its end may have been dealt with before the memory was here.
        if ended() {
            self.close_of_ended();
            return Err(ImportError::Absent);
        }
        self.refused.forget(memory_key);
        Ok(memory)
    }

    /// The process of this number, watched for its end.
    fn process(&self, pid: u32) -> Option<Arc<ExitWatch>> {
        let known = self.lock().processes.get(&pid).and_then(Weak::upgrade);
        if let Some(known) = known.filter(|known| !known.process().has_ended()) {
            return Some(known);
        }
        let watch = noticed(ProcessExits::global().watch(pid, None, self.closing()));
        let watch = Arc::new(watch?);
        let mut opened = self.lock();
        opened.processes.retain(|_, process| process.strong_count() > 0);
        opened.processes.insert(pid, Arc::downgrade(&watch));
        Some(watch)
    }

    /// What closes the memory of processes that have ended.
    fn closing(&self) -> impl FnOnce() + Send + 'static {
        let (me, background) = (Weak::clone(&self.me), Arc::clone(&self.background));
        move || {
            // One for all that end before its turn.
            let is_first = |imports: &Arc<Self>| !imports.closing.swap(true, Ordering::AcqRel);
            if me.upgrade().as_ref().is_some_and(is_first) {
                background.run(Box::new(move || {
                    me.upgrade().into_iter().for_each(|imports| imports.close_of_ended());
                }));
            }
        }
    }

    /// Address space for the memory, for which others are closed that were not used for longer.
    fn allow(&self, name: &SharedName) -> Result<PinPermit, ImportError> {
        let bytes = usize::try_from(name.len).unwrap_or(usize::MAX);
        loop {
            if let Some(allowance) =
                PinPermit::take("nixl_mapped_bytes", &self.mapped, bytes, self.limits.mapped_bytes)
            {
                return Ok(allowance);
            }
            let fits = bytes <= self.limits.mapped_bytes;
            let oldest = if fits { self.lock().remove_oldest() } else { None };
            if oldest.is_none() {
                let (mapped, most) = (self.mapped(), self.limits.mapped_bytes);
                return Err(ImportError::OverLimit { bytes, mapped, most });
            }
        }
    }

    /// What cannot be pinned is copied through pinned slots.
    fn pin(&self, memory: Region) -> Arc<dyn TransferBuffer> {
        let taken = PinPermit::take(
            "nixl_pinned_bytes",
            &self.pinned,
            memory.len(),
            self.limits.pinned_bytes,
        );
        let Some(allowance) = taken else {
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
}

fn map(name: &SharedName) -> Result<Region, ImportError> {
    let memory = SharedMemory::open(name).map_err(|error| match name.presence() {
        Presence::Absent => ImportError::Absent,
        _ => ImportError::Failed(error.into()),
    })?;
    Region::try_from(memory).map_err(|e| ImportError::Failed(e.into()))
}

/// A watch, if there is one.
fn noticed(watch: Result<ExitWatch, ProcessError>) -> Option<ExitWatch> {
    let watch = watch.inspect_err(|error| {
        // Sweeps close its memory.
        if !matches!(error, ProcessError::NotThere { .. }) {
            tracing::warn!(%error, "the end of a peer's process will be noticed late");
        }
    });
    watch.ok()
}
