//! The export of this agent's metadata.
//!
//! NIXL exports all that is registered. A peer needs the memory of one offer: so where NIXL's keys say nothing of memory, an
//! offer carries its own memories alone, and its size and cost do not depend on what else is registered. Where keys do, it
//! carries them all: a peer tells from what is missing which of them were withdrawn.

use bytes::Bytes;
use nixl_descriptor::{RegionSpan, Registration};
use nixl_sys::{MemType, NixlError, RegDescList};

use super::agent::Inside;
use super::blob::Blob;
use super::registrar::memory_kind;

impl Inside {
    /// Metadata that covers these memories, which are registered, and says nothing of others. `None` if it takes all that is
    /// registered.
    pub(super) fn metadata_of(
        &self,
        memories: &[Registration],
    ) -> Result<Option<Bytes>, NixlError> {
        let mut parts = Vec::with_capacity(1);
        for kind in [MemType::Dram, MemType::Vram] {
            let mut list = RegDescList::new(kind)?;
            let of_kind = |span: &&RegionSpan| memory_kind(span.device()).0 == kind;
            let mut spans = memories.iter().map(Registration::span).filter(of_kind).peekable();
            if spans.peek().is_none() {
                continue;
            }
            for span in spans {
                let (_, device) = memory_kind(span.device());
                list.add_desc(span.address() as usize, span.len(), device);
            }
            parts.push(self.agent.get_local_partial_md(&list, None)?);
        }
        Ok(combined(&self.details, &parts))
    }
}

/// One blob of the connection details of one and the memories of others. `None` if one of the keys says something of its memory.
fn combined(details: &[u8], parts: &[Vec<u8>]) -> Option<Bytes> {
    let mut blob = Blob::parse(details).ok()?;
    blob.memories.clear();
    for part in parts {
        blob.memories.extend(Blob::parse(part).ok()?.memories);
    }
    let all_empty = blob.memories.iter().all(|memory| memory.has_empty_key());
    all_empty.then(|| blob.encode().into())
}
