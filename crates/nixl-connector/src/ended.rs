//! Clean-up after the end of a peer's process.

use std::sync::{Arc, Weak};

use nixl_device::{ProcessError, ProcessExits};
use nixl_ops::{ConnectionExecutor, PeerId, RemoteSlots, Transport};

use crate::control::ControlThread;
use crate::peers::PeerTable;

/// The parts of a connection that know peers. It does not keep them.
#[derive(Clone, Debug)]
pub(crate) struct PeerKnowledge {
    transport: Weak<dyn Transport>,
    executor: Weak<dyn ConnectionExecutor>,
    peers: Weak<PeerTable>,
    slots: Weak<RemoteSlots>,
    control: ControlThread,
}

impl PeerKnowledge {
    pub(crate) fn new(
        (transport, executor): (&Arc<dyn Transport>, &Arc<dyn ConnectionExecutor>),
        peers: &Arc<PeerTable>,
        slots: &Arc<RemoteSlots>,
        control: &ControlThread,
    ) -> Self {
        Self {
            transport: Arc::downgrade(transport),
            executor: Arc::downgrade(executor),
            peers: Arc::downgrade(peers),
            slots: Arc::downgrade(slots),
            control: control.clone(),
        }
    }

    /// Forgets a peer that says that it leaves.
    pub(crate) fn forget_soon(self, peer: PeerId) {
        let control = self.control.clone();
        control.post(move || self.forget(&peer, None));
    }

    /// Forgets a peer of this host once its process has ended.
    pub(crate) fn forget_at_exit(self, peer: &PeerId, pid: u32) {
        let Some(peers) = self.peers.upgrade() else { return };
        let (knowledge, of) = (self, peer.clone());
        let on_exit = {
            let knowledge = knowledge.clone();
            move || {
                let control = knowledge.control.clone();
                control.post(move || knowledge.forget(&of, Some(pid)));
            }
        };
        match ProcessExits::global().watch(pid, None, on_exit) {
            Ok(watch) => peers.watch(peer, watch),
            // The engine will tell when it is used next.
            Err(ProcessError::NotThere { .. }) => knowledge.forget(peer, Some(pid)),
            Err(error) => tracing::debug!(%peer, %error, "the end of a peer will not be noticed"),
        }
    }

    /// *Blocking.* `pid` is its process, if that is of this host and has ended.
    fn forget(&self, peer: &PeerId, pid: Option<u32>) {
        if let Some(peers) = self.peers.upgrade()
            && peers.remove(peer)
        {
            tracing::info!(%peer, "a peer is lost");
        }
        if let (Some(slots), Some(pid)) = (self.slots.upgrade(), pid) {
            slots.close_of(pid);
        }
        if let Some(executor) = self.executor.upgrade()
            && let Some(service) = executor.peers()
        {
            service.peer_ended(peer);
        }
        if let Some(transport) = self.transport.upgrade() {
            transport.peer_ended(peer);
        }
    }
}
