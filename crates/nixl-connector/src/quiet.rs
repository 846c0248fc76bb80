//! Proof that peers no longer access memory of this process, for each of their possible paths.
//!
//! | peer | proof |
//! |---|---|
//! | a process on this host with a claim in the slot | it has ended; no process younger than the offer has the offer's shared memory open or mapped by a fork (one that has made an agent of its own has not, nor has a child of this process); and every TCP socket of this process to an ownerless end on this host is past its end of stream, and every other one has been empty since the end |
//! | an agent with a claim by message, or any holder of the metadata | no NIC writes memory here, and every TCP socket of this process to another one is past its end of stream |
//! | agents that report failed writes | no NIC writes memory here, and all bytes that they had sent have arrived, as for reads (below) |
//! | processes that could read a closed export | no NIC reads memory here, every TCP socket of this process to another one is past its end of stream, and no other process has the words of its grants, or the memory, open or mapped: readers on this host that map something have both, and others are connected. A process that cannot be looked into counts for memory on a GPU: a late read of host memory, by its own mapping or by CMA, finds the mapped pages or fails, and its check fails |
//!
//! In addition, no process in another PID namespace that got the file of the memory through a rendezvous runs any more: such a
//! process claims without a number, and `/proc` does not show it.
//!
//! Reads of offers past their life time differ: the initiators of begun reads are not known. All reads have arrived once this
//! process's sockets hold no earlier bytes (it may have been stopped), and no connection to another host can still bring one
//! (the network may have been cut).
//!
//! A socket is past its end of stream once it holds no unread bytes. The engine's progress thread may still write the bytes
//! that it read last to memory, so a proof has to hold at two consecutive checks, 300 ms apart.
//!
//! A child of an ended process may keep its sockets open: then no end of stream comes, and a socket counts once it was empty at two
//! checks since the end.
#![allow(unsafe_code, reason = "implements the contract of proofs")]

mod arrivals;
mod looks;

use std::collections::HashSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use nixl_descriptor::{Descriptor, SharedName};
use nixl_device::{FileIdentity, ProcessError, ProcessWatch, TcpSocket, tcp_gives_up_after};
use nixl_ops::{Claimant, QuietProof, QuietWatch, Transport};

use self::arrivals::{Arrivals, MayBring, Wanted};
use self::looks::{Look, Looks};

/// The least time between two checks. The engine's thread writes the bytes that it has read from a socket within it: it copies some
/// KiB, and is kept from that by other threads only.
const GAP: Duration = Duration::from_millis(300);

/// Proofs from the operating system, for one engine.
#[derive(Debug)]
pub(crate) struct Proofs {
    looks: Arc<Looks>,
    /// Bytes may arrive by a NIC, whose connections the system does not show.
    nic_writes: bool,
}

impl Proofs {
    pub(crate) fn of(transport: &dyn Transport) -> Self {
        Self { looks: Arc::default(), nic_writes: !transport.completes_in_memory() }
    }
}

// SAFETY: its watches keep their contract, for the reasons that the table above gives.
unsafe impl QuietProof for Proofs {
    fn watch(&self, peer: &Claimant, memory: &[Descriptor], age: Duration) -> Box<dyn QuietWatch> {
        let subject = match peer {
            Claimant::Process(pid) => Subject::Process {
                process: Process::open(*pid),
                files: self.looks.include(
                    memory.iter().filter_map(|d| d.region().shared_name()?.file()).collect(),
                ),
                // Both are rounded, and time passes between them.
                offered: ticks_since_boot().saturating_sub(ticks(age).saturating_add(2)),
                arrivals: Arrivals::default(),
                since: None,
            },
            _ if self.nic_writes => Subject::Nic,
            // Their report has just arrived.
            Claimant::Ended => return self.reads(Duration::ZERO),
            _ => Subject::AnyHost,
        };
        let names: HashSet<_> = memory.iter().filter_map(|d| d.region().shared_name()).collect();
        let (names, looks) = (names.into_iter().collect(), Arc::clone(&self.looks));
        Box::new(Watch { subject, names, looks, next: None, held: false })
    }

    fn holders(&self, files: &[SharedName], on_gpu: bool) -> Box<dyn QuietWatch> {
        let subject = match self.nic_writes {
            true => Subject::Nic,
            false => {
                let files: Option<Vec<_>> = files.iter().map(SharedName::file).collect();
                Subject::Holders { files: files.map(|files| self.looks.include(files)), on_gpu }
            }
        };
        let (names, looks) = (files.to_vec(), Arc::clone(&self.looks));
        Box::new(Watch { subject, names, looks, next: None, held: false })
    }

    fn reads(&self, ago: Duration) -> Box<dyn QuietWatch> {
        let arrivals = Arrivals::default();
        Box::new(Reads { ago, made: Instant::now(), arrivals, next: None })
    }
}

