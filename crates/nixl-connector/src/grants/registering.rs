//! The registration of an export's memory: pages first, by several threads, then region by region.
//!
//! An engine that pins pages has the system allocate those that are not there yet, on the one thread that registers: NIXL holds the
//! lock of its agent meanwhile, so registrations of one agent follow each other. Pages are therefore allocated before, by threads
//! of the export's own, each of which takes the next free step.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::mem;
use std::num::NonZeroUsize;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use nixl_descriptor::layout::Layout;
use nixl_descriptor::{Descriptor, Region, Registration, RegistrationCache};
use nixl_device::named_thread;
use nixl_ops::ConnectionExecutor;
use tokio::sync::mpsc;

use super::progress::ExportProgress;
use crate::connection::Connection;
use crate::{Connector, ConnectorError};

/// Bytes whose pages a thread allocates before it looks whether it should go on: some tens of milliseconds.
const STEP: usize = 64 << 20;
/// Threads that allocate pages.
const MOST_THREADS: usize = 64;
/// Bytes that are registered before other calls of the connection's thread have their turn.
const TURN: u64 = 1 << 30;

/// Memory of an export, to be registered.
pub(super) struct Part {
    /// The layout that it is of, and its position there; `None` for the words.
    of: Option<(Arc<str>, usize)>,
    memory: Descriptor,
}

impl Part {
    /// The parts of a layout.
    pub(super) fn all_of(name: &str, layout: &Layout) -> Vec<Self> {
        let name: Arc<str> = name.into();
        let parts = layout.parts().iter().cloned().enumerate();
        parts.map(|(at, memory)| Self { of: Some((Arc::clone(&name), at)), memory }).collect()
    }

    pub(super) fn of_words(memory: Descriptor) -> Self {
        Self { of: None, memory }
    }

    pub(super) fn memory(&self) -> &Descriptor {
        &self.memory
    }

    fn bytes(&self) -> u64 {
        match self.of {
            Some(_) => self.memory.len() as u64,
            // No part of what is exported.
            None => 0,
        }
    }
}

/// Registers all parts. If one fails, or the future or its result is dropped, what it has registered ends.
///
/// # Errors
///
/// [`ConnectorError::ExportedMemory`], which names the part.
pub(super) async fn register(
    connector: &Connector,
    parts: Vec<Part>,
    threads: Option<NonZeroUsize>,
    progress: &ExportProgress,
) -> Result<Registering, ConnectorError> {
    let connection = connector.connection();
    progress.begin(parts.iter().map(Part::bytes).sum());
    let stop = StopOnDrop::default();
    if let Some(threads) = threads {
        populate(connection, (&parts, threads), &stop, progress).await?;
    }
    let mut registering = Registering {
        cache: Arc::clone(connection.registrations()),
        executor: Arc::clone(connection.executor()),
        parts: parts.into(),
        progress: progress.clone(),
        stops: Arc::clone(&stop.0),
        held: Vec::new(),
        made: Vec::new(),
    };
    while !registering.parts.is_empty() {
        let turn = connection.control().run(move || registering.turn());
        registering = connector.within_timeout(async { turn.await? }).await?;
    }
    Ok(registering)
}

/// Parts that are registered in turns. Dropped before it is [finished](Self::finish), it has the engine forget those that it
/// has registered.
pub(super) struct Registering {
    cache: Arc<RegistrationCache>,
    executor: Arc<dyn ConnectionExecutor>,
    parts: VecDeque<Part>,
    progress: ExportProgress,
    stops: Arc<AtomicBool>,
    held: Vec<Registration>,
    /// Regions that were not registered before.
    made: Vec<Region>,
}

impl Registering {
    /// **Blocks.** Registers as much as one turn is for.
    fn turn(mut self) -> Result<Self, ConnectorError> {
        let mut bytes = 0;
        while bytes < TURN
            && !self.stops.load(Ordering::Relaxed)
            && let Some(part) = self.parts.pop_front()
        {
            bytes += self.register(&part)?;
            self.progress.registered(part.bytes());
        }
        Ok(self)
    }

