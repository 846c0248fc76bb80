//! Lists of ranges that an engine has prepared once, of which transfers name some by their positions.

use std::any::Any;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use nixl_descriptor::{Descriptor, Registration, Span};
use nixl_metadata::SerializedDescriptor;

use crate::{PeerId, Transport, TransportError};

/// Ranges of this process and of a peer, to be [prepared](Transport::prepare_lists) by an engine.
#[derive(Clone, Copy, Debug)]
pub struct ListsSpec<'a> {
    peer: &'a PeerId,
    local: &'a [Descriptor],
    remote: &'a [SerializedDescriptor],
    registrations: &'a [Registration],
}

impl<'a> ListsSpec<'a> {
    /// The lists need not be equally long. The registrations are those of the local memory, all of it.
    pub fn new(
        peer: &'a PeerId,
        local: &'a [Descriptor],
        remote: &'a [SerializedDescriptor],
        registrations: &'a [Registration],
    ) -> Self {
        Self { peer, local, remote, registrations }
    }

    /// The peer that owns the remote ranges.
    #[must_use]
    pub fn peer(&self) -> &'a PeerId {
        self.peer
    }

    /// Memory of this process.
    #[must_use]
    pub fn local(&self) -> &'a [Descriptor] {
        self.local
    }

    /// The peer's memory: numbers that mean something to the peer only.
    #[must_use]
    pub fn remote(&self) -> &'a [SerializedDescriptor] {
        self.remote
    }
}

/// What an engine keeps of lists that it has prepared. It needs no memory of them: a transfer that names ranges has theirs registered.
pub trait EngineLists: Any + Send + Sync {
    /// Whether no transfer can use them any more, since the peer was loaded anew, for instance.
    fn is_stale(&self) -> bool;
}

/// Lists that an engine has prepared. They hold neither local memory nor its registrations: a transfer that
/// [names](crate::TransferSpec::listed) ranges of them holds both, and is refused the lists if the memory was registered anew
/// meanwhile.
pub struct PreparedLists {
    peer: PeerId,
    local: Box<[Span]>,
    remote: Box<[SerializedDescriptor]>,
    /// The numbers of the registrations of the local memory, in ascending order.
    registrations: Box<[u64]>,
    engine: Box<dyn EngineLists>,
    /// A transfer of memory that was registered anew has named ranges of them.
    is_outdated: AtomicBool,
}

impl PreparedLists {
    /// *Blocking.* Has the engine prepare the lists. `None` if it keeps none.
    ///
    /// # Errors
    ///
    /// As [`Transport::prepare_lists`].
    pub fn prepare(
        transport: &dyn Transport,
        spec: &ListsSpec<'_>,
    ) -> Result<Option<Self>, TransportError> {
        let Some(engine) = transport.prepare_lists(spec)? else { return Ok(None) };
        let mut registrations: Box<[u64]> =
            spec.registrations.iter().map(Registration::number).collect();
        registrations.sort_unstable();
        Ok(Some(Self {
            peer: spec.peer.clone(),
            local: spec.local.iter().map(Span::from).collect(),
            remote: spec.remote.into(),
            registrations,
            engine,
            is_outdated: AtomicBool::new(false),
        }))
    }

    /// Whether they are of no use any more: the peer was loaded anew, or a transfer was refused them for its memory.
    #[must_use]
    pub fn is_stale(&self) -> bool {
        self.is_outdated.load(Ordering::Relaxed) || self.engine.is_stale()
    }

    /// Whether memory is registered as it was when they were prepared.
    fn know(&self, registrations: &[Registration]) -> bool {
        let is_known = |registration: &Registration| {
            self.registrations.binary_search(&registration.number()).is_ok()
        };
        let are_known = registrations.iter().all(is_known);
        if !are_known {
            self.is_outdated.store(true, Ordering::Relaxed);
        }
        are_known
    }

    /// What the engine keeps of them, if it is one with lists of this type.
    #[must_use]
    pub fn of_engine<T: EngineLists>(&self) -> Option<&T> {
        let engine: &dyn Any = &*self.engine;
        engine.downcast_ref()
    }
}

impl fmt::Debug for PreparedLists {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PreparedLists")
            .field("peer", &self.peer)
            .field("local", &self.local.len())
            .field("remote", &self.remote.len())
            .finish_non_exhaustive()
    }
}

/// Ranges of prepared lists: the position of each pair here and at the peer.
#[derive(Clone, Copy, Debug)]
pub struct Listed<'a> {
    lists: &'a Arc<PreparedLists>,
    positions: &'a [[u32; 2]],
}

impl<'a> Listed<'a> {
    /// The pairs at these positions.
    pub fn new(lists: &'a Arc<PreparedLists>, positions: &'a [[u32; 2]]) -> Self {
        Self { lists, positions }
    }

    /// The lists.
    #[must_use]
    pub fn lists(&self) -> &'a Arc<PreparedLists> {
        self.lists
    }

    /// Positions here and at the peer, which exist.
    #[must_use]
    pub fn positions(&self) -> &'a [[u32; 2]] {
        self.positions
    }

    /// Whether the positions are those of these pairs, of memory that is registered as it was when the lists were prepared.
    pub(crate) fn name(
        &self,
        peer: &PeerId,
        (local, remote): (&[Descriptor], &[SerializedDescriptor]),
        registrations: &[Registration],
    ) -> bool {
        let are_they = |((here, there), &[at, of_peer]): ((&Descriptor, &_), &[u32; 2])| {
            self.lists.local.get(at as usize) == Some(&Span::from(here))
                && self.lists.remote.get(of_peer as usize) == Some(there)
        };
        self.lists.peer == *peer
            && self.positions.len() == local.len()
            && self.positions.len() == remote.len()
            && local.iter().zip(remote).zip(self.positions).all(are_they)
            && self.lists.know(registrations)
            && !self.lists.is_stale()
    }
}
