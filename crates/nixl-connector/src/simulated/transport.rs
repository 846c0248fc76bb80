//! The simulated transport of one agent.
#![allow(unsafe_code, reason = "implements the contract of engines")]

use std::borrow::Cow;
use std::fmt;
use std::future::{Future, ready};
use std::num::NonZeroU64;
use std::pin::Pin;
use std::sync::{Arc, OnceLock};
use std::task::Poll;

use bytes::Bytes;
use nixl_descriptor::{Registrar, Span, coalesce_pairs};
use nixl_device::SharedError;
use nixl_metadata::SerializedDescriptor;
use nixl_ops::{
    CompletionMode, ConnectSpec, Connected, EngineLists, Idle, ListsSpec, OnLost, PeerId, Transfer,
    TransferSpec, Transport, TransportError,
};

use super::agent::Message;
use super::blob::{Blob, Entry};
use super::fabric::Network;
use super::faults::MessageFault;
use super::job::{Pair, Request};
use super::lists::SimulatedLists;
use super::peer::{Peer, Update};
use super::registrar::SimulatedRegistrar;
use super::stepped;
use super::transfer::SimulatedTransfer;

pub(super) struct SimulatedTransport {
    network: Arc<Network>,
    agent: Arc<str>,
    incarnation: u64,
    mode: CompletionMode,
    registrar: Arc<SimulatedRegistrar>,
    on_lost: OnceLock<OnLost>,
}

impl SimulatedTransport {
    fn connect_to(
        &self,
        blob: Blob,
        made: Option<NonZeroU64>,
    ) -> Result<Connected, TransportError> {
        let name = || blob.agent.as_ref().to_owned();
        if blob.agent == self.agent {
            return Err(TransportError::OwnIdentity { name: name() });
        }
        let mut state = self.network.lock();
        match state.agents.get(&blob.agent) {
            Some(peer) if peer.incarnation != blob.incarnation => {
                return Err(TransportError::IdentityConflict { name: name() });
            }
            Some(peer) if peer.alive => {}
            _ => return Err(TransportError::PeerGone { name: name() }),
        }
        let me = state.living(&self.agent).ok_or(TransportError::Closed)?;
        let connected = Connected::to(PeerId::new(Arc::clone(&blob.agent)));
        let Some(known) = me.peers.get_mut(&blob.agent) else {
            me.peers.insert(Arc::clone(&blob.agent), Peer::new(blob, made));
            return Ok(connected);
        };
        let busy = TransportError::PeerBusy { name: name() };
        let outdated = TransportError::OutdatedMetadata { name: name() };
        match known.update(blob, made) {
            Update::Merged => Ok(connected),
            Update::Replaced => Ok(connected.superseding()),
            Update::Busy => Err(busy),
            Update::Outdated => Err(outdated),
        }
    }

    pub(super) fn new(
        network: Arc<Network>,
        agent: Arc<str>,
        incarnation: u64,
        mode: CompletionMode,
    ) -> Self {
        let registrar = SimulatedRegistrar::new(Arc::clone(&network), Arc::clone(&agent));
        let (registrar, on_lost) = (Arc::new(registrar), OnceLock::new());
        Self { network, agent, incarnation, mode, registrar, on_lost }
    }
}

