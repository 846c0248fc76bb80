//! The directory of NIXL's peers: connecting and forgetting.
//!
//! All changes run on the connection's control thread, so no two of them overlap.

use std::fmt;
use std::future::{Future, ready};
use std::pin::Pin;
use std::ptr;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, Weak};
use std::time::{Duration, Instant};

use nixl_descriptor::Span;
use nixl_device::SharedError;
use nixl_device::locks::{lock, try_lock};
use nixl_ops::{ConnectSpec, Connected, Idle, OnLost, PeerId, TransportError};
use nixl_sys::NixlError;

use super::agent::{Agent, Inside};
use super::blob::{self, Blob, Connections, Memory};
use super::endpoints::Endpoints;
use super::entries::Entries;
use super::files;
use super::here;
use super::lost::Lost;
use super::peer::Peer;
use super::peers::{Change, Loaded, Memories, is_of};
use super::registrar::{memory_kind, wire_kind};

/// The peers of one agent.
#[derive(Debug)]
pub(super) struct Directory {
    agent: Arc<Agent>,
    /// UCX's identity of this machine.
    machine: Option<u64>,
    /// Never locked across a call of NIXL's.
    entries: Mutex<Entries<Arc<Loaded>>>,
    on_lost: LostHook,
}

/// A peer that is loaded, kept with the identifier of its connect.
struct Kept {
    of: Weak<Agent>,
    loaded: Weak<Loaded>,
}

/// The callback with a peer that was retired since its connection is dead.
#[derive(Default)]
struct LostHook(OnceLock<OnLost>);

impl fmt::Debug for LostHook {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("LostHook")
    }
}

fn bad(reason: String) -> TransportError {
    TransportError::BadMetadata { reason: SharedError::text(reason) }
}

fn damaged(error: String) -> TransportError {
    bad(format!("its UCX address is damaged: {error}"))
}

impl Directory {
    /// The most memories that a peer's own message introduces. Its sender may be another agent than its owner has met.
    const INTRODUCED: usize = 4096;

    pub(super) fn new(agent: Arc<Agent>) -> Self {
        let machine = agent.machine();
        Self { machine, agent, entries: Mutex::default(), on_lost: LostHook::default() }
    }

    pub(super) fn agent(&self) -> &Agent {
        &self.agent
    }

    /// A peer that is loaded.
    pub(super) fn loaded(&self, name: &str) -> Option<Arc<Loaded>> {
        self.entries().loaded(name).cloned()
    }

    /// A peer that is loaded; without a lock by the identifier of its connect.
    pub(super) fn loaded_by_id(&self, peer: &PeerId) -> Option<Arc<Loaded>> {
        let kept = peer.state::<Kept>();
        let kept = kept.filter(|kept| ptr::eq(kept.of.as_ptr(), Arc::as_ptr(&self.agent)));
        // One that is not forgotten is the entry of its name.
        let loaded = kept.and_then(|kept| kept.loaded.upgrade());
        let loaded = loaded.filter(|loaded| !loaded.peer.is_forgotten());
        loaded.or_else(|| self.loaded(peer.as_str()))
    }

    /// The state of a loaded peer for its transfers.
    pub(super) fn peer(&self, peer: &PeerId) -> Option<Arc<Peer>> {
        self.loaded_by_id(peer).map(|loaded| Arc::clone(&loaded.peer))
    }

    /// The names of the peers that are loaded.
    pub(super) fn names(&self) -> Vec<String> {
        self.entries().names().map(str::to_owned).collect()
    }

    /// Adds the numbers that peers can make grow.
    pub(super) fn count_into(&self, out: &mut fmt::DebugStruct<'_, '_>) {
        // A fork's child may have inherited the lock in the locked state.
        let Some(entries) = try_lock(&self.entries) else { return };
        let memories: usize = entries.all().map(|loaded| loaded.count()).sum();
        out.field("peers", &entries.len())
            .field("introduced_peers", &entries.introduced())
            .field("forgotten_peers", &entries.remembered())
            .field("memories_of_peers", &memories);
    }

