//! NIXL as a transport.

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use nixl_descriptor::{Registrar, Span, coalesce_pairs};
use nixl_ops::{Connected, PeerId, Transfer, TransferSpec, Transport, TransportError};
use nixl_sys::NixlError;

use super::agent::Agent;
use super::blob::Blob;
use super::library::NixlUnavailable;
use super::peers::{Change, Loaded, Peer};
use super::registrar::{NixlRegistrar, memory_kind, wire_kind};
use super::transfer::NixlTransfer;
use crate::control::ControlThread;

/// A NIXL agent with its UCX backend, as a [`Transport`].
pub struct NixlTransport {
    agent: Arc<Agent>,
    registrar: Arc<NixlRegistrar>,
    peers: Mutex<HashMap<String, Loaded>>,
}

impl NixlTransport {
    /// Starts an agent of this name, which must be unique among all agents that ever meet: NIXL cannot tell a
    /// restarted agent from its predecessor. **Blocks** for tens of milliseconds; the blocking work of its later life
    /// is done on `control`.
    ///
    /// # Errors
    ///
    /// [`NixlUnavailable`], with what is missing or failed.
    pub fn open(name: &str, control: ControlThread) -> Result<Self, NixlUnavailable> {
        let agent = Arc::new(Agent::start(name, control)?);
        let registrar = Arc::new(NixlRegistrar::new(Arc::clone(&agent)));
        Ok(Self { agent, registrar, peers: Mutex::default() })
    }

    fn peers(&self) -> MutexGuard<'_, HashMap<String, Loaded>> {
        self.peers.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Tells NIXL of a peer that it does not know. Called behind the gate's control thread only.
    fn load(&self, metadata: &[u8], name: &str) -> Result<(), TransportError> {
        let mut entered = self.agent.enter();
        let inside = entered.inside().ok_or(TransportError::Closed)?;
        inside.agent.load_remote_md(metadata).map_err(|e| match e {
            NixlError::InvalidParam | NixlError::NotFound => TransportError::BadMetadata {
                reason: format!(
                    "NIXL does not accept it ({e}); perhaps no backend is common to both sides"
                ),
            },
            e => failed("load_remote_md", &e),
        })?;
        // Wires up now, here, rather than in the first transfer.
        inside.agent.make_connection(name, None).map_err(|e| failed("make_connection", &e))
    }

    fn invalidate(&self, name: &str) -> Result<(), TransportError> {
        let mut entered = self.agent.enter();
        let inside = entered.inside().ok_or(TransportError::Closed)?;
        inside.agent.invalidate_remote_md(name).map_err(|e| failed("invalidate_remote_md", &e))
    }
}

impl Transport for NixlTransport {
    fn name(&self) -> &str {
        "nixl/UCX"
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

    fn connect(&self, metadata: &[u8]) -> Result<Connected, TransportError> {
        let blob =
            Blob::parse(metadata).map_err(|reason| TransportError::BadMetadata { reason })?;
        if blob.name == self.agent.name() {
            return Err(TransportError::OwnIdentity { name: blob.name.to_owned() });
        }
        // Taken out, so that the map is not locked while NIXL blocks; calls to `connect` do not overlap.
        let known = self.peers().get(blob.name).map(|l| (Arc::clone(&l.peer), l.change(&blob)));
        let id = match &known {
            Some((peer, _)) => peer.id.clone(),
            None => PeerId::new(blob.name),
        };
        let name = || blob.name.to_owned();
        match known {
            Some((_, Change::Known)) => return Ok(Connected::to(id)),
            Some((_, Change::Conflict)) => {
                return Err(TransportError::IdentityConflict { name: name() });
            }
            Some((_, Change::Merge)) => {
                self.load(metadata, blob.name)?;
                if let Some(loaded) = self.peers().get_mut(blob.name) {
                    loaded.merge(&blob);
                }
                return Ok(Connected::to(id));
            }
            Some((peer, Change::Replace)) => {
                if peer.is_busy() {
                    return Err(TransportError::PeerBusy { name: name() });
                }
                // From here no transfer can begin until the peer is loaded anew.
                self.peers().remove(blob.name);
                peer.set_broken();
                self.invalidate(blob.name)?;
            }
            None => {}
        }
        if let Err(error) = self.load(metadata, blob.name) {
            // Whatever was loaded halfway must not linger; an unknown peer is no error here.
            let _ = self.invalidate(blob.name);
            return Err(error);
        }
        self.peers().insert(name(), Loaded::new(Peer::new(id.clone()), &blob));
        Ok(Connected::to(id).superseding())
    }

    fn disconnect(&self, peer: &PeerId) -> Result<(), TransportError> {
        let Some(known) = self.peers().get(peer.as_str()).map(|l| Arc::clone(&l.peer)) else {
            return Ok(());
        };
        if known.is_busy() {
            return Err(TransportError::PeerBusy { name: peer.to_string() });
        }
        known.set_broken();
        self.peers().remove(peer.as_str());
        self.invalidate(peer.as_str())
    }

    fn prepare(&self, spec: TransferSpec<'_>) -> Result<Box<dyn Transfer>, TransportError> {
        let peers = self.peers();
        let loaded = peers
            .get(spec.peer.as_str())
            .filter(|l| !l.peer.is_broken())
            .ok_or_else(|| TransportError::UnknownPeer { name: spec.peer.to_string() })?;
        let mut remote = Vec::with_capacity(spec.remote.len());
        for (index, descriptor) in spec.remote.iter().enumerate() {
            let span = Span {
                address: descriptor.ptr(),
                len: descriptor.size(),
                device: descriptor.device(),
            };
            if !covers(loaded, &span) {
                let (name, len) = (spec.peer.to_string(), span.len);
                return Err(TransportError::NotRegistered { name, index, len });
            }
            remote.push(span);
        }
        let union_is_covered = |first: &Span, second: &Span| {
            first
                .len
                .checked_add(second.len)
                .is_some_and(|len| covers(loaded, &Span { len, ..*first }))
        };
        let pairs = coalesce_pairs(spec.local, &remote, union_is_covered)
            .map_err(|e| TransportError::BadMetadata { reason: e.to_string() })?;
        one_kind(&pairs)?;
        Ok(Box::new(NixlTransfer::new(
            Arc::clone(&self.agent),
            Arc::clone(&loaded.peer),
            spec.kind,
            pairs,
            spec.notification.clone(),
            spec.registrations,
        )))
    }

    fn take_notifications(&self, sink: &mut dyn FnMut(&str, &[u8])) -> Result<(), TransportError> {
        let Some(mut entered) = self.agent.try_enter() else { return Ok(()) };
        let Some(inside) = entered.inside() else { return Ok(()) };
        inside.take_notifications(sink).map_err(|e| failed("get_notifs", &e))
    }
}

impl fmt::Debug for NixlTransport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("NixlTransport")
            .field("agent", &self.agent.name())
            .field("peers", &self.peers().len())
            .finish_non_exhaustive()
    }
}

fn covers(loaded: &Loaded, span: &Span) -> bool {
    let (kind, device) = memory_kind(span.device);
    loaded.covers(wire_kind(kind), device, span.address, span.len)
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

fn failed(call: &'static str, error: &NixlError) -> TransportError {
    TransportError::Engine { engine: "nixl", call, reason: error.to_string().into() }
}
