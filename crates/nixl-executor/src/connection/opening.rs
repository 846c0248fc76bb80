//! The job that opens a peer's memory before an operation that may use it.

use std::collections::HashSet;
use std::sync::Arc;

use nixl_descriptor::{DescriptorList, Presence, SharedName};
use nixl_metadata::{RdmaMetadata, SlotAddress};
use nixl_ops::{PathPolicy, Preparation};

use super::path_connection::PathConnection;
use crate::remote_memory::{ImportError, OwnerId, RemoteMemoryKey};
use crate::transfers::owner_gone;

impl PathConnection {
    /// A job that opens the peer's memory, if a path that needs it is there.
    pub(super) fn opening(
        &self,
        local: &DescriptorList,
        remote: &RdmaMetadata,
    ) -> Option<Preparation> {
        let now = self.link.clock().now();
        let offered = self.offered(remote);
        let (path, wanted) = self.memory_key(local, remote, offered)?;
        let unopened: Vec<_> = wanted
            .filter(|memory_key| !self.imports.has(memory_key))
            .filter(|memory_key| match memory_key {
                RemoteMemoryKey::Gpu(..) => true,
                // A peer cannot have this process reach its own memory.
                RemoteMemoryKey::File(name) | RemoteMemoryKey::Pinned(name) => !name.is_own(),
            })
            .collect();
        if unopened.is_empty() || unopened.iter().any(|f| self.imports.refused.has(f, now)) {
            return None;
        }
        let distinct = || unopened.iter().collect::<HashSet<_>>().len();
        let most = self.imports.limits().pieces;
        if unopened.len() > most && distinct() > most {
            // They would close each other, and keep the connection's thread busy all the while.
            let reason = format!("{} pieces of memory are more than stay open: {most}", distinct());
            unopened
                .into_iter()
                .take(1)
                .for_each(|f| self.imports.refused.note(f, reason.clone(), now));
            return None;
        }
        let info = remote.peer()?;
        let sides = (local, remote);
        let query = self.query(remote.operation_kind(), sides, offered, PathPolicy::auto());
        let peer = self.watched(self.peers.of(info.agent_name()), Some(info));
        let (plan, history, _) = self.plan(&peer, Some(info), query, local.total_bytes());
        if !plan.available.iter().any(|available| available.kind == path)
            || history.in_cooldown(path).is_some()
        {
            return None;
        }
        let (imports, pid) = (Arc::clone(&self.imports), self.pid_here(info));
        let page = remote.slot_address().map(page_of);
        let foreign = self.foreign(info);
        Some(Box::new(move || {
            for memory_key in unopened {
                if let (Some(name), Some(process)) = (memory_key.name(), foreign)
                    && let Err(error) = name.note_owner(process)
                {
                    imports.refused.note(memory_key, error.to_string(), now);
                    break;
                }
                match imports.open(&memory_key, OwnerId { peer: peer.name(), pid }) {
                    Ok(_) => {}
                    // The peer is here, and its memory is not.
                    Err(ImportError::Absent)
                        if page.is_some_and(|page| page.presence() == Presence::Here)
                            || pid.is_some_and(|pid| imports.reaches(pid)) =>
                    {
                        return Err(owner_gone());
                    }
                    Err(error) => {
                        // The operation takes another path, and later ones with this memory do not try for a while.
                        imports.refused.note(memory_key, error.to_string(), now);
                        break;
                    }
                }
            }
            Ok(())
        }))
    }
}

/// The page of offer slots that a peer names.
fn page_of(address: &SlotAddress) -> SharedName {
    let file = address.file();
    SharedName { pid: file.pid(), fd: file.fd(), name: file.name(), len: file.length() }
}
