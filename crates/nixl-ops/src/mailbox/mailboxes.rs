//! The open mailboxes of a connection.

use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock};

use nixl_descriptor::SharedName;
use nixl_device::locks::lock;
use nixl_metadata::{RdmaMetadata, SlotAddress};

use super::open::Mailbox;
use crate::slots::{OfferPage, RemoteSlots, page_of};
use crate::{PeerId, RecentMap};

type OnIntroduced = Box<dyn Fn(&PeerId, u32) + Send + Sync>;

/// The mailboxes of peers on this host, and this connection's own, for their answers.
pub struct Mailboxes {
    slots: Arc<RemoteSlots>,
    page: Arc<OfferPage>,
    /// The pages of agents' messages.
    by_agent: Mutex<RecentMap<Box<str>, SharedName>>,
    on_introduced: OnceLock<OnIntroduced>,
}

impl Mailboxes {
    /// Bound on agents with a kept page.
    const AGENTS: usize = 1024;

    pub(crate) fn new(slots: Arc<RemoteSlots>, page: Arc<OfferPage>) -> Self {
        let by_agent = Mutex::new(RecentMap::new(Self::AGENTS));
        Self { slots, page, by_agent, on_introduced: OnceLock::new() }
    }

    /// The mailbox of an offer's owner, once the offer's slot was [looked up](RemoteSlots::open).
    pub fn of_offer(&self, remote: &RdmaMetadata) -> Option<Mailbox> {
        self.get(&page_of(remote.slot_address()?))
    }

    /// The last page that an agent's messages named.
    pub fn page_of(&self, agent: &str) -> Option<SharedName> {
        self.lock().get(agent).copied()
    }

    /// Sets the callback with an agent that its own message has [introduced](Self::introduced), and with its process. Only the first
    /// call counts.
    pub fn set_on_introduced(&self, on_introduced: impl Fn(&PeerId, u32) + Send + Sync + 'static) {
        let _ = self.on_introduced.set(Box::new(on_introduced));
    }

    /// The process of the last page that an agent's messages named, if the page is there, and of this PID namespace: a name may be
    /// forged, and the number in another's is of its namespace. Makes some calls of the system's.
    pub fn process_of(&self, agent: &str) -> Option<u32> {
        let page = self.page_of(agent)?;
        (!page.is_by_rendezvous() && page.is_there()).then_some(page.pid)
    }

    /// An agent was connected by its own message. Makes the calls of [`process_of`](Self::process_of).
    pub fn introduced(&self, agent: &PeerId) {
        if let (Some(pid), Some(on_introduced)) =
            (self.process_of(agent.as_str()), self.on_introduced.get())
        {
            on_introduced(agent, pid);
        }
    }

    /// *Blocking.* Maps a page, unless tried before.
    pub fn open(&self, page: &SharedName) {
        self.slots.open_page(page);
    }

    /// Whether [opening](Self::open) this page was tried.
    pub fn knows(&self, page: &SharedName) -> bool {
        self.slots.knows(page)
    }

    /// The mailbox on a mapped page with a free lane.
    pub fn get(&self, page: &SharedName) -> Option<Mailbox> {
        if page.len < SlotAddress::LENGTH_WITH_MAILBOX as u64 {
            return None;
        }
        let reached = self.slots.reached(page)?;
        Mailbox::new(reached, self.page.or_make().map(|memory| memory.name()))
    }

    /// Forgets the page of an agent that has ended.
    pub(crate) fn forget(&self, agent: &str) {
        self.lock().remove(agent);
    }

    /// Records the page for answers to an agent. The first page of an agent is kept while it exists, so a forged message does
    /// not redirect its answers.
    pub(crate) fn note(&self, agent: &str, page: SharedName) {
        let mut agents = self.lock();
        match agents.get(agent) {
            Some(known) if *known == page => {}
            Some(known) if known.is_there() => {}
            Some(known) => *known = page,
            None => {
                agents.insert(agent.into(), page);
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, RecentMap<Box<str>, SharedName>> {
        lock(&self.by_agent)
    }
}

impl fmt::Debug for Mailboxes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Mailboxes").field("agents", &self.lock().len()).finish_non_exhaustive()
    }
}
