//! The export of this agent's metadata.
//!
//! NIXL exports all registered memory; a peer needs that of one offer. If NIXL's keys have no content, an offer carries its own
//! memories alone, and its size and cost do not depend on other registrations. If they have, it carries all memories: a peer
//! takes the missing ones as withdrawn.

use bytes::Bytes;
use nixl_descriptor::{RegionSpan, Registration};
use nixl_sys::{MemType, NixlError, RegDescList};

use super::agent::Inside;
use super::blob::Blob;
use super::registrar::memory_kind;

impl Inside {
    /// Metadata of these registered memories alone. `None` if it has to cover all registered memory.
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

/// A blob with the connection details of one and the memories of the others. `None` if one of the keys has content.
fn combined(details: &[u8], parts: &[Vec<u8>]) -> Option<Bytes> {
    let mut blob = Blob::parse(details).ok()?;
    blob.memories.clear();
    for part in parts {
        blob.memories.extend(Blob::parse(part).ok()?.memories);
    }
    let all_empty = blob.memories.iter().all(|memory| memory.has_empty_key());
    all_empty.then(|| blob.encode().into())
}
