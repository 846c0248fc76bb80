//! The rendezvous folders, links and names of this process.

use std::collections::HashMap;
use std::mem;
use std::num::NonZeroU64;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, Weak};
use std::time::{Duration, Instant};

use nixl_device::locks::lock;
use nixl_device::{ExitWatch, MachineIdentity, PerProcess, ProcessExits, ProcessWatch};

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
    neighbours: OnceLock<Server>,
}

#[derive(Default)]
struct Known {
    folders: Folders,
    links: HashMap<ForeignProcess, Attempt>,
    names: HashMap<Name, FileOwner>,
}

/// The process in another PID namespace that has, or had, a file.
#[derive(Clone)]
pub(crate) enum FileOwner {
    Met(Arc<Link>),
    /// It has ended. Its number is not looked at: here it is another process's.
    Ended,
}

impl FileOwner {
    fn is_by(&self, link: &Arc<Link>) -> bool {
        matches!(self, Self::Met(of) if Arc::ptr_eq(of, link))
    }
}

enum Attempt {
    Connected(Arc<Link>, #[expect(dead_code, reason = "only its drop matters")] Option<ExitWatch>),
    Failed(RendezvousError, Instant),
    /// The process was met and has ended.
    Ended,
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
    known.links.retain(|_, attempt| matches!(attempt, Attempt::Connected(..)));
    table().any.store(true, Ordering::Release);
    Ok(made)
}

/// The processes that were met or not met, and the names of files, which are remembered.
pub(super) fn counts() -> (usize, usize) {
    let known = known();
    let is_met = |owner: &&FileOwner| matches!(owner, FileOwner::Met(_));
    let processes = known.links.values().filter(|attempt| !matches!(attempt, Attempt::Ended));
    (processes.count(), known.names.values().filter(is_met).count())
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
        Some(Attempt::Connected(link, _)) if link.is_live() => RendezvousState::Connected,
        _ if known.folders.iter().all(|folder| folder.strong_count() == 0) => {
            RendezvousState::NoFolder
        }
        _ => RendezvousState::Absent,
    }
}

/// Listens for processes of this PID namespace from now on, in which no folder is needed.
pub(super) fn serve_neighbours() -> Result<(), RendezvousError> {
    let table = table();
    first_success(&table.neighbours, &table.entering, || {
        let namespace = namespace().ok_or(RendezvousError::NotThere)?;
        Server::start(neighbours::listen(namespace)?)
    })?;
    table.any.store(true, Ordering::Release);
    Ok(())
}

/// Makes it unless it is there. A failure, such as a lack of descriptors, is not remembered.
fn first_success<T, E>(
    made: &OnceLock<T>,
    making: &Mutex<()>,
    make: impl FnOnce() -> Result<T, E>,
) -> Result<(), E> {
    let _making = lock(making);
    if made.get().is_none() {
        // No other thread has set it: they would hold the lock.
        let _ = made.set(make()?);
    }
    Ok(())
}

/// The process, if it is met.
pub(super) fn process_of(process: ForeignProcess) -> Option<Arc<ProcessWatch>> {
    match known().links.get(&process)? {
        Attempt::Connected(link, _) => Some(Arc::clone(link.process())),
        Attempt::Failed(..) | Attempt::Ended => None,
    }
}

/// Whether an attempt to meet the process is due: there is no link that lasts, and the last failure is some time ago.
pub(super) fn is_due(process: ForeignProcess) -> bool {
    table().any.load(Ordering::Acquire)
        && match known().links.get(&process) {
            Some(Attempt::Connected(link, _)) => !link.is_live(),
            Some(Attempt::Failed(_, at)) => at.elapsed() >= COOLDOWN,
            Some(Attempt::Ended) | None => true,
        }
}

