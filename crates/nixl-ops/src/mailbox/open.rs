//! The sender's view of another connection's mailbox.

use std::fmt;
use std::sync::Arc;
use std::task::Poll;

use nixl_descriptor::SharedName;
use nixl_device::SharedError;

use super::lane::Lane;
use crate::slots::{MappedPage, OwnPage};
use crate::sync::SharedMemory;
use crate::{PeerId, TransportError};

/// The mailbox of a connection on this host. A clone writes to the same lane.
#[derive(Clone)]
pub struct Mailbox(Reached);

/// An opened page.
#[derive(Clone)]
pub(crate) enum Reached {
    Mapped(Arc<MappedPage>),
    /// The page of this process.
    Own(Arc<OwnPage>),
}

impl Mailbox {
    /// `None` if all lanes are in use. `reply` names the page for the owner's answers.
    pub(super) fn new(page: Reached, reply: Option<SharedName>) -> Option<Self> {
        let mailbox = Self(page);
        mailbox.with(|lane, memory| lane.claim(memory, reply))?.then_some(mailbox)
    }

    /// Whether a message can be posted: it is short enough, some 8 KiB, and its sender has a name.
    pub fn fits(from: &str, payload: &[u8]) -> bool {
        Lane::fits(from, payload)
    }

    /// Puts a message of the agent `from` into the mailbox of `peer`, and wakes the peer. `Pending` if the lane is full: try
    /// again later. Messages arrive in posting order.
    ///
    /// # Errors
    ///
    /// [`TransportError::PeerGone`] if the owner has closed its page or has ended, [`TransportError::Engine`] if the message does
    /// not [fit](Self::fits): the engine has to carry it.
    pub fn post(
        &self,
        peer: &PeerId,
        from: &str,
        payload: &[u8],
    ) -> Poll<Result<(), TransportError>> {
        if !Self::fits(from, payload) {
            let reason = format!("{} bytes are more than a mailbox takes", payload.len());
            let (engine, call) = ("the mailbox", "post");
            return Poll::Ready(Err(TransportError::Engine {
                engine,
                call,
                reason: SharedError::text(reason),
            }));
        }
        self.post_fitting(peer, from, payload)
    }

    /// As [`post`](Self::post), of a message that [fits](Self::fits).
    pub(crate) fn post_fitting(
        &self,
        peer: &PeerId,
        from: &str,
        payload: &[u8],
    ) -> Poll<Result<(), TransportError>> {
        let posted = self.with(|lane, memory| lane.post(memory, from, payload));
        // Checked last: the owner wakes meanwhile.
        let is_gone = match &self.0 {
            Reached::Mapped(page) => {
                if posted.flatten() == Some(true) {
                    page.woke();
                }
                !page.is_owned()
            }
            Reached::Own(_) => false,
        };
        match posted.filter(|_| !is_gone) {
            Some(Some(_)) => Poll::Ready(Ok(())),
            Some(None) => Poll::Pending,
            None => gone(peer),
        }
    }

    /// `None` if the page is gone.
    fn with<T>(&self, run: impl FnOnce(&Lane, &SharedMemory) -> T) -> Option<T> {
        match &self.0 {
            Reached::Mapped(page) => Some(run(&page.lane, &page.memory)),
            Reached::Own(own) => {
                let page = own.page.upgrade()?;
                Some(run(&own.lane, page.memory()?))
            }
        }
    }
}

fn gone(peer: &PeerId) -> Poll<Result<(), TransportError>> {
    Poll::Ready(Err(TransportError::PeerGone { name: peer.to_string() }))
}

/// Does not print the mailbox's name.
impl fmt::Debug for Mailbox {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Mailbox").finish_non_exhaustive()
    }
}