    /// Records a blob, if it has nothing new for NIXL.
    pub(super) fn connect_known(&self, spec: &ConnectSpec<'_>) -> Option<Connected> {
        /// More memories are compared on the control thread.
        const COMPARED_HERE: usize = 1024;
        let blob = Blob::parse(spec.metadata()).ok();
        let mut blob = blob.filter(|b| b.memories.len() <= COMPARED_HERE)?;
        blob.leave_out_unreachable(|backend| self.agent.has_backend(backend));
        let all = blob.memories.len();
        let blob = blob.of_use_for(spec.needed());
        let made = spec.made_unix_millis();
        let known = self.loaded(blob.name).filter(|l| l.change(&blob, made) == Change::Known)?;
        known.note(&blob, made);
        Some(self.connected_to(&known, &blob, all))
    }

    /// Loads a blob into NIXL: the needed memory, or all. A peer that claims this host is verified first, unless it uses
    /// another library. **Blocks.**
    pub(super) fn connect(
        self: &Arc<Self>,
        spec: &ConnectSpec<'_>,
    ) -> Result<Connected, TransportError> {
        let mut blob = Blob::parse(spec.metadata()).map_err(bad)?;
        spec.check_name(blob.name)?;
        if spec.introducer().is_some() && blob.memories.len() > Self::INTRODUCED {
            let (count, most) = (blob.memories.len(), Self::INTRODUCED);
            return Err(bad(format!("it introduces {count} memories, of at most {most}")));
        }
        blob.leave_out_unreachable(|backend| self.agent.has_backend(backend));
        let all = blob.memories.len();
        let blob = blob.of_use_for(spec.needed());
        if blob.contradicts_itself() {
            return Err(bad("it lists one memory with two keys".to_owned()));
        }
        if blob.name == self.agent.name() {
            return Err(TransportError::OwnIdentity { name: blob.name.to_owned() });
        }
        if !blob.connections.iter().any(|(backend, _)| self.agent.has_backend(backend)) {
            let theirs: Vec<_> = blob.connections.iter().map(|(backend, _)| *backend).collect();
            let reason = format!("its backends ({}) are none of this agent's", theirs.join(", "));
            return Err(bad(reason));
        }
        self.agent.check(&blob.connections).map_err(damaged)?;
        let connected = self.bring_up_to_date(spec, &blob, all)?;
        self.note_introduced(connected.peer(), spec.introducer().is_some());
        Ok(connected)
    }

    /// Loads what NIXL does not know.
    fn bring_up_to_date(
        self: &Arc<Self>,
        spec: &ConnectSpec<'_>,
        blob: &Blob<'_>,
        all: usize,
    ) -> Result<Connected, TransportError> {
        if spec.introducer().is_some() && self.was_used_by_another(blob) {
            return Err(TransportError::IdentityConflict { name: blob.name.to_owned() });
        }
        let (known, made) = (self.loaded(blob.name), spec.made_unix_millis());
        let id = match &known {
            Some(loaded) => loaded.peer.id.clone(),
            None => PeerId::new(blob.name),
        };
        let (mut each, mut was_masked) = (false, None);
        if let Some(loaded) = known {
            match loaded.change(blob, made) {
                // The name of a peer that this process uses may have been taken by another that introduced itself.
                Change::Conflict if spec.introducer().is_none() && !loaded.is_used() => {
                    self.retire(&loaded.peer)?;
                }
                Change::Conflict => {
                    return Err(TransportError::IdentityConflict { name: blob.name.to_owned() });
                }
                Change::Outdated => {
                    return Err(TransportError::OutdatedMetadata { name: blob.name.to_owned() });
                }
                Change::Renew | Change::Replace => {
                    (each, was_masked) = (!loaded.peer.is_broken(), Some(loaded.is_masked()));
                    self.retire(&loaded.peer)?;
                }
                change @ (Change::Known | Change::Merge) => {
                    if change == Change::Merge
                        && let Err(error) = self.load(&loaded.for_nixl(blob), blob.name)
                    {
                        // NIXL may have dropped what it knew of the peer.
                        loaded.peer.set_broken();
                        self.ended(&loaded.peer);
                        return Err(error);
                    }
                    loaded.note(blob, made);
                    return Ok(self.connected_to(&loaded, blob, all));
                }
            }
        }
        let masked = self.masked(blob, was_masked, spec.is_foreign())?;
        let mut loaded = Loaded::new(Peer::new(id), blob, masked, each);
        self.meet(&loaded.for_nixl(blob), blob.name, &blob.connections)?;
        loaded.endpoints = self.agent.endpoints(blob);
        loaded.note(blob, made);
        let loaded = Arc::new(loaded);
        // Nothing was loaded under the name: it was retired.
        let _ = self.entries().load(blob.name, Arc::clone(&loaded));
        Ok(self.connected_to(&loaded, blob, all).superseding())
    }

