//! Nodes, as the coordinator sees them.

use std::env;
use std::io;
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command as Program, ExitStatus, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use nixl_benches::channel::{self, Receiver, Sender};
use rustix::process::{Pid, Signal, kill_process};

use crate::messages::{Command, Load, Reply, Setup, State};
use crate::tally::Tally;

/// How long an answer that takes no time may take.
const PATIENCE: Duration = Duration::from_secs(60);
/// How long a process may take to end once it was told to.
const FAREWELL: Duration = Duration::from_secs(20);

/// What UCX may use between nodes, and where they run.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Place {
    /// All that UCX finds.
    Host,
    /// TCP only, as between hosts.
    Tcp,
    /// TCP only, in a network namespace of its own.
    Namespace,
}

/// A child process. Killed when dropped.
#[derive(Debug)]
pub(crate) struct Node {
    child: Child,
    sender: Sender,
    receiver: Receiver,
    pub(crate) socket: PathBuf,
}

impl Node {
    /// Starts a node, which is not ready yet. To be called by the main thread: nodes end with the thread that starts them.
    pub(crate) fn spawn(place: Place) -> Result<Self> {
        let (ours, theirs) = UnixStream::pair().context("cannot make the control channel")?;
        let this = env::current_exe().context("cannot find this program")?;
        let mut program = match place {
            Place::Host | Place::Tcp => Program::new(&this),
            Place::Namespace => {
                // UCX looks for devices in /sys, which shows those of the namespace that it was mounted in.
                let mut unshare = Program::new("unshare");
                let inside = "mount -t sysfs soak /sys && exec \"$0\" \"$@\"";
                unshare.args(["--net", "--mount", "sh", "-c", inside]).arg(&this);
                unshare
            }
        };
        if place != Place::Host {
            program.env("UCX_TLS", "tcp");
        }
        // Libraries log to standard output, which is the report's here.
        let output = io::stderr().as_fd().try_clone_to_owned().context("cannot share stderr")?;
        let child = program
            .arg("node")
            .stdin(Stdio::from(OwnedFd::from(theirs)))
            .stdout(Stdio::from(output))
            // Memory that is freed goes back to the system at once, so that what is resident is what is in use.
            .env("MALLOC_ARENA_MAX", "1")
            .env("MALLOC_MMAP_THRESHOLD_", "131072")
            .env("MALLOC_TRIM_THRESHOLD_", "131072")
            .spawn()
            .context("cannot start a node")?;
        let (sender, receiver) = channel::open(ours)?;
        let mut node = Self { child, sender, receiver, socket: PathBuf::new() };
        node.patience(PATIENCE)?;
        Ok(node)
    }

    /// Tells it how it is made.
    pub(crate) fn set_up(&mut self, setup: &Setup) -> Result<()> {
        self.socket.clone_from(&setup.socket);
        self.sender.send(setup)
    }

    /// Waits until it serves.
    pub(crate) fn ready(&mut self) -> Result<()> {
        match self.reply()? {
            Reply::Ready => Ok(()),
            other => bail!("a node answered out of turn: {other:?}"),
        }
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Begins a load; [`ran`](Self::ran) waits for its end.
    pub(crate) fn begin(&mut self, load: &Load) -> Result<()> {
        self.sender.send(&Command::Run(load.clone()))
    }

    /// Waits for the end of the load that was begun.
    pub(crate) fn ran(&mut self, load: &Load) -> Result<Tally> {
        let all = Duration::from_millis(load.ms + load.timeout_ms * (1 + load.ahead as u64));
        self.patience(all + PATIENCE)?;
        let reply = self.reply();
        self.patience(PATIENCE)?;
        match reply? {
            Reply::Ran(tally) => Ok(tally),
            other => bail!("a node answered out of turn: {other:?}"),
        }
    }

    pub(crate) fn run(&mut self, load: &Load) -> Result<Tally> {
        self.begin(load)?;
        self.ran(load)
    }

    pub(crate) fn state(&mut self) -> Result<State> {
        self.sender.send(&Command::State)?;
        match self.reply()? {
            Reply::State(state) => Ok(state),
            other => bail!("a node answered out of turn: {other:?}"),
        }
    }

    pub(crate) fn tell(&mut self, command: &Command) -> Result<()> {
        self.sender.send(command)
    }

    pub(crate) fn signal(&self, signal: Signal) -> Result<()> {
        let pid = i32::try_from(self.pid()).ok().and_then(Pid::from_raw).context("no such node")?;
        kill_process(pid, signal).context("cannot signal a node")
    }

    /// How it ended; none if it has not within a generous time.
    pub(crate) fn end(&mut self) -> Result<Option<ExitStatus>> {
        let begun = Instant::now();
        while begun.elapsed() < FAREWELL {
            if let Some(status) = self.child.try_wait().context("cannot wait for a node")? {
                return Ok(Some(status));
            }
            thread::sleep(Duration::from_millis(2));
        }
        Ok(None)
    }

    fn patience(&mut self, patience: Duration) -> Result<()> {
        self.receiver.set_patience(patience)
    }

    fn reply(&mut self) -> Result<Reply> {
        match self.receiver.receive() {
            Ok(Some(reply)) => Ok(reply),
            Ok(None) => {
                let status = self.end()?;
                bail!("a node ended early ({status:?}); what it printed is above")
            }
            Err(error) => Err(error.context("a node does not answer")),
        }
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        // Both fail only if it has ended.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Sockets of nodes, each of a name of its own.
#[derive(Debug)]
pub(crate) struct Sockets {
    folder: tempfile::TempDir,
    made: u64,
}

impl Sockets {
    pub(crate) fn new() -> Result<Self> {
        let folder = tempfile::tempdir().context("cannot make a folder for sockets")?;
        Ok(Self { folder, made: 0 })
    }

    pub(crate) fn next(&mut self) -> PathBuf {
        self.made += 1;
        self.folder.path().join(self.made.to_string())
    }

    /// Forgets the socket of a node that has ended.
    pub(crate) fn remove(path: &Path) {
        // The folder goes in the end in any case.
        let _ = std::fs::remove_file(path);
    }
}
