//! The NIXL transport.
#![allow(unsafe_code, reason = "implements the contract of engines")]

use std::fmt;
use std::future::Future;
use std::num::NonZeroU64;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::task::Poll;

use bytes::Bytes;
use nixl_descriptor::{Registrar, Registration, Span, coalesce_pairs};
use nixl_device::SharedError;
use nixl_metadata::SerializedDescriptor;
use nixl_ops::{
    ConnectSpec, Connected, EngineLists, EngineSetting, Idle, ListsSpec, OnLost, PeerId, Transfer,
    TransferSpec, Transport, TransportError,
};

use super::agent::Agent;
use super::directory::{Directory, covers, failed};
use super::files;
use super::here::Beacon;
use super::library::NixlUnavailable;
use super::lists::{ListedPairs, NixlLists};
use super::names;
use super::notifications::{self, Missed};
use super::options::{NixlBackend, NixlOptions};
use super::registrar::NixlRegistrar;
use super::transfer::NixlTransfer;
use super::ucx;
use crate::control::ControlThread;

/// A NIXL agent with its backends, as a [`Transport`].
pub struct NixlTransport {
    agent: Arc<Agent>,
    registrar: Arc<NixlRegistrar>,
    pub(super) directory: Arc<Directory>,
    name: &'static str,
    copies_by_processor: bool,
    unreadable: AtomicU64,
    /// Senders were left out at some time.
    was_flooded: AtomicBool,
    _beacon: Beacon,
}

impl NixlTransport {
    /// Starts an agent of this name, which must be unique among all agents that ever connect: NIXL cannot distinguish a restarted
    /// agent from its predecessor. **Blocks** for tens of milliseconds; its later blocking work runs on `control`.
    ///
    /// # Errors
    ///
    /// [`NixlUnavailable`], with the missing or failed part.
    pub fn open(name: &str, control: ControlThread) -> Result<Self, NixlUnavailable> {
        Self::open_with(name, control, &NixlOptions::new())
    }

    /// As [`open`](Self::open), with options. **Blocks.**
    ///
    /// # Errors
    ///
    /// [`NixlUnavailable`], with the missing or failed part, or the refused setting.
    pub fn open_with(
        name: &str,
        control: ControlThread,
        options: &NixlOptions,
    ) -> Result<Self, NixlUnavailable> {
        let agent = Arc::new(Agent::start(name, control, options)?);
        let registrar = Arc::new(NixlRegistrar::new(Arc::clone(&agent)));
        let directory = Arc::new(Directory::new(Arc::clone(&agent)));
        let only_ucx = options.chosen_backends() == [NixlBackend::Ucx];
        let copies_by_processor = only_ucx && !ucx::may_use_rdma();
        let backends: Vec<_> = options.chosen_backends().iter().map(NixlBackend::name).collect();
        let _beacon = Beacon::of(name);
        let name = names::interned(format!("nixl/{}", backends.join("+")));
        Ok(Self {
            agent,
            registrar,
            directory,
            name,
            copies_by_processor,
            unreadable: AtomicU64::new(0),
            was_flooded: AtomicBool::new(false),
            _beacon,
        })
    }
}

impl NixlTransport {
    fn note_missed(&self, Missed { unreadable, left_out }: Missed) {
        self.unreadable.fetch_add((unreadable + left_out) as u64, Ordering::Relaxed);
        // Once: those that make them could fill the log.
        if left_out > 0 && !self.was_flooded.swap(true, Ordering::Relaxed) {
            tracing::warn!(
                left_out,
                "notifications arrive in more names than are read at once: those of agents that are not connected are left out"
            );
        }
    }
}

