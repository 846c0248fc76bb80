//! Facts about the two sides of an operation: what this process is and has, and what a peer says of itself.
//!
//! Static facts propose paths. The machine and the environment are asked [here](discover) alone.

mod describe;
mod discover;
mod sides;
mod ucx;

pub(crate) use describe::{REMOTE_COPY, REMOTE_COPY_OF_GPUS, STAGING};
pub use sides::{
    Engine, Fact, LocalFacts, LocalGpu, Locality, OfferFacts, PeerFacts, PeerGpu, PeerMedia,
    ShareForm,
};
pub use ucx::UcxTransports;
