//! Shared memory: the peer's host memory, mapped by this process.

use nixl_ops::Medium;

use super::{Check, CheckResult, available, missing, not_applicable};
use crate::facts::ShareForm;
use crate::local::MemoryKind;

impl Check<'_> {
    pub(super) fn shared_memory(&self) -> CheckResult {
        if !self.query.remote.is_host() {
            return Err(not_applicable("the peer's memory is not host memory"));
        }
        self.same_host()?;
        self.opens_files()?;
        if self.peer.locality.process {
            return Err(missing(
                "the peer is in this very process, whose memory is not opened again",
            ));
        }
        if !self.here.ucx.shared_memory {
            return Err(missing("UCX_TLS allows no shared memory"));
        }
        if self.query.offered.share != Some(ShareForm::File) {
            return Err(missing("the peer did not share this memory"));
        }
        let medium = Some(Medium::SharedMemory);
        match self.query.local {
            MemoryKind::Gpu(ours) => {
                self.local_gpu(ours)?;
                available(
                    medium,
                    self.costs.shared_to_gpu,
                    "the GPU copies, through pinned slots; the memory is mapped here",
                )
            }
            _ => available(medium, self.costs.shared_to_host, "the peer's memory is mapped here"),
        }
    }
}
