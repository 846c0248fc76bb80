//! The pages of slots of peers on this host, opened once each.

use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock};

use nixl_descriptor::{SharedMemoryError, SharedName};
use nixl_device::ExitWatch;
use nixl_device::locks::{lock, try_lock};
use nixl_metadata::{RdmaMetadata, SlotAddress};

use super::page::OfferPage;
use super::recent::RecentCheck;
use super::remote_page::{MappedPage, OwnPage, Page};
use super::remote_slot::RemoteSlot;
use crate::RecentMap;
use crate::mailbox::{Lane, Reached};
use crate::sync::SharedMemory;

/// The pages of peers on this host, opened once each.
pub struct RemoteSlots {
    by_name: Mutex<RecentMap<SharedName, Known>>,
    /// The identifier of this process, for claims.
    pid: u32,
    on_exit: OnceLock<OnExit>,
}

type OnExit = Arc<dyn Fn(SharedName) + Send + Sync>;

impl Default for RemoteSlots {
    fn default() -> Self {
        Self::of_pid(std::process::id())
    }
}

/// The state of an offer's slot here.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum FoundSlot {
    /// The slot is mapped.
    Mapped(RemoteSlot),
    /// The slot cannot be mapped.
    Unreachable,
    /// [Opening](RemoteSlots::open) its page was not tried.
    Unknown,
}

/// An opened page.
enum Known {
    /// With the watch over the owner's process: a page is opened before the owner is known as a peer, and may be all that is.
    Mapped(
        Arc<MappedPage>,
        #[expect(dead_code, reason = "only its drop matters")] Option<ExitWatch>,
    ),
    /// Of another connection of this process.
    Own(Arc<OwnPage>),
    Unreachable,
}

impl Known {
    fn page(&self) -> Option<Page> {
        match self {
            Self::Mapped(mapped, _) => Some(Page::Mapped(Arc::clone(mapped))),
            Self::Own(own) => own.page.upgrade().map(Page::Own),
            Self::Unreachable => None,
        }
    }
}

#[cfg(all(test, not(loom)))]
impl RemoteSlots {
    /// The pages for a process of this identifier.
    pub(super) fn of_process(pid: u32) -> Self {
        Self::of_pid(pid)
    }
}

impl RemoteSlots {
    /// Bound on kept pages.
    const KEPT: usize = 256;
    /// This release's version of the slot protocol; it also supports the one before.
    pub const VERSION: u16 = 2;

    fn of_pid(pid: u32) -> Self {
        Self { by_name: Mutex::new(RecentMap::new(Self::KEPT)), pid, on_exit: OnceLock::new() }
    }

    /// Sets what is called, from a thread that must not block, with each open page whose owner's process has ended: to
    /// [close](Self::close) it. Only the first call counts.
    pub fn set_on_exit(&self, on_exit: impl Fn(SharedName) + Send + Sync + 'static) {
        let _ = self.on_exit.set(Arc::new(on_exit));
    }

    /// Whether the page was opened, or opening it was tried.
    pub(crate) fn knows(&self, page: &SharedName) -> bool {
        self.lock().contains(page)
    }

    /// A page for messages to its owner, if open.
    pub(crate) fn reached(&self, page: &SharedName) -> Option<Reached> {
        match self.lock().get(page)? {
            Known::Mapped(mapped, _) => Some(Reached::Mapped(Arc::clone(mapped))),
            Known::Own(own) => Some(Reached::Own(Arc::clone(own))),
            Known::Unreachable => None,
        }
    }

    /// *Blocking.* Closes a page.
    pub fn close(&self, page: &SharedName) {
        let closed = self.lock().remove(page);
        // Unmapped outside the lock.
        drop(closed);
    }

    /// *Blocking.* Closes the pages of an ended process of this PID namespace.
    pub fn close_of(&self, pid: u32) {
        let mut pages = self.lock();
        let of_pid: Vec<_> = pages
            .keys()
            .filter(|name| name.pid == pid && !name.is_by_rendezvous())
            .copied()
            .collect();
        let closed: Vec<_> = of_pid.iter().filter_map(|name| pages.remove(name)).collect();
        drop(pages);
        // Unmapped outside the lock.
        drop(closed);
    }

