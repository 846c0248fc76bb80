//! The readers of a closed export.

use std::collections::HashSet;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use nixl_descriptor::{Descriptor, SharedName};

use super::quiet::{QuietProof, QuietWatch};
use crate::Driver;
use crate::contained::contained;
use crate::grants::{GrantTable, OutstandingTickets};
use crate::sync::{Mutex, lock};

/// Readers that may be reading the memory of a closed export. They end by their messages, by the time of their tickets, or by the
/// proof that no process is left that could read.
pub(crate) struct ExportReaders {
    tickets: Arc<OutstandingTickets>,
    /// The files that a reader on this host may have mapped: the words of the grants, and the memory.
    files: Vec<SharedName>,
    on_gpu: bool,
    /// When the export was closed.
    closed: Duration,
    watch: Mutex<Option<Box<dyn QuietWatch>>>,
    is_proven: AtomicBool,
}

impl ExportReaders {
    pub(crate) fn new(table: &GrantTable, memory: &[Descriptor], now: Duration) -> Arc<Self> {
        let names = memory.iter().filter_map(|memory| memory.region().shared_name());
        let files: HashSet<_> = names.chain([table.words().name()]).collect();
        Arc::new(Self {
            tickets: Arc::clone(table.tickets()),
            files: files.into_iter().collect(),
            closed: now,
            on_gpu: memory.iter().any(|memory| !memory.device().is_host()),
            watch: Mutex::new(None),
            is_proven: AtomicBool::new(false),
        })
    }

    /// When no reader begins any more, on the clock of which it is `now`.
    pub(super) fn until(&self, now: (Duration, Duration), skew: Duration) -> Duration {
        let tickets = self.tickets.until().map_or(Duration::ZERO, |end| end.is_over_at(now, skew));
        tickets.max(self.closed.saturating_add(Driver::IMPORT))
    }

    /// Whether no process is left that could read.
    pub(super) fn are_gone(&self) -> bool {
        self.is_proven.load(Ordering::Acquire)
    }

    /// *Blocking.* Looks for processes that could read.
    pub(super) fn look(&self, quiet: &dyn QuietProof) {
        let _ = contained("a proof of quiet", || {
            let watch = lock(&self.watch).take();
            let mut watch = watch.unwrap_or_else(|| quiet.holders(&self.files, self.on_gpu));
            if watch.is_quiet() {
                self.is_proven.store(true, Ordering::Release);
            }
            *lock(&self.watch) = Some(watch);
        });
    }
}

/// When readers are looked for, on the blocking thread: one export at a time, and for a small part of the time.
#[derive(Debug, Default)]
pub(super) struct Looks {
    is_running: AtomicBool,
    /// How many there were.
    count: AtomicUsize,
    /// When the next one is due, in nanoseconds.
    next: AtomicU64,
}

impl Looks {
    /// The pause after a scan, in its durations.
    const REST: u32 = 20;

    /// When to call again, and the export to scan now, if a scan is due.
    pub(super) fn due(
        &self,
        readers: &[Arc<ExportReaders>],
        (now, every): (Duration, Duration),
    ) -> (Duration, Option<Arc<ExportReaders>>) {
        let (again, next) = (now.saturating_add(every), self.next.load(Ordering::Acquire));
        let next = Duration::from_nanos(next);
        if now < next {
            return (next, None);
        }
        if readers.is_empty() || self.is_running.swap(true, Ordering::AcqRel) {
            return (again, None);
        }
        self.next.store(nanos(again), Ordering::Release);
        let count = self.count.fetch_add(1, Ordering::Relaxed);
        (again, readers.get(count % readers.len()).map(Arc::clone))
    }

    /// A scan that began then has taken so long.
    pub(super) fn ended(&self, begun: Duration, took: Duration) {
        let next = begun.saturating_add(took.saturating_mul(Self::REST));
        self.next.fetch_max(nanos(next), Ordering::AcqRel);
        self.is_running.store(false, Ordering::Release);
    }
}

fn nanos(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

impl fmt::Debug for ExportReaders {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ExportReaders").field("tickets", &self.tickets).finish_non_exhaustive()
    }
}
