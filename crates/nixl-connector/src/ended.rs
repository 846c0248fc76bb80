//! Clean-up after the end of a peer's process or of its connection, and after a peer's announced end.

use std::sync::{Arc, Weak};

use nixl_descriptor::{ForeignProcess, SharedName};
use nixl_device::{ProcessError, ProcessExits};
use nixl_ops::{
    BlockingThread as _, ConnectionExecutor, Driver, OnLeaving, PeerId, RemoteSlots, Transport,
};

use crate::control::ControlThread;
use crate::peers::PeerTable;
use crate::work_thread::WorkThread;

/// The parts of a connection with state of peers, held weakly.
#[derive(Clone, Debug)]
pub(crate) struct PeerKnowledge {
    transport: Weak<dyn Transport>,
    executor: Weak<dyn ConnectionExecutor>,
    driver: Weak<Driver>,
    peers: Weak<PeerTable>,
    slots: Weak<RemoteSlots>,
    control: ControlThread,
    work: WorkThread,
}

/// The process of a peer on this host.
#[derive(Clone, Copy, Debug)]
pub(crate) enum PeerProcess {
    /// Of this number in this PID namespace.
    Here(u32),
    /// In another PID namespace, met through a rendezvous.
    Foreign(ForeignProcess),
}

impl PeerKnowledge {
    pub(crate) fn new(
        (transport, executor, driver): (
            &Arc<dyn Transport>,
            &Arc<dyn ConnectionExecutor>,
            &Arc<Driver>,
        ),
        peers: &Arc<PeerTable>,
        slots: &Arc<RemoteSlots>,
        (control, work): (&ControlThread, &WorkThread),
    ) -> Self {
        Self {
            transport: Arc::downgrade(transport),
            executor: Arc::downgrade(executor),
            driver: Arc::downgrade(driver),
            peers: Arc::downgrade(peers),
            slots: Arc::downgrade(slots),
            control: control.clone(),
            work: work.clone(),
        }
    }

    /// Drops the state of a peer on this host after the end of its process. Does not block.
    pub(crate) fn forget_at_exit(self, peer: &PeerId, process: PeerProcess) {
        let Some(peers) = self.peers.upgrade() else { return };
        let forget = {
            let of = peer.clone();
            move || {
                let work = self.work.clone();
                work.run(Box::new(move || self.forget(&of, process)));
            }
        };
        let pid = match process {
            PeerProcess::Here(pid) => pid,
            PeerProcess::Foreign(process) => {
                let watch = process.watch(forget);
                watch.into_iter().for_each(|watch| peers.watch(peer, watch));
                return;
            }
        };
        match ProcessExits::global().watch(pid, None, forget.clone()) {
            Ok(watch) => peers.watch(peer, watch),
            // The engine reports it at the next use.
            Err(ProcessError::NotThere { .. }) => forget(),
            Err(error @ ProcessError::Refused { .. }) => {
                tracing::warn!(%peer, %error, "the end of a peer's process will be noticed late");
                peers.watch_later(peer, pid);
            }
            Err(error) => {
                tracing::debug!(%peer, %error, "cannot watch the process of a peer; its end shows at the next transfer");
            }
        }
    }

    /// Lets a peer go at the end of its process, which has introduced itself by a message that named the process. The message may be
    /// forged, so nothing breaks with a peer that is there. Does not block.
    pub(crate) fn let_go_at_exit(&self, peer: &PeerId, pid: u32) {
        let Some(peers) = self.peers.upgrade() else { return };
        if peers.watches_introduced(peer) {
            return;
        }
        let (me, of) = (self.clone(), peer.clone());
        let let_go = move || {
            let control = me.control.clone();
            control.post(move || {
                me.let_go(&of);
                me.peers.upgrade().into_iter().for_each(|peers| peers.unwatch_introduced(&of));
            });
        };
        match ProcessExits::global().watch(pid, None, let_go) {
            Ok(watch) => peers.watch_introduced(peer, watch),
            Err(error) => tracing::debug!(%peer, %error, "the process of a peer is not watched"),
        }
    }

