//! Failures of a rendezvous.

use std::path::{Path, PathBuf};

use nixl_device::{Advice, SharedError};
use rustix::io::Errno;

/// Why processes do not meet in a folder.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum RendezvousError {
    /// There is no such folder.
    #[error("there is no folder {}: make it, or mount a volume there that both sides see", .folder.display())]
    NoFolder {
        /// The folder.
        folder: PathBuf,
        /// The error of the system.
        #[source]
        error: SharedError,
    },
    /// The folder is of a user who is neither this one nor root.
    #[error(
        "the folder {} is of user {owner}, who could take sockets away from it: use one of this user ({user}) or of root",
        .folder.display()
    )]
    ForeignFolder {
        /// The folder.
        folder: PathBuf,
        /// The user whose it is.
        owner: u32,
        /// The user of this process.
        user: u32,
    },
    /// No socket can be made in the folder.
    #[error("the folder {} is not writable: {error}. Give this user write access to it", .folder.display())]
    NotWritable {
        /// The folder.
        folder: PathBuf,
        /// The error of the system.
        #[source]
        error: SharedError,
    },
    /// The file system of the folder has no room.
    #[error("the folder {} is full: {error}. Make room in its file system", .folder.display())]
    Full {
        /// The folder.
        folder: PathBuf,
        /// The error of the system.
        #[source]
        error: SharedError,
    },
    /// The path of a socket in the folder is too long.
    #[error(
        "the path of the folder {} is too long for a socket in it: {len} bytes, of {most} allowed. Mount it at a shorter one",
        .folder.display()
    )]
    TooLong {
        /// The folder.
        folder: PathBuf,
        /// Bytes of the path of the socket.
        len: usize,
        /// The most that the system allows.
        most: usize,
    },
    /// Another process answers on the socket of this one.
    #[error("another process listens at {}: two hosts with one boot identity share the folder", .socket.display())]
    InUse {
        /// The socket.
        socket: PathBuf,
    },
    /// This process has no rendezvous folder.
    #[error("this process has no rendezvous folder: PathExecutor::rendezvous gives it one")]
    NotConfigured,
    /// The peer has no socket in the folder.
    #[error(
        "the peer does not listen in the rendezvous folder: it has none or another, or has ended"
    )]
    NotThere,
    /// The peer is of another user.
    #[error(
        "the peer in the rendezvous folder is of user {theirs}, this process of {ours}: both need one"
    )]
    OtherUser {
        /// The user of the peer.
        theirs: u32,
        /// The user of this process.
        ours: u32,
    },
    /// What the peer sends is not a message of this protocol.
    #[error(
        "the peer in the rendezvous folder speaks another protocol: both need releases that know each other"
    )]
    Protocol,
    /// The peer is slow, or keeps no more connections.
    #[error(
        "the peer in the rendezvous folder does not answer: it is stopped, or has too many connections"
    )]
    Silent,
    /// As many files of peers are open as can be.
    #[error(
        "{most} files of peers of the rendezvous folder are open, and no more can be: close some of them"
    )]
    TooManyFiles {
        /// The most that can be.
        most: usize,
    },
    /// The system refused something else.
    #[error("the rendezvous cannot {call}: {error}")]
    System {
        /// The call.
        call: &'static str,
        /// The error of the system.
        #[source]
        error: SharedError,
    },
}

impl RendezvousError {
    /// The remedy: [`Advice::Retry`] for a peer that is not there yet or is slow, and for a shortage of the system; else
    /// [`Advice::GiveUp`].
    #[must_use]
    pub fn advice(&self) -> Advice {
        match self {
            Self::NotThere
            | Self::Silent
            | Self::Full { .. }
            | Self::TooManyFiles { .. }
            | Self::System { .. } => Advice::Retry,
            _ => Advice::GiveUp,
        }
    }

    pub(super) fn of(call: &'static str) -> impl Fn(Errno) -> Self {
        move |errno| Self::System { call, error: std::io::Error::from(errno).into() }
    }

    /// Of a socket that cannot be made in a folder.
    pub(super) fn of_folder(folder: &Path, errno: Errno) -> Self {
        let (folder, error) = (folder.to_owned(), std::io::Error::from(errno).into());
        match errno {
            Errno::ACCESS | Errno::PERM | Errno::ROFS => Self::NotWritable { folder, error },
            Errno::NOSPC | Errno::DQUOT => Self::Full { folder, error },
            _ => Self::System { call: "make a socket", error },
        }
    }
}
