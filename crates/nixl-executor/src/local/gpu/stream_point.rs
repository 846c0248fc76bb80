//! Order after the work of a caller's CUDA stream.

use std::any::Any;
use std::fmt;
use std::sync::Arc;

use nixl_descriptor::{Dependency, DependencyError, QueuedFunction, WorkQueue};

use super::gpu_backend::{GpuBackend, GpuEvent, GpuStream, StreamHandle};
use crate::local::GpuError;

/// A point after all work that a caller's stream had queued at its creation.
///
/// Memory that is offered or moved [after](nixl_descriptor::DescriptorList::after) it waits for that work: a GPU that copies
/// the memory waits by itself, without the processor; an offer, and everything else, begins after the work.
pub struct StreamPoint {
    event: Box<dyn GpuEvent>,
}

impl StreamPoint {
    /// A point after the work that `stream`, of this GPU, has queued so far. The stream is not used afterwards.
    ///
    /// # Errors
    ///
    /// [`GpuError`] if there is no such GPU, or the stream is not of its primary context, or captures a graph.
    pub(crate) fn new(
        gpus: &dyn GpuBackend,
        gpu: u32,
        stream: StreamHandle,
    ) -> Result<Arc<Self>, GpuError> {
        Ok(Arc::new(Self { event: gpus.record_event_on(gpu, stream)? }))
    }
}

/// A caller's stream as an ordered queue for the begin, end and readiness of grants: see
/// [`Grant::end_on`](nixl_connector::Grant::end_on). Make it with
/// [`PathExecutor::stream_queue`](crate::PathExecutor::stream_queue).
pub struct StreamQueue {
    gpus: Arc<dyn GpuBackend>,
    gpu: u32,
    stream: StreamHandle,
}

impl StreamQueue {
    pub(crate) fn new(gpus: &Arc<dyn GpuBackend>, gpu: u32, stream: StreamHandle) -> Arc<Self> {
        Arc::new(Self { gpus: Arc::clone(gpus), gpu, stream })
    }
}

impl WorkQueue for StreamQueue {
    fn call(&self, function: QueuedFunction) -> Result<(), DependencyError> {
        let queued = self.gpus.call_on(self.gpu, self.stream, function);
        queued.map_err(DependencyError::caused_by)
    }
}

impl fmt::Debug for StreamQueue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("StreamQueue").field("gpu", &self.gpu).finish_non_exhaustive()
    }
}

/// Whether all of the work is of streams, for which a stream can wait.
pub(crate) fn is_of_streams(pending: &[Arc<dyn Dependency>]) -> bool {
    pending.iter().all(|work| point(work).is_some())
}

/// Makes the stream wait for the work of streams.
///
/// # Errors
///
/// [`GpuError`] if it cannot.
pub(crate) fn order(
    gpu_stream: &mut dyn GpuStream,
    pending: &[Arc<dyn Dependency>],
) -> Result<(), GpuError> {
    pending.iter().filter_map(point).try_for_each(|point| gpu_stream.wait_event(&*point.event))
}

fn point(work: &Arc<dyn Dependency>) -> Option<&StreamPoint> {
    (&**work as &dyn Any).downcast_ref()
}

impl Dependency for StreamPoint {
    fn is_done(&self) -> Result<bool, DependencyError> {
        self.event.is_complete().map_err(DependencyError::caused_by)
    }
}

impl fmt::Debug for StreamPoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("StreamPoint").field("done", &self.event.is_complete().ok()).finish()
    }
}
