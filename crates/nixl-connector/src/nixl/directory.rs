//! The directory of NIXL's peers: connecting and forgetting.
//!
//! Everything here that changes something runs on the connection's control thread, so no two such calls overlap.

use std::collections::HashMap;
use std::future::{Future, ready};
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use nixl_descriptor::Span;
use nixl_metadata::SerializedDescriptor;
use nixl_ops::{ConnectSpec, Connected, Idle, PeerId, TransportError};
use nixl_sys::NixlError;

use super::agent::{Agent, Inside};
use super::blob::{self, Blob, Connections, Memory};
use super::endpoints::Endpoints;
use super::files;
use super::here;
use super::introduced::Introduced;
use super::peer::Peer;
use super::peers::{Change, Loaded};
use super::registrar::{memory_kind, wire_kind};
use super::ucx;

/// The peers of one agent.
#[derive(Debug)]
pub(super) struct Directory {
    agent: Arc<Agent>,
    /// What UCX calls this machine.
    machine: Option<u64>,
    loaded: Mutex<HashMap<String, Loaded>>,
    lost: Mutex<HashMap<String, Lost>>,
    introduced: Mutex<Introduced>,
}

/// A peer whose connection broke, or that could not be reached. UCX may leak a file with each attempt that is
/// refused, so such peers are not tried often; and NIXL may refuse the name as invalid from then on.
#[derive(Debug)]
struct Lost {
    /// Not to be tried before.
    until: Instant,
    wait: Duration,
    endpoints: Endpoints,
}

impl Lost {
    const FIRST_WAIT: Duration = Duration::from_secs(1);
    const MAX_WAIT: Duration = Duration::from_secs(60);
}

impl Directory {
    pub(super) fn new(agent: Arc<Agent>) -> Self {
        Self {
            agent,
            machine: ucx::machine(),
            loaded: Mutex::default(),
            lost: Mutex::default(),
            introduced: Mutex::default(),
        }
    }

    pub(super) fn agent(&self) -> &Agent {
        &self.agent
    }

