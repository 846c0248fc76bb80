//! Processes that tests start: the [`Peer`], and the test itself again, [alone].
#![allow(clippy::print_stdout, reason = "what processes say belongs to the output of the test")]

use std::env;
use std::fmt;
use std::fs;
use std::io::{self, BufRead as _, BufReader, Read as _, Write as _};
use std::path::Path;
use std::process::{Child, ChildStdin, Command, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

/// The longest that a peer may take for one answer.
const ANSWER: Duration = Duration::from_secs(30);

/// The longest that a test in a process of its own may take.
const ALONE: Duration = Duration::from_secs(300);

/// Names the test that runs alone, in its process.
const ALONE_VARIABLE: &str = "NIXL_TEST_ALONE";

/// Another process with a connector of its own, driven by lines; see `src/bin/peer.rs` for what it understands.
///
/// Killed when dropped.
#[derive(Debug)]
pub struct Peer {
    child: Child,
    stdin: Option<ChildStdin>,
    answers: Receiver<String>,
    reader: Option<JoinHandle<()>>,
}

/// Why a peer gave no answer.
#[derive(Debug)]
#[non_exhaustive]
pub enum PeerError {
    /// It said that it failed, and how.
    Refused(String),
    /// It ended.
    Gone(io::Result<Option<ExitStatus>>),
    /// It said nothing for long.
    Silent(String),
}

impl fmt::Display for PeerError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Refused(error) => write!(f, "the peer refused: {error}"),
            Self::Gone(status) => write!(f, "the peer ended: {status:?}"),
            Self::Silent(command) => write!(f, "no answer to {command:?} within {ANSWER:?}"),
        }
    }
}

impl std::error::Error for PeerError {}

impl Peer {
    /// Starts the peer at `path` and waits until it is ready.
    ///
    /// # Panics
    ///
    /// If it cannot start.
    pub fn start(path: impl AsRef<Path>, variables: &[(&str, &Path)]) -> Self {
        let mut peer = Self::spawn(path, variables).expect("the peer's program starts");
        if let Err(error) = peer.answer("start") {
            panic!("{error}");
        }
        peer
    }

    /// Starts the program at `path`, which is `env!("CARGO_BIN_EXE_peer")` in a test, with these variables added
    /// to the environment.
    ///
    /// # Errors
    ///
    /// If the program cannot be started.
    pub fn spawn(path: impl AsRef<Path>, variables: &[(&str, &Path)]) -> io::Result<Self> {
        Self::spawn_by(Command::new(path.as_ref()).envs(variables.iter().copied()))
    }

    /// Starts the program by a command that becomes it at last.
    ///
    /// # Errors
    ///
    /// If the command cannot be started.
    pub fn spawn_by(command: &mut Command) -> io::Result<Self> {
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
        let stdin = child.stdin.take();
        let stdout = child.stdout.take();
        let (sender, answers) = channel();
        let reader = thread::spawn(move || {
            for line in stdout.into_iter().flat_map(|out| BufReader::new(out).lines()) {
                let Ok(line) = line else { return };
                // UCX logs to stdout.
                if !line.starts_with("ok") && !line.starts_with("error ") {
                    println!("peer: {line}");
                } else if sender.send(line).is_err() {
                    return;
                }
            }
        });
        Ok(Self { child, stdin, answers, reader: Some(reader) })
    }

    /// Sends a command and returns what follows `ok` in the answer.
    ///
    /// # Errors
    ///
    /// [`PeerError`].
    pub fn ask(&mut self, command: &str) -> Result<String, PeerError> {
        self.tell(command)?;
        self.answer(command)
    }

    /// Sends a command without waiting for the answer.
    ///
    /// # Errors
    ///
    /// [`PeerError::Gone`].
    pub fn tell(&mut self, command: &str) -> Result<(), PeerError> {
        let sent = match &mut self.stdin {
            Some(stdin) => writeln!(stdin, "{command}"),
            None => Err(io::ErrorKind::BrokenPipe.into()),
        };
        sent.map_err(|_| PeerError::Gone(self.child.try_wait()))
    }

    /// Waits for the answer to a command.
    ///
    /// # Errors
    ///
    /// [`PeerError`].
    pub fn answer(&mut self, command: &str) -> Result<String, PeerError> {
        let line = match self.answers.recv_timeout(ANSWER) {
            Ok(line) => line,
            Err(RecvTimeoutError::Timeout) => return Err(PeerError::Silent(command.to_owned())),
            Err(RecvTimeoutError::Disconnected) => {
                return Err(PeerError::Gone(self.child.wait().map(Some)));
            }
        };
        match line.strip_prefix("ok") {
            Some(answer) => Ok(answer.trim_start().to_owned()),
            None => Err(PeerError::Refused(line)),
        }
    }

    /// Offers memory; see [`Offer`].
    ///
    /// # Errors
    ///
    /// [`PeerError`].
    pub fn offer(&mut self, kind: &str, len: usize, seed: u64) -> Result<Offer, PeerError> {
        let answer = self.ask(&format!("{kind} {len} {seed}"))?;
        match answer.split_once(' ') {
            Some((id, json)) => Ok(Offer { id: id.to_owned(), json: json.to_owned() }),
            None => Err(PeerError::Refused(answer)),
        }
    }

    /// Stops the process where it is.
    ///
    /// # Errors
    ///
    /// The system's.
    pub fn stop(&self) -> io::Result<()> {
        self.signal(Signal::STOP)
    }

    /// Lets it go on.
    ///
    /// # Errors
    ///
    /// The system's.
    pub fn resume(&self) -> io::Result<()> {
        self.signal(Signal::CONT)
    }