/// *Blocking.* The link to a process.
pub(super) fn link(process: ForeignProcess) -> Result<Arc<Link>, RendezvousError> {
    let is_neighbour = Some(process.namespace) == namespace();
    if !is_neighbour && !table().any.load(Ordering::Acquire) {
        return Err(RendezvousError::NotConfigured);
    }
    let before = match known().links.get(&process) {
        Some(Attempt::Connected(link, _)) => Some(Arc::clone(link)),
        Some(Attempt::Failed(error, at)) if at.elapsed() < COOLDOWN => return Err(error.clone()),
        _ => None,
    };
    // The process may have left the folder and entered it again.
    if let Some(link) = before.as_ref().filter(|link| link.is_still_live()) {
        return Ok(Arc::clone(link));
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
    let attempt = match &met {
        Ok(link) => {
            let exit =
                ProcessExits::global().watch_process(link.process(), move || forget(process));
            Attempt::Connected(Arc::clone(link), exit.ok())
        }
        Err(error) => Attempt::Failed(error.clone(), Instant::now()),
    };
    let mut known = known();
    // Of threads that met it at the same time, all take the link of the first: it has the names that were requested.
    if let Some(Attempt::Connected(first, _)) = known.links.get(&process)
        && first.is_live()
    {
        let first = Arc::clone(first);
        drop(known);
        drop(attempt);
        return Ok(first);
    }
    let removed = known.insert(process, attempt, before.as_ref());
    drop(known);
    // Descriptors are closed without the lock.
    drop(removed);
    met
}

/// The link to a process that was met and has not ended.
pub(super) fn known_link(process: ForeignProcess) -> Option<Arc<Link>> {
    match known().links.get(&process)? {
        Attempt::Connected(link, _) => Some(Arc::clone(link)),
        Attempt::Failed(..) | Attempt::Ended => None,
    }
}

/// Whether the process was met and has ended since.
pub(super) fn has_ended(process: ForeignProcess) -> bool {
    matches!(known().links.get(&process), Some(Attempt::Ended))
}

/// The process has ended: its link goes, and the names of its files.
fn forget(process: ForeignProcess) {
    let mut known = known();
    let removed = match known.links.get_mut(&process) {
        Some(Attempt::Connected(link, _)) if !link.process().has_ended() => None,
        Some(attempt) => Some(mem::replace(attempt, Attempt::Ended)),
        None => None,
    };
    if let Some(Attempt::Connected(link, _)) = &removed {
        let of_it = known.names.values_mut().filter(|owner| owner.is_by(link));
        of_it.for_each(|owner| *owner = FileOwner::Ended);
    }
    drop(known);
    drop(removed);
}

impl Known {
    /// Records an attempt. Names of files of the link `before` are of the new one. Returns what goes.
    fn insert(
        &mut self,
        process: ForeignProcess,
        attempt: Attempt,
        before: Option<&Arc<Link>>,
    ) -> Vec<Attempt> {
        if let (Attempt::Connected(link, _), Some(before)) = (&attempt, before) {
            let of_it = self.names.values_mut().filter(|owner| owner.is_by(before));
            of_it.for_each(|owner| *owner = FileOwner::Met(Arc::clone(link)));
        }
        let mut removed = Vec::new();
        if self.links.len() >= PROCESSES && !self.links.contains_key(&process) {
            let is_over = |_: &ForeignProcess, attempt: &mut Attempt| match attempt {
                Attempt::Connected(link, _) => !link.is_live(),
                Attempt::Failed(_, at) => at.elapsed() >= COOLDOWN,
                Attempt::Ended => true,
            };
            removed.extend(self.links.extract_if(is_over).map(|(_, attempt)| attempt));
        }
        if self.links.len() < PROCESSES || self.links.contains_key(&process) {
            removed.extend(self.links.insert(process, attempt));
        }
        removed
    }
}

/// *Blocking.* Notes that the file is of this process.
pub(crate) fn note(name: Name, process: ForeignProcess) -> Result<(), RendezvousError> {
    let link = link(process)?;
    if known().names.len() >= NAMES {
        forget_released();
    }
    let mut known = known();
    if known.names.len() >= NAMES && !known.names.contains_key(&name) {
        return Err(RendezvousError::TooManyFiles { most: NAMES });
    }
    let before = known.names.insert(name, FileOwner::Met(link));
    drop(known);
    drop(before);
    Ok(())
}

/// Forgets the names of files that their processes have released. Their messages are read without the lock, which operations take.
fn forget_released() {
    let links: Vec<_> = {
        let known = known();
        let links = known.links.values().filter_map(|attempt| match attempt {
            Attempt::Connected(link, _) => Some(Arc::clone(link)),
            Attempt::Failed(..) | Attempt::Ended => None,
        });
        links.collect()
    };
    links.iter().for_each(|link| link.look());
    let mut known = known();
    let is_over = |name: &Name, owner: &mut FileOwner| match owner {
        FileOwner::Met(link) => !link.knows(name),
        FileOwner::Ended => true,
    };
    let gone: Vec<_> = known.names.extract_if(is_over).collect();
    drop(known);
    for (name, owner) in gone {
        if let FileOwner::Met(link) = owner {
            link.forget(&name);
        }
    }
}

/// The process in another PID namespace that has the file of this name, if that is noted.
pub(crate) fn owner_of(name: &Name) -> Option<FileOwner> {
    match table().any.load(Ordering::Acquire) {
        true => known().names.get(name).cloned(),
        false => None,
    }
}

/// This process has the file no more.
pub(crate) fn released(name: &Name) {
    if table().any.load(Ordering::Acquire) {
        folders().iter().for_each(|folder| folder.server().released(name));
        if let Some(neighbours) = table().neighbours.get() {
            neighbours.released(name);
        }
    }
}

/// Whether a process that this one gave the file to may have it mapped.
pub(crate) fn held_elsewhere(name: &Name) -> bool {
    table().any.load(Ordering::Acquire)
        && folders().iter().any(|folder| folder.server().is_held(name))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failure_to_listen_is_not_remembered() {
        let (made, making) = (OnceLock::new(), Mutex::default());
        assert_eq!(
            first_success(&made, &making, || Err::<u8, _>("no descriptors")),
            Err("no descriptors")
        );
        assert_eq!(first_success(&made, &making, || Ok::<_, &str>(7)), Ok(()));
        assert_eq!(first_success(&made, &making, || Err("not made again")), Ok(()));
        assert_eq!(made.get(), Some(&7));
    }
}