#[derive(Debug)]
struct Watch {
    subject: Subject,
    /// The files of the memory.
    names: Vec<SharedName>,
    looks: Arc<Looks>,
    /// Only looks that begin after this count. `None` while the process runs.
    next: Option<Instant>,
    /// At the last look.
    held: bool,
}

#[derive(Debug)]
enum Subject {
    Process {
        process: Process,
        files: Arc<Vec<FileIdentity>>,
        /// The creation of the offer, in clock ticks since boot.
        offered: u64,
        /// Since its end was seen.
        arrivals: Arrivals,
        since: Option<Instant>,
    },
    AnyHost,
    Holders {
        /// `None` if one of them is not known.
        files: Option<Arc<Vec<FileIdentity>>>,
        /// No process may be one that cannot be looked into.
        on_gpu: bool,
    },
    /// The system does not show the accesses of a NIC.
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
        // A process that reuses the identifier of an ended one is waited for as well.
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

impl Subject {
    /// Whether looks can prove it.
    fn may_be_quiet(&self) -> bool {
        match self {
            Self::Process { process, .. } => process.has_ended(),
            Self::AnyHost => true,
            Self::Holders { files, .. } => files.is_some(),
            Self::Nic => false,
        }
    }

    fn is_quiet_by(&mut self, look: &Look) -> bool {
        match self {
            Self::Process { files, offered, arrivals, since, .. } => {
                let since = *since.get_or_insert_with(Instant::now);
                // An ended process of this system sends nothing from another host.
                let unknown = since.elapsed() < tcp_gives_up_after();
                let may_bring = MayBring { far: false, unknown };
                let have_arrived = look
                    .open_sockets()
                    .is_some_and(|open| arrivals.note(open, (may_bring, Wanted::Received)));
                have_arrived
                    && files.iter().all(|file| look.no_child_has(file, *offered))
                    && look.sockets_of_the_dead_are_over()
            }
            Self::AnyHost => look.sockets_of_others_are_over(),
            Self::Holders { files, on_gpu } => {
                look.sockets_of_others_are_over()
                    && files.as_ref().is_some_and(|files| {
                        files.iter().all(|file| look.no_other_has(file, *on_gpu))
                    })
            }
            Self::Nic => false,
        }
    }
}

// SAFETY: two looks, one after the other, find what the table above asks for, and both begin after the process is seen to have
// ended. A process that has ended accesses nothing, nor do its children, none of which has the file; the bytes that it had sent are
// read, since its sockets are past end of stream, or were empty at two looks since; the same held one check ago, so the engine's
// thread has written all bytes that it had read by then, and has answered all requests. A process that could read a closed export
// has its words mapped or is connected; one that was and connects anew looks at the words before it reads
// (`RemoteExport::connection_of_read`), and so does one that imports it later.
unsafe impl QuietWatch for Watch {
    fn is_quiet(&mut self) -> bool {
        if !self.subject.may_be_quiet() || self.names.iter().any(SharedName::is_held_elsewhere) {
            (self.next, self.held) = (None, false);
            return false;
        }
        let now = Instant::now();
        let next = *self.next.get_or_insert(now);
        if now < next {
            return false;
        }
        let Some(look) = self.looks.after(next) else { return false };
        let holds = self.subject.is_quiet_by(&look);
        self.next = Some(Instant::now() + GAP);
        std::mem::replace(&mut self.held, holds) && holds
    }
}

/// Reads begun in time.
#[derive(Debug)]
struct Reads {
    /// How long the offers had ended when this was made.
    ago: Duration,
    made: Instant,
    arrivals: Arrivals,
    /// The next check is no earlier.
    next: Option<Instant>,
}

impl Reads {
    /// Whether an unknown socket, or one to another host, counts.
    fn may_bring_more(&self) -> bool {
        self.ago.saturating_add(self.made.elapsed()) < tcp_gives_up_after()
    }
}

// SAFETY: an initiator begins no read once the life time of its offer is over. One that it had begun is in a socket that was open
// then: its engine hands a request to the kernel when it is posted. (Not so if the socket was full, and the initiator's process was
// stopped before it was not; nor while the engine still connects. Peers that are stopped, or connect, for longer than an offer
// lives are the exceptions that docs/OFFERS.md names.) An empty socket has been read since; at the second check the engine's thread
// has answered all requests that it had read by the first, and no answer waits for room in a socket: all that was sent is
// acknowledged. Bytes from this host are in the socket at once; those from another host arrive before that host gives the
// connection up.
unsafe impl QuietWatch for Reads {
    fn is_quiet(&mut self) -> bool {
        let now = Instant::now();
        if self.next.is_some_and(|next| now < next) {
            return false;
        }
        self.next = Some(now + GAP);
        let may_bring_more = self.may_bring_more();
        let may_bring = MayBring { far: may_bring_more, unknown: may_bring_more };
        match TcpSocket::all_of_this_process() {
            Ok(sockets) => self.arrivals.note(&sockets, (may_bring, Wanted::ReceivedAndSent)),
            // Time decides.
            Err(_) => !may_bring_more,
        }
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
