//! Memory of a peer that is being opened, on the connection's own thread.

use std::sync::{Arc, Mutex};

use nixl_device::locks::lock;

use crate::local::{SharedHandle, TransferBuffer};
use crate::remote_memory::{ImportCache, OwnerId, RemoteMemoryKey};
use crate::sessions::Sessions;

/// What comes of opening GPU memory of a peer, once it is known.
pub(super) struct Opening(Arc<Answer>);

type Answer = Mutex<Option<Result<Vec<Arc<dyn TransferBuffer>>, String>>>;

impl Opening {
    /// Has the allocations opened that `handles` name, which the peer's process has, for a GPU here. The driver of the connection is
    /// woken when it is known what came of it.
    pub(super) fn begin(
        sessions: &Sessions,
        imports: &Arc<ImportCache>,
        (peer, pid): (&str, Option<u32>),
        (gpu, handles): (u32, Vec<SharedHandle>),
    ) -> Self {
        let answer = Arc::new(Answer::default());
        let (reply, waker) = (Arc::clone(&answer), sessions.link().waker().clone());
        let (imports, peer) = (Arc::clone(imports), peer.to_owned());
        let is_queued = sessions.link().background().run_for_peer(Box::new(move || {
            let open = |handle| {
                let by = OwnerId { peer: &peer, pid };
                let opened = imports.open(&RemoteMemoryKey::Gpu(gpu, handle), by);
                opened.map_err(|error| error.to_string())
            };
            let all = handles.into_iter().map(open).collect();
            *lock(&reply) = Some(all);
            waker.wake();
        }));
        if !is_queued {
            let refused = "too many peers ask at once: ask again".to_owned();
            *lock(&answer) = Some(Err(refused));
            sessions.link().waker().wake_by_ref();
        }
        Self(answer)
    }

    /// The memory, or why it cannot be opened, once that is known.
    pub(super) fn take(&self) -> Option<Result<Vec<Arc<dyn TransferBuffer>>, String>> {
        lock(&self.0).take()
    }
}
