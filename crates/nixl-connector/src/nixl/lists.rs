//! Descriptor lists that NIXL has prepared, for requests that are made of positions in them.

use std::sync::Arc;

use nixl_descriptor::Span;
use nixl_metadata::SerializedDescriptor;
use nixl_ops::{EngineLists, Listed, ListsSpec, PreparedLists, TransportError};
use nixl_sys::{NixlError, OptArgs, XferDescList, XferOp, XferRequest};

use super::agent::Inside;
use super::directory::{Directory, covers, failed};
use super::gpu;
use super::peer::Peer;
use super::registrar::memory_kind;
use super::transport::span;

/// NIXL's name for the side that begins.
const INITIATOR: &str = "";

/// Both lists, which NIXL has for the agent.
///
/// They point to NIXL's records of the registrations, and look at it only for the ranges that a request names: of these, the
/// caller holds the local registrations, and the peer is loaded as it was.
pub(super) struct NixlLists {
    directory: Arc<Directory>,
    peer: Arc<Peer>,
    /// Their place among the agent's.
    place: usize,
}

impl NixlLists {
    /// **Blocks.** `None` if the ranges are of several kinds of memory, of which no request can be.
    pub(super) fn prepare(
        directory: &Arc<Directory>,
        spec: &ListsSpec<'_>,
    ) -> Result<Option<Self>, TransportError> {
        let peer = peer_of(directory, spec)?;
        let local: Vec<_> = spec.local().iter().map(Span::from).collect();
        let remote: Vec<_> = spec.remote().iter().map(span).collect();
        if !is_of_one_kind(&local) || !is_of_one_kind(&remote) {
            return Ok(None);
        }
        let _context = gpu::enter(local.first().map(|span| span.device).filter(|d| !d.is_host()));
        let mut entered = directory.agent().enter();
        let inside = entered.inside().ok_or(TransportError::Closed)?;
        // Decided behind the gate, where peers are forgotten.
        if peer.is_forgotten() {
            return Err(TransportError::UnknownPeer { name: peer.id.to_string() });
        }
        let place = inside
            .prepare_lists((INITIATOR, &list(&local)?), (peer.id.as_str(), &list(&remote)?))
            .map_err(|error| failed("prep_xfer_dlist", error))?;
        Ok(Some(Self { directory: Arc::clone(directory), peer, place }))
    }

    /// Whether requests to this peer, as it is loaded now, can be made of the lists. Behind the gate, it stays so.
    pub(super) fn is_for(&self, peer: &Arc<Peer>) -> bool {
        Arc::ptr_eq(&self.peer, peer) && !peer.is_forgotten()
    }
}

impl EngineLists for NixlLists {
    fn is_stale(&self) -> bool {
        self.peer.is_forgotten() || self.peer.is_broken()
    }
}

impl Drop for NixlLists {
    fn drop(&mut self) {
        self.directory.release_lists(self.place);
    }
}

/// A transfer's place in lists.
pub(super) struct ListedPairs {
    lists: Arc<PreparedLists>,
    local: Box<[i32]>,
    remote: Box<[i32]>,
}

impl ListedPairs {
    /// `None` if the lists are not for the peer as it is loaded.
    pub(super) fn new(listed: Listed<'_>, peer: &Arc<Peer>) -> Option<Self> {
        listed.lists().of_engine::<NixlLists>().filter(|lists| lists.is_for(peer))?;
        let of = |side: usize| {
            let positions = listed.positions().iter();
            positions.map(|pair| i32::try_from(pair[side]).ok()).collect::<Option<_>>()
        };
        Some(Self { lists: Arc::clone(listed.lists()), local: of(0)?, remote: of(1)? })
    }

    /// Makes a request, if the lists can be used for the peer.
    pub(super) fn request(
        &self,
        inside: &Inside,
        (kind, peer): (XferOp, &Arc<Peer>),
        options: Option<&OptArgs>,
    ) -> Option<Result<XferRequest, NixlError>> {
        let lists = self.lists.of_engine::<NixlLists>().filter(|lists| lists.is_for(peer))?;
        inside.request_of_lists(kind, lists.place, (&self.local, &self.remote), options)
    }
}

/// The peer, which is loaded with all of the ranges.
fn peer_of(directory: &Directory, spec: &ListsSpec<'_>) -> Result<Arc<Peer>, TransportError> {
    let name = || spec.peer().to_string();
    let loaded = directory.loaded_by_id(spec.peer()).filter(|l| !l.peer.is_broken());
    let loaded = loaded.ok_or_else(|| TransportError::UnknownPeer { name: name() })?;
    let known = loaded.memories();
    let is_missing = |range: &SerializedDescriptor| !covers(&known, &span(range));
    match spec.remote().iter().position(is_missing) {
        Some(index) => {
            let len = spec.remote()[index].size();
            Err(TransportError::NotRegistered { name: name(), index, len })
        }
        None => Ok(Arc::clone(&loaded.peer)),
    }
}

fn is_of_one_kind(ranges: &[Span]) -> bool {
    ranges.windows(2).all(|pair| pair[0].device.kind() == pair[1].device.kind())
}

fn list<'a>(ranges: &[Span]) -> Result<XferDescList<'a>, TransportError> {
    let made = |error: NixlError| failed("create_xfer_dlist", error);
    let device = ranges.first().map_or(nixl_device::Device::HOST, |range| range.device);
    let mut list = XferDescList::new(memory_kind(device).0).map_err(made)?;
    for range in ranges {
        // As for requests, addresses and lengths fit.
        list.add_desc(range.address as usize, range.len as usize, memory_kind(range.device).1);
    }
    Ok(list)
}
