//! The engine's side of a simulated transfer: the bytes left to move, and the faults.
#![allow(unsafe_code, reason = "moves the bytes of operations that hold the leases")]

use std::num::NonZeroU64;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use bytes::Bytes;
use nixl_descriptor::{
    Descriptor, Leased, Region, Registration, Span, copy_range, copy_range_to_slice, copy_spans,
};
use nixl_metadata::OperationKind;
use nixl_ops::TransportError;

use super::agent::Message;
use super::fabric::{Network, State};
use super::faults::{Fault, Strikes};
use super::transport::failed;
use crate::occupancy::Occupancy;

/// A range here, and a range of one registration there.
#[derive(Clone)]
pub(super) struct Pair {
    pub(super) local: Span,
    /// The number of the peer's registration.
    pub(super) registration: u64,
    /// Where in it.
    pub(super) offset: u64,
}

/// A transfer as it was prepared.
#[derive(Clone)]
pub(super) struct Request {
    pub(super) kind: OperationKind,
    pub(super) agent: Arc<str>,
    pub(super) peer: Arc<str>,
    pub(super) pairs: Vec<Pair>,
    pub(super) local: Vec<Descriptor>,
    pub(super) notification: Option<Bytes>,
    /// Held, so that the local memory stays registered.
    #[expect(dead_code, reason = "only its drop matters")]
    pub(super) registrations: Arc<[Registration]>,
    /// Held, so that nothing else uses the local memory.
    pub(super) leased: Leased,
    /// The only connection that it may use.
    pub(super) connection: Option<NonZeroU64>,
}

/// A transfer that was posted. Must be advanced until it is ready.
pub(super) struct Job {
    request: Request,
    strikes: Strikes,
    transfers: Arc<Occupancy>,
    not_before: Duration,
    total: u64,
    moved: u64,
    /// The pair that moves now, and how much of it has moved.
    pair: usize,
    within: u64,
}

/// A part of a pair.
pub(super) struct Chunk {
    pub(super) pair: usize,
    /// Where in it.
    pub(super) within: u64,
    pub(super) len: u64,
}

/// What a transfer does next.
pub(super) enum Next {
    /// So many bytes can move before something else happens.
    Moves {
        most: u64,
    },
    /// Nothing, for now.
    Waits,
    Ends(Result<(), TransportError>),
}

impl Job {
    /// The most bytes that one call moves.
    const BURST: u64 = 1 << 20;

    pub(super) fn post(network: &Network, mut request: Request) -> Result<Self, TransportError> {
        let now = network.clock.now();
        let mut state = network.lock();
        state.check_alive(&request.agent, &request.peer)?;
        let peers = &state.living(&request.agent).ok_or(TransportError::Closed)?.peers;
        let current = peers.get(&request.peer).map(|peer| peer.connection);
        if request.connection.is_some_and(|bound| Some(bound) != current) {
            return Err(TransportError::Reconnected { name: request.peer.as_ref().to_owned() });
        }
        let strikes = state.strikes(&request.agent);
        if strikes.has(&Fault::PostFails) {
            return Err(failed("post", "a fault was ordered"));
        }
        let me = state.living(&request.agent).ok_or(TransportError::Closed)?;
        let peer = me.peers.get_mut(&request.peer).ok_or_else(|| unknown(&request.peer))?;
        let transfers = Arc::clone(&peer.transfers);
        transfers.enter();
        if strikes.has(&Fault::NotificationEarly) {
            state.notify(&request);
        }
        if let Some(pieces) = strikes.posted_pieces() {
            request.pairs.truncate(pieces);
        }
        let total = request.pairs.iter().map(|pair| pair.local.len).sum();
        let not_before = now.saturating_add(strikes.delay());
        Ok(Self { request, strikes, transfers, not_before, total, moved: 0, pair: 0, within: 0 })
    }

    /// Whether the request may not be posted now.
    pub(super) fn is_held(network: &Network, request: &Request) -> bool {
        let mut state = network.lock();
        let me = state.living(&request.agent);
        me.and_then(|me| me.peers.get(&request.peer)).is_some_and(|peer| peer.transfers.is_held())
    }