    /// *Blocking.* Opens the slot's page. One that failed is tried again only if the system was short of something.
    pub fn open(&self, address: &SlotAddress) {
        self.open_page(&page_of(address));
    }

    /// *Blocking.* As [`open`](Self::open).
    pub(crate) fn open_page(&self, name: &SharedName) {
        if self.knows(name) {
            return;
        }
        let known = match name.is_own() {
            // Found by its name alone; other metadata may differ.
            true => OfferPage::own(&name.name).map_or(Known::Unreachable, |page| {
                Known::Own(Arc::new(OwnPage { page, lane: Lane::default() }))
            }),
            false => match self.map(name) {
                Ok((page, exit)) => Known::Mapped(Arc::new(page), exit),
                Err(error) => {
                    tracing::debug!(%error, "the slots of this peer cannot be mapped");
                    if !lasts(&error) {
                        return;
                    }
                    Known::Unreachable
                }
            },
        };
        self.keep(name, known);
    }

    fn map(&self, name: &SharedName) -> Result<(MappedPage, Option<ExitWatch>), SharedMemoryError> {
        let is_foreign = name.is_by_rendezvous();
        // Before the page is opened, so that a process which takes the number later is not taken for the owner.
        let exit = self.on_exit.get().and_then(|on_exit| {
            let (on_exit, name) = (Arc::clone(on_exit), *name);
            let watch = name.watch_owner(move || on_exit(name));
            // Where none can be had, the page goes with the peer or by a sweep.
            watch
                .inspect_err(|error| tracing::debug!(%error, "an owner of slots is not watched"))
                .ok()
        });
        let memory = SharedMemory::open(&bounded(name))?;
        let (owned, lane) = (RecentCheck::default(), Lane::default());
        Ok((MappedPage { memory, owned, lane, is_foreign }, exit))
    }

    /// Keeps a page, but no memory of an owner that is gone: what [closes](Self::close_of) its pages may have come before.
    fn keep(&self, name: &SharedName, known: Known) {
        let is_mapped = matches!(known, Known::Mapped(..));
        let before = self.lock().insert(*name, known);
        let gone = (is_mapped && name.is_gone())
            .then(|| self.lock().insert(*name, Known::Unreachable))
            .flatten();
        // Unmapped outside the lock.
        drop((before, gone));
    }

    /// *Blocking.* Closes the pages whose owners have closed them or ended.
    pub fn sweep(&self) {
        let names: Vec<_> = self.lock().keys().copied().collect();
        for name in names.iter().filter(|name| name.is_gone()) {
            let closed = self.lock().remove(name);
            drop(closed);
        }
    }

    /// The slot of an offer.
    pub fn find(&self, remote: &RdmaMetadata) -> FoundSlot {
        let Some(address) = remote.slot_address() else { return FoundSlot::Unreachable };
        let page = match self.lock().get(&page_of(address)) {
            Some(known) => known.page(),
            None => return FoundSlot::Unknown,
        };
        let slot = page.and_then(|page| RemoteSlot::new(page, (address, remote), self.pid));
        slot.map_or(FoundSlot::Unreachable, FoundSlot::Mapped)
    }

    fn lock(&self) -> MutexGuard<'_, RecentMap<SharedName, Known>> {
        lock(&self.by_name)
    }
}

/// Whether a page that cannot be opened for this reason never can.
const fn lasts(error: &SharedMemoryError) -> bool {
    !matches!(error, SharedMemoryError::Exhausted { .. } | SharedMemoryError::Unanswered)
}

/// The part of a page that the protocol uses: its owner chooses how long the file is, and could exhaust the address space here.
fn bounded(name: &SharedName) -> SharedName {
    SharedName { len: name.len.min(SlotAddress::LENGTH_WITH_MAILBOX as u64), ..*name }
}

