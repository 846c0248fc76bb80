//! Proof that peers no longer touch memory of this process, by the paths that they may have taken.
//!
//! | peer | proof |
//! |---|---|
//! | a process of this host, which has claimed the offer by its slot | it has ended; no process that started after the offer was made, as a child of its fork would have, has the shared memory of the offer open or mapped; and every TCP socket of this process whose other end is on this host and has no owner any more is past its end of stream |
//! | an agent that has claimed the offer by a message, or any holder of the metadata | no NIC writes memory here, and every TCP socket of this process that leads to another one is past its end of stream |
//! | agents that say that their writes have ended without success | no NIC writes memory here, and what they had sent has arrived, as reads have (below) |
//!
//! Reads of offers whose life time is over are none of these: which initiators have begun one is not known. They have arrived once
//! nothing waits in this process's sockets that came before (it may have been stopped), and no connection to another host can still
//! bring one (the network may have been cut).
//!
//! A socket is past its end of stream once nothing in it waits to be read. The engine's progress thread may be about to write to
//! memory what it has read last, so a proof has to hold at two checks in a row.
#![allow(unsafe_code, reason = "promises what proofs must keep")]

use std::collections::HashMap;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use nixl_descriptor::Descriptor;
use nixl_device::{
    FileIdentity, Holders, ProcessError, ProcessWatch, SocketsError, TcpSocket, TcpState,
    is_this_host, tcp_gives_up_after,
};
use nixl_ops::{Claimant, QuietProof, QuietWatch, Transport};

/// Proofs that the operating system gives, for one engine.
#[derive(Debug)]
pub(crate) struct Proofs {
    /// Bytes may arrive by a NIC, of whose connections the system knows nothing.
    nic_writes: bool,
}

impl Proofs {
    pub(crate) fn of(transport: &dyn Transport) -> Self {
        Self { nic_writes: !transport.completes_in_memory() }
    }
}

// SAFETY: its watches keep their contract, for the reasons that the table above gives.
unsafe impl QuietProof for Proofs {
    fn watch(&self, peer: &Claimant, memory: &[Descriptor], age: Duration) -> Box<dyn QuietWatch> {
        let subject = match peer {
            Claimant::Process(pid) => Subject::Process {
                process: Process::open(*pid),
                files: memory.iter().filter_map(|d| d.region().shared_name()?.file()).collect(),
                offered: ticks_since_boot().saturating_sub(ticks(age)),
            },
            _ if self.nic_writes => Subject::Nic,
            // Their word came just now.
            Claimant::Ended => return self.reads(Duration::ZERO),
            _ => Subject::AnyHost,
        };
        Box::new(Watch { subject, held: false })
    }

    fn reads(&self, ago: Duration) -> Box<dyn QuietWatch> {
        Box::new(Reads { ago, made: Instant::now(), waits: None })
    }
}

#[derive(Debug)]
struct Watch {
    subject: Subject,
    /// At the last check.
    held: bool,
}

#[derive(Debug)]
enum Subject {
    Process {
        process: Process,
        files: Vec<FileIdentity>,
        /// When the offer was made, in clock ticks since the boot.
        offered: u64,
    },
    AnyHost,
    /// Nothing here tells what a NIC does.
    Nic,
}

#[derive(Debug)]
enum Process {
    Watched(ProcessWatch),
    Ended,
    /// It cannot be watched.
    Unknown,
}

impl Process {
    fn open(pid: u32) -> Self {
        // A process that got the number of one that has ended is waited for as well.
        match ProcessWatch::open(pid) {
            Ok(watch) => Self::Watched(watch),
            Err(ProcessError::NotThere { .. }) => Self::Ended,
            Err(error) => {
                tracing::debug!(pid, %error, "the process that claimed an offer cannot be watched");
                Self::Unknown
            }
        }
    }

    fn has_ended(&self) -> bool {
        match self {
            Self::Watched(watch) => watch.has_ended(),
            Self::Ended => true,
            Self::Unknown => false,
        }
    }
}

// SAFETY: `holds` is what the table above asks for. A process that has ended accesses nothing, nor do its children, none of which has
// the file; what it had sent is read, since its sockets are past their end; and a check ago that was so, too, so the engine's thread
// has written what it had read by then.
unsafe impl QuietWatch for Watch {
    fn is_quiet(&mut self) -> bool {
        let holds = match &self.subject {
            Subject::Process { process, files, offered } => {
                process.has_ended()
                    && files.iter().all(|file| no_child_has(*file, *offered))
                    && sockets_are_over(of_the_dead).unwrap_or(false)
            }
            Subject::AnyHost => sockets_are_over(of_others).unwrap_or(false),
            Subject::Nic => false,
        };
        std::mem::replace(&mut self.held, holds) && holds
    }
}

/// Reads that were begun in time.
#[derive(Debug)]
struct Reads {
    /// How long the offers had ended when this was made.
    ago: Duration,
    made: Instant,
    /// The sockets that were open then and may hold a read, and how often each was seen empty since.
    waits: Option<HashMap<Ends, u32>>,
}

