//! Proof that peers no longer touch memory of this process, by the paths that they may have taken.
//!
//! | peer | proof |
//! |---|---|
//! | a process of this host, which has claimed the offer by its slot | it has ended; no process that started after the offer was made, as a child of its fork would have, has the shared memory of the offer open or mapped; and every TCP socket of this process whose other end is on this host and has no owner any more is past its end of stream |
//! | an agent that has claimed the offer by a message, or any holder of the metadata | no NIC writes memory here, and every TCP socket of this process that leads to another one is past its end of stream |
//!
//! A socket is past its end of stream once nothing in it waits to be read. The engine's progress thread may be about to write to
//! memory what it has read last, so a proof has to hold at two checks in a row.
#![allow(unsafe_code, reason = "promises what proofs must keep")]

use std::time::Duration;

use nixl_descriptor::DescriptorList;
use nixl_device::{
    FileIdentity, Holders, ProcessError, ProcessWatch, SocketsError, TcpSocket, TcpState,
    is_this_host,
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
    fn watch(
        &self,
        peer: &Claimant,
        memory: &DescriptorList,
        age: Duration,
    ) -> Box<dyn QuietWatch> {
        let subject = match peer {
            Claimant::Process(pid) => Subject::Process {
                process: Process::open(*pid),
                files: memory.iter().filter_map(|d| d.region().shared_name()?.file()).collect(),
                offered: ticks_since_boot().saturating_sub(ticks(age)),
            },
            _ if self.nic_writes => Subject::Nic,
            _ => Subject::AnyHost,
        };
        Box::new(Watch { subject, held: false })
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
    let older = holders.last_unreadable_start.is_none_or(|started| started < offered);
    !holders.hidden && older && !holders.pids.iter().any(started_later)
}

/// Whether all of this process's sockets that `counts` selects are past their end of stream.
fn sockets_are_over(
    counts: impl Fn(&TcpSocket) -> Result<bool, SocketsError>,
) -> Result<bool, SocketsError> {
    for socket in TcpSocket::all_of_this_process()? {
        let listens = socket.state == TcpState::Listen;
        if !listens && !socket.is_past_end_of_stream() && counts(&socket)? {
            return Ok(false);
        }
    }
    Ok(true)
}

/// A socket whose other end was on this host and has no owner any more.
fn of_the_dead(socket: &TcpSocket) -> Result<bool, SocketsError> {
    const LIMIT: Duration = Duration::from_millis(200);
    match socket.remote {
        Some(remote) if !is_this_host(remote.ip()) => Ok(false),
        Some(_) => Ok(match socket.owners_of_remote_end(LIMIT)? {
            Some(owners) => owners.pids.is_empty(),
            None => true,
        }),
        None => Ok(true),
    }
}

/// A socket that does not lead back to this process.
fn of_others(socket: &TcpSocket) -> Result<bool, SocketsError> {
    const LIMIT: Duration = Duration::from_millis(200);
    match socket.remote {
        Some(remote) if is_this_host(remote.ip()) => {
            let owners = socket.owners_of_remote_end(LIMIT)?;
            Ok(owners.is_none_or(|owners| owners.pids != [std::process::id()]))
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
