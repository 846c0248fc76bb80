//! The devices of an executor: their queues, rings, and which engine their files have.

use std::collections::HashMap;
use std::fmt;
use std::io;
use std::os::fd::BorrowedFd;
use std::sync::{Arc, Mutex};

use nixl_descriptor::file::FileRegion;
use nixl_device::locks::lock;
use nixl_ops::Clock;
use rustix::fs::fstatfs;
use rustix::io::{Errno, ReadWriteFlags, preadv2};

use super::choice::{CachedReads, EngineChoice};
use super::engine::EngineKind;
use super::operation::FileEngine;
use super::probe;
use super::queue::DeviceQueue;
use super::threads::ThreadFiles;
use super::uring::UringFiles;

/// Engines and queues, by device (`st_dev`).
pub(super) struct Devices {
    devices: Mutex<HashMap<u64, Arc<DeviceState>>>,
    clock: Arc<dyn Clock>,
    /// Bytes of a class that may wait.
    limit: u64,
    threads: Arc<dyn FileEngine>,
    /// Used for all files.
    only: Option<Arc<dyn FileEngine>>,
}

/// One device.
pub(super) struct DeviceState {
    pub(super) queue: Arc<DeviceQueue>,
    /// The ring, once it was tried.
    ring: Mutex<Option<Result<Arc<dyn FileEngine>, String>>>,
    /// The choice for files past the page cache, and for others.
    choices: Mutex<[Option<EngineChoice>; 2]>,
}

impl Devices {
    pub(super) fn new(
        clock: Arc<dyn Clock>,
        limit: u64,
        only: Option<Arc<dyn FileEngine>>,
    ) -> Self {
        let threads = Arc::new(ThreadFiles::new());
        Self { devices: Mutex::default(), clock, limit, threads, only }
    }

    pub(super) fn of(&self, file: &FileRegion) -> Arc<DeviceState> {
        let mut devices = lock(&self.devices);
        let device = devices.entry(file.identity().device()).or_insert_with(|| {
            Arc::new(DeviceState {
                queue: DeviceQueue::new(Arc::clone(&self.clock), self.limit),
                ring: Mutex::default(),
                choices: Mutex::default(),
            })
        });
        Arc::clone(device)
    }

    /// The engine of a file and the choice, which is that of threads until a probe.
    pub(super) fn engine(&self, file: &FileRegion) -> (Arc<dyn FileEngine>, EngineChoice) {
        let choice = self.choice(file);
        if let Some(only) = &self.only {
            return (Arc::clone(only), choice);
        }
        if choice.kind == EngineKind::Uring
            && let Some(Ok(ring)) = &*lock(&self.of(file).ring)
        {
            return (Arc::clone(ring), choice);
        }
        (Arc::clone(&self.threads), choice)
    }

    pub(super) fn choice(&self, file: &FileRegion) -> EngineChoice {
        if let Some(only) = &self.only {
            return EngineChoice {
                kind: only.kind(),
                reason: "the executor has this engine alone".to_owned(),
                is_verified: false,
                cached: CachedReads::Never,
            };
        }
        let device = self.of(file);
        let known = lock(&device.choices)[usize::from(file.direct_descriptor().is_some())].clone();
        known.unwrap_or_else(|| EngineChoice {
            kind: EngineKind::Threads,
            reason: "the file system was not probed yet (`FileExecutor::prepare`)".to_owned(),
            is_verified: false,
            cached: CachedReads::Never,
        })
    }

    /// Probes the engines on a file, or returns what is known of files like it. **Blocks.**
    pub(super) fn probe(&self, file: &FileRegion) -> EngineChoice {
        if self.only.is_some() {
            return self.choice(file);
        }
        let (device, index) = (self.of(file), usize::from(file.direct_descriptor().is_some()));
        if let Some(known) = &lock(&device.choices)[index] {
            return known.clone();
        }
        let choice = self.probed(&device, file);
        lock(&device.choices)[index].get_or_insert(choice).clone()
    }

    fn probed(&self, device: &DeviceState, file: &FileRegion) -> EngineChoice {
        let is_memory = is_in_memory(file.descriptor());
        let waits = (!is_memory).then(|| has_reads_without_wait(file.descriptor()));
        let cached = match waits {
            None => CachedReads::AreCopies,
            Some(true) => CachedReads::Tried,
            Some(false) => CachedReads::Never,
        };
        let threads = |reason: String| {
            let verified = probe::verify(&self.threads, file, &*self.clock);
            let is_verified = verified.is_ok();
            EngineChoice { kind: EngineKind::Threads, reason, is_verified, cached }
        };
        if is_memory {
            return threads("the file system is in memory, where threads copy side by side".into());
        }
        if file.direct_descriptor().is_none() {
            return threads(
                "the file goes through the page cache, where threads copy side by side".into(),
            );
        }
        if waits == Some(false) {
            return threads(
                "the file system has no reads that do not wait, so io_uring would pass each call to a worker".into(),
            );
        }
        let ring = match device.ring() {
            Ok(ring) => ring,
            Err(error) => return threads(format!("io_uring cannot be used: {error}")),
        };
        match probe::verify(&ring, file, &*self.clock) {
            Ok(()) => EngineChoice {
                kind: EngineKind::Uring,
                reason: "direct I/O by io_uring, whose bytes were compared".to_owned(),
                is_verified: true,
                cached,
            },
            Err(error) => threads(format!("the probe of io_uring failed: {error}")),
        }
    }
}

impl DeviceState {
    /// The ring of the device, which is set up once.
    fn ring(&self) -> Result<Arc<dyn FileEngine>, String> {
        let mut ring = lock(&self.ring);
        let made = ring.get_or_insert_with(|| match UringFiles::new() {
            Ok(ring) => Ok(Arc::new(ring) as Arc<dyn FileEngine>),
            Err(error) => Err(refusal(&error)),
        });
        made.clone()
    }
}

/// The kernel's refusal of a ring, with the setting behind it.
fn refusal(error: &io::Error) -> String {
    let hint = match error.raw_os_error() {
        Some(libc::EPERM) => " (seccomp, or the sysctl kernel.io_uring_disabled)",
        Some(libc::ENOSYS) => " (the kernel has none)",
        Some(libc::ENOMEM) => " (the limit on locked memory)",
        _ => "",
    };
    format!("{error}{hint}")
}

/// Whether the files of a file system are memory.
fn is_in_memory(file: BorrowedFd<'_>) -> bool {
    const TMPFS: u64 = 0x0102_1994;
    const RAMFS: u64 = 0x8584_58f6;
    fstatfs(file).is_ok_and(|found| matches!(found.f_type as u64, TMPFS | RAMFS))
}

/// Whether a read can be asked not to wait for a device.
fn has_reads_without_wait(file: BorrowedFd<'_>) -> bool {
    let mut byte = [0];
    let mut target = [io::IoSliceMut::new(&mut byte)];
    let read = preadv2(file, &mut target, 0, ReadWriteFlags::NOWAIT);
    !matches!(read, Err(Errno::OPNOTSUPP | Errno::INVAL | Errno::NOSYS))
}

impl fmt::Debug for Devices {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let devices = lock(&self.devices);
        f.debug_map().entries(devices.iter().map(|(device, state)| (device, &state.queue))).finish()
    }
}
