//! The inbox of a session: messages that have arrived, and the state of its peer.

use std::collections::VecDeque;
use std::time::Duration;

use crate::messages::Message;

/// Messages, and what else there is to know.
#[derive(Debug, Default)]
pub(crate) struct Inbox {
    pub(crate) messages: VecDeque<Message>,
    /// When the peer was last heard.
    pub(crate) last_heard: Option<Duration>,
    /// The peer sent more than it can have meant.
    pub(crate) flooded: bool,
    /// The peer's process has ended, or its connection is dead. What it has sent may still be on its way.
    pub(crate) peer_gone: bool,
    /// It is proven that the peer writes to nothing any more.
    pub(crate) peer_quiet: bool,
    /// The offer has ended.
    pub(crate) withdrawn: bool,
    /// The peer reports the operation complete, by other means.
    pub(crate) superseded: bool,
}
