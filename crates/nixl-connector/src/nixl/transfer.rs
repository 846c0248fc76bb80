//! A NIXL transfer. Its request is never released before its end.
#![allow(unsafe_code, reason = "implements the contract of transfers")]

use std::mem;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use nixl_descriptor::{Leased, Registration, Span};
use nixl_device::{Device, SharedError};
use nixl_metadata::OperationKind;
use nixl_ops::{Transfer, TransportError};
use nixl_sys::{MemType, NixlError, OptArgs, XferDescList, XferOp, XferRequest, XferStatus};

use super::agent::Inside;
use super::directory::{Directory, failed};
use super::files;
use super::gpu;
use super::lists::ListedPairs;
use super::peer::Peer;
use super::registrar::memory_kind;

/// A transfer through NIXL.
pub(super) struct NixlTransfer {
    directory: Arc<Directory>,
    peer: Arc<Peer>,
    kind: OperationKind,
    pairs: Vec<(Span, Span)>,
    /// The GPU of the local memory, if any.
    gpu: Option<Device>,
    notification: Option<Bytes>,
    state: State,
    /// Field order: the request drops before the registrations and the lease of its memory. `None` once they are leaked.
    registrations: Option<Arc<[Registration]>>,
    /// `None` once it is leaked.
    leased: Option<Leased>,
    was_posted: bool,
    /// Whether its ended request is kept, for another post.
    is_repeated: bool,
    /// Whether it may use this connection only.
    is_bound: bool,
    /// Where the pairs are in prepared lists.
    listed: Option<ListedPairs>,
}

/// Numbers are the request's index among the agent's requests.
enum State {
    /// Not yet in NIXL, or an ended request that can be posted again.
    Prepared(Option<usize>),
    /// NIXL may access the memory.
    Posted(usize),
    /// NIXL may access the memory after a failed post, until this probe has ended.
    Failing(Probe),
    /// Ended in NIXL, with a request that may be posted again.
    Ended(Option<usize>),
}

/// A request that is posted after a failed post.
#[derive(Clone, Copy)]
enum Probe {
    /// Its index among the agent's requests.
    Posted(usize),
    /// So many were refused.
    Refused(u32),
}

impl NixlTransfer {
    pub(super) fn new(
        directory: Arc<Directory>,
        peer: Arc<Peer>,
        kind: OperationKind,
        (pairs, listed): (Vec<(Span, Span)>, Option<ListedPairs>),
        (notification, is_repeated, is_bound): (Option<Bytes>, bool, bool),
        (registrations, leased): (Arc<[Registration]>, Leased),
    ) -> Self {
        let (state, was_posted) = (State::Prepared(None), false);
        let (registrations, leased) = (Some(registrations), Some(leased));
        let gpu = pairs.first().map(|(here, _)| here.device).filter(|device| !device.is_host());
        Self {
            gpu,
            directory,
            peer,
            kind,
            pairs,
            notification,
            state,
            registrations,
            leased,
            was_posted,
            is_repeated,
            is_bound,
            listed,
        }
    }

    /// Posts. A created request is posted, and a posted one is kept until its end; steps that may fail come first.
    fn post(
        &mut self,
        inside: &mut Inside,
        kept: Option<usize>,
    ) -> Poll<Result<(), TransportError>> {
        let mut kept = kept.and_then(|place| inside.requests.try_remove(place));
        self.state = State::Prepared(None);
        if self.peer.is_forgotten() {
            // It points to NIXL's former state of the peer.
            kept = None;
            if self.is_bound {
                return self
                    .end(Err(TransportError::Reconnected { name: self.peer.id.to_string() }));
            }
            match self.directory.current(&self.peer.id, self.pairs.iter().map(|(_, there)| there)) {
                Ok(current) => self.peer = current,
                Err(error) => {
                    let error = self.forgotten(error);
                    return self.end(Err(error));
                }
            }
        }
        if self.peer.is_broken() {
            return self.end(Err(TransportError::PeerGone { name: self.peer.id.to_string() }));
        }
        // A reload waits for the transfers in flight; a post now would delay it.
        if self.peer.transfers.is_held() {
            self.state = State::Prepared(kept.map(|request| inside.requests.insert(request)));
            return Poll::Pending;
        }
        let request = match kept.map_or_else(|| self.create(inside), Ok) {
            Ok(request) => request,
            Err(error) => return self.end(Err(failed("create_xfer_req", error))),
        };
        // A failed post may have begun.
        self.was_posted = true;
        match inside.post(&request) {
            Ok(true) => {
                self.peer.transfers.enter();
                self.state = State::Posted(inside.requests.insert(request));
                Poll::Pending
            }
            Ok(false) => {
                let kept = self.is_repeated.then(|| inside.requests.insert(request));
                self.state = State::Ended(kept);
                Poll::Ready(Ok(()))
            }
            Err(error) => {
                drop(request);
                self.post_failed(inside, error)
            }
        }
    }

