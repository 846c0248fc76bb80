//! The target's end of the channel.

use std::io;
use std::os::fd::AsFd as _;
use std::os::unix::net::UnixStream;
use std::sync::mpsc;
use std::thread;

use anyhow::{Context as _, Result};
use rustix::process::{Signal, getpid, kill_process};
use serde::Serialize;
use serde::de::DeserializeOwned;

use nixl_benches::channel::{self, Sender};

/// Requests, and where the answers go.
#[derive(Debug)]
pub(crate) struct Control<Q> {
    sender: Sender,
    requests: mpsc::Receiver<Q>,
}

impl<Q: DeserializeOwned + Send + 'static> Control<Q> {
    /// Listens to the process that started this one. If that is gone, this process ends on the spot.
    pub(crate) fn open() -> Result<Self> {
        let stdin = io::stdin().as_fd().try_clone_to_owned().context("no control channel")?;
        let (sender, mut receiver) = channel::open(UnixStream::from(stdin))?;
        let (forward, requests) = mpsc::channel();
        thread::Builder::new().name("control".to_owned()).spawn(move || {
            loop {
                match receiver.receive::<Option<Q>>() {
                    Ok(Some(None)) => return,
                    Ok(Some(Some(request))) => {
                        // The main thread may have given up; it is ending the process then.
                        let _ = forward.send(request);
                    }
                    // The parent is gone, and with it the use of this process. No destructors: they may wait for peers.
                    Ok(None) | Err(_) => {
                        let _ = kill_process(getpid(), Signal::KILL);
                        return;
                    }
                }
            }
        })?;
        Ok(Self { sender, requests })
    }

    /// The next request; `None` if there will be no other.
    pub(crate) fn next(&self) -> Option<Q> {
        self.requests.recv().ok()
    }

    pub(crate) fn answer(&mut self, reply: impl Serialize) -> Result<()> {
        self.sender.send(&Ok::<_, String>(reply))
    }

    /// Says why this process gives up, and ends it.
    pub(crate) fn fail(&mut self, error: &anyhow::Error) -> Result<()> {
        self.sender.send(&Err::<(), _>(format!("{error:#}")))?;
        // The process that started this one tells the user.
        std::process::exit(1)
    }
}
