//! The connect to a peer, by its metadata.

use std::any::Any;
use std::fmt;
use std::num::NonZeroU64;
use std::ops::Range;

use nixl_device::SharedError;
use nixl_metadata::SerializedDescriptor;

use crate::{PeerId, TransportError};

/// Keeps transfers to a peer from being posted, until it is dropped: see [`Transport::until_idle`](crate::Transport::until_idle).
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

/// Result of [`Transport::connect`](crate::Transport::connect).
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Connected {
    pub(crate) peer: PeerId,
    superseded: bool,
    part: Option<Vec<Range<u64>>>,
}

impl Connected {
    /// `peer` is reachable, and everything loaded for it before still counts. Its identifier begins with no
    /// [state](PeerId::state).
    pub fn to(peer: PeerId) -> Self {
        Self { peer: peer.connected(), superseded: false, part: None }
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