    /// Kills the process, without a chance to say good-bye, and waits until it is gone.
    ///
    /// # Errors
    ///
    /// The system's.
    pub fn kill(&mut self) -> io::Result<ExitStatus> {
        self.child.kill()?;
        self.child.wait()
    }

    /// Its identifier.
    ///
    /// # Errors
    ///
    /// None is expected: it is a number of the system's.
    pub fn pid(&self) -> io::Result<Pid> {
        let pid = i32::try_from(self.child.id()).ok().and_then(Pid::from_raw);
        pid.ok_or(io::ErrorKind::InvalidInput.into())
    }

    /// Waits until the process has ended by itself.
    ///
    /// # Errors
    ///
    /// The system's.
    pub fn wait(&mut self) -> io::Result<ExitStatus> {
        self.stdin = None;
        self.child.wait()
    }

    fn signal(&self, signal: Signal) -> io::Result<()> {
        Ok(kill_process(self.pid()?, signal)?)
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        // It may be dead already; nothing more can be done about a failure.
        let _ = self.kill();
        // A process below the child has its output, and ends with its input.
        drop(self.stdin.take());
        if let Some(reader) = self.reader.take() {
            let _ = reader.join();
        }
    }
}

/// What a peer offered.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Offer {
    /// The peer's name for the operation.
    pub id: String,
    /// Its metadata in the Dynamo profile.
    pub json: String,
}

/// Runs the body of the test `name` in a process of its own, with these variables added to the environment: for
/// tests that count what the process holds, or that need the engine configured from its start.
///
/// # Panics
///
/// If the test fails there.
pub fn alone(name: &str, variables: &[(&str, &Path)], body: impl FnOnce()) {
    alone_within(ALONE, name, variables, body);
}

/// The same, for at most `limit`.
///
/// # Panics
///
/// If the test fails there.
pub fn alone_within(limit: Duration, name: &str, variables: &[(&str, &Path)], body: impl FnOnce()) {
    if env::var_os(ALONE_VARIABLE).is_some_and(|alone| alone == name) {
        return body();
    }
    let this = env::current_exe().expect("the test knows its own path");
    let mut child = Command::new(this)
        .args([name, "--exact", "--nocapture", "--include-ignored", "--test-threads=1"])
        .env(ALONE_VARIABLE, name)
        .envs(variables.iter().copied())
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .expect("the test can be started again");
    let stdout = child.stdout.take();
    let reader = thread::spawn(move || {
        let mut output = String::new();
        let _ = stdout.map(|mut out| out.read_to_string(&mut output));
        output
    });
    let started = Instant::now();
    let status = loop {
        if let Ok(Some(status)) = child.try_wait() {
            break Some(status);
        }
        if started.elapsed() > limit {
            let _ = child.kill();
            let _ = child.wait();
            break None;
        }
        thread::sleep(Duration::from_millis(10));
    };
    let output = reader.join().unwrap_or_default();
    println!("{output}");
    assert!(
        status.is_some_and(|s| s.success()) && output.contains("1 passed"),
        "{name} failed in its own process: {status:?} (none: it took longer than {limit:?})"
    );
}

/// Runs a test's future on this thread, for at most `limit`.
///
/// # Panics
///
/// If it takes longer.
pub fn within<F: Future>(limit: Duration, future: F) -> F::Output {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build();
    let bounded = async { tokio::time::timeout(limit, future).await };
    runtime.expect("a runtime").block_on(bounded).expect("the test does not hang")
}

/// Asks until it gets an answer, for at most `limit`.
///
/// # Panics
///
/// If it gets none, with `what` was waited for.
pub fn eventually<T>(what: &str, limit: Duration, mut ask: impl FnMut() -> Option<T>) -> T {
    let until = Instant::now() + limit;
    loop {
        if let Some(answer) = ask() {
            return answer;
        }
        assert!(Instant::now() < until, "not within {limit:?}: {what}");
        thread::sleep(Duration::from_millis(2));
    }
}

/// What the system says this process holds.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[non_exhaustive]
pub struct Resources {
    /// Threads.
    pub threads: usize,
    /// Open file descriptors.
    pub files: usize,
    /// Mappings.
    pub mappings: usize,
    /// Resident memory, in bytes.
    pub resident: usize,
}

/// Threads of the whole process, which start when they are needed first and stay: one watches the ends of processes, one frees
/// memory of users.
const OF_THE_PROCESS: [&str; 2] = ["nixl-exits", "nixl-free"];

/// Threads but for those of the whole process.
fn threads() -> usize {
    let tasks = fs::read_dir("/proc/self/task").expect("/proc is mounted").flatten();
    // One that ends meanwhile is not there.
    let names = tasks.filter_map(|task| fs::read_to_string(task.path().join("comm")).ok());
    names.filter(|name| !OF_THE_PROCESS.contains(&name.trim_end())).count()
}

/// Counts what this process holds now, but for the two threads of the whole process, `nixl-exits` and `nixl-free`.
///
/// # Panics
///
/// Without `/proc`.
pub fn resources() -> Resources {
    let count = |path: &str| fs::read_dir(path).expect("/proc is mounted").count();
    let read = |path: &str| fs::read_to_string(path).expect("/proc is mounted");
    let pages = read("/proc/self/statm");
    let pages = pages.split(' ').nth(1).and_then(|p| p.parse::<usize>().ok());
    Resources {
        threads: threads(),
        files: count("/proc/self/fd"),
        mappings: read("/proc/self/maps").lines().count(),
        resident: pages.expect("statm has two numbers") * rustix::param::page_size(),
    }
}