    /// Bytes moved so far.
    pub(super) fn moved(&self) -> u64 {
        self.moved
    }

    /// Whether its end wakes.
    pub(super) fn wakes(&self) -> bool {
        !self.strikes.has(&Fault::WakeLost)
    }

    /// Keeps the local memory leased until the process ends, since no notification marks the end of this transfer.
    pub(super) fn leak(&self) {
        self.request.leased.clone().leak();
    }

    /// Moves on, by a bounded number of bytes.
    pub(super) fn advance(&mut self, network: &Network) -> Poll<Result<(), TransportError>> {
        let result = self.burst(network);
        if result.is_ready() {
            self.transfers.leave();
        }
        result
    }

    fn burst(&mut self, network: &Network) -> Poll<Result<(), TransportError>> {
        let end = self.moved.saturating_add(Self::BURST);
        loop {
            let most = match self.next(network) {
                Next::Moves { most } => most,
                Next::Waits => return Poll::Pending,
                Next::Ends(result) => return Poll::Ready(result),
            };
            if self.moved == end {
                return Poll::Pending;
            }
            let Some(pair) = self.request.pairs.get(self.pair) else {
                return Poll::Ready(Err(failed("transfer", "it is longer than its descriptors")));
            };
            let left = pair.local.len - self.within;
            let len = left.min(most).min(end - self.moved);
            self.copy(network, Chunk { pair: self.pair, within: self.within, len })?;
            self.within += len;
            if len == left {
                (self.pair, self.within) = (self.pair + 1, 0);
            }
        }
    }

    /// The agent that posted it.
    pub(super) fn agent(&self) -> &Arc<str> {
        &self.request.agent
    }

    /// Its bytes in chunks of at most `most`, in ascending order.
    pub(super) fn chunks(&self, most: u64) -> Vec<Chunk> {
        let of_pair = |(pair, Pair { local, .. }): (usize, &Pair)| {
            let (total, step) = (local.len, usize::try_from(most).unwrap_or(usize::MAX));
            let starts = (0..total).step_by(step);
            starts.map(move |within| Chunk { pair, within, len: most.min(total - within) })
        };
        self.request.pairs.iter().enumerate().flat_map(of_pair).collect()
    }

    /// Why it cannot go on, if one of its agents is dead.
    pub(super) fn check_alive(&self, network: &Network) -> Result<(), TransportError> {
        network.lock().check_alive(&self.request.agent, &self.request.peer)
    }

    /// It has ended: its peer may be forgotten.
    pub(super) fn leave(&self) {
        self.transfers.leave();
    }

    /// What happens next, by the agents, the clock and the faults.
    pub(super) fn next(&self, network: &Network) -> Next {
        let now = network.clock.now();
        let mut state = network.lock();
        if let Err(error) = state.check_alive(&self.request.agent, &self.request.peer) {
            return Next::Ends(Err(error));
        }
        if now < self.not_before {
            return Next::Waits;
        }
        let stalling = !state.is_released(&self.request.agent, &self.strikes);
        let mut until = self.total;
        if let Some((byte, fault)) = self.strikes.at_byte(stalling) {
            until = until.min(byte);
            if self.moved >= until {
                return match fault {
                    Fault::Stalls { .. } => Next::Waits,
                    Fault::PeerDies { .. } => {
                        state.kill(&self.request.peer);
                        Next::Ends(Err(gone(&self.request.peer)))
                    }
                    _ => Next::Ends(Err(failed("transfer", "a fault was ordered"))),
                };
            }
        }
        match self.moved == self.total {
            true => Next::Ends(self.tell(&mut state)),
            false => Next::Moves { most: until - self.moved },
        }
    }

