//! Facts about the two sides of an operation: this process's own, and those that a peer reports.
//!
//! Static facts propose paths. Only [`discover`] queries the machine and the environment.

mod describe;
mod discover;
mod sides;
mod ucx;

pub(crate) use describe::{
    REMOTE_COPY, REMOTE_COPY_OF_GPUS, REMOTE_COPY_OF_PIECES, STAGING, STAGING_BY_TICKET,
    STAGING_ON_GPU,
};
pub use sides::{Engine, LocalFacts, OfferFacts, PeerFacts};
pub(crate) use sides::{Fact, LocalGpu, PeerGpu, ShareForm};
#[cfg(test)]
pub(crate) use sides::{Locality, PeerMedia};
pub(crate) use ucx::UcxTransports;
