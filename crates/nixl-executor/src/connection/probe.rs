//! Probe transfers: a small first transfer shows whether a path works before it carries all of an operation's bytes.
//!
//! The facts of the two sides only propose a path: a GPU may have opened memory that it cannot reach, and an engine may have
//! registered memory that its NIC cannot. So the first operation by such a path moves its first bytes alone, without a
//! notification. If that fails, the next path writes over them.

use std::task::{Context, Poll};

use nixl_device::SharedError;
use nixl_metadata::SerializedDescriptor;
use nixl_ops::{
    CompletionMode, Execution, PathKind, PathReport, PeerMemory, Transfer, TransferRequest,
    TransferSpec, TransportError, WaitFor,
};

use super::path_connection::{PathConnection, is_copied_by_owner};
use crate::planner::PathQuery;

/// How much is moved to see whether a path works. Operations of no more show it themselves.
pub(super) const PROBE: u64 = 64 * 1024;

impl PathConnection {
    /// The first bytes of a transfer by a path that has yet to show that it works. `None` if the path needs none: both
    /// sides take part in it, or the engine carries host memory.
    pub(super) fn probe(
        &self,
        kind: PathKind,
        query: &PathQuery,
        request: &TransferRequest<'_>,
    ) -> Result<Option<Box<dyn Execution>>, TransportError> {
        match kind {
            PathKind::CudaIpc if is_copied_by_owner(query) => Ok(None),
            PathKind::CudaIpc | PathKind::SharedMemory => {
                Ok(Some(Box::new(self.peer_copy(kind, query.local, request, PROBE)?)))
            }
            PathKind::GpuDirect => {
                let probe = first_of_engine(request)?;
                Ok(Some(WaitFor::before(probe, request.local().pending())))
            }
            _ => Ok(None),
        }
    }
}

/// The engine's own transfer of the first bytes.
struct EngineProbe {
    transfer: Box<dyn Transfer>,
    bytes: u64,
}

fn first_of_engine(request: &TransferRequest<'_>) -> Result<Box<EngineProbe>, TransportError> {
    let Some(route) = request.route() else { return Err(TransportError::Closed) };
    let pair = request.local().as_slice().first().zip(request.remote().descriptors().first());
    let bad = |reason: SharedError| TransportError::BadMetadata { reason };
    let (ours, theirs) = pair.ok_or_else(|| bad(SharedError::text("it offers nothing")))?;
    let len = ours.len().min(PROBE as usize);
    let ours = ours.slice(..len).map_err(|e| bad(e.into()))?;
    let theirs = SerializedDescriptor::new(theirs.device(), theirs.ptr(), len as u64)
        .map_err(|e| bad(e.into()))?;
    let transfer = route.transport().prepare(TransferSpec::new(
        request.kind(),
        route.peer(),
        (&[ours], request.leased()),
        &[theirs],
        None,
        route.registrations().clone(),
    )?)?;
    Ok(Box::new(EngineProbe { transfer, bytes: len as u64 }))
}

impl Execution for EngineProbe {
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), TransportError>> {
        self.transfer.poll(cx)
    }

    fn completion_mode(&self) -> CompletionMode {
        self.transfer.completion_mode()
    }

    fn abandon(&mut self) -> bool {
        !self.transfer.in_flight()
    }

    fn report(&self) -> PathReport {
        PathReport::new(PathKind::GpuDirect, "probe", self.bytes, 1)
    }

    fn peer_memory(&self) -> PeerMemory {
        PeerMemory::after(&*self.transfer)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::task::Waker;

    use nixl_connector::simulated::Fabric;
    use nixl_descriptor::{
        CacheLimits, DescriptorList, LeaseMode, Leases, Region, RegistrationCache,
    };
    use nixl_device::Device;
    use nixl_metadata::{AgentMetadata, NotificationKey, OperationKind, RdmaMetadata};
    use nixl_ops::SystemClock;

    use super::*;

    #[test]
    fn the_engine_moves_the_first_bytes_without_a_notification() {
        const LEN: usize = 100_000;
        let fabric = Fabric::new(Arc::new(SystemClock::new()));
        let (target, initiator) = (fabric.transport("target"), fabric.transport("initiator"));
        let caches = [&target, &initiator]
            .map(|side| RegistrationCache::new(side.registrar(), CacheLimits::default()));
        let theirs = Region::try_from(vec![7; LEN]).unwrap();
        let _offered = caches[0].get_or_register(&theirs).unwrap();
        let ours = Region::zeroed(LEN).unwrap();
        let registrations = vec![caches[1].get_or_register(&ours).unwrap()];
        let blob = target.local_metadata().unwrap();
        let peer = initiator.connect(&blob).unwrap().into_peer();
        let there = SerializedDescriptor::new(Device::HOST, theirs.address(), LEN as u64).unwrap();
        let (agent, key) = (AgentMetadata::compress(&blob).unwrap(), NotificationKey::random());
        let remote = RdmaMetadata::new(OperationKind::Read, vec![there], agent, key).unwrap();
        let local = DescriptorList::from(ours.whole());
        let leased = Leases::acquire_list(local.clone(), LeaseMode::Write).unwrap();
        let request = TransferRequest::inter_process(
            OperationKind::Read,
            (&local, &leased),
            &remote,
            &initiator,
            &peer,
            registrations,
        );
        let mut probe = first_of_engine(&request).unwrap();
        while probe.poll(&mut Context::from_waker(Waker::noop())).map(Result::unwrap).is_pending() {
        }
        drop((probe, leased));
        let bytes = ours.to_vec().unwrap();
        let (moved, rest) = bytes.split_at(PROBE as usize);
        assert!(moved.iter().all(|byte| *byte == 7) && rest.iter().all(|byte| *byte == 0));
        target.take_notifications(&mut |_, _| panic!("the target was told")).unwrap();
    }
}