    /// Copies a chunk that has not moved before.
    pub(super) fn copy(&mut self, network: &Network, chunk: Chunk) -> Result<(), TransportError> {
        let Chunk { pair, within, len } = chunk;
        let Some(pair) = self.request.pairs.get(pair) else {
            return Err(failed("transfer", "it is longer than its descriptors"));
        };
        let address = pair.local.address + within;
        let here = Span { address, len, device: pair.local.device };
        let (local, remote) = {
            let state = network.lock();
            let registered = |name| state.agents.get(name);
            let local = registered(&self.request.agent).and_then(|a| a.covering(&here)).cloned();
            let remote = registered(&self.request.peer)
                .and_then(|a| a.registered(pair.registration))
                .cloned();
            (local, remote)
        };
        let local = local.ok_or_else(|| failed("transfer", "the local memory was deregistered"))?;
        let remote =
            remote.ok_or_else(|| failed("transfer", "the peer deregistered the memory"))?;
        let bytes = |number: u64| usize::try_from(number).unwrap_or(usize::MAX);
        let local_offset = bytes(address - local.address());
        let remote_offset = bytes(pair.offset + within);
        let (source, target) = match self.request.kind {
            OperationKind::Read => ((&remote, remote_offset), (&local, local_offset)),
            OperationKind::Write => ((&local, local_offset), (&remote, remote_offset)),
        };
        // SAFETY: the local memory is leased by the operation whose transfer this is, until the transfer is ready. The
        // peer's is what it offered, and leased by its operation until it is told of the end.
        unsafe { copy_spans(source.0, source.1, target.0, target.1, bytes(len)) }
            .map_err(|error| failed("transfer", error.to_string()))?;
        self.moved += len;
        if self.moved == self.total && self.request.kind == OperationKind::Read {
            for at in self.strikes.flipped() {
                self.flip_bit(at.min(self.total - 1))?;
            }
        }
        Ok(())
    }

    /// Changes a byte that has arrived.
    fn flip_bit(&self, at: u64) -> Result<(), TransportError> {
        let error = |reason: String| failed("transfer", reason);
        let held = self.request.leased.begin_use().map_err(|e| error(e.to_string()))?;
        let mut left = usize::try_from(at).unwrap_or(usize::MAX);
        for descriptor in &self.request.local {
            if left >= descriptor.len() {
                left -= descriptor.len();
                continue;
            }
            let mut byte = [0];
            copy_range_to_slice(descriptor, left, &mut byte, &[&held])
                .map_err(|e| error(e.to_string()))?;
            let [byte] = byte;
            let flipped = Region::try_from(vec![byte ^ 1]).map_err(|e| error(e.to_string()))?;
            return copy_range(&flipped.whole(), 0, descriptor, left, 1, &[&held])
                .map_err(|e| error(e.to_string()));
        }
        Ok(())
    }

    /// Notifies the peer: all bytes are in place.
    fn tell(&self, state: &mut State) -> Result<(), TransportError> {
        if self.strikes.posted_pieces().is_some() {
            return Err(failed("post", "a fault was ordered"));
        }
        if self.strikes.has(&Fault::NotificationFails) {
            return Err(TransportError::NotificationFailed {
                reason: "a fault was ordered".into(),
            });
        }
        if self.strikes.has(&Fault::NotificationLost) || self.strikes.has(&Fault::NotificationEarly)
        {
            return Ok(());
        }
        state.notify(&self.request);
        if self.strikes.has(&Fault::NotificationTwice) {
            state.notify(&self.request);
        }
        Ok(())
    }
}

impl State {
    fn check_alive(&mut self, agent: &str, peer: &str) -> Result<(), TransportError> {
        self.living(agent).ok_or(TransportError::Closed)?;
        self.living(peer).map(|_| ()).ok_or_else(|| gone(peer))
    }

    fn notify(&mut self, request: &Request) {
        if let Some(payload) = request.notification.clone()
            && let Some(peer) = self.living(&request.peer)
        {
            let from = Arc::clone(&request.agent);
            peer.inbox.push_back(Message { from, payload, at: Duration::ZERO });
        }
    }
}

fn gone(peer: &str) -> TransportError {
    TransportError::PeerGone { name: peer.to_owned() }
}

fn unknown(peer: &str) -> TransportError {
    TransportError::UnknownPeer { name: peer.to_owned() }
}