pub(crate) fn page_of(address: &SlotAddress) -> SharedName {
    let file = address.file();
    SharedName { pid: file.pid(), fd: file.fd(), name: file.name(), len: file.length() }
}

impl fmt::Debug for RemoteSlots {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut out = f.debug_struct("RemoteSlots");
        // A fork's child may have inherited the lock in the locked state.
        if let Some(known) = try_lock(&self.by_name) {
            out.field("open", &known.len());
        }
        out.finish_non_exhaustive()
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn a_shortage_passes_and_what_is_not_there_stays_so() {
        let (call, message) = ("open", String::new());
        let error = || std::io::Error::other("refused").into();
        assert!(!lasts(&SharedMemoryError::Exhausted { call, message, error: error() }));
        assert!(lasts(&SharedMemoryError::Refused { call, error: error() }));
        assert!(lasts(&SharedMemoryError::Gone) && !lasts(&SharedMemoryError::Unanswered));
    }

    #[test]
    fn no_memory_of_an_owner_that_ended_meanwhile_is_kept() {
        let slots = RemoteSlots::default();
        let mapped = |memory: &SharedMemory| {
            let memory = SharedMemory::open(&memory.name()).unwrap();
            let (owned, lane) = (RecentCheck::default(), Lane::default());
            Known::Mapped(Arc::new(MappedPage { memory, owned, lane, is_foreign: false }), None)
        };
        let page = SharedMemory::new(SlotAddress::LENGTH_WITH_MAILBOX).unwrap();
        let name = page.name();
        slots.keep(&name, mapped(&page));
        assert!(slots.reached(&name).is_some());
        let known = mapped(&page);
        drop(page);
        slots.keep(&name, known);
        assert!(slots.reached(&name).is_none() && slots.knows(&name));
    }

    /// The page is a child's standard input, so it has one owner that can end. The child is no peer.
    #[test]
    #[cfg_attr(miri, ignore = "starts a process")]
    fn a_page_goes_when_the_process_of_its_owner_ends() {
        use std::os::fd::OwnedFd;
        use std::process::{Command, Stdio};
        use std::sync::mpsc;

        use rustix::fs::{MemfdFlags, SealFlags, fcntl_add_seals, ftruncate, memfd_create};

        let name = [9; 16];
        let called = format!("nixl-{:032x}", u128::from_be_bytes(name));
        let file: OwnedFd =
            memfd_create(called, MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING).unwrap();
        let len = SlotAddress::LENGTH_WITH_MAILBOX as u64;
        ftruncate(&file, len).unwrap();
        fcntl_add_seals(&file, SealFlags::SHRINK).unwrap();
        let mut child = Command::new("sleep").arg("1000").stdin(Stdio::from(file)).spawn().unwrap();
        let page = SharedName { pid: child.id(), fd: 0, name, len };
        let slots = Arc::new(RemoteSlots::default());
        let (closed, is_closed) = mpsc::channel();
        let of_exit = Arc::downgrade(&slots);
        slots.set_on_exit(move |page| {
            of_exit.upgrade().into_iter().for_each(|slots| slots.close(&page));
            closed.send(page).unwrap();
        });
        slots.open_page(&page);
        assert!(slots.reached(&page).is_some());
        child.kill().unwrap();
        child.wait().unwrap();
        assert_eq!(is_closed.recv(), Ok(page));
        assert!(!slots.knows(&page));
    }

    #[test]
    fn of_many_pages_the_latest_stay_open() {
        let slots = RemoteSlots::default();
        let name = |number: u32| SharedName { pid: u32::MAX, fd: number, name: [0; 16], len: 4096 };
        let first = 0..u32::try_from(RemoteSlots::KEPT).unwrap();
        first.clone().for_each(|number| slots.open_page(&name(number)));
        assert!(first.clone().all(|number| slots.knows(&name(number))));
        slots.open_page(&name(first.end));
        assert!(!slots.knows(&name(0)));
        assert!((1..=first.end).all(|number| slots.knows(&name(number))));
    }
}