    /// Returns the number of bytes that were registered anew.
    fn register(&mut self, part: &Part) -> Result<u64, ConnectorError> {
        let region = part.memory.region();
        let is_new = self.cache.get(region).is_none();
        let error = match self.cache.get_or_register(region) {
            Ok(registration) => {
                let bytes = registration.span().len() as u64;
                let is_last = |last: &Registration| last.number() == registration.number();
                if !self.held.last().is_some_and(is_last) {
                    self.held.push(registration);
                }
                if !is_new {
                    return Ok(0);
                }
                // The words serve the next export, too.
                if part.of.is_some() {
                    self.made.push(region.clone());
                }
                return Ok(bytes);
            }
            Err(error) => error,
        };
        if self.executor.can_access(part.memory.device()) {
            tracing::debug!(%error, "memory that only the executor will reach");
            return Ok(0);
        }
        match &part.of {
            Some((layout, at)) => {
                let (layout, part, len) = (layout.as_ref().to_owned(), *at, part.memory.len());
                Err(ConnectorError::ExportedMemory { layout, part, len, error })
            }
            None => Err(error.into()),
        }
    }

    pub(super) fn held(&self) -> &[Registration] {
        &self.held
    }

    /// The registrations, and the exported regions that were not registered before.
    pub(super) fn finish(mut self) -> (Vec<Registration>, Vec<Region>) {
        (mem::take(&mut self.held), mem::take(&mut self.made))
    }
}

impl Drop for Registering {
    fn drop(&mut self) {
        self.held.clear();
        for region in self.made.drain(..) {
            self.cache.evict(&region);
        }
    }
}

/// Has the pages of the parts allocated, by at most so many threads.
///
/// Cancel safe: each thread ends with the step that it has begun.
async fn populate(
    connection: &Connection,
    (parts, threads): (&[Part], NonZeroUsize),
    stop: &StopOnDrop,
    progress: &ExportProgress,
) -> Result<(), ConnectorError> {
    let steps: Vec<_> = parts.iter().filter(|part| part.of.is_some()).flat_map(steps).collect();
    let threads = threads.get().min(MOST_THREADS).min(steps.len());
    let stops = Arc::clone(&stop.0);
    let work = Arc::new(Populating { steps, next: AtomicUsize::new(0), stops });
    // Closed once the last thread has ended, however it does.
    let (alive, mut ended) = mpsc::channel::<Infallible>(1);
    for _ in 0..threads {
        let (alive, work, progress) = (alive.clone(), Arc::clone(&work), progress.clone());
        named_thread("nixl-populate")
            .spawn(move || {
                work.run(&progress);
                drop(alive);
            })
            .map_err(|error| ConnectorError::Thread { error: error.into() })?;
    }
    drop(alive);
    connection.control().here(ended.recv()).await?;
    Ok(())
}

fn steps(part: &Part) -> impl Iterator<Item = (Descriptor, Range<usize>)> {
    let len = part.memory.len();
    let starts = (0..len).step_by(STEP);
    starts.map(move |start| (part.memory.clone(), start..len.min(start.saturating_add(STEP))))
}

/// Steps that several threads share.
struct Populating {
    steps: Vec<(Descriptor, Range<usize>)>,
    next: AtomicUsize,
    stops: Arc<AtomicBool>,
}

impl Populating {
    fn run(&self, progress: &ExportProgress) {
        while !self.stops.load(Ordering::Relaxed)
            && let Some((part, range)) = self.steps.get(self.next.fetch_add(1, Ordering::Relaxed))
        {
            let (region, at) = (part.region(), part.offset());
            if let Err(error) = nixl_descriptor::populate(region, at + range.start..at + range.end)
            {
                // The registration allocates them, or fails with the error.
                tracing::debug!(%error, "pages of an export are not allocated ahead");
                return;
            }
            progress.populated(range.len() as u64);
        }
    }
}

/// Has threads end with the step or the region that they have begun, once the future is dropped.
#[derive(Default)]
struct StopOnDrop(Arc<AtomicBool>);

impl Drop for StopOnDrop {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}