/// What names a socket also before it is accepted: both addresses, or its number if the kernel does not tell them.
type Ends = (Option<SocketAddr>, Option<SocketAddr>, u64);

fn ends(socket: &TcpSocket) -> Ends {
    let inode = if socket.remote().is_some() { 0 } else { socket.inode() };
    (socket.local(), socket.remote(), inode)
}

impl Reads {
    /// Whether a socket counts that is not known, or leads to another host.
    fn may_bring_more(&self) -> bool {
        self.ago.saturating_add(self.made.elapsed()) < tcp_gives_up_after()
    }

    fn note(&mut self, sockets: &[TcpSocket]) {
        let may_bring_more = self.may_bring_more();
        let counts = |socket: &&TcpSocket| {
            let listens = socket.state() == TcpState::Listen;
            !listens && !socket.is_past_end_of_stream()
        };
        let open: HashMap<_, _> = sockets.iter().filter(counts).map(|s| (ends(s), s)).collect();
        let waits = self.waits.get_or_insert_with(|| open.keys().map(|ends| (*ends, 0)).collect());
        waits.retain(|ends, seen| {
            let Some(socket) = open.get(ends) else { return false };
            let is_near = socket.remote().is_some_and(|remote| is_this_host(remote.ip()));
            if may_bring_more && !is_near {
                return true;
            }
            let is_empty = socket.unread().map_or(!may_bring_more, |unread| unread == 0);
            *seen += u32::from(is_empty);
            *seen < 2
        });
    }
}

// SAFETY: an initiator begins no read once the life time of its offer is over. One that it had begun is in a socket that was open
// then: its engine hands a request to the kernel when it is posted. (Not so if the socket was full, and the initiator's process was
// stopped before it was not; peers that are stopped for longer than an offer lives are the exception that docs/OFFERS.md names.) A socket
// that is empty has been read since; at the second time the engine's thread has answered what it had read by the first. From this host what
// is sent is in the socket at once; from another one it arrives before that gives the connection up.
unsafe impl QuietWatch for Reads {
    fn is_quiet(&mut self) -> bool {
        match TcpSocket::all_of_this_process() {
            Ok(sockets) => self.note(&sockets),
            // Time tells.
            Err(_) if self.may_bring_more() => return false,
            Err(_) => return true,
        }
        self.waits.as_ref().is_some_and(HashMap::is_empty)
    }
}

/// Whether no process that started after `offered` has the file. Those before are peers of their own: a fork copies an operation
/// only after it has begun.
fn no_child_has(file: FileIdentity, offered: u64) -> bool {
    const LIMIT: Duration = Duration::from_millis(200);
    let holders = Holders::of_file(file, LIMIT);
    let started_later = |pid: &u32| match ProcessWatch::open(*pid) {
        Ok(watch) => watch.start_time().is_none_or(|started| started >= offered),
        Err(ProcessError::NotThere { .. }) => false,
        Err(_) => true,
    };
    // A process that this one may not look into inherited nothing if it is older.
    let older = holders.last_unreadable_start().is_none_or(|started| started < offered);
    !holders.hidden() && older && !holders.pids().iter().any(started_later)
}

/// Whether all of this process's sockets that `counts` selects are past their end of stream.
fn sockets_are_over(
    counts: impl Fn(&TcpSocket) -> Result<bool, SocketsError>,
) -> Result<bool, SocketsError> {
    for socket in TcpSocket::all_of_this_process()? {
        let listens = socket.state() == TcpState::Listen;
        if !listens && !socket.is_past_end_of_stream() && counts(&socket)? {
            return Ok(false);
        }
    }
    Ok(true)
}

/// A socket whose other end was on this host and has no owner any more.
fn of_the_dead(socket: &TcpSocket) -> Result<bool, SocketsError> {
    const LIMIT: Duration = Duration::from_millis(200);
    match socket.remote() {
        Some(remote) if !is_this_host(remote.ip()) => Ok(false),
        Some(_) => Ok(match socket.owners_of_remote_end(LIMIT)? {
            Some(owners) => owners.pids().is_empty(),
            None => true,
        }),
        None => Ok(true),
    }
}

/// A socket that does not lead back to this process.
fn of_others(socket: &TcpSocket) -> Result<bool, SocketsError> {
    const LIMIT: Duration = Duration::from_millis(200);
    match socket.remote() {
        Some(remote) if is_this_host(remote.ip()) => {
            let owners = socket.owners_of_remote_end(LIMIT)?;
            Ok(owners.is_none_or(|owners| owners.pids() != [std::process::id()]))
        }
        Some(_) | None => Ok(true),
    }
}

fn ticks_since_boot() -> u64 {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
    let seconds = u64::try_from(now.tv_sec).unwrap_or(0);
    ticks(Duration::new(seconds, u32::try_from(now.tv_nsec).unwrap_or(0)))
}

/// The kernel counts the start of processes in hundredths of a second, with any clock source.
fn ticks(time: Duration) -> u64 {
    u64::try_from(time.as_millis() / 10).unwrap_or(u64::MAX)
}
