//! Plain nixl-sys as a program with standing lists uses it: `prepare_xfer_dlist` once for all chunks of both sides, then
//! `make_xfer_req` with the indices of some, `post_xfer_req` and a loop of `get_xfer_status`. No notification.

use anyhow::{Context as _, Result};
use nixl_sys::{Agent, MemType, XferDescList, XferDlistHandle, XferOp, XferRequest};

/// Chunks of both sides that an agent knows. To be dropped before its agent.
pub(crate) struct Prepared {
    local: XferDlistHandle,
    remote: XferDlistHandle,
}

impl Prepared {
    /// Chunks are host memory: address and length.
    pub(crate) fn new(
        agent: &Agent,
        local: &[(u64, usize)],
        (peer, remote): (&str, &[(u64, usize)]),
    ) -> Result<Self> {
        /// NIXL's name for the side that begins.
        const INITIATOR: &str = "";
        let prepare = |name: &str, chunks: &[(u64, usize)]| {
            let mut list = XferDescList::new(MemType::Dram)?;
            for &(address, len) in chunks {
                list.add_desc(address as usize, len, 0);
            }
            agent.prepare_xfer_dlist(name, &list, None).context("nixl-sys: prepare_xfer_dlist")
        };
        Ok(Self { local: prepare(INITIATOR, local)?, remote: prepare(peer, remote)? })
    }

    /// Makes and posts a read of remote chunks into local ones. The flag says whether it is still on its way.
    pub(crate) fn read(
        &self,
        agent: &Agent,
        local: &[i32],
        remote: &[i32],
    ) -> Result<(XferRequest, bool)> {
        let request = agent
            .make_xfer_req(XferOp::Read, &self.local, local, &self.remote, remote, None)
            .context("nixl-sys: make_xfer_req")?;
        let pending = agent.post_xfer_req(&request, None).context("nixl-sys: post_xfer_req")?;
        Ok((request, pending))
    }
}
