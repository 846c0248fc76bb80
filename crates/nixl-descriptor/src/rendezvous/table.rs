//! The rendezvous folders, links and names of this process.

use std::collections::HashMap;
use std::num::NonZeroU64;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, Weak};
use std::time::{Duration, Instant};

use nixl_device::locks::lock;
use nixl_device::{MachineIdentity, PerProcess};

use super::link::Link;
use super::neighbours;
use super::server::Server;
use super::wire::{self, Name};
use super::{Folders, ForeignProcess, Rendezvous, RendezvousError, RendezvousState};

/// A child of a fork does not use what it inherits.
static TABLE: PerProcess<Table> = PerProcess::new(Table::default);

#[derive(Default)]
struct Table {
    /// Whether there ever was a folder: most processes have none, and look no further.
    any: AtomicBool,
    known: Mutex<Known>,
    /// Held while a folder is entered.
    entering: Mutex<()>,
    /// For processes of this PID namespace, once this one shares memory in pieces.
    neighbours: OnceLock<Result<Server, RendezvousError>>,
}

#[derive(Default)]
struct Known {
    folders: Folders,
    links: HashMap<ForeignProcess, Attempt>,
    names: HashMap<Name, Arc<Link>>,
}

enum Attempt {
    Connected(Arc<Link>),
    Failed(RendezvousError, Instant),
}

/// Processes that are remembered.
const PROCESSES: usize = 1024;
/// Names of files that are remembered.
const NAMES: usize = 16_384;
/// After which a failed attempt is repeated.
const COOLDOWN: Duration = Duration::from_secs(1);

fn table() -> &'static Table {
    TABLE.get()
}

fn known() -> MutexGuard<'static, Known> {
    lock(&table().known)
}

/// The PID namespace of this process.
pub(super) fn namespace() -> Option<NonZeroU64> {
    static NAMESPACE: PerProcess<Option<NonZeroU64>> =
        PerProcess::new(|| MachineIdentity::discover().pid_namespace());
    *NAMESPACE.get()
}

/// The rendezvous in this folder, which is made unless it is there.
pub(super) fn entered(
    folder: &Path,
    make: impl FnOnce() -> Result<Arc<Rendezvous>, RendezvousError>,
) -> Result<Arc<Rendezvous>, RendezvousError> {
    let _entering = lock(&table().entering);
    let there = folders().into_iter().find(|there| there.folder() == folder);
    if let Some(there) = there {
        return Ok(there);
    }
    let made = make()?;
    let mut known = known();
    known.folders.retain(|folder| folder.strong_count() > 0);
    known.folders.push(Arc::downgrade(&made));
    // What was not there may be in this one.
    known.links.retain(|_, attempt| matches!(attempt, Attempt::Connected(_)));
    table().any.store(true, Ordering::Release);
    Ok(made)
}

/// The processes that were met or not met, and the names of files, which are remembered.
pub(super) fn counts() -> (usize, usize) {
    let known = known();
    (known.links.len(), known.names.len())
}

/// Upgraded: to be dropped without the lock, since the last one stops a thread.
fn folders() -> Vec<Arc<Rendezvous>> {
    known().folders.iter().filter_map(Weak::upgrade).collect()
}

pub(super) fn state(process: ForeignProcess) -> RendezvousState {
    if !table().any.load(Ordering::Acquire) {
        return RendezvousState::NoFolder;
    }
    let known = known();
    match known.links.get(&process) {
        Some(Attempt::Connected(link)) if link.is_live() => RendezvousState::Connected,
        _ if known.folders.iter().all(|folder| folder.strong_count() == 0) => {
            RendezvousState::NoFolder
        }
        _ => RendezvousState::Absent,
    }
}

/// Listens for processes of this PID namespace from now on, in which no folder is needed.
pub(super) fn serve_neighbours() -> Result<(), RendezvousError> {
    let table = table();
    let started = table.neighbours.get_or_init(|| {
        let namespace = namespace().ok_or(RendezvousError::NotThere)?;
        Server::start(neighbours::listen(namespace)?)
    });
    table.any.store(true, Ordering::Release);
    started.as_ref().map(|_| ()).map_err(Clone::clone)
}

