//! CUDA IPC by the target's GPU, which copies this process's memory.

use nixl_ops::Medium;

use super::sides::Link;
use super::{Check, CheckResult, Missing, available, missing, supports_version};
use crate::facts::{REMOTE_COPY, REMOTE_COPY_OF_GPUS, REMOTE_COPY_OF_PIECES};
use crate::local::MemoryKind;
use crate::planner::Export;

impl Check<'_> {
    /// GPU memory of this side and host memory of the peer, whose GPU copies.
    pub(super) fn remote_copy(&self) -> CheckResult {
        self.opened_there()?;
        if let MemoryKind::Gpu(ours) = self.query.local {
            self.local_gpu(ours)?;
        }
        if let Export::Without(kind) = self.query.export {
            return Err(missing(format!(
                "no other process can open the memory of this side: {kind}"
            )));
        }
        self.copies_for_others()?;
        if self.peer.gpus.is_empty() {
            return Err(missing("the peer has no GPU that could copy"));
        }
        available(Some(Medium::Gpu), self.costs.ipc_remote_copy, "the peer's GPU copies")
    }

    /// GPU memory of the peer that no other process can open, and GPU memory of this side that the peer can.
    pub(super) fn remote_copy_of_gpus(&self, theirs: u32) -> CheckResult {
        self.opened_there()?;
        if !self.peer.ipc {
            return Err(missing("the peer shares no GPU memory"));
        }
        let MemoryKind::Gpu(ours) = self.query.local else {
            return Err(missing("no other process can open the peer's memory"));
        };
        self.exported()?;
        self.copies_for_others()?;
        if self.peer.versions.remote_copy() < REMOTE_COPY_OF_GPUS {
            return Err(missing(
                "no other process can open the peer's memory, and the peer's release copies for others to and from host memory alone",
            ));
        }
        let medium = Some(Medium::Gpu);
        match self.gpus(ours, self.peer.gpu(theirs))? {
            Link::Same => available(
                medium,
                self.costs.remote_copy_same_gpu,
                "the peer copies; both are on one GPU",
            ),
            Link::Reach => {
                available(medium, self.costs.remote_copy_other_gpu, "the peer's GPU copies")
            }
            Link::Unknown => available(
                medium,
                self.costs.remote_copy_other_gpu,
                "the peer's GPU copies; it is not visible here, and unproven",
            ),
        }
    }

    /// Whether the peer can open the memory of this side, where it is asked to since the peer's own cannot be opened.
    fn exported(&self) -> Result<(), Missing> {
        const NEITHER: &str = "no other process can open the memory of either side";
        match self.query.export {
            Export::ByHandle | Export::ByPieces => Ok(()),
            Export::Without(kind) => Err(missing(format!("{NEITHER}: this side's is {kind}"))),
            Export::Unknown => Err(missing(NEITHER)),
        }
    }

    /// Whether the peer opens handles as those of this side's memory.
    fn opened_there(&self) -> Result<(), Missing> {
        if self.query.export != Export::ByPieces {
            return self.opens_handles();
        }
        // The end of the peer's process is a proof, for which it is watched by its number.
        self.same_host()?;
        self.same_pid_namespace()?;
        self.opens_pieces()?;
        match self.peer.versions.remote_copy() >= REMOTE_COPY_OF_PIECES {
            true => Ok(()),
            false => Err(missing("the peer's release opens no memory piece by piece")),
        }
    }

    fn copies_for_others(&self) -> Result<(), Missing> {
        if !(self.peer.ipc && self.peer.staging) {
            return Err(missing("the peer does not say that its GPU copies for others"));
        }
        // The metadata's name of these messages.
        supports_version("remote copies", self.peer.versions.remote_copy(), REMOTE_COPY)
    }
}