    /// The probes that an endpoint refuses, one at each poll, until it has failed: a failed one accepts no request, and UCX purges what was
    /// in flight on it while it makes progress. A shortage that passes refuses fewer.
    const REFUSALS: u32 = 4;

    /// UCX's backend posts the descriptors one by one and stops at the first that fails: those before it may be in flight, and NIXL
    /// reports the error alone from then on. NIXL drops a peer whose endpoint has failed, with all that was in flight on it.
    fn post_failed(
        &mut self,
        inside: &Inside,
        error: NixlError,
    ) -> Poll<Result<(), TransportError>> {
        if !self.is_loaded(inside) {
            let error = self.gone();
            return self.end(Err(error));
        }
        if !self.directory.agent().options().has_one_endpoint_per_peer() {
            // Its end cannot be known.
            self.leak();
            return self.end(Err(failed("post_xfer_req", error)));
        }
        self.peer.transfers.enter();
        self.state = State::Failing(Probe::Refused(0));
        Poll::Pending
    }

    /// Ends with a probe: a request of one byte that is complete. Its end includes a flush of the peer's endpoint, which comes after
    /// all that was posted before.
    fn failing(&mut self, inside: &mut Inside, probe: Probe) -> Poll<Result<(), TransportError>> {
        let probe = match probe {
            // Another transfer has found the endpoint failed.
            Probe::Refused(_) if self.peer.is_broken() => Poll::Ready(false),
            Probe::Refused(times) => self.probe(inside, times),
            Probe::Posted(place) => {
                let status = inside.requests.get(place).map(|r| inside.agent.get_xfer_status(r));
                match status {
                    Some(Ok(XferStatus::InProgress)) => return Poll::Pending,
                    ended => {
                        drop(inside.requests.try_remove(place));
                        Poll::Ready(matches!(ended, Some(Ok(XferStatus::Success))))
                    }
                }
            }
        };
        let Poll::Ready(has_arrived) = probe else { return Poll::Pending };
        let error = match has_arrived && self.is_loaded(inside) {
            true => files::error().unwrap_or_else(|| TransportError::Engine {
                engine: "nixl",
                call: "post_xfer_req",
                reason: SharedError::text("the backend refused a part of the transfer"),
            }),
            false => self.gone(),
        };
        self.end(Err(error))
    }

    /// Posts a probe, which was refused so many times before. Ready once it has ended, with whether it reached the peer, or once the
    /// endpoint has failed.
    fn probe(&mut self, inside: &mut Inside, refused: u32) -> Poll<bool> {
        let first = self.pairs.first().map(|&(here, there)| {
            let byte = |span| Span { len: 1, ..span };
            [(byte(here), byte(there))]
        });
        let peer = self.peer.id.as_str();
        let pairs = first.as_ref().map_or(&[][..], |first| first);
        let probe = request(&inside.agent, self.kind, pairs, peer, None).and_then(|probe| {
            let is_in_flight = inside.post(&probe)?;
            Ok((is_in_flight, probe))
        });
        match probe {
            Ok((false, _)) => Poll::Ready(true),
            Ok((true, probe)) => {
                self.state = State::Failing(Probe::Posted(inside.requests.insert(probe)));
                Poll::Pending
            }
            // Posted again at the next poll, while there is an endpoint.
            Err(_) if refused + 1 < Self::REFUSALS && self.is_loaded(inside) => {
                self.state = State::Failing(Probe::Refused(refused + 1));
                Poll::Pending
            }
            Err(_) => Poll::Ready(false),
        }
    }

