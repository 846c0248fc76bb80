//! The table of peers' memory that is open here, in the order of its last uses.

use std::collections::{BTreeMap, HashMap};
use std::mem;
use std::sync::{Arc, Weak};

use nixl_descriptor::{Presence, Region};
use nixl_device::ExitWatch;
use nixl_ops::RecentCheck;

use super::RemoteMemoryKey;
use super::open_marks::OpenMarks;
use crate::local::TransferBuffer;

/// What is open.
#[derive(Default)]
pub(super) struct Opened {
    pub(super) by_name: HashMap<RemoteMemoryKey, Import>,
    /// In the order of their last uses.
    pub(super) by_use: BTreeMap<u64, RemoteMemoryKey>,
    uses: u64,
    pub(super) processes: HashMap<u32, Weak<ExitWatch>>,
    /// Opened since the last sweep.
    pub(super) fresh: usize,
    pub(super) marks: Arc<OpenMarks>,
}

pub(super) struct Import {
    memory: Arc<dyn TransferBuffer>,
    /// The number of its last use.
    used: u64,
    pub(super) owner: Arc<Owner>,
}

/// Who has the memory, too.
pub(super) struct Owner {
    pub(super) memory_key: RemoteMemoryKey,
    pub(super) peer: Box<str>,
    /// Unless it is not known, or there are no more descriptors.
    pub(super) process: Option<Arc<ExitWatch>>,
    /// Host memory, as it is mapped here.
    pub(super) mapped: Option<Region>,
    /// That the peer has it, too.
    pub(super) seen: RecentCheck,
}

impl Owner {
    pub(super) fn process_has_ended(&self) -> bool {
        self.process.as_ref().is_some_and(|process| process.process().has_ended())
    }

    /// Whether it certainly has it no more.
    pub(super) fn has_let_go(&self) -> bool {
        match (self.memory_key.name(), self.memory_key.pieces()) {
            (Some(name), _) => name.presence() == Presence::Absent,
            (None, Some(pieces)) => self.process_has_ended() || pieces.is_gone(),
            (None, None) => self.process_has_ended(),
        }
    }
}

impl Opened {
    /// Counts as a use.
    pub(super) fn touch(
        &mut self,
        memory_key: &RemoteMemoryKey,
    ) -> Option<(Arc<dyn TransferBuffer>, Arc<Owner>)> {
        let import = self.by_name.get_mut(memory_key)?;
        self.uses += 1;
        self.by_use.remove(&mem::replace(&mut import.used, self.uses));
        self.by_use.insert(self.uses, *memory_key);
        Some((Arc::clone(&import.memory), Arc::clone(&import.owner)))
    }

    /// Returns what is to be closed: those whose last use is longest ago. They are closed when the transfers that use them
    /// have ended.
    pub(super) fn insert(
        &mut self,
        owner: Arc<Owner>,
        memory: Arc<dyn TransferBuffer>,
        most: usize,
    ) -> Vec<Import> {
        let memory_key = owner.memory_key;
        let mut closed = Vec::new();
        closed.extend(self.remove(&memory_key));
        self.uses += 1;
        self.fresh += 1;
        self.by_use.insert(self.uses, memory_key);
        self.marks.set(&memory_key);
        self.by_name.insert(memory_key, Import { memory, used: self.uses, owner });
        while self.by_name.len() > most
            && let Some(oldest) = self.remove_oldest()
        {
            closed.push(oldest);
        }
        closed
    }

    pub(super) fn remove_oldest(&mut self) -> Option<Import> {
        let (_, oldest) = self.by_use.pop_first()?;
        self.marks.clear(&oldest);
        self.by_name.remove(&oldest)
    }

    pub(super) fn remove(&mut self, memory_key: &RemoteMemoryKey) -> Option<Import> {
        let import = self.by_name.remove(memory_key)?;
        self.by_use.remove(&import.used);
        self.marks.clear(memory_key);
        Some(import)
    }

    /// Unless it was opened anew since.
    pub(super) fn remove_of(&mut self, owner: &Arc<Owner>) -> Option<Import> {
        let import = self.by_name.get(&owner.memory_key)?;
        Arc::ptr_eq(&import.owner, owner).then(|| self.remove(&owner.memory_key))?
    }

    pub(super) fn take(&mut self, which: impl Fn(&Owner) -> bool) -> Vec<Import> {
        let taken = self.by_name.values().filter(|import| which(&import.owner));
        let taken: Vec<_> = taken.map(|import| import.owner.memory_key).collect();
        taken.iter().filter_map(|memory_key| self.remove(memory_key)).collect()
    }
}
