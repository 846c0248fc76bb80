//! The target, as the initiator sees it.
//!
//! A request is an `Option`, none of which is the last; an answer is a `Result`, whose error is that the target gives up.

use std::env;
use std::io;
use std::marker::PhantomData;
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::net::UnixStream;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Error, Result, bail};
use nixl_benches::channel::{self, Receiver, Sender};
use serde::Serialize;
use serde::de::DeserializeOwned;
use thiserror::Error as ThisError;

/// The child process, which answers requests `Q` by `R`. It ends with this value, in any case: it sees its channel
/// close, and is killed here.
#[derive(Debug)]
pub(crate) struct Peer<Q, R> {
    sender: Sender,
    receiver: Receiver,
    child: Child,
    protocol: PhantomData<fn(Q) -> R>,
}

/// The target is no more.
#[derive(Debug, ThisError)]
#[error("the target process ended early ({0}); what it printed is above")]
struct Ended(ExitStatus);

impl<Q: Serialize, R: DeserializeOwned> Peer<Q, R> {
    /// How long an answer may take. Longer than the engines give a transfer.
    const PATIENCE: Duration = Duration::from_secs(60);
    /// How long the target may take to tidy up.
    const FAREWELL: Duration = Duration::from_secs(10);

    /// Starts this program in another role.
    pub(crate) fn start(role: &str) -> Result<Self> {
        let (ours, theirs) = UnixStream::pair().context("cannot make the control channel")?;
        let program = env::current_exe().context("cannot find this program")?;
        // Libraries log to standard output, which is the table's here.
        let output = io::stderr().as_fd().try_clone_to_owned().context("cannot share stderr")?;
        let child = Command::new(program)
            .arg(role)
            .stdin(Stdio::from(OwnedFd::from(theirs)))
            .stdout(Stdio::from(output))
            .spawn()
            .context("cannot start the target process")?;
        let (sender, receiver) = channel::open(ours)?;
        // From here on the child ends with this value.
        let peer = Self { sender, receiver, child, protocol: PhantomData };
        peer.receiver.set_patience(Self::PATIENCE)?;
        Ok(peer)
    }

    /// Sends a request and waits for its answer.
    pub(crate) fn ask(&mut self, request: &Q) -> Result<R> {
        if self.sender.send(&Some(request)).is_err() {
            return Err(self.ended());
        }
        match self.receiver.receive::<Result<R, String>>()? {
            Some(Ok(reply)) => Ok(reply),
            Some(Err(error)) => bail!("the target process failed: {error}"),
            None => Err(self.ended()),
        }
    }

    /// What a failure of ours may really be about: that the target has ended.
    pub(crate) fn explain(&mut self, error: Error) -> Error {
        match self.child.try_wait() {
            Ok(Some(status)) if !error.is::<Ended>() => error.context(Ended(status)),
            _ => error,
        }
    }

    /// Lets the target end by itself.
    pub(crate) fn quit(mut self) -> Result<()> {
        if self.sender.send(&None::<Q>).is_err() {
            return Err(self.ended());
        }
        let begun = Instant::now();
        while begun.elapsed() < Self::FAREWELL {
            match self.child.try_wait().context("cannot wait for the target process")? {
                Some(status) if status.success() => return Ok(()),
                Some(status) => bail!(Ended(status)),
                None => thread::sleep(Duration::from_millis(5)),
            }
        }
        bail!("the target process did not end within {:?} and was killed", Self::FAREWELL)
    }

    fn ended(&mut self) -> Error {
        // Its channel is closed, so it is ending if it has not ended yet.
        match self.child.wait() {
            Ok(status) => Error::new(Ended(status)),
            Err(error) => Error::new(error).context("the target process is gone"),
        }
    }
}

impl<Q, R> Drop for Peer<Q, R> {
    fn drop(&mut self) {
        // Both fail only if it has ended.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The answer that the protocol asks for here.
macro_rules! expect_reply {
    ($reply:expr, $pattern:pat => $value:expr) => {
        match $reply {
            $pattern => $value,
            other => anyhow::bail!("the target process answered out of turn: {other:?}"),
        }
    };
}
pub(crate) use expect_reply;
