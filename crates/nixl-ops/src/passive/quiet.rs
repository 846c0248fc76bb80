//! Proof that a peer no longer accesses the memory of an offer.

use std::fmt;
use std::time::Duration;

use nixl_descriptor::{Descriptor, SharedName};

/// The peer that may be writing to an offer that has ended.
#[derive(Clone, Debug, Eq, Hash, PartialEq)]
#[non_exhaustive]
pub enum Claimant {
    /// A process of this host and PID namespace, which has claimed the offer.
    Process(u32),
    /// An agent, which has claimed the offer by a message.
    Agent(String),
    /// Agents that reported failed requests: they post nothing more, but earlier bytes may still be in flight.
    Ended,
    /// Any holder of the metadata: the offer demands no claim, or has no terms.
    Unknown,
}

/// A source of watches for quiet peers. The proof depends on the possible paths of the peer.
///
/// # Safety
///
/// Memory is given back by a watch's result: its [`QuietWatch`]es keep their contract.
#[allow(unsafe_code, reason = "declares what proofs promise")]
pub unsafe trait QuietProof: Send + Sync + fmt::Debug {
    /// A watch over this peer, which may be writing `memory` since at most `age`. Made and queried on the connection's blocking
    /// thread.
    fn watch(&self, peer: &Claimant, memory: &[Descriptor], age: Duration) -> Box<dyn QuietWatch>;

    /// A watch over all processes that could read the memory of a closed export, of which a later import reads nothing: any
    /// that has one of these files open or mapped, or is connected. Of memory that is `on_gpu` no process may be unknown; a late
    /// reader of host memory by its own mapping, or by a call of the system's, finds it or gets an error. Made and queried on the
    /// connection's blocking thread.
    fn holders(&self, files: &[SharedName], on_gpu: bool) -> Box<dyn QuietWatch>;

    /// A watch over reads of offers whose life time ended `ago`: peers begin none any more, but an earlier one may be in
    /// flight, also after a silence of the peer, the network or this process. Made and queried on the connection's blocking
    /// thread.
    fn reads(&self, ago: Duration) -> Box<dyn QuietWatch>;
}

/// A watch over one peer.
///
/// # Safety
///
/// Once [`is_quiet`](Self::is_quiet) was true, the peer accesses no memory of this process that was offered before; of reads, none
/// accesses that of the offers.
#[allow(unsafe_code, reason = "declares what proofs promise")]
pub unsafe trait QuietWatch: Send + fmt::Debug {
    /// *Blocking.* Whether the peer is proven to access no memory of this process any more. Queried about three times a second
    /// until then.
    fn is_quiet(&mut self) -> bool;
}
