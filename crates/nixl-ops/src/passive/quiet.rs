//! Proof that a peer no longer touches the memory of an offer.

use std::fmt;
use std::time::Duration;

use nixl_descriptor::Descriptor;

/// The peer that may be writing to an offer that has ended.
#[derive(Clone, Debug, Eq, Hash, PartialEq)]
#[non_exhaustive]
pub enum Claimant {
    /// A process of this host and PID namespace, which has claimed the offer.
    Process(u32),
    /// An agent, which has claimed the offer by a message.
    Agent(String),
    /// Agents that say that their requests have ended without success: they post nothing more, and what they had posted may
    /// still be on its way.
    Ended,
    /// Any holder of the metadata: the offer demands no claim, or cannot.
    Unknown,
}

/// Makes watches that tell when a peer is quiet. What proves it depends on the paths that the peer may have taken.
///
/// # Safety
///
/// Memory is given back when a watch says so: its [`QuietWatch`]es keep their contract.
#[allow(unsafe_code, reason = "declares what proofs promise")]
pub unsafe trait QuietProof: Send + Sync + fmt::Debug {
    /// A watch over this peer, which may be writing `memory` since at most `age`. Made and asked on the connection's blocking
    /// thread.
    fn watch(&self, peer: &Claimant, memory: &[Descriptor], age: Duration) -> Box<dyn QuietWatch>;

    /// A watch over reads of offers whose life time was over `ago`: peers begin none any more, and one that was begun before may
    /// be under way, also after a silence of the peer, the network or this process. Made and asked on the connection's blocking
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
    /// *Blocking.* Whether it is proven that the peer touches no memory of this process any more. Asked about three times a
    /// second until it is.
    fn is_quiet(&mut self) -> bool;
}