    fn is_loaded(&self, inside: &Inside) -> bool {
        inside.agent.check_remote_metadata(self.peer.id.as_str(), None)
    }

    /// Keeps the memory registered and leased until the process ends.
    fn leak(&mut self) {
        mem::forget(self.registrations.take());
        self.leased.take().into_iter().for_each(Leased::leak);
    }

    /// The reason why the peer's entry no longer serves this transfer. A peer may have been reloaded for another operation,
    /// with the memory of that one alone.
    fn forgotten(&self, error: TransportError) -> TransportError {
        use TransportError::{NotRegistered, PeerBusy, PeerGone, UnknownPeer};
        match error {
            UnknownPeer { name } | NotRegistered { name, .. } if self.peer.is_broken() => {
                PeerGone { name }
            }
            NotRegistered { name, .. } => PeerBusy { name },
            error => error,
        }
    }

    fn create(&self, inside: &Inside) -> Result<XferRequest, NixlError> {
        let options = match &self.notification {
            Some(notification) => {
                let mut options = OptArgs::new()?;
                options.set_has_notification(true)?;
                options.set_notification_message(notification)?;
                Some(options)
            }
            None => None,
        };
        let kind = engine_kind(self.kind);
        let of_lists =
            |listed: &ListedPairs| listed.request(inside, (kind, &self.peer), options.as_ref());
        if let Some(request) = self.listed.as_ref().and_then(of_lists) {
            return request;
        }
        let peer = self.peer.id.as_str();
        request(&inside.agent, self.kind, &self.pairs, peer, options.as_ref())
    }

    fn status(&mut self, inside: &mut Inside) -> Poll<Result<(), TransportError>> {
        let State::Posted(place) = self.state else { return Poll::Pending };
        let Some(request) = inside.requests.get(place) else {
            return Poll::Ready(Err(TransportError::Closed));
        };
        let result = match inside.agent.get_xfer_status(request) {
            Ok(XferStatus::InProgress) => return Poll::Pending,
            Ok(XferStatus::Success) => Ok(()),
            // The peer stays loaded while a transfer is in flight, so this error is not of the transfer: the data is in place,
            // and only the notification failed.
            Err(NixlError::NotFound) if !self.peer.is_broken() => {
                Err(TransportError::NotificationFailed {
                    reason: "the peer cannot be reached any more".into(),
                })
            }
            Err(_) => Err(self.gone()),
        };
        let keeps = self.is_repeated && result.is_ok();
        if !keeps {
            drop(inside.requests.try_remove(place));
        }
        self.state = State::Ended(keeps.then_some(place));
        Poll::Ready(result)
    }

    /// NIXL reports only that the backend failed. Everything else that could be wrong on this side was checked before.
    fn gone(&self) -> TransportError {
        self.peer.failed(files::error())
    }

    fn end(&mut self, result: Result<(), TransportError>) -> Poll<Result<(), TransportError>> {
        self.state = State::Ended(None);
        Poll::Ready(result)
    }
}

