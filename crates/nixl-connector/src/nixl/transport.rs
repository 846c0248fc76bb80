//! The NIXL transport.
#![allow(unsafe_code, reason = "promises what engines must keep")]

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::Poll;

use bytes::Bytes;
use nixl_descriptor::{Registrar, Registration, Span, coalesce_pairs};
use nixl_metadata::SerializedDescriptor;
use nixl_ops::{
    ConnectSpec, Connected, EngineLists, EngineSetting, Idle, ListsSpec, PeerId, Transfer,
    TransferSpec, Transport, TransportError,
};

use super::agent::Agent;
use super::directory::{Directory, covers, failed};
use super::files;
use super::here::Beacon;
use super::library::NixlUnavailable;
use super::lists::{ListedPairs, NixlLists};
use super::names;
use super::options::{NixlBackend, NixlOptions};
use super::registrar::NixlRegistrar;
use super::transfer::NixlTransfer;
use super::ucx;
use crate::control::ControlThread;

/// A NIXL agent with its backends, as a [`Transport`].
pub struct NixlTransport {
    agent: Arc<Agent>,
    registrar: Arc<NixlRegistrar>,
    directory: Arc<Directory>,
    name: &'static str,
    copies_by_processor: bool,
    unreadable: AtomicU64,
    _beacon: Beacon,
}

impl NixlTransport {
    /// Starts an agent of this name, which must be unique among all agents that ever connect: NIXL cannot tell a
    /// restarted agent from its predecessor. **Blocks** for tens of milliseconds; the blocking work of its later life
    /// is done on `control`.
    ///
    /// # Errors
    ///
    /// [`NixlUnavailable`], with what is missing or failed.
    pub fn open(name: &str, control: ControlThread) -> Result<Self, NixlUnavailable> {
        Self::open_with(name, control, &NixlOptions::new())
    }

    /// The same, set up in another way. **Blocks.**
    ///
    /// # Errors
    ///
    /// [`NixlUnavailable`], with what is missing or failed, or cannot be set.
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
        let unreadable = AtomicU64::new(0);
        Ok(Self { agent, registrar, directory, name, copies_by_processor, unreadable, _beacon })
    }
}

