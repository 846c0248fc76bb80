//! The interface of engines: registration, peers, transfers and notifications.

use std::any::Any;
use std::fmt;
use std::future::{Future, ready};
use std::num::NonZeroU64;
use std::ops::Range;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use nixl_descriptor::{Descriptor, LeaseMode, Leased, Registrar, Registration};
use nixl_device::SharedError;
use nixl_metadata::{OperationKind, SerializedDescriptor};

use crate::{EngineLists, EngineSetting, Listed, ListsSpec, TransportError};

/// A peer's agent name. It carries the peer's incarnation where the peer has one: a restarted peer is a
/// new peer.
#[derive(Clone, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct PeerId(Arc<str>);

impl PeerId {
    /// The peer of this agent name.
    pub fn new(name: impl Into<Arc<str>>) -> Self {
        Self(name.into())
    }

    /// The agent name.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for PeerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

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
///   [`TransferSpec::local`], only between the post and the end, and not once the transfer's [`Leased`] is dropped.
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
    /// needs [all](Self::local_metadata), or the engine does not tell just now.
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
    /// [`UnknownPeer`](TransportError::UnknownPeer), [`NotRegistered`](TransportError::NotRegistered).
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

/// Keeps transfers to a peer from being posted, until it is dropped: see [`Transport::until_idle`].
#[must_use]
pub struct Idle(#[expect(dead_code, reason = "only its drop matters")] Box<dyn Any + Send>);

impl Idle {
    /// Holds a value whose drop lets transfers be posted again.
    pub fn holding(hold: impl Send + 'static) -> Self {
        Self(Box::new(hold))
    }
}

impl fmt::Debug for Idle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Idle")
    }
}

/// The purpose of a connection: a part of a peer's metadata.
#[derive(Clone, Copy, Debug)]
pub struct ConnectSpec<'a> {
    pub(crate) metadata: &'a [u8],
    needed: Option<&'a [SerializedDescriptor]>,
    is_foreign: bool,
    introduced_by: Option<&'a str>,
    made: Option<NonZeroU64>,
}

impl<'a> ConnectSpec<'a> {
    /// To reach all memory of the peer.
    pub fn new(metadata: &'a [u8]) -> Self {
        Self { metadata, needed: None, is_foreign: false, introduced_by: None, made: None }
    }

    /// To reach this memory only.
    #[must_use]
    pub fn needing(mut self, needed: &'a [SerializedDescriptor]) -> Self {
        self.needed = Some(needed);
        self
    }

    /// Notes that the peer introduces itself, and what it calls itself in the message.
    #[must_use]
    pub fn introduced_by(mut self, agent: &'a str) -> Self {
        self.introduced_by = Some(agent);
        self
    }

    /// Checks that the metadata is that of the agent which introduces itself.
    ///
    /// # Errors
    ///
    /// [`TransportError::BadMetadata`].
    pub fn check_name(&self, name: &str) -> Result<(), TransportError> {
        match self.introduced_by {
            Some(sender) if sender != name => {
                let reason = format!("it is that of {name}, and was sent by {sender}");
                Err(TransportError::BadMetadata { reason: SharedError::text(reason) })
            }
            _ => Ok(()),
        }
    }

    /// Notes when the peer made the offer of the memory that is [needed](Self::needing), in milliseconds since 1970 by its clock;
    /// `None` if that is unknown.
    #[must_use]
    pub fn made(mut self, unix_millis: Option<NonZeroU64>) -> Self {
        self.made = unix_millis;
        self
    }

    /// The time when the peer made the offer, if known. Memory of a newer offer, which was registered anew, is not replaced:
    /// [`TransportError::OutdatedMetadata`].
    #[must_use]
    pub fn made_unix_millis(&self) -> Option<NonZeroU64> {
        self.made
    }

    /// Notes that the peer may be of another library.
    #[must_use]
    pub fn foreign(mut self, is_foreign: bool) -> Self {
        self.is_foreign = is_foreign;
        self
    }

    /// What the peer's engine exported.
    #[must_use]
    pub fn metadata(&self) -> &'a [u8] {
        self.metadata
    }

    /// The peer's memory that is to be reached: all of it, or this. An empty list: messages are sent only.
    #[must_use]
    pub fn needed(&self) -> Option<&'a [SerializedDescriptor]> {
        self.needed
    }

    /// The peer is of another library, and cannot prove that it runs on this host where it claims so.
    #[must_use]
    pub fn is_foreign(&self) -> bool {
        self.is_foreign
    }

    /// The peer introduces itself by a message of the agent of this name, so that it can be answered. Metadata of another agent is
    /// refused before the engine sees it, and engines may forget such peers to make room.
    #[must_use]
    pub fn introducer(&self) -> Option<&'a str> {
        self.introduced_by
    }
}

