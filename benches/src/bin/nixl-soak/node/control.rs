//! The node's end of the channel to the coordinator.

use std::io;
use std::os::fd::AsFd as _;
use std::os::unix::net::UnixStream;
use std::process;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;

use anyhow::{Context as _, Result};
use nixl_benches::channel::{self, Receiver, Sender};
use rustix::process::{Signal, getpid, kill_process};
use tokio::sync::mpsc;

use crate::messages::{Command, Reply, Setup};

/// Commands, and where the replies go.
#[derive(Debug)]
pub(super) struct Control {
    commands: mpsc::UnboundedReceiver<Command>,
    replies: Replies,
}

#[derive(Clone, Debug)]
pub(super) struct Replies(Arc<Mutex<Sender>>);

impl Control {
    /// Waits for the set-up, and listens from then on.
    pub(super) fn open() -> Result<(Setup, Self)> {
        let stdin = io::stdin().as_fd().try_clone_to_owned().context("no control channel")?;
        let (sender, mut receiver) = channel::open(UnixStream::from(stdin))?;
        let setup = receiver.receive()?.context("the coordinator is gone")?;
        let (forward, commands) = mpsc::unbounded_channel();
        thread::Builder::new()
            .name("control".to_owned())
            .spawn(move || listen(&mut receiver, &forward))
            .context("cannot start a thread")?;
        let replies = Replies(Arc::new(Mutex::new(sender)));
        Ok((setup, Self { commands, replies }))
    }

    pub(super) async fn next(&mut self) -> Option<Command> {
        self.commands.recv().await
    }

    pub(super) fn replies(&self) -> Replies {
        self.replies.clone()
    }

    pub(super) fn reply(&self, reply: &Reply) -> Result<()> {
        self.replies.reply(reply)
    }
}

impl Replies {
    pub(super) fn reply(&self, reply: &Reply) -> Result<()> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).send(reply)
    }
}

fn listen(receiver: &mut Receiver, forward: &mpsc::UnboundedSender<Command>) {
    loop {
        match receiver.receive() {
            // Here, so that it is in the middle of what the other threads do.
            Ok(Some(Command::Exit(code))) => process::exit(i32::from(code)),
            // It fails only while this process returns from `main`.
            Ok(Some(command)) => drop(forward.send(command)),
            // Nothing must outlive the coordinator.
            Ok(None) | Err(_) => drop(kill_process(getpid(), Signal::KILL)),
        }
    }
}
