//! Operations between two memories of this process: the other side is an offer of its own.
//!
//! Host memory is copied by the processor ([`memcpy`]), memory of GPUs by the strategies of blocks ([`list_copy`]).

mod direct;
mod list_copy;
mod memcpy;
mod table;

use nixl_descriptor::DescriptorList;
use nixl_device::{Device, DeviceKind, SharedError};
use nixl_metadata::RdmaMetadata;
use nixl_ops::{
    ConnectionExecutor, EndedOffer, Execution, Offer, PathKind, Rejected, TransferRequest,
    TransportError,
};

use super::{CopyContext, GpuBackend, kind_of};
pub use direct::DirectExecutor;
use list_copy::OfferCopy;
pub(crate) use table::ProcessOffers;

/// Whether the other side is an offer of this process, and copies here reach both sides.
pub(crate) fn is_local(
    local: &DescriptorList,
    remote: &RdmaMetadata,
    gpus: &dyn GpuBackend,
) -> bool {
    let Some(offer) = ProcessOffers::get().find(remote.notification_key()) else {
        return false;
    };
    let theirs = offer.descriptors();
    if is_host(local) && is_host(theirs) {
        return true;
    }
    let reached = |list: &DescriptorList| {
        list.iter().all(|d| d.device().is_host() || can_access(gpus, d.device()))
            && kind_of(list, gpus).is_some()
    };
    reached(local) && reached(theirs)
}

/// Prepares a copy between local memory and an offer of this process.
///
/// # Errors
///
/// The policy forbids it, the offer has ended, or there is no copy between these memories.
pub(crate) fn begin(
    request: &TransferRequest<'_>,
    context: &CopyContext,
) -> Result<Box<dyn Execution>, TransportError> {
    let offer = ProcessOffers::get().find(request.remote().notification_key());
    let host = |offer: &Offer| is_host(offer.descriptors());
    if is_host(request.local()) && offer.as_ref().is_none_or(host) {
        return DirectExecutor::new().execute(request.clone());
    }
    let kind = PathKind::Local("local");
    if let Err(reason) = request.policy().check(kind, None, None) {
        return Err(TransportError::NoPath { rejected: vec![Rejected::new(kind, reason)] });
    }
    let ended = |why| TransportError::OfferEnded { why };
    let offer = offer.ok_or_else(|| ended(EndedOffer::Revoked))?;
    agree(&offer, request.remote())?;
    let claim = offer.claim_for_copy().map_err(ended)?;
    Ok(Box::new(OfferCopy::new(request, claim, context)?))
}

/// Whether a GPU here reaches memory of this device.
pub(crate) fn can_access(gpus: &dyn GpuBackend, device: Device) -> bool {
    device.kind() == DeviceKind::Cuda && device.index() < gpus.capabilities().gpus
}

/// Only the host's memory can be copied by the host.
pub(crate) fn is_host(list: &DescriptorList) -> bool {
    list.iter().all(|d| d.device().is_host())
}

/// The metadata was paired with the local side; the copy uses the offer's memory. So both must agree.
fn agree(offer: &Offer, remote: &RdmaMetadata) -> Result<(), TransportError> {
    let same = offer.kind() == remote.operation_kind()
        && offer.descriptors().len() == remote.descriptors().len()
        && offer.descriptors().iter().zip(remote.descriptors()).all(|(ours, theirs)| {
            ours.address() == theirs.ptr()
                && ours.len() as u64 == theirs.size()
                && ours.device() == theirs.device()
        });
    if same {
        return Ok(());
    }
    Err(TransportError::BadMetadata {
        reason: SharedError::text(
            "it has the key of an operation of this process, but describes other memory",
        ),
    })
}
