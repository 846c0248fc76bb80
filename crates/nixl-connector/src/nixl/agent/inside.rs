//! NIXL's state for an agent, which only the thread inside the gate reaches.
#![allow(
    unsafe_code,
    reason = "a notification map may move between threads, which its type does not declare"
)]

use bytes::Bytes;
use nixl_sys::{
    Backend, NixlError, NotificationMap, OptArgs, RegistrationHandle, XferDescList,
    XferDlistHandle, XferOp, XferRequest,
};
use slab::Slab;

/// Behind the gate: all of NIXL's state for the agent, so it can be destroyed while other threads hold the parts. Field order:
/// pointers into the agent drop before it.
pub(in super::super) struct Inside {
    /// Posted, unfinished requests.
    pub(in super::super) requests: Slab<XferRequest>,
    /// Lists that requests are made of: of this side, and of a peer.
    pub(super) lists: Slab<Movable<[XferDlistHandle; 2]>>,
    pub(in super::super) registered: Slab<RegistrationHandle>,
    pub(super) notifications: Option<Movable<NotificationMap>>,
    /// Metadata with the agent's connection details, which never change.
    pub(in super::super) details: Bytes,
    pub(in super::super) backends: Vec<Backend>,
    pub(in super::super) agent: nixl_sys::Agent,
    /// So many posts report a failure after they have begun.
    #[cfg(test)]
    pub(in super::super) failing_posts: usize,
}

pub(super) struct Movable<T>(T);

// SAFETY: the map owns a heap object of the C API that has no tie to the thread
// that made it; it is used and dropped by one thread at a time, behind the gate.
unsafe impl Send for Movable<NotificationMap> {}

// SAFETY: the handles own heap objects of the C API that have no tie to the thread that made them, and point to the agent, which
// is dropped after them; they are used and dropped by one thread at a time, behind the gate.
unsafe impl Send for Movable<[XferDlistHandle; 2]> {}

impl Inside {
    /// Posts a request. Returns whether it is in flight.
    pub(in super::super) fn post(&mut self, request: &XferRequest) -> Result<bool, NixlError> {
        let posted = self.agent.post_xfer_req(request, None)?;
        #[cfg(test)]
        if let Some(left) = self.failing_posts.checked_sub(1) {
            self.failing_posts = left;
            return Err(NixlError::BackendError);
        }
        Ok(posted)
    }

    /// The backend of a call, or none to leave the choice to NIXL.
    pub(in super::super) fn only_backend(&self) -> Option<&Backend> {
        match &*self.backends {
            [only] => Some(only),
            _ => None,
        }
    }

    /// Has NIXL prepare a list of this side, and one of a peer, each with the name of its agent. Returns their place.
    pub(in super::super) fn prepare_lists(
        &mut self,
        (me, local): (&str, &XferDescList<'_>),
        (peer, remote): (&str, &XferDescList<'_>),
    ) -> Result<usize, NixlError> {
        let local = self.agent.prepare_xfer_dlist(me, local, None)?;
        let remote = self.agent.prepare_xfer_dlist(peer, remote, None)?;
        Ok(self.lists.insert(Movable([local, remote])))
    }

    /// Makes a request of positions in the lists at a place. `None` if they are gone.
    pub(in super::super) fn request_of_lists(
        &self,
        kind: XferOp,
        place: usize,
        (local, remote): (&[i32], &[i32]),
        options: Option<&OptArgs>,
    ) -> Option<Result<XferRequest, NixlError>> {
        let Movable([ours, theirs]) = self.lists.get(place)?;
        Some(self.agent.make_xfer_req(kind, ours, local, theirs, remote, options))
    }

    /// Releases the lists at a place.
    pub(in super::super) fn release_lists(&mut self, place: usize) {
        drop(self.lists.try_remove(place));
    }

    /// Takes the notifications that have arrived, if there are any, also of a poll that failed.
    pub(in super::super) fn take_notifications(
        &mut self,
    ) -> (Option<NotificationMap>, Result<(), NixlError>) {
        // The binding cannot clear a map that holds a payload it cannot read, so a map is used until it is
        // first filled.
        let mut map = match self.notifications.take() {
            Some(map) => map.0,
            None => match NotificationMap::new() {
                Ok(map) => map,
                Err(error) => return (None, Err(error)),
            },
        };
        let result = self.agent.get_notifications(&mut map, None);
        if map.is_empty().unwrap_or(true) {
            self.notifications = Some(Movable(map));
            return (None, result);
        }
        (Some(map), result)
    }
}