// SAFETY: its transfers and registrations keep their contracts, as argued there; addresses of peers go to NIXL, which passes
// them to the peer's side of the connection.
unsafe impl Transport for NixlTransport {
    fn name(&self) -> &'static str {
        self.name
    }

    /// Without a NIC that writes memory, UCX's transports copy with a processor.
    fn completes_in_memory(&self) -> bool {
        self.copies_by_processor
    }

    fn agent_name(&self) -> &str {
        self.agent.name()
    }

    fn registrar(&self) -> Arc<dyn Registrar> {
        Arc::<NixlRegistrar>::clone(&self.registrar)
    }

    fn local_metadata(&self) -> Result<Bytes, TransportError> {
        let mut entered = self.agent.enter();
        let inside = entered.inside().ok_or(TransportError::Closed)?;
        inside.agent.get_local_md().map(Bytes::from).map_err(|e| failed("get_local_md", e))
    }

    fn metadata_of(&self, memories: &[Registration]) -> Option<Bytes> {
        let mut entered = self.agent.try_enter()?;
        // A failure here repeats in the full export, and is an error there.
        entered.inside()?.metadata_of(memories).ok()?
    }

    fn connect(&self, metadata: &[u8]) -> Result<Connected, TransportError> {
        self.directory.connect(&ConnectSpec::new(metadata))
    }

    fn connect_for(&self, spec: &ConnectSpec<'_>) -> Result<Connected, TransportError> {
        self.directory.connect(spec)
    }

    fn connect_known(&self, spec: &ConnectSpec<'_>) -> Option<Connected> {
        self.directory.connect_known(spec)
    }

    fn until_idle(&self, peer: &PeerId) -> Pin<Box<dyn Future<Output = Idle> + Send>> {
        self.directory.until_idle(peer)
    }

    fn problems(&self) -> Vec<TransportError> {
        let not_listening = self.agent.listener().is_closed();
        let not_listening =
            not_listening.then_some(TransportError::NotListening { engine: "nixl" });
        not_listening.into_iter().chain(files::error()).collect()
    }

    fn settings(&self) -> Vec<EngineSetting> {
        self.agent.settings().to_vec()
    }

    fn connection_to(&self, peer: &PeerId) -> Option<NonZeroU64> {
        self.directory.peer(peer).map(|peer| peer.connection)
    }

    fn disconnect(&self, peer: &PeerId) -> Result<(), TransportError> {
        self.directory.disconnect(peer)
    }

    fn peer_ended(&self, peer: &PeerId) {
        self.directory.peer_ended(peer);
    }

    fn set_on_lost(&self, on_lost: OnLost) {
        self.directory.set_on_lost(on_lost);
    }

    fn prepare_lists(
        &self,
        spec: &ListsSpec<'_>,
    ) -> Result<Option<Box<dyn EngineLists>>, TransportError> {
        let lists = NixlLists::prepare(&self.directory, spec)?;
        Ok(lists.map(|lists| Box::new(lists) as Box<dyn EngineLists>))
    }

    fn prepare(&self, spec: TransferSpec<'_>) -> Result<Box<dyn Transfer>, TransportError> {
        let unknown = || TransportError::UnknownPeer { name: spec.peer().to_string() };
        let loaded = self.directory.loaded_by_id(spec.peer());
        let loaded = loaded.filter(|loaded| !loaded.peer.is_broken()).ok_or_else(unknown)?;
        let connection = spec.connection();
        if connection.is_some_and(|connection| connection != loaded.peer.connection) {
            return Err(TransportError::Reconnected { name: spec.peer().to_string() });
        }
        let known = loaded.memories();
        // What is in the lists was looked up then, and NIXL merges neighbours of it.
        let listed = spec.listed_at().and_then(|listed| ListedPairs::new(listed, &loaded.peer));
        for (index, descriptor) in spec.remote().iter().enumerate().filter(|_| listed.is_none()) {
            let span = span(descriptor);
            if !covers(&known, &span) {
                let (name, len) = (spec.peer().to_string(), span.len);
                return Err(TransportError::NotRegistered { name, index, len });
            }
        }
        let union_is_covered = |first: &Span, second: &Span| {
            first
                .len
                .checked_add(second.len)
                .is_some_and(|len| covers(&known, &Span { len, ..*first }))
        };
        let remote = spec.remote().iter().map(span);
        let pairs = match &listed {
            Some(_) => spec.local().iter().map(Span::from).zip(remote).collect(),
            None => coalesce_pairs(spec.local(), remote, union_is_covered)
                .map_err(|e| TransportError::BadMetadata { reason: e.into() })?,
        };
        one_kind(&pairs)?;
        let (kind, leased, is_repeated) = (spec.kind(), spec.leased().clone(), spec.is_repeated());
        let (notification, registrations) = spec.into_owned_parts();
        Ok(Box::new(NixlTransfer::new(
            Arc::clone(&self.directory),
            Arc::clone(&loaded.peer),
            kind,
            (pairs, listed),
            (notification, is_repeated, connection.is_some()),
            (registrations, leased),
        )))
    }

    fn notify(&self, peer: &PeerId, payload: &[u8]) -> Poll<Result<(), TransportError>> {
        let Some(known) = self.directory.peer(peer) else {
            return Poll::Ready(Err(TransportError::UnknownPeer { name: peer.to_string() }));
        };
        if known.is_broken() {
            return Poll::Ready(Err(TransportError::PeerGone { name: peer.to_string() }));
        }
        let Some(mut entered) = self.agent.try_enter() else { return Poll::Pending };
        let Some(inside) = entered.inside() else {
            return Poll::Ready(Err(TransportError::Closed));
        };
        if inside.agent.send_notification(peer.as_str(), payload, inside.only_backend()).is_ok() {
            return Poll::Ready(Ok(()));
        }
        drop(entered);
        let error = known.failed(files::error());
        self.directory.ended(&known);
        Poll::Ready(Err(error))
    }

    fn take_notifications(&self, sink: &mut dyn FnMut(&str, &[u8])) -> Result<(), TransportError> {
        let Some(mut entered) = self.agent.try_enter() else { return Ok(()) };
        let Some(inside) = entered.inside() else { return Ok(()) };
        let (arrived, result) = inside.take_notifications();
        // The sink sends answers, which needs the gate, and wakes tasks.
        drop(entered);
        if let Some(arrived) = arrived {
            let missed = notifications::hand_out(arrived, || self.directory.names(), sink);
            self.note_missed(missed);
        }
        result.map_err(|error| failed("get_notifs", error))
    }

    fn unreadable_notifications(&self) -> u64 {
        self.unreadable.load(Ordering::Relaxed)
    }
}

impl fmt::Debug for NixlTransport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut out = f.debug_struct("NixlTransport");
        out.field("agent", &self.agent);
        self.directory.count_into(&mut out);
        out.finish_non_exhaustive()
    }
}

pub(super) fn span(descriptor: &SerializedDescriptor) -> Span {
    Span { address: descriptor.ptr(), len: descriptor.size(), device: descriptor.device() }
}

/// NIXL's lists hold one kind of memory each.
fn one_kind(pairs: &[(Span, Span)]) -> Result<(), TransportError> {
    let mixed = pairs.windows(2).any(|w| {
        w[0].0.device.kind() != w[1].0.device.kind() || w[0].1.device.kind() != w[1].1.device.kind()
    });
    if mixed {
        return Err(TransportError::Engine {
            engine: "nixl",
            call: "create_xfer_req",
            reason: SharedError::text(
                "one operation cannot mix host and GPU memory on one side: split it into one operation for each",
            ),
        });
    }
    Ok(())
}