// SAFETY: its transfers and registrations keep their contracts, as is said there; addresses of peers go to NIXL, which hands them to
// the peer's side of the connection.
unsafe impl Transport for NixlTransport {
    fn name(&self) -> &'static str {
        self.name
    }

    /// Without a NIC that writes memory, UCX's transports copy by a processor.
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
        inside.agent.get_local_md().map(Bytes::from).map_err(|e| failed("get_local_md", &e))
    }

    fn metadata_of(&self, memories: &[Registration]) -> Option<Bytes> {
        let mut entered = self.agent.try_enter()?;
        // What fails here fails again where all of it is exported, and is an error there.
        entered.inside()?.metadata_of(memories).ok()?
    }

    fn connect(&self, metadata: &[u8]) -> Result<Connected, TransportError> {
        self.directory.connect(&ConnectSpec::new(metadata))
    }

    fn connect_for(&self, spec: &ConnectSpec<'_>) -> Result<Connected, TransportError> {
        let connected = self.directory.connect(spec)?;
        self.directory.note_introduced(connected.peer(), spec.introducer().is_some());
        Ok(connected)
    }

    fn connect_known(&self, spec: &ConnectSpec<'_>) -> Option<Connected> {
        self.directory.connect_known(spec.metadata(), spec.needed())
    }

    fn until_idle(&self, peer: &PeerId) -> Pin<Box<dyn Future<Output = Idle> + Send>> {
        self.directory.until_idle(peer)
    }

    fn problems(&self) -> Vec<TransportError> {
        let deaf = self.agent.listener().is_closed();
        let deaf = deaf.then_some(TransportError::NotListening { engine: "nixl" });
        deaf.into_iter().chain(files::error()).collect()
    }

    fn settings(&self) -> Vec<EngineSetting> {
        self.agent.settings().to_vec()
    }

    fn disconnect(&self, peer: &PeerId) -> Result<(), TransportError> {
        self.directory.disconnect(peer)
    }

    fn peer_ended(&self, peer: &PeerId) {
        self.directory.peer_ended(peer);
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
        let loaded = self.directory.loaded();
        let loaded =
            loaded.get(spec.peer().as_str()).filter(|l| !l.peer.is_broken()).ok_or_else(unknown)?;
        // What is in the lists was looked up then, and NIXL merges neighbours of it.
        let listed = spec.listed_at().and_then(|listed| ListedPairs::new(listed, &loaded.peer));
        for (index, descriptor) in spec.remote().iter().enumerate().filter(|_| listed.is_none()) {
            let span = span(descriptor);
            if !covers(loaded, &span) {
                let (name, len) = (spec.peer().to_string(), span.len);
                return Err(TransportError::NotRegistered { name, index, len });
            }
        }
        let union_is_covered = |first: &Span, second: &Span| {
            first
                .len
                .checked_add(second.len)
                .is_some_and(|len| covers(loaded, &Span { len, ..*first }))
        };
        let remote = spec.remote().iter().map(span);
        let pairs = match &listed {
            Some(_) => spec.local().iter().map(Span::from).zip(remote).collect(),
            None => coalesce_pairs(spec.local(), remote, union_is_covered)
                .map_err(|e| TransportError::BadMetadata { reason: e.to_string() })?,
        };
        one_kind(&pairs)?;
        let (kind, leased, is_repeated) = (spec.kind(), spec.leased().clone(), spec.is_repeated());
        let (notification, registrations) = spec.into_owned_parts();
        Ok(Box::new(NixlTransfer::new(
            Arc::clone(&self.directory),
            Arc::clone(&loaded.peer),
            kind,
            (pairs, listed),
            (notification, is_repeated),
            (registrations, leased),
        )))
    }

    fn notify(&self, peer: &PeerId, payload: &[u8]) -> Poll<Result<(), TransportError>> {
        let known = self.directory.loaded().get(peer.as_str()).map(|l| Arc::clone(&l.peer));
        let Some(known) = known else {
            return Poll::Ready(Err(TransportError::UnknownPeer { name: peer.to_string() }));
        };
        let gone = || Poll::Ready(Err(TransportError::PeerGone { name: peer.to_string() }));
        if known.is_broken() {
            return gone();
        }
        let Some(mut entered) = self.agent.try_enter() else { return Poll::Pending };
        let Some(inside) = entered.inside() else {
            return Poll::Ready(Err(TransportError::Closed));
        };
        if inside.agent.send_notification(peer.as_str(), payload, inside.only_backend()).is_ok() {
            return Poll::Ready(Ok(()));
        }
        // As for transfers: NIXL does not tell why, and it can only be the peer, the way to it, or a lack of files.
        known.set_broken();
        self.directory.ended(&known);
        files::error().map_or_else(gone, |error| Poll::Ready(Err(error)))
    }

    fn take_notifications(&self, sink: &mut dyn FnMut(&str, &[u8])) -> Result<(), TransportError> {
        let Some(mut entered) = self.agent.try_enter() else { return Ok(()) };
        let Some(inside) = entered.inside() else { return Ok(()) };
        let unreadable = inside.take_notifications(sink).map_err(|e| failed("get_notifs", &e))?;
        self.unreadable.fetch_add(unreadable, Ordering::Relaxed);
        Ok(())
    }

    fn unreadable_notifications(&self) -> u64 {
        self.unreadable.load(Ordering::Relaxed)
    }
}

impl fmt::Debug for NixlTransport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("NixlTransport")
            .field("agent", &self.agent)
            .field("peers", &self.directory.loaded().len())
            .finish_non_exhaustive()
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
            reason: "one operation cannot mix host and GPU memory on one side; split it".into(),
        });
    }
    Ok(())
}