// SAFETY: NIXL accesses the memory of a request only between its post and the terminal status that `status` waits for, or, after a
// failed post, the end of the endpoint or of a flush after it that `failing` waits for, which is when `in_flight` is true. The
// transfer owns the lease and the registrations. `drop` leaks both, and the request, in flight, and `post_failed` where the end of
// a failed post cannot be known.
unsafe impl Transfer for NixlTransfer {
    fn poll(&mut self, _: &mut Context<'_>) -> Poll<Result<(), TransportError>> {
        let directory = Arc::clone(&self.directory);
        let _context = gpu::enter(self.gpu);
        // Closed during a registration or a connect: the caller polls again. A transfer that is not posted at once wakes the
        // driver and then its waiter, which takes longer than a short stay of another thread.
        let entered = match self.state {
            State::Prepared(_) => directory.agent().try_enter_for_a_moment(),
            State::Posted(_) | State::Failing(_) | State::Ended(_) => directory.agent().try_enter(),
        };
        let Some(mut entered) = entered else { return Poll::Pending };
        let was_in_flight = self.in_flight();
        let polled = match entered.inside() {
            None => self.end(Err(TransportError::Closed)),
            Some(inside) => match self.state {
                State::Prepared(kept) => self.post(inside, kept),
                State::Posted(_) => self.status(inside),
                State::Failing(probe) => self.failing(inside, probe),
                State::Ended(_) => Poll::Ready(Err(TransportError::Closed)),
            },
        };
        drop(entered);
        // Outside of NIXL: an operation that waits for the peer to be idle is woken.
        if was_in_flight && !self.in_flight() {
            self.peer.transfers.leave();
        }
        if polled.is_ready() {
            self.directory.ended(&self.peer);
        }
        polled
    }

    fn in_flight(&self) -> bool {
        matches!(self.state, State::Posted(_) | State::Failing(_))
    }

    fn was_posted(&self) -> bool {
        self.was_posted
    }

    fn repeat(&mut self) -> bool {
        let State::Ended(Some(place)) = self.state else { return false };
        self.state = State::Prepared(Some(place));
        self.was_posted = false;
        true
    }

    fn descriptors(&self) -> usize {
        self.pairs.len()
    }

    fn is_listed(&self) -> bool {
        self.listed.is_some()
    }

    fn estimate(&self) -> Option<Duration> {
        let State::Prepared(None) = self.state else { return None };
        let _context = gpu::enter(self.gpu);
        let mut entered = self.directory.agent().try_enter()?;
        let inside = entered.inside()?;
        let request = self.create(inside).ok()?;
        // Dropped before it was posted, and behind the gate.
        let (microseconds, ..) = inside.agent.estimate_xfer_cost(&request, None).ok()?;
        u64::try_from(microseconds).ok().map(Duration::from_micros)
    }
}

impl Drop for NixlTransfer {
    fn drop(&mut self) {
        // Releasing a request in flight returns at once, and the peer's bytes still arrive later. So it is never released
        // before the agent ends: its memory is leaked, and stays registered.
        match mem::replace(&mut self.state, State::Ended(None)) {
            State::Posted(_) | State::Failing(_) => self.leak(),
            // The request drops before the registrations of its memory.
            State::Prepared(Some(place)) | State::Ended(Some(place)) => {
                let held = (self.registrations.take(), self.leased.take());
                self.directory.release(place, held);
            }
            State::Prepared(None) | State::Ended(None) => {}
        }
    }
}

const fn engine_kind(kind: OperationKind) -> XferOp {
    match kind {
        OperationKind::Read => XferOp::Read,
        OperationKind::Write => XferOp::Write,
    }
}

fn request(
    agent: &nixl_sys::Agent,
    kind: OperationKind,
    pairs: &[(Span, Span)],
    peer: &str,
    options: Option<&OptArgs>,
) -> Result<XferRequest, NixlError> {
    let (mut local, mut remote) = (list(pairs, |p| &p.0)?, list(pairs, |p| &p.1)?);
    for (here, there) in pairs {
        local.add_desc(address(here), length(here), memory_kind(here.device).1);
        remote.add_desc(address(there), length(there), memory_kind(there.device).1);
    }
    agent.create_xfer_req(engine_kind(kind), &local, &remote, peer, options)
}

fn list<'a>(
    pairs: &[(Span, Span)],
    side: impl Fn(&(Span, Span)) -> &Span,
) -> Result<XferDescList<'a>, NixlError> {
    let kind = pairs.first().map_or(MemType::Dram, |pair| memory_kind(side(pair).device).0);
    XferDescList::new(kind)
}

/// Addresses and lengths of this process fit its word; a peer's were checked against its registrations, which
/// came from a machine of the same word size.
fn address(span: &Span) -> usize {
    span.address as usize
}

fn length(span: &Span) -> usize {
    span.len as usize
}

#[cfg(test)]
mod tests;
