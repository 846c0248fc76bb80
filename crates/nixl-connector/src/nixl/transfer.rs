//! A NIXL transfer. Its request is never released before its end.
#![allow(unsafe_code, reason = "implements the contract of transfers")]

use std::mem;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use nixl_descriptor::{Leased, Registration, Span};
use nixl_device::Device;
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
    /// Where the pairs are in prepared lists.
    listed: Option<ListedPairs>,
}

/// Numbers are the request's index among the agent's requests.
enum State {
    /// Not yet in NIXL, or an ended request that can be posted again.
    Prepared(Option<usize>),
    /// NIXL may access the memory.
    Posted(usize),
    /// Ended in NIXL, with a request that may be posted again.
    Ended(Option<usize>),
}

impl NixlTransfer {
    pub(super) fn new(
        directory: Arc<Directory>,
        peer: Arc<Peer>,
        kind: OperationKind,
        (pairs, listed): (Vec<(Span, Span)>, Option<ListedPairs>),
        (notification, is_repeated): (Option<Bytes>, bool),
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
            Err(error) => return self.end(Err(failed("create_xfer_req", &error))),
        };
        // A failed post may have begun.
        self.was_posted = true;
        match inside.agent.post_xfer_req(&request, None) {
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
            Err(_) => {
                drop(request);
                let error = self.gone();
                self.end(Err(error))
            }
        }
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
        let kind = match self.kind {
            OperationKind::Read => XferOp::Read,
            OperationKind::Write => XferOp::Write,
        };
        let of_lists =
            |listed: &ListedPairs| listed.request(inside, (kind, &self.peer), options.as_ref());
        if let Some(request) = self.listed.as_ref().and_then(of_lists) {
            return request;
        }
        let (mut local, mut remote) = (list(&self.pairs, |p| &p.0)?, list(&self.pairs, |p| &p.1)?);
        for (here, there) in &self.pairs {
            local.add_desc(address(here), length(here), memory_kind(here.device).1);
            remote.add_desc(address(there), length(there), memory_kind(there.device).1);
        }
        let peer = self.peer.id.as_str();
        inside.agent.create_xfer_req(kind, &local, &remote, peer, options.as_ref())
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

    /// NIXL tells only that the backend failed. Everything else that could be wrong on this side was checked before.
    fn gone(&self) -> TransportError {
        self.peer.failed(files::error())
    }

    fn end(&mut self, result: Result<(), TransportError>) -> Poll<Result<(), TransportError>> {
        self.state = State::Ended(None);
        Poll::Ready(result)
    }
}

// SAFETY: NIXL accesses the memory of a request only between its post and the terminal status that `status` waits for, which is
// when `in_flight` is true. The transfer owns the lease and the registrations, and `drop` leaks both, and the request, in
// flight.
unsafe impl Transfer for NixlTransfer {
    fn poll(&mut self, _: &mut Context<'_>) -> Poll<Result<(), TransportError>> {
        let directory = Arc::clone(&self.directory);
        let _context = gpu::enter(self.gpu);
        // Closed during a registration or a connect: the caller polls again. A transfer that is not posted at once wakes the
        // driver and then its waiter, which takes longer than a short stay of another thread.
        let entered = match self.state {
            State::Prepared(_) => directory.agent().try_enter_for_a_moment(),
            State::Posted(_) | State::Ended(_) => directory.agent().try_enter(),
        };
        let Some(mut entered) = entered else { return Poll::Pending };
        let was_in_flight = self.in_flight();
        let polled = match entered.inside() {
            None => self.end(Err(TransportError::Closed)),
            Some(inside) => match self.state {
                State::Prepared(kept) => self.post(inside, kept),
                State::Posted(_) => self.status(inside),
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
        matches!(self.state, State::Posted(_))
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
            State::Posted(_) => {
                mem::forget(self.registrations.take());
                self.leased.take().into_iter().for_each(Leased::leak);
            }
            // The request drops before the registrations of its memory.
            State::Prepared(Some(place)) | State::Ended(Some(place)) => {
                let held = (self.registrations.take(), self.leased.take());
                self.directory.release(place, held);
            }
            State::Prepared(None) | State::Ended(None) => {}
        }
    }
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