/// *Blocking.* The link to a process.
pub(super) fn link(process: ForeignProcess) -> Result<Arc<Link>, RendezvousError> {
    let is_neighbour = Some(process.namespace) == namespace();
    if !is_neighbour && !table().any.load(Ordering::Acquire) {
        return Err(RendezvousError::NotConfigured);
    }
    match known().links.get(&process) {
        Some(Attempt::Connected(link)) if link.is_live() => return Ok(Arc::clone(link)),
        Some(Attempt::Failed(error, at)) if at.elapsed() < COOLDOWN => return Err(error.clone()),
        _ => {}
    }
    let mut met = match is_neighbour {
        // Its number is checked: another process may have taken the name.
        true => neighbours::address(process.namespace, process.pid)
            .and_then(|address| Link::to(&address, Some(process.pid)).map(Arc::new)),
        false => Err(RendezvousError::NotConfigured),
    };
    for folder in folders() {
        if met.is_ok() {
            break;
        }
        let to = |path: std::path::PathBuf| Link::to(&wire::at(&path)?, None);
        met = to(folder.path_of(process)).map(Arc::new);
    }
    let mut known = known();
    // Of threads that met it at the same time, all take the link of the first: it has the names that were requested.
    if let Some(Attempt::Connected(first)) = known.links.get(&process)
        && first.is_live()
    {
        return Ok(Arc::clone(first));
    }
    if known.links.len() >= PROCESSES {
        known.links.retain(|_, attempt| match attempt {
            Attempt::Connected(link) => link.is_live(),
            Attempt::Failed(_, at) => at.elapsed() < COOLDOWN,
        });
    }
    if known.links.len() < PROCESSES {
        let attempt = match &met {
            Ok(link) => Attempt::Connected(Arc::clone(link)),
            Err(error) => Attempt::Failed(error.clone(), Instant::now()),
        };
        known.links.insert(process, attempt);
    }
    met
}

/// The link to a process that was met, even if it has ended.
pub(super) fn known_link(process: ForeignProcess) -> Option<Arc<Link>> {
    match known().links.get(&process)? {
        Attempt::Connected(link) => Some(Arc::clone(link)),
        Attempt::Failed(..) => None,
    }
}

/// *Blocking.* Notes that the file is of this process.
pub(crate) fn note(name: Name, process: ForeignProcess) -> Result<(), RendezvousError> {
    let link = link(process)?;
    let mut known = known();
    if known.names.get(&name).is_some_and(|noted| Arc::ptr_eq(noted, &link)) {
        return Ok(());
    }
    if known.names.len() >= NAMES {
        let gone: Vec<_> =
            known.names.iter().filter(|(name, link)| !link.has(name)).map(|(n, _)| *n).collect();
        for name in gone {
            if let Some(link) = known.names.remove(&name) {
                link.forget(&name);
            }
        }
    }
    if known.names.len() >= NAMES {
        return Err(RendezvousError::Silent);
    }
    known.names.insert(name, link);
    Ok(())
}

/// The link to the process that has the file of this name, if that is noted.
pub(crate) fn link_of(name: &Name) -> Option<Arc<Link>> {
    match table().any.load(Ordering::Acquire) {
        true => known().names.get(name).cloned(),
        false => None,
    }
}

/// This process has the file no more.
pub(crate) fn released(name: &Name) {
    if table().any.load(Ordering::Acquire) {
        folders().iter().for_each(|folder| folder.server().released(name));
        if let Some(Ok(neighbours)) = table().neighbours.get() {
            neighbours.released(name);
        }
    }
}

/// Whether a process that this one gave the file to may have it mapped.
pub(crate) fn held_elsewhere(name: &Name) -> bool {
    table().any.load(Ordering::Acquire)
        && folders().iter().any(|folder| folder.server().is_held(name))
}