    /// *Blocking.* Drops the state of a peer whose process has ended. What is the engine's waits for the connection's thread, which may
    /// be in a connect.
    fn forget(&self, peer: &PeerId, process: PeerProcess) {
        let pid = match process {
            PeerProcess::Here(pid) => Some(pid),
            PeerProcess::Foreign(_) => None,
        };
        if let Some(peers) = self.peers.upgrade() {
            if peers.remove(peer) {
                tracing::info!(%peer, "peer lost");
            }
            pid.into_iter().for_each(|pid| peers.unwatch_lost(pid));
        }
        if let (Some(slots), Some(pid)) = (self.slots.upgrade(), pid) {
            slots.close_of(pid);
        }
        if let Some(driver) = self.driver.upgrade() {
            driver.peer_ended(peer, pid);
        }
        self.tell_executor(peer);
        let (transport, peer) = (Weak::clone(&self.transport), peer.clone());
        self.control.post(move || {
            if let Some(transport) = transport.upgrade() {
                transport.peer_ended(&peer);
            }
        });
    }

    /// The engine has found a peer's connection dead, and has forgotten it: what else is kept for the peer goes soon. Its process may
    /// live, and has its page of slots open then. Does not block.
    pub(crate) fn lose_soon(&self, peer: &PeerId) {
        let (me, peer) = (self.clone(), peer.clone());
        self.work.run(Box::new(move || {
            if me.peers.upgrade().is_some_and(|peers| peers.remove_lost(&peer)) {
                tracing::info!(%peer, "the connection to a peer is lost");
            }
            me.tell_executor(&peer);
        }));
    }

    /// The owner of a page of slots has ended, whether or not it was a peer. Does not block.
    pub(crate) fn close_soon(&self, page: SharedName) {
        let slots = Weak::clone(&self.slots);
        self.work.run(Box::new(move || {
            slots.upgrade().into_iter().for_each(|slots| slots.close(&page));
        }));
    }

    fn tell_executor(&self, peer: &PeerId) {
        if let Some(executor) = self.executor.upgrade()
            && let Some(service) = executor.peers()
        {
            service.peer_ended(peer);
        }
    }
}

/// Peers that announced their end. The message is a hint, and may be forged: a peer without a running operation is forgotten,
/// once.
#[derive(Debug)]
pub(crate) struct Leavers {
    knowledge: PeerKnowledge,
}

impl Leavers {
    pub(crate) fn new(knowledge: PeerKnowledge) -> Self {
        Self { knowledge }
    }

    /// Runs a job soon, unless too many wait.
    fn run(&self, job: impl FnOnce(PeerKnowledge) + Send + 'static) {
        let knowledge = self.knowledge.clone();
        let _ = self.knowledge.control.run_for_peer(Box::new(move || job(knowledge)));
    }
}

impl OnLeaving for Leavers {
    fn leaves(&self, peer: PeerId) -> bool {
        if !self.knowledge.peers.upgrade().is_some_and(|peers| peers.note_leaving(&peer)) {
            return false;
        }
        self.run(move |knowledge| knowledge.let_go(&peer));
        true
    }

    fn look(&self) {
        self.run(|knowledge| knowledge.close_released());
    }
}

impl PeerKnowledge {
    /// *Blocking.* Has the engine forget a peer with which nothing is under way. No memory comes back by this.
    fn let_go(&self, peer: &PeerId) {
        let (Some(transport), Some(peers)) = (self.transport.upgrade(), self.peers.upgrade())
        else {
            return;
        };
        if transport.disconnect(peer).is_err() {
            return;
        }
        if peers.remove(peer) {
            tracing::info!(%peer, "a peer has left");
        }
        if let Some(executor) = self.executor.upgrade()
            && let Some(service) = executor.peers()
        {
            service.peer_leaves(peer);
        }
    }

    /// *Blocking.* Closes the memory that peers have released, by the system's notices.
    fn close_released(&self) {
        if let Some(slots) = self.slots.upgrade() {
            slots.sweep();
        }
        if let Some(executor) = self.executor.upgrade()
            && let Some(service) = executor.peers()
        {
            service.look_for_released();
        }
    }
}