    /// A peer with the used memories of its blob, which lists `all`.
    fn connected_to(&self, loaded: &Arc<Loaded>, blob: &Blob<'_>, all: usize) -> Connected {
        let connected = Connected::to(loaded.peer.id.clone());
        let kept = Kept { of: Arc::downgrade(&self.agent), loaded: Arc::downgrade(loaded) };
        connected.peer().keep_state(kept);
        if blob.memories.len() == all {
            return connected;
        }
        let addresses = |m: &Memory<'_>| m.address..m.address.saturating_add(m.len);
        connected.in_part(blob.memories.iter().map(addresses).collect())
    }

    /// Whether this process has used another peer of this name. An introduction would take the name of one that is forgotten.
    fn was_used_by_another(&self, blob: &Blob<'_>) -> bool {
        self.entries().used(blob.name).is_some_and(|given| !is_of(given, blob))
    }

    /// Connection details with another machine, for a peer that claims this host without proof. The first choice applies while
    /// the peer is loaded.
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
            (_, Some(machine)) => {
                let masked = here::masked(blob.name, &blob.connections, machine);
                // The identity may lie where UCX reads a length.
                masked.iter().try_for_each(|masked| self.agent.check(masked)).map_err(damaged)?;
                Ok(masked)
            }
            // Only UCX treats a peer as local.
            (_, None) if !self.agent.has_backend(blob::UCX) => Ok(None),
            (_, None) => {
                let reason = "UCX does not report its identity of this machine".to_owned();
                Err(TransportError::NotHere { name: blob.name.to_owned(), reason })
            }
        }
    }

    /// Notes that a peer was connected by its own message, or is one that this process uses, which it is from then on. Those connected
    /// the longest ago are forgotten beyond a number, unless a transfer with them is in flight. **Blocks.**
    fn note_introduced(&self, peer: &PeerId, is_introduced: bool) {
        let Some(loaded) = self.loaded(peer.as_str()) else { return };
        if !is_introduced || loaded.is_used() {
            loaded.set_used();
            return self.entries().set_used(peer.as_str(), loaded.given().clone());
        }
        let forgotten = self.entries().introduce(peer.as_str());
        for name in forgotten {
            // In use: retried next time.
            let _ = self.disconnect(&PeerId::new(&*name));
        }
    }

    /// The entry of a reloaded peer.
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
        let loaded = self
            .loaded(peer.as_str())
            .ok_or_else(|| TransportError::UnknownPeer { name: name() })?;
        let known = loaded.memories();
        for (index, range) in ranges.enumerate() {
            if !covers(&known, range) {
                return Err(TransportError::NotRegistered { name: name(), index, len: range.len });
            }
        }
        Ok(Arc::clone(&loaded.peer))
    }

    /// Forgets a peer, if it is known. **Blocks.**
    pub(super) fn disconnect(&self, peer: &PeerId) -> Result<(), TransportError> {
        self.peer(peer).map_or(Ok(()), |known| self.retire(&known))
    }

    /// Forgets an ended peer, now or after the last transfer with it. **Blocks.**
    pub(super) fn peer_ended(self: &Arc<Self>, peer: &PeerId) {
        if let Some(known) = self.peer(peer) {
            known.set_broken();
            self.ended(&known);
        }
    }

    pub(super) fn set_on_lost(&self, on_lost: OnLost) {
        let _ = self.on_lost.0.set(on_lost);
    }

    /// Waits until no transfer with the peer is in flight. The wait and the returned guard block further posts.
    pub(super) fn until_idle(&self, peer: &PeerId) -> Pin<Box<dyn Future<Output = Idle> + Send>> {
        match self.peer(peer) {
            Some(known) => Box::pin(Arc::clone(&known.transfers).until_idle()),
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
            let current = directory.peer(&peer.id).is_some_and(|p| Arc::ptr_eq(&p, &peer));
            if !current {
                return;
            }
            match (directory.retire(&peer), directory.on_lost.0.get()) {
                (Ok(()), Some(on_lost)) => on_lost(&peer.id),
                (Ok(()), None) => {}
                (Err(error), _) => tracing::debug!(%error, "NIXL cannot forget an ended peer"),
            }
        });
    }

    /// Releases a request that is not in flight, then drops the holders of its memory. Does not block.
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
        // Decided behind the gate, where transfers are posted: none can begin until the end, and a prepared one finds its peer
        // forgotten. NIXL reports a wrong state for a transfer whose peer it has dropped.
        if peer.transfers.is_busy() {
            return Err(TransportError::PeerBusy { name: peer.id.to_string() });
        }
        peer.set_forgotten();
        let loaded = self.entries().unload(peer.id.as_str());
        if let Some(loaded) = loaded.filter(|_| peer.is_broken()) {
            let endpoints = loaded.endpoints.clone();
            self.note_lost(peer.id.as_str(), &loaded.connections(), Duration::ZERO, endpoints);
        }
        inside
            .agent
            .invalidate_remote_md(peer.id.as_str())
            .map_err(|e| failed("invalidate_remote_md", e))
    }

    /// Loads a peer that NIXL does not know, unless that failed not long ago.
    fn meet(
        &self,
        metadata: &[u8],
        name: &str,
        connections: &[(&str, &[u8])],
    ) -> Result<(), TransportError> {
        let gone = || TransportError::PeerGone { name: name.to_owned() };
        let lost = self.entries().lost(name, connections);
        if let Some(lost) = &lost {
            if lost.is_early() {
                return Err(gone());
            }
            if lost.endpoints.refuse() {
                self.note_lost(name, connections, Lost::FIRST_WAIT, lost.endpoints.clone());
                return Err(gone());
            }
        }
        let error = match self.load(metadata, name) {
            Ok(()) => {
                self.entries().note_reached(name, connections);
                return Ok(());
            }
            Err(error) => error,
        };
        // A partly loaded peer must not stay; an unknown peer is no error here.
        if let Some(inside) = self.agent.enter().inside() {
            let _ = inside.agent.invalidate_remote_md(name);
        }
        let is_local = matches!(error, TransportError::OutOfFiles { .. });
        if is_local || (lost.is_none() && error != gone()) {
            return Err(error);
        }
        let (wait, endpoints) =
            lost.map(|lost| (lost.wait * 2, lost.endpoints)).unwrap_or_default();
        let wait = wait.clamp(Lost::FIRST_WAIT, Lost::MAX_WAIT);
        self.note_lost(name, connections, wait, endpoints);
        Err(gone())
    }

    /// A peer is not to be tried by these details for so long.
    fn note_lost(
        &self,
        name: &str,
        connections: &[(&str, &[u8])],
        wait: Duration,
        endpoints: Endpoints,
    ) {
        let now = Instant::now();
        let lost = Lost::at(now, wait, endpoints);
        self.entries().note_lost(name, connections, lost, now);
    }

    fn entries(&self) -> MutexGuard<'_, Entries<Arc<Loaded>>> {
        lock(&self.entries)
    }

    fn load(&self, metadata: &[u8], name: &str) -> Result<(), TransportError> {
        let failed = |call, error| match error {
            NixlError::BackendError => {
                let gone = TransportError::PeerGone { name: name.to_owned() };
                files::error().unwrap_or(gone)
            }
            NixlError::InvalidParam | NixlError::NotFound => TransportError::BadMetadata {
                reason: SharedError::with_source(
                    format!(
                        "NIXL does not accept it ({error}); the peer may have ended an earlier connection"
                    ),
                    error,
                ),
            },
            error => failed(call, error),
        };
        let mut entered = self.agent.enter();
        let inside = entered.inside().ok_or(TransportError::Closed)?;
        inside.agent.load_remote_md(metadata).map_err(|e| failed("load_remote_md", e))?;
        // Connects now, rather than in the first transfer.
        inside.agent.make_connection(name, None).map_err(|e| failed("make_connection", e))
    }
}

/// Whether one registration of the peer covers the range.
pub(super) fn covers(known: &Memories, span: &Span) -> bool {
    let (kind, device) = memory_kind(span.device);
    known.covers(wire_kind(kind), device, span.address, span.len)
}

pub(super) fn failed(call: &'static str, error: NixlError) -> TransportError {
    TransportError::Engine { engine: "nixl", call, reason: error.into() }
}

#[cfg(test)]
mod tests;