/// Result of [`Transport::connect`].
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Connected {
    pub(crate) peer: PeerId,
    superseded: bool,
    part: Option<Vec<Range<u64>>>,
}

impl Connected {
    /// `peer` is reachable, and everything loaded for it before still counts.
    pub fn to(peer: PeerId) -> Self {
        Self { peer, superseded: false, part: None }
    }

    /// The peer.
    #[must_use]
    pub fn into_peer(self) -> PeerId {
        self.peer
    }

    /// Notes that of the metadata only the memory of the host at these addresses was loaded: what was needed.
    #[must_use]
    pub fn in_part(mut self, part: Vec<Range<u64>>) -> Self {
        self.part = Some(part);
        self
    }

    /// Notes that what was loaded before is void.
    #[must_use]
    pub fn superseding(mut self) -> Self {
        self.superseded = true;
        self
    }

    /// The peer.
    #[must_use]
    pub fn peer(&self) -> &PeerId {
        &self.peer
    }

    /// What was loaded for this peer before is void: descriptors that only the earlier metadata covers need
    /// that metadata to be loaded again.
    #[must_use]
    pub fn superseded(&self) -> bool {
        self.superseded
    }

    /// The addresses in the memory of the host, if only these were loaded of the metadata.
    #[must_use]
    pub fn part(&self) -> Option<&[Range<u64>]> {
        self.part.as_deref()
    }
}

/// The ranges to move. `local` and `remote` pair up one to one, each pair of equal length.
#[derive(Debug)]
pub struct TransferSpec<'a> {
    pub(crate) kind: OperationKind,
    pub(crate) peer: &'a PeerId,
    pub(crate) local: &'a [Descriptor],
    pub(crate) leased: &'a Leased,
    pub(crate) remote: &'a [SerializedDescriptor],
    notification: Option<Bytes>,
    pub(crate) registrations: Arc<[Registration]>,
    is_repeated: bool,
    listed: Option<Listed<'a>>,
}

impl<'a> TransferSpec<'a> {
    /// A transfer between `local` and the memory that `remote` names at `peer`.
    ///
    /// # Errors
    ///
    /// [`TransportError::NotLeased`] if the proof does not cover the local memory in the mode that the kind needs: writing
    /// for a read, reading for a write.
    pub fn new(
        kind: OperationKind,
        peer: &'a PeerId,
        (local, leased): (&'a [Descriptor], &'a Leased),
        remote: &'a [SerializedDescriptor],
        notification: Option<Bytes>,
        registrations: impl Into<Arc<[Registration]>>,
    ) -> Result<Self, TransportError> {
        let registrations = registrations.into();
        let mode_suits = kind == OperationKind::Write || leased.mode() == LeaseMode::Write;
        let uncovered = match mode_suits {
            true => local.iter().position(|descriptor| !leased.covers(descriptor)),
            false => Some(0),
        };
        match uncovered {
            Some(index) => Err(TransportError::NotLeased { index }),
            None => Ok(Self {
                kind,
                peer,
                local,
                leased,
                remote,
                notification,
                registrations,
                is_repeated: false,
                listed: None,
            }),
        }
    }

    /// Notes that the transfer is made [ready again](Transfer::repeat) after its end: engines keep what they have prepared for it.
    #[must_use]
    pub fn repeated(mut self) -> Self {
        self.is_repeated = true;
        self
    }

    /// Whether the transfer is made ready again after its end.
    #[must_use]
    pub fn is_repeated(&self) -> bool {
        self.is_repeated
    }

    /// Notes where the pairs are in lists that the engine has prepared. Without effect if they are others, or the lists stale.
    #[must_use]
    pub fn listed(mut self, listed: Listed<'a>) -> Self {
        let pairs = (self.local, self.remote);
        self.listed = listed.name(self.peer, pairs, &self.registrations).then_some(listed);
        self
    }

