//! A transfer to or from GPU memory that a peer shares.

use std::mem;
use std::sync::Arc;
use std::task::{Poll, ready};
use std::time::Duration;

use nixl_metadata::{NotificationKey, OperationKind, RdmaMetadata, ShareKind};
use nixl_ops::{
    Execution, PathKind, PathReport, PeerId, TransferRequest, Transport, TransportError,
};

use super::Imports;
use crate::local::{Buffer, CopyOp, ListCopy, MemoryKind, Strategy, StrategyPolicy, Tools};
use crate::paths::LocalFacts;

/// Which GPU here copies, and the number here of the GPU whose memory the peer shares, if it has one.
pub(crate) fn copier(
    here: &LocalFacts,
    local: MemoryKind,
    remote: &RdmaMetadata,
) -> (u32, Option<u32>) {
    let device = remote.descriptors().first().map(|d| d.device());
    let devices = remote.peer().map_or(&[][..], |peer| peer.devices());
    let uuid = devices.iter().find(|d| Some(d.device()) == device).and_then(|d| d.uuid());
    let theirs = uuid.and_then(|uuid| here.gpu_with(uuid)).map(|gpu| gpu.ordinal);
    match local {
        MemoryKind::Gpu(gpu) => (gpu, theirs),
        _ => (theirs.unwrap_or(0), theirs),
    }
}

/// A copy by this process's GPU, and a word to the peer at its end.
pub(crate) struct IpcCopy {
    stage: Stage,
    copy: ListCopy,
    /// Open as long as the GPU may use it. Field order: after the copy.
    imports: Vec<Arc<dyn Buffer>>,
    transport: Arc<dyn Transport>,
    peer: PeerId,
    key: NotificationKey,
}

#[derive(Clone, Copy, Eq, PartialEq)]
enum Stage {
    Copying,
    /// The bytes are in place.
    Telling,
    Ended,
}

impl IpcCopy {
    /// Prepares the copy. All descriptors of `request.remote` are in shares that are open.
    pub(crate) fn new(
        request: &TransferRequest<'_>,
        local: MemoryKind,
        here: &LocalFacts,
        imports: &Imports,
        tools: &Tools,
    ) -> Result<Self, TransportError> {
        let Some(route) = &request.route else { return Err(TransportError::Closed) };
        let (gpu, theirs) = copier(here, local, request.remote);
        let mut opened: Vec<Arc<dyn Buffer>> = Vec::new();
        let mut ops = Vec::with_capacity(request.local.len());
        let mut last = None;
        for (index, ours) in request.local.iter().enumerate() {
            let (share, offset) = request
                .remote
                .share_of(index)
                .ok_or_else(|| failed("open", format!("descriptor {index} is not shared")))?;
            let ShareKind::CudaIpc { handle, .. } = share.kind() else {
                return Err(failed("open", format!("descriptor {index} is no shared GPU memory")));
            };
            let base = match last {
                Some((known, base)) if known == handle => base,
                _ => {
                    let memory = imports.get(gpu, handle).ok_or_else(|| {
                        failed("open", "the peer's memory could not be opened here")
                    })?;
                    let base = memory.address();
                    opened.push(memory);
                    last = Some((handle, base));
                    base
                }
            };
            // Inside the shared memory, which the metadata and the driver checked.
            let theirs = base.wrapping_add(offset);
            let len = ours.len() as u64;
            ops.push(match request.kind {
                OperationKind::Read => CopyOp { src: theirs, dst: ours.address(), len },
                OperationKind::Write => CopyOp { src: ours.address(), dst: theirs, len },
            });
        }
        let remote = MemoryKind::Gpu(theirs.unwrap_or(gpu));
        let kinds = match request.kind {
            OperationKind::Read => (remote, local),
            OperationKind::Write => (local, remote),
        };
        // What the peer shares is open for one GPU only.
        let policy = StrategyPolicy::Forbid(vec![Strategy::ThroughPinned]);
        let kinds = match local {
            // Through a ring, the GPU that copies is that of the kind.
            MemoryKind::Gpu(_) => kinds,
            _ => on(kinds, gpu),
        };
        let copy = ListCopy::new(&ops, kinds, &policy, Some(gpu), tools)
            .map_err(|e| failed("plan", e.to_string()))?;
        Ok(Self {
            stage: Stage::Copying,
            copy,
            imports: opened,
            transport: Arc::clone(route.transport),
            peer: route.peer.clone(),
            key: request.remote.notification_key().clone(),
        })
    }
}

/// The same with the GPU's side on `gpu`.
fn on((src, dst): (MemoryKind, MemoryKind), gpu: u32) -> (MemoryKind, MemoryKind) {
    let on = |kind| if matches!(kind, MemoryKind::Gpu(_)) { MemoryKind::Gpu(gpu) } else { kind };
    (on(src), on(dst))
}

impl Execution for IpcCopy {
    fn poll(&mut self) -> Poll<Result<(), TransportError>> {
        if self.stage == Stage::Copying {
            let copied = ready!(self.copy.poll());
            self.stage = if copied.is_ok() { Stage::Telling } else { Stage::Ended };
            copied?;
        }
        if self.stage == Stage::Telling {
            let told = ready!(self.transport.notify(&self.peer, self.key.as_bytes()));
            self.stage = Stage::Ended;
            told.map_err(|error| TransportError::NotificationFailed {
                reason: error.to_string().into(),
            })?;
        }
        Poll::Ready(Ok(()))
    }

    fn abandon(&mut self) -> bool {
        self.stage != Stage::Copying || self.copy.abandon()
    }

    fn report(&self) -> PathReport {
        let mut report = self.copy.report();
        report.kind = PathKind::CudaIpc;
        report
    }

    fn expected(&self) -> Option<Duration> {
        self.copy.expected()
    }

    fn steps(&self) -> u64 {
        self.copy.steps()
    }
    fn posts_quickly(&self) -> bool {
        true
    }
}

impl Drop for IpcCopy {
    fn drop(&mut self) {
        // In flight only if the GPU never became quiet: then it may still use what is open.
        if self.stage == Stage::Copying && !self.copy.abandon() {
            mem::forget(mem::take(&mut self.imports));
        }
    }
}

fn failed(call: &'static str, reason: impl Into<std::borrow::Cow<'static, str>>) -> TransportError {
    TransportError::Engine { engine: "cuda-ipc", call, reason: reason.into() }
}
