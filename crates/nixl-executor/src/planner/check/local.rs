//! Copies within this process.

use super::{Check, CheckResult, available, missing, not_applicable};

impl Check<'_> {
    pub(super) fn same_process_copy(&self) -> CheckResult {
        if !self.query.offered.ours {
            return Err(not_applicable("the peer is another process"));
        }
        if !self.all_host() {
            return Err(not_applicable("the processor cannot reach GPU memory"));
        }
        available(None, self.costs.memcpy, "both sides are host memory of this process")
    }

    pub(super) fn local(&self) -> CheckResult {
        if !self.query.offered.ours {
            return Err(not_applicable("the peer is another process"));
        }
        if self.all_host() {
            return Err(not_applicable("no GPU takes part"));
        }
        for ordinal in [self.local_ordinal(), self.remote_ordinal()].into_iter().flatten() {
            if self.here.gpu(ordinal).is_none() {
                return Err(missing(self.no_gpu(ordinal)));
            }
        }
        available(None, self.costs.local, "both sides are memory of this process")
    }
}
