//! The interface of engines: registration, peers, transfers and notifications.

use std::fmt;
use std::future::{Future, ready};
use std::num::NonZeroU64;
use std::pin::Pin;
use std::sync::Arc;
use std::task::Poll;

use bytes::Bytes;
use nixl_descriptor::{Registrar, Registration};

use crate::{
    ConnectSpec, Connected, EngineLists, EngineSetting, Idle, ListsSpec, PeerId, Transfer,
    TransferSpec, TransportError,
};

/// What is called with a peer whose [connection is dead](Transport::set_on_lost).
pub type OnLost = Box<dyn Fn(&PeerId) + Send + Sync>;

/// An engine that moves bytes between memories of two agents and notifies the other side.
///
/// # Contract
///
/// * The calls marked *blocking* may take milliseconds to seconds. They are made one at a time, on a thread of the connection.
///   All others return within microseconds, on every thread.
/// * Arguments are validated by the caller: descriptor lists pair in count and size, ranges lie inside
///   regions that the given registrations cover. What only the engine can know (is this peer connected, has
///   it registered that range) the engine checks *before* it touches a byte.
/// * No input makes it panic, abort or hang.
///
/// # Safety
///
/// Safe code frees and reuses memory by a transport's results. An implementor promises:
///
/// * A [`Transfer`] that it prepares keeps the contract of that trait: the engine accesses no local memory but
///   [`TransferSpec::local`], only between the post and the end, and not once
///   the transfer's [`Leased`](nixl_descriptor::Leased) is dropped.
/// * Its [`registrar`](Self::registrar) keeps the contract of [`Registrar`].
/// * It turns no address of a peer into an access to memory of this process.
///
/// ```compile_fail,E0200
/// # use std::sync::Arc;
/// # use std::task::Poll;
/// # use nixl_ops::{Connected, PeerId, Transfer, TransferSpec, Transport, TransportError};
/// #[derive(Debug)]
/// struct Careless(Arc<dyn nixl_descriptor::Registrar>);
///
/// // Not `unsafe impl`: the compiler refuses it.
/// impl Transport for Careless {
///     // All methods.
/// #     fn name(&self) -> &'static str { "careless" }
/// #     fn agent_name(&self) -> &str { "careless-1" }
/// #     fn registrar(&self) -> Arc<dyn nixl_descriptor::Registrar> { Arc::clone(&self.0) }
/// #     fn local_metadata(&self) -> Result<bytes::Bytes, TransportError> { Err(TransportError::Closed) }
/// #     fn connect(&self, _: &[u8]) -> Result<Connected, TransportError> { Err(TransportError::Closed) }
/// #     fn disconnect(&self, _: &PeerId) -> Result<(), TransportError> { Ok(()) }
/// #     fn prepare(&self, _: TransferSpec<'_>) -> Result<Box<dyn Transfer>, TransportError> { Err(TransportError::Closed) }
/// #     fn notify(&self, _: &PeerId, _: &[u8]) -> Poll<Result<(), TransportError>> { Poll::Pending }
/// #     fn take_notifications(&self, _: &mut dyn FnMut(&str, &[u8])) -> Result<(), TransportError> { Ok(()) }
/// }
/// ```
#[allow(unsafe_code, reason = "declares what engines promise")]
pub unsafe trait Transport: Send + Sync + fmt::Debug + 'static {
    /// The engine's name for reports, such as `nixl/UCX`, from a small set: each operation's report has it.
    fn name(&self) -> &'static str;

    /// Whether a write that is complete here is visible to the target's processor without a further message on the same
    /// connection. True of engines that copy by a processor; false, as by default, where a NIC may write the memory.
    fn completes_in_memory(&self) -> bool {
        false
    }

    /// The name of this agent for peers.
    fn agent_name(&self) -> &str;

    /// Registers memory with this engine.
    fn registrar(&self) -> Arc<dyn Registrar>;

    /// *Blocking.* Metadata for peers of the memory registered now.
    ///
    /// # Errors
    ///
    /// [`TransportError::Engine`] if the engine cannot export it.
    fn local_metadata(&self) -> Result<Bytes, TransportError>;

    /// What a peer needs to reach these memories, which are registered now, and nothing of others. `None`, as by default: a peer
    /// needs [all](Self::local_metadata), or the engine cannot report it just now.
    fn metadata_of(&self, memories: &[Registration]) -> Option<Bytes> {
        let _ = memories;
        None
    }

    /// *Blocking.* Connects to a peer, or updates its loaded metadata.
    ///
    /// # Errors
    ///
    /// [`BadMetadata`](TransportError::BadMetadata), [`OwnIdentity`](TransportError::OwnIdentity),
    /// [`IdentityConflict`](TransportError::IdentityConflict), [`PeerBusy`](TransportError::PeerBusy), or the
    /// engine's own failure. A peer that was connected before stays usable after an error.
    fn connect(&self, metadata: &[u8]) -> Result<Connected, TransportError>;

    /// *Blocking.* As [`connect`](Self::connect), of what `spec` needs only: an engine that loads memory loads no
    /// other, and an export that is older than the loaded one changes nothing. By default it is the same as `connect`.
    ///
    /// # Errors
    ///
    /// As there.
    fn connect_for(&self, spec: &ConnectSpec<'_>) -> Result<Connected, TransportError> {
        self.connect(spec.metadata)
    }

    /// As [`connect_for`](Self::connect_for), if the engine has nothing to load. `None`, as by default: `connect_for`
    /// must be called.
    fn connect_known(&self, spec: &ConnectSpec<'_>) -> Option<Connected> {
        let _ = spec;
        None
    }

    /// Waits until no transfer to the peer is in flight: then [`connect`](Self::connect) does not fail with
    /// [`PeerBusy`](TransportError::PeerBusy). Transfers to the peer that are not posted wait from now on until the future and
    /// what it gives are dropped. By default it is ready at once.
    fn until_idle(&self, peer: &PeerId) -> Pin<Box<dyn Future<Output = Idle> + Send>> {
        let _ = peer;
        Box::pin(ready(Idle::holding(())))
    }

    /// *Blocking.* The engine's current problem, apart from its peers. By default none.
    fn problems(&self) -> Vec<TransportError> {
        Vec::new()
    }

    /// The engine's settings, each with its origin. By default none.
    fn settings(&self) -> Vec<EngineSetting> {
        Vec::new()
    }

    /// The number of the connection to a peer, which changes when the peer is connected anew. `None`, as by default, for a peer
    /// that is not connected, and from an engine that binds no transfer to a
    /// [connection](TransferSpec::on_connection).
    fn connection_to(&self, peer: &PeerId) -> Option<NonZeroU64> {
        let _ = peer;
        None
    }

    /// *Blocking.* Forgets a peer. Unknown peers are ignored.
    ///
    /// # Errors
    ///
    /// [`PeerBusy`](TransportError::PeerBusy) while transfers with it are in flight.
    fn disconnect(&self, peer: &PeerId) -> Result<(), TransportError>;

    /// *Blocking.* Forgets a peer whose process has ended, or that has announced its end: now, or when the last transfer with it has
    /// failed. By default it is [disconnected](Self::disconnect).
    fn peer_ended(&self, peer: &PeerId) {
        if let Err(error) = self.disconnect(peer) {
            tracing::debug!(%peer, %error, "a peer that has ended stays known to the engine");
        }
    }

    /// Sets the callback with a peer once its connection is known to be dead, by a failed transfer or message, and the engine has
    /// forgotten it. It must not block, and no lock of the engine's is held. Only the first call counts. By default it is dropped: the
    /// engine does not tell.
    fn set_on_lost(&self, on_lost: OnLost) {
        let _ = on_lost;
    }

    /// *Blocking.* Prepares lists of ranges, of which transfers [name](TransferSpec::listed) some from then on. `None`, as by default,
    /// if the engine keeps none.
    ///
    /// # Errors
    ///
    /// As [`prepare`](Self::prepare).
    fn prepare_lists(
        &self,
        spec: &ListsSpec<'_>,
    ) -> Result<Option<Box<dyn EngineLists>>, TransportError> {
        let _ = spec;
        Ok(None)
    }

    /// Prepares a transfer; nothing moves before its first [`poll`](Transfer::poll).
    ///
    /// # Errors
    ///
    /// [`UnknownPeer`](TransportError::UnknownPeer), [`NotRegistered`](TransportError::NotRegistered),
    /// [`Reconnected`](TransportError::Reconnected) if it is bound to [another connection](TransferSpec::on_connection).
    fn prepare(&self, spec: TransferSpec<'_>) -> Result<Box<dyn Transfer>, TransportError>;

    /// Sends a few hundred bytes to a connected peer, which finds them among its notifications. `Pending`: not now, ask
    /// again. Messages to one peer may overtake each other and transfers.
    ///
    /// # Errors
    ///
    /// [`UnknownPeer`](TransportError::UnknownPeer), [`PeerGone`](TransportError::PeerGone), or the engine's failure.
    /// Without an error the message may be lost all the same, with its receiver.
    fn notify(&self, peer: &PeerId, payload: &[u8]) -> Poll<Result<(), TransportError>>;

    /// Takes the notifications that have arrived and hands each to `sink` with its sender's agent name, which [can be
    /// one](nixl_metadata::PeerInfo::is_name). Payloads are a peer's bytes: any length, any content.
    ///
    /// `sink` may call any method of the transport that does not block, to [answer](Self::notify) the sender for instance, and
    /// wakes tasks: no lock is held that those need.
    ///
    /// # Errors
    ///
    /// The engine's failure; notifications received before it have been passed on.
    fn take_notifications(&self, sink: &mut dyn FnMut(&str, &[u8])) -> Result<(), TransportError>;

    /// Notifications that were taken and could not be handed out, since their sender's name is none or their content cannot be read, and
    /// senders that were left out since there were too many.
    fn unreadable_notifications(&self) -> u64 {
        0
    }
}