    /// The peers that are loaded. Not to be held while NIXL blocks.
    pub(super) fn loaded(&self) -> MutexGuard<'_, HashMap<String, Loaded>> {
        lock(&self.loaded)
    }

    /// Notes what a blob says, if NIXL need not be told of it.
    pub(super) fn connect_known(
        &self,
        metadata: &[u8],
        needed: Option<&[SerializedDescriptor]>,
    ) -> Option<Connected> {
        let blob = Blob::parse(metadata).ok()?;
        let all = blob.memories.len();
        let blob = blob.of_use_for(needed);
        let mut loaded = self.loaded();
        let known = loaded.get_mut(blob.name).filter(|l| l.change(&blob) == Change::Known)?;
        known.note(&blob);
        Some(connected_to(known.peer.id.clone(), &blob, all))
    }

    /// Makes sure that NIXL knows what a blob says of the memory that is needed, or all of it. Of a peer that claims to be on this
    /// host, that is proven first, unless it is of another library. **Blocks.**
    pub(super) fn connect(
        self: &Arc<Self>,
        spec: &ConnectSpec<'_>,
    ) -> Result<Connected, TransportError> {
        let blob = Blob::parse(spec.metadata())
            .map_err(|reason| TransportError::BadMetadata { reason })?;
        spec.check_name(blob.name)?;
        let all = blob.memories.len();
        let blob = blob.of_use_for(spec.needed());
        if blob.name == self.agent.name() {
            return Err(TransportError::OwnIdentity { name: blob.name.to_owned() });
        }
        if !blob.connections.iter().any(|(backend, _)| self.agent.has_backend(backend)) {
            let theirs: Vec<_> = blob.connections.iter().map(|(backend, _)| *backend).collect();
            let reason = format!("its backends ({}) are none of this agent's", theirs.join(", "));
            return Err(TransportError::BadMetadata { reason });
        }
        self.agent.check(&blob).map_err(|error| {
            let reason = format!("its UCX address is damaged: {error}");
            TransportError::BadMetadata { reason }
        })?;
        let known = {
            let loaded = self.loaded();
            let known = loaded.get(blob.name);
            known.map(|l| (Arc::clone(&l.peer), l.is_masked(), l.change(&blob), l.for_nixl(&blob)))
        };
        let id = match &known {
            Some((peer, ..)) => peer.id.clone(),
            None => PeerId::new(blob.name),
        };
        let mut each = false;
        match &known {
            Some((_, _, Change::Conflict, _)) => {
                return Err(TransportError::IdentityConflict { name: blob.name.to_owned() });
            }
            Some((peer, _, change @ (Change::Known | Change::Merge), for_nixl)) => {
                if *change == Change::Merge
                    && let Err(error) = self.load(for_nixl, blob.name)
                {
                    // NIXL may have dropped what it knew of the peer.
                    peer.set_broken();
                    self.ended(peer);
                    return Err(error);
                }
                if let Some(loaded) = self.loaded().get_mut(blob.name) {
                    loaded.note(&blob);
                }
                return Ok(connected_to(id, &blob, all));
            }
            Some((peer, _, Change::Replace, _)) => {
                each = !peer.is_broken();
                self.retire(peer)?;
            }
            None => {}
        }
        let was_masked = known.map(|(_, is_masked, ..)| is_masked);
        let masked = self.masked(&blob, was_masked, spec.is_foreign())?;
        let mut loaded = Loaded::new(Peer::new(id.clone()), &blob, masked, each);
        self.meet(&loaded.for_nixl(&blob), blob.name)?;
        loaded.endpoints = self.agent.endpoints(&blob);
        loaded.note(&blob);
        self.loaded().insert(blob.name.to_owned(), loaded);
        Ok(connected_to(id, &blob, all).superseding())
    }

    /// Other connection details, in which a peer that claims this host without proof is on another one. How a peer was loaded
    /// first counts as long as it is loaded.
    fn masked(
        &self,
        blob: &Blob<'_>,
        was_masked: Option<bool>,
        trusted: bool,
    ) -> Result<Option<Connections>, TransportError> {
        let of_ucx = |(backend, _): &&(&str, &[u8])| *backend == blob::UCX;
        let details: Vec<_> = blob.connections.iter().filter(of_ucx).map(|(_, d)| *d).collect();
        match (was_masked, self.machine) {
            (Some(false), _) => Ok(None),
            (None, _) if trusted => Ok(None),
            (None, Some(_)) if here::is_here(blob.name, &details) => Ok(None),
            (_, Some(machine)) => Ok(here::masked(blob.name, &blob.connections, machine)),
            // What takes a peer for one of this machine is UCX.
            (_, None) if !self.agent.has_backend(blob::UCX) => Ok(None),
            (_, None) => {
                let reason = "UCX does not tell its name for this machine".to_owned();
                Err(TransportError::NotHere { name: blob.name.to_owned(), reason })
            }
        }
    }

    /// Notes that a peer was connected by its own message, or is one that this process uses. Those connected the longest ago
    /// are forgotten beyond a number, unless a transfer with them is in flight. **Blocks.**
    pub(super) fn note_introduced(&self, peer: &PeerId, is_introduced: bool) {
        let forgotten = match is_introduced {
            true => lock(&self.introduced).add(peer.as_str()),
            false => return lock(&self.introduced).remove(peer.as_str()),
        };
        for name in forgotten {
            if self.disconnect(&PeerId::new(&*name)).is_err() {
                // In use: it is the next one again.
                lock(&self.introduced).put_back(name);
            }
        }
    }

    /// The entry of a peer that was loaded anew.
    ///
    /// # Errors
    ///
    /// [`TransportError::UnknownPeer`], or [`TransportError::NotRegistered`] if it has no registration of one of the ranges.
    pub(super) fn current<'a>(
        &self,
        peer: &PeerId,
        ranges: impl Iterator<Item = &'a Span>,
    ) -> Result<Arc<Peer>, TransportError> {
        let name = || peer.to_string();
        let loaded = self.loaded();
        let loaded = loaded
            .get(peer.as_str())
            .ok_or_else(|| TransportError::UnknownPeer { name: name() })?;
        for (index, range) in ranges.enumerate() {
            if !covers(loaded, range) {
                return Err(TransportError::NotRegistered { name: name(), index, len: range.len });
            }
        }
        Ok(Arc::clone(&loaded.peer))
    }

    /// Forgets a peer, if it is known. **Blocks.**
    pub(super) fn disconnect(&self, peer: &PeerId) -> Result<(), TransportError> {
        let known = self.loaded().get(peer.as_str()).map(|l| Arc::clone(&l.peer));
        known.map_or(Ok(()), |known| self.retire(&known))
    }

    /// Forgets a peer that has ended, now or when the last transfer with it has ended. **Blocks.**
    pub(super) fn peer_ended(self: &Arc<Self>, peer: &PeerId) {
        let known = self.loaded().get(peer.as_str()).map(|l| Arc::clone(&l.peer));
        if let Some(known) = known {
            known.set_broken();
            self.ended(&known);
        }
    }

    /// Waits until no transfer with the peer is in flight, and keeps others from being posted as long as that is awaited, and what
    /// comes of it is held.
    pub(super) fn until_idle(&self, peer: &PeerId) -> Pin<Box<dyn Future<Output = Idle> + Send>> {
        let known =
            self.loaded().get(peer.as_str()).map(|loaded| Arc::clone(&loaded.peer.transfers));
        match known {
            Some(transfers) => Box::pin(transfers.until_idle()),
            None => Box::pin(ready(Idle::holding(()))),
        }
    }

    /// A transfer with `peer` has ended: if the peer is gone and this was the last, NIXL is made to forget it. Does not
    /// block.
    pub(super) fn ended(self: &Arc<Self>, peer: &Arc<Peer>) {
        if !peer.is_broken() || peer.transfers.is_busy() {
            return;
        }
        let (directory, peer) = (Arc::clone(self), Arc::clone(peer));
        let agent = Arc::clone(&self.agent);
        agent.control().post(move || {
            let current = directory
                .loaded()
                .get(peer.id.as_str())
                .is_some_and(|l| Arc::ptr_eq(&l.peer, &peer));
            if current && let Err(error) = directory.retire(&peer) {
                tracing::debug!(%error, "a peer that is gone stays known to NIXL");
            }
        });
    }

    /// Releases a request that is not in flight, and then drops what its memory is held by. Does not block.
    pub(super) fn release(&self, request: usize, held: impl Send + 'static) {
        self.release_inside(held, move |inside| drop(inside.requests.try_remove(request)));
    }

    /// Releases lists that NIXL has prepared. Does not block.
    pub(super) fn release_lists(&self, place: usize) {
        self.release_inside((), move |inside| inside.release_lists(place));
    }

    /// Releases something of NIXL's behind the gate, and then drops what it was held with.
    fn release_inside(
        &self,
        held: impl Send + 'static,
        release: impl FnOnce(&mut Inside) + Send + 'static,
    ) {
        if let Some(mut entered) = self.agent.try_enter() {
            if let Some(inside) = entered.inside() {
                release(inside);
            }
            drop(entered);
            return drop(held);
        }
        let agent = Arc::clone(&self.agent);
        self.agent.control().post(move || {
            // None: it goes with the agent.
            if let Some(inside) = agent.enter().inside() {
                release(inside);
            }
            drop(held);
        });
    }

    /// Forgets a peer with which no transfer is in flight.
    fn retire(&self, peer: &Peer) -> Result<(), TransportError> {
        let mut entered = self.agent.enter();
        let inside = entered.inside().ok_or(TransportError::Closed)?;
        // Decided behind the gate, where transfers are posted: none can begin between here and the end, and one that
        // was prepared before finds its peer forgotten. NIXL reports a wrong state for a transfer whose peer it has dropped.
        if peer.transfers.is_busy() {
            return Err(TransportError::PeerBusy { name: peer.id.to_string() });
        }
        peer.set_forgotten();
        let loaded = self.loaded().remove(peer.id.as_str());
        if peer.is_broken() {
            let endpoints = loaded.map(|loaded| loaded.endpoints).unwrap_or_default();
            self.note_lost(peer.id.as_str(), Duration::ZERO, endpoints);
        }
        inside
            .agent
            .invalidate_remote_md(peer.id.as_str())
            .map_err(|e| failed("invalidate_remote_md", &e))
    }

    /// Loads a peer that NIXL does not know, unless that failed not long ago.
    fn meet(&self, metadata: &[u8], name: &str) -> Result<(), TransportError> {
        let gone = || TransportError::PeerGone { name: name.to_owned() };
        let lost = lock(&self.lost).get(name).map(|l| (l.until, l.wait, l.endpoints.clone()));
        if let Some((until, _, endpoints)) = &lost {
            if Instant::now() < *until {
                return Err(gone());
            }
            if endpoints.refuse() {
                self.note_lost(name, Lost::FIRST_WAIT, endpoints.clone());
                return Err(gone());
            }
        }
        let error = match self.load(metadata, name) {
            Ok(()) => {
                lock(&self.lost).remove(name);
                return Ok(());
            }
            Err(error) => error,
        };
        // A half-loaded peer must not stay; an unknown peer is no error here.
        if let Some(inside) = self.agent.enter().inside() {
            let _ = inside.agent.invalidate_remote_md(name);
        }
        let is_local = matches!(error, TransportError::OutOfFiles { .. });
        if is_local || (lost.is_none() && error != gone()) {
            return Err(error);
        }
        let (wait, endpoints) = lost.map(|(_, wait, e)| (wait * 2, e)).unwrap_or_default();
        self.note_lost(name, wait.clamp(Lost::FIRST_WAIT, Lost::MAX_WAIT), endpoints);
        Err(gone())
    }

    fn note_lost(&self, name: &str, wait: Duration, endpoints: Endpoints) {
        let now = Instant::now();
        let mut lost = lock(&self.lost);
        lost.retain(|_, lost| now < lost.until + Lost::MAX_WAIT);
        lost.insert(name.to_owned(), Lost { until: now + wait, wait, endpoints });
    }

    fn load(&self, metadata: &[u8], name: &str) -> Result<(), TransportError> {
        let failed = |call, error| match error {
            NixlError::BackendError => {
                let gone = TransportError::PeerGone { name: name.to_owned() };
                files::error().unwrap_or(gone)
            }
            NixlError::InvalidParam | NixlError::NotFound => TransportError::BadMetadata {
                reason: format!(
                    "NIXL does not accept it ({error}); perhaps the peer broke off before"
                ),
            },
            error => failed(call, &error),
        };
        let mut entered = self.agent.enter();
        let inside = entered.inside().ok_or(TransportError::Closed)?;
        inside.agent.load_remote_md(metadata).map_err(|e| failed("load_remote_md", e))?;
        // Wires up now, here, rather than in the first transfer.
        inside.agent.make_connection(name, None).map_err(|e| failed("make_connection", e))
    }
}

/// A peer of whose blob, which lists `all` memories, these were of use.
fn connected_to(id: PeerId, blob: &Blob<'_>, all: usize) -> Connected {
    let connected = Connected::to(id);
    if blob.memories.len() == all {
        return connected;
    }
    let addresses = |memory: &Memory<'_>| memory.address..memory.address.saturating_add(memory.len);
    connected.in_part(blob.memories.iter().map(addresses).collect())
}

/// Whether one registration of the peer covers the range.
pub(super) fn covers(loaded: &Loaded, span: &Span) -> bool {
    let (kind, device) = memory_kind(span.device);
    loaded.covers(wire_kind(kind), device, span.address, span.len)
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

pub(super) fn failed(call: &'static str, error: &NixlError) -> TransportError {
    TransportError::Engine { engine: "nixl", call, reason: error.to_string().into() }
}
