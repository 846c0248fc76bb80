//! The end of a peer: the watch of its process, and the removal of its state.

use std::sync::{Arc, Weak};

use nixl_device::{ExitWatch, ProcessError, ProcessExits};
use nixl_metadata::PeerInfo;
use nixl_ops::BlockingThread;

use super::path_connection::PathConnection;
use crate::peers::Peer;

impl PathConnection {
    /// The peer, which describes itself so. The first time that it does, its process is watched if that is one of this PID
    /// namespace.
    pub(super) fn watched(&self, peer: Arc<Peer>, info: Option<&PeerInfo>) -> Arc<Peer> {
        if let Some(info) = info {
            peer.watch(|| match self.pid_here(info) {
                Some(pid) => self.watch(peer.name(), pid),
                None => Ok(None),
            });
        }
        peer
    }

    fn watch(&self, name: &str, pid: u32) -> Result<Option<(u32, ExitWatch)>, ProcessError> {
        if pid == std::process::id() {
            return Ok(None);
        }
        let (me, work, of) = (Weak::clone(&self.me), Arc::clone(self.link.work()), name.to_owned());
        let ended = move || forget_on(&*work, me, of);
        let watch = ProcessExits::global().watch(pid, None, ended);
        let watch = watch.inspect_err(|error| {
            // It has ended already, which the operation finds out, or there are no descriptors left.
            tracing::debug!(%error, "a peer's process is not watched");
            if matches!(error, ProcessError::NotThere { .. }) {
                self.forget_soon(name);
            }
        });
        watch.map(|watch| Some((pid, watch)))
    }

    /// The peer's process has ended, or its connection is dead: a job forgets it.
    pub(super) fn forget_soon(&self, peer: &str) {
        forget_on(&**self.link.work(), Weak::clone(&self.me), peer.to_owned());
    }

    /// The peer announces its end. Its state is of no use if that is true and is made again if not, but for sessions:
    /// those end by themselves or with its process.
    pub(super) fn leaves(&self, peer: &str) {
        if !self.services.sessions.has_peer(peer) {
            self.peers.forget(peer);
        }
        self.imports.sweep_soon();
    }

    /// *Blocking.* The peer is gone: what is kept for it goes, but for what operations under way use.
    fn forget(&self, peer: &str) {
        self.peers.forget(peer);
        self.services.sessions.peer_gone(peer);
        self.imports.close_of(peer);
    }

    /// The process of a peer, if its number means the same process here.
    pub(super) fn pid_here(&self, info: &PeerInfo) -> Option<u32> {
        let host = self.facts.host.as_ref()?;
        host.same_pid_namespace(info.host()).then(|| info.host().pid())
    }
}

fn forget_on(work: &dyn BlockingThread, connection: Weak<PathConnection>, peer: String) {
    work.run(Box::new(move || {
        connection.upgrade().into_iter().for_each(|connection| connection.forget(&peer));
    }));
}