    /// Where the pairs are in prepared lists: as many as [`local`](Self::local) has, the same ranges in the same order.
    #[must_use]
    pub fn listed_at(&self) -> Option<Listed<'a>> {
        self.listed
    }

    /// `Read` moves remote to local, `Write` local to remote.
    #[must_use]
    pub fn kind(&self) -> OperationKind {
        self.kind
    }

    /// The peer that owns the remote side.
    #[must_use]
    pub fn peer(&self) -> &'a PeerId {
        self.peer
    }

    /// Local memory, which [`leased`](Self::leased) covers.
    #[must_use]
    pub fn local(&self) -> &'a [Descriptor] {
        self.local
    }

    /// The proof that the local memory is leased. The transfer owns a clone until the engine is done with the memory.
    #[must_use]
    pub fn leased(&self) -> &'a Leased {
        self.leased
    }

    /// The peer's memory: numbers that mean something to the peer only.
    #[must_use]
    pub fn remote(&self) -> &'a [SerializedDescriptor] {
        self.remote
    }

    /// The notification for the peer once the bytes are in place.
    #[must_use]
    pub fn notification(&self) -> Option<&Bytes> {
        self.notification.as_ref()
    }

    /// What is sent to the peer once the bytes are in place, and the registrations of the local memory, which the transfer
    /// holds until it ends.
    #[must_use]
    pub fn into_owned_parts(self) -> (Option<Bytes>, Arc<[Registration]>) {
        (self.notification, self.registrations)
    }
}

/// The way in which a transfer reports progress.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[allow(clippy::exhaustive_enums, reason = "the driver must handle each")]
pub enum CompletionMode {
    /// By polls only: the driver polls it until it is ready, closely at first, then at growing intervals. For engines without a
    /// completion event, such as NIXL.
    Polled,
    /// By the waker of the latest poll, called once another poll may progress. The driver sleeps until then, and still polls at
    /// the deadline and once a second, which bounds the cost of a lost wake.
    Wakes,
}

/// One transfer of an engine.
///
/// # Safety
///
/// An implementor promises that the engine accesses the local memory of the [`TransferSpec`] only while
/// [`in_flight`](Self::in_flight) is true, and that the transfer owns the spec's [`Leased`] as long. Dropping it in flight
/// [leaks](Leased::leak) the lease, the engine's request and the registrations, never releases them: the engine may still
/// write.
///
/// ```compile_fail,E0200
/// # use std::task::{Context, Poll};
/// # use nixl_ops::{Transfer, TransportError};
/// struct Careless;
///
/// // Not `unsafe impl`: the compiler refuses it.
/// impl Transfer for Careless {
///     fn poll(&mut self, _: &mut Context<'_>) -> Poll<Result<(), TransportError>> {
///         Poll::Ready(Ok(()))
///     }
///     fn in_flight(&self) -> bool {
///         false
///     }
///     fn was_posted(&self) -> bool {
///         false
///     }
///     fn descriptors(&self) -> usize {
///         1
///     }
/// }
/// ```
#[allow(unsafe_code, reason = "declares what engines promise")]
pub unsafe trait Transfer: Send {
    /// Posts the transfer at the first call, later queries its state. Engines that send the completion notification from here
    /// do so: a posted transfer must be polled until it is ready.
    ///
    /// A transfer that [wakes](CompletionMode::Wakes) wakes the waker of the latest call.
    ///
    /// # Errors
    ///
    /// The failure. Not polled again after `Ready`.
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), TransportError>>;

    /// How it is learned, after a [`poll`](Self::poll) that was pending, that another may get further. By default the transfer
    /// is [polled](CompletionMode::Polled).
    fn completion_mode(&self) -> CompletionMode {
        CompletionMode::Polled
    }

    /// Whether the engine may access the memory now.
    fn in_flight(&self) -> bool;

    /// Whether the engine got the transfer, so the peer's memory may have been accessed.
    fn was_posted(&self) -> bool;

    /// Makes a transfer that has ended with success one that is not posted: the next [`poll`](Self::poll) posts it again, between
    /// the same memories. `false`, as by default, if another must be prepared instead.
    fn repeat(&mut self) -> bool {
        false
    }

    /// Descriptor pairs handed to the engine, after neighbours were merged.
    fn descriptors(&self) -> usize;

    /// Whether the engine gets positions in [prepared lists](TransferSpec::listed), not the ranges. By default it is not.
    fn is_listed(&self) -> bool {
        false
    }

    /// How long the engine expects it to take, before it was posted. `None` if it does not tell, or not just now.
    fn estimate(&self) -> Option<Duration> {
        None
    }
}
