//! The opened pages of peers on this host, and of other connections of this process.

use std::sync::{Arc, Weak};

use super::page::OfferPage;
use super::recent::RecentCheck;
use crate::mailbox::Lane;
use crate::sync::SharedMemory;

/// A page of another process.
pub(crate) struct MappedPage {
    pub(crate) memory: SharedMemory,
    /// The check that the owner still has it open.
    pub(super) owned: RecentCheck,
    /// The lane for this side's messages.
    pub(crate) lane: Lane,
    /// The owner is in another PID namespace, where the number of this process means another one or none.
    pub(super) is_foreign: bool,
}

/// A page of another connection of this process.
pub(crate) struct OwnPage {
    pub(crate) page: Weak<OfferPage>,
    pub(crate) lane: Lane,
}

/// A usable page.
#[derive(Clone)]
pub(super) enum Page {
    Mapped(Arc<MappedPage>),
    Own(Arc<OfferPage>),
}

impl MappedPage {
    /// Whether the owner has it open, or had within the last millisecond. Also if that cannot be known, as without `/proc`.
    pub(crate) fn is_owned(&self) -> bool {
        self.owned.get_or(|| !self.memory.name().is_gone())
    }

    /// A thread of the owner slept on the page just now. The check of the owner, a walk through `/proc`, would keep this processor from
    /// the thread that woke.
    pub(crate) fn woke(&self) {
        self.owned.confirm();
    }
}

impl Drop for MappedPage {
    fn drop(&mut self) {
        self.lane.release(&self.memory);
    }
}

impl Drop for OwnPage {
    fn drop(&mut self) {
        if let Some(page) = self.page.upgrade()
            && let Some(memory) = page.memory()
        {
            self.lane.release(memory);
        }
    }
}

impl Page {
    pub(super) fn memory(&self) -> Option<&SharedMemory> {
        match self {
            Self::Mapped(mapped) => Some(&mapped.memory),
            Self::Own(page) => page.memory(),
        }
    }

    pub(super) fn is_owned(&self) -> bool {
        match self {
            Self::Mapped(mapped) => mapped.is_owned(),
            Self::Own(_) => true,
        }
    }

    pub(super) fn is_foreign(&self) -> bool {
        matches!(self, Self::Mapped(mapped) if mapped.is_foreign)
    }
}