// SAFETY: its transfers and registrations keep their contracts, and a peer's address only selects one of the peer's registrations.
unsafe impl Transport for SimulatedTransport {
    fn name(&self) -> &'static str {
        "simulated"
    }

    /// A processor copies.
    fn completes_in_memory(&self) -> bool {
        true
    }

    fn agent_name(&self) -> &str {
        &self.agent
    }

    fn registrar(&self) -> Arc<dyn Registrar> {
        Arc::clone(&self.registrar) as Arc<dyn Registrar>
    }

    fn local_metadata(&self) -> Result<Bytes, TransportError> {
        let entries =
            self.network.lock().living(&self.agent).ok_or(TransportError::Closed)?.entries();
        let blob = Blob { agent: Arc::clone(&self.agent), incarnation: self.incarnation, entries };
        blob.encode().map_err(|reason| failed("local_metadata", reason))
    }

    fn connect(&self, metadata: &[u8]) -> Result<Connected, TransportError> {
        self.connect_to(decode(metadata)?, None)
    }

    fn connect_for(&self, spec: &ConnectSpec<'_>) -> Result<Connected, TransportError> {
        let mut blob = decode(spec.metadata())?;
        spec.check_name(&blob.agent)?;
        let all = blob.entries.len();
        if let Some(needed) = spec.needed() {
            let needed: Vec<_> = needed.iter().map(span).collect();
            blob.entries.retain(|entry| needed.iter().any(|range| entry.covers(range)));
        }
        let part: Vec<_> = blob.entries.iter().map(Entry::addresses).collect();
        let connected = self.connect_to(blob, spec.made_unix_millis())?;
        Ok(if part.len() < all { connected.in_part(part) } else { connected })
    }

    fn until_idle(&self, peer: &PeerId) -> Pin<Box<dyn Future<Output = Idle> + Send>> {
        let mut state = self.network.lock();
        let me = state.living(&self.agent);
        match me.and_then(|me| me.peers.get(peer.as_str())) {
            Some(peer) => Box::pin(Arc::clone(&peer.transfers).until_idle()),
            None => Box::pin(ready(Idle::holding(()))),
        }
    }

    fn connection_to(&self, peer: &PeerId) -> Option<NonZeroU64> {
        let mut state = self.network.lock();
        state.living(&self.agent)?.peers.get(peer.as_str()).map(|known| known.connection)
    }

    fn disconnect(&self, peer: &PeerId) -> Result<(), TransportError> {
        let mut state = self.network.lock();
        let Some(me) = state.living(&self.agent) else { return Ok(()) };
        match me.peers.get(peer.as_str()) {
            Some(known) if known.transfers.is_busy() => {
                Err(TransportError::PeerBusy { name: peer.as_str().to_owned() })
            }
            _ => {
                me.peers.remove(peer.as_str());
                Ok(())
            }
        }
    }

    /// Called for a message to a peer that has ended.
    fn set_on_lost(&self, on_lost: OnLost) {
        let _ = self.on_lost.set(on_lost);
    }

    fn prepare_lists(
        &self,
        spec: &ListsSpec<'_>,
    ) -> Result<Option<Box<dyn EngineLists>>, TransportError> {
        let name = || spec.peer().as_str().to_owned();
        let mut state = self.network.lock();
        let me = state.living(&self.agent).ok_or(TransportError::Closed)?;
        let known = me.peers.get(spec.peer().as_str());
        let known = known.ok_or_else(|| TransportError::UnknownPeer { name: name() })?;
        let place = |(index, range): (usize, &SerializedDescriptor)| {
            let range = span(range);
            match known.covering(&range) {
                Some(entry) => Ok((entry.number, range.address - entry.address)),
                None => Err(TransportError::NotRegistered { name: name(), index, len: range.len }),
            }
        };
        let remote = spec.remote().iter().enumerate().map(place).collect::<Result<_, _>>()?;
        let local = spec.local().iter().map(Span::from).collect();
        let loaded = Arc::downgrade(&known.loaded);
        Ok(Some(Box::new(SimulatedLists { local, remote, loaded })))
    }

    fn prepare(&self, spec: TransferSpec<'_>) -> Result<Box<dyn Transfer>, TransportError> {
        let name = || spec.peer().as_str().to_owned();
        let mut state = self.network.lock();
        let alive = state.living(spec.peer().as_str()).is_some();
        let me = state.living(&self.agent).ok_or(TransportError::Closed)?;
        let Some((peer, known)) = me.peers.get_key_value(spec.peer().as_str()) else {
            return Err(TransportError::UnknownPeer { name: name() });
        };
        if !alive {
            return Err(TransportError::PeerGone { name: name() });
        }
        let connection = spec.connection();
        if connection.is_some_and(|bound| bound != known.connection) {
            return Err(TransportError::Reconnected { name: name() });
        }
        let mut remote = spec.remote().iter().map(span).enumerate();
        if let Some((index, Span { len, .. })) =
            remote.find(|(_, range)| known.covering(range).is_none())
        {
            return Err(TransportError::NotRegistered { name: name(), index, len });
        }
        let one_covers_both = |first: &Span, second: &Span| {
            let both = Span { len: first.len.saturating_add(second.len), ..*first };
            known.covering(&both).is_some()
        };
        let resolve = |(local, there): (Span, Span)| {
            let entry = known.covering(&there)?;
            let offset = there.address - entry.address;
            Some(Pair { local, registration: entry.number, offset })
        };
        let listed =
            spec.listed_at().and_then(|listed| SimulatedLists::pairs(listed, &known.loaded));
        let is_listed = listed.is_some();
        let pairs = match (listed, spec.local(), spec.remote()) {
            (Some(pairs), ..) => pairs,
            // There is nothing to merge.
            (None, [here], [there]) if here.len() as u64 == there.size() => {
                resolve((Span::from(here), span(there))).into_iter().collect()
            }
            (None, here, there) => coalesce_pairs(here, there.iter().map(span), one_covers_both)
                .map_err(|error| failed("prepare", error.to_string()))?
                .into_iter()
                .filter_map(resolve)
                .collect(),
        };
        let (kind, local, leased) = (spec.kind(), spec.local().to_vec(), spec.leased().clone());
        let is_repeated = spec.is_repeated();
        let (notification, registrations) = spec.into_owned_parts();
        let (agent, peer) = (Arc::clone(&self.agent), Arc::clone(peer));
        let request = Request {
            kind,
            agent,
            peer,
            pairs,
            local,
            notification,
            registrations,
            leased,
            connection,
        };
        drop(state);
        let network = Arc::clone(&self.network);
        let flags = (is_repeated, is_listed);
        Ok(Box::new(SimulatedTransfer::new(network, request, self.mode, flags)))
    }

    fn notify(&self, peer: &PeerId, payload: &[u8]) -> Poll<Result<(), TransportError>> {
        let name = || peer.as_str().to_owned();
        let now = self.network.clock.now();
        let mut state = self.network.lock();
        let Some(me) = state.living(&self.agent) else {
            return Poll::Ready(Err(TransportError::Closed));
        };
        if !me.peers.contains_key(peer.as_str()) {
            return Poll::Ready(Err(TransportError::UnknownPeer { name: name() }));
        }
        if state.living(peer.as_str()).is_none() {
            if let Some(me) = state.living(&self.agent)
                && me.peers.get(peer.as_str()).is_some_and(|known| !known.transfers.is_busy())
            {
                me.peers.remove(peer.as_str());
            }
            drop(state);
            if let Some(on_lost) = self.on_lost.get() {
                on_lost(peer);
            }
            return Poll::Ready(Err(TransportError::PeerGone { name: name() }));
        }
        let (copies, at) = match state.message_fault(&self.agent) {
            None => (1, now),
            Some(MessageFault::Lost) => (0, now),
            Some(MessageFault::Twice) => (2, now),
            Some(MessageFault::Delayed(delay)) => (1, now.saturating_add(delay)),
        };
        if let Some(them) = state.living(peer.as_str()) {
            let payload = Bytes::copy_from_slice(payload);
            let message =
                || Message { from: Arc::clone(&self.agent), payload: payload.clone(), at };
            them.inbox.extend((0..copies).map(|_| message()));
        }
        Poll::Ready(Ok(()))
    }

    fn take_notifications(&self, sink: &mut dyn FnMut(&str, &[u8])) -> Result<(), TransportError> {
        self.network.move_orphans();
        let now = self.network.clock.now();
        let arrived = {
            let mut state = self.network.lock();
            state.living(&self.agent).ok_or(TransportError::Closed)?.arrived(now)
        };
        for message in arrived {
            sink(&message.from, &message.payload);
        }
        Ok(())
    }
}

impl Drop for SimulatedTransport {
    fn drop(&mut self) {
        let agent = self.network.lock().agents.remove(&self.agent);
        if let Some(engine) = agent.as_ref().and_then(|agent| agent.engine.as_ref()) {
            engine.unpark();
        }
        // Not under the lock: its registered memory may be freed here.
        drop(agent);
        // Ends the transfers of this agent that are no longer polled.
        self.network.move_orphans();
        stepped::end_of_the_dead(&self.network);
    }
}

impl fmt::Debug for SimulatedTransport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SimulatedTransport").field("agent", &self.agent).finish_non_exhaustive()
    }
}

fn decode(metadata: &[u8]) -> Result<Blob, TransportError> {
    Blob::decode(metadata)
        .map_err(|reason| TransportError::BadMetadata { reason: SharedError::text(reason) })
}

fn span(descriptor: &SerializedDescriptor) -> Span {
    Span { address: descriptor.ptr(), len: descriptor.size(), device: descriptor.device() }
}

pub(super) fn failed(call: &'static str, reason: impl Into<Cow<'static, str>>) -> TransportError {
    TransportError::Engine { engine: "simulated", call, reason: SharedError::text(reason) }
}
