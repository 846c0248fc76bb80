//! The NIXL transport: a guarded wrapper around `nixl-sys`.
//!
//! `nixl-sys` is safe in name only: a missing library aborts the process, a request dropped in flight lets the peer write into
//! reused memory, changed metadata can lock a peer out for good. Guards here run before NIXL is called, so that its one error
//! code means a failure of the transport. The hazards and their guards:
//!
//! | hazard of NIXL or nixl-sys | guard |
//! |---|---|
//! | any call aborts if the library or a symbol is missing | `library` opens and checks it first |
//! | a request released in flight is written later | `transfer` never releases one that is not terminal |
//! | a post that fails at one descriptor reports nothing of those before it, which may be in flight | `transfer` waits for the end of a request after it |
//! | calls block while memory is registered | `agent`: callers only ever *try* its gate |
//! | a request, list or notification map used with the wrong agent or after it | `agent` owns the agent; no part of it leaves this module |
//! | a blob with a bad name panics, a forged one evicts a healthy peer, a changed one wedges it | `blob` parses every blob strictly, `peers` compares it with what is loaded |
//! | memory of a kind that NIXL does not have is written beyond the end of a table | `blob` refuses it |
//! | memory that a backend refuses makes it drop the peer of that name | `blob` leaves out what no transfer reaches, and refuses two keys for one memory |
//! | a damaged worker address ends the process | `worker_address` reads all of it before UCX does |
//! | a peer that died keeps its endpoints, attempts to reach it leak files | `directory` has NIXL forget it; `lost` does not let it be tried often; `endpoints` checks first that it listens |
//! | memory that comes and goes makes it forget and load the peer, which leaks sockets on both sides | `peers` loads keys without a memory of their own once, over all addresses |
//! | its listening socket is closed for good after one refused `accept` | `listener` notices, and the connector's health reports it |
//! | its one error code also means that no file can be opened | `files` checks the limit |
//! | a peer that does not answer blocks everything for minutes | `agent` has UCX connect without waiting |
//! | GPU memory is taken for the host's where no context is current | `gpu` makes it current around calls |
//! | and where UCX did not see its allocation | `ucx/settings` has it query the driver |
//! | settings with commas, and those of the process, cannot be given, and wrong ones are ignored | `ucx` reads and writes UCX's own configuration |
//! | more network interfaces than UCX takes end its start, and more than 64 names in a list the process | `ucx/choice` names some; `ucx/settings` counts |
//! | UCX's module for EFA loads a second libnl, whose destructors crash at exit | `ucx/settings` excludes it without such a device |
//! | UCX ends the owner's process if a reader over TCP dies before its reply | `ucx/replies` replaces the responsible functions |
//! | an empty datagram of any process to one of its Unix sockets ends the process | `ucx/wakeups` has the kernel drop those |
//! | a process that connects to its TCP port can end the process and write to its memory | `listener` has the kernel drop connections of networks that an option does not name |
//! | UCX prints on standard output | `ucx/log` passes its messages to `tracing` |
//! | without access to `HOME`, or with too few files, no agent is made, without a reason | `configuration` and `files` check first |
//! | UCX replaces the application's handlers of signals as it loads | `signals` restores them |
//! | its files take the numbers of closed standard streams | `streams` opens `/dev/null` there before |
//! | a refused thread ends the process, and so does a file beyond the limit or a log that cannot be opened | `threads`, `files` and `ucx/files` check first |
//! | so does a refused call of epoll | `epoll` tries each |
//! | so does a refused mapping | `memory` checks the limits first |
//! | after a refused registration of GPU memory, no peer accepts the agent's metadata | `registrar` tries it with another agent first |
//! | deregistering under a running request dangles | registrations are held by the transfer |
//! | prepared lists point to registrations and to a peer's keys, which may be gone | `lists` makes requests of ranges that are registered as they were, to a peer that is loaded as it was |
//! | a non-UTF-8 notification blocks all later ones | `notifications` reads bytes, one by one |
//! | a sender's name with a NUL is not found, or is another peer's for a second time | skipped and counted, and no notification of others with it |
//! | nothing can be sent, and no transfer posted, by a thread that hands out notifications inside NIXL | `transport` leaves it before |
//! | notifications that are not taken are queued without a bound | an idle connection takes them once a second |
//! | the agent is destroyed on the thread that drops it last | `agent` sends it to the control thread |
//! | a thread inside NIXL while the process exits crashes, and so does an agent that is left | `exit` waits for the threads, lets none in again, and destroys the agents |
//! | a library with this code that is closed leaves UCX and the C library with functions that are gone | `loaded` keeps it |
//! | in the child of a fork UCX waits for a thread that is not there, and shares its events with the parent | `forked` has UCX begin anew there, and serves its events |

mod agent;
mod blob;
mod configuration;
mod cover;
mod directory;
mod endpoints;
mod entries;
mod epoll;
mod exit;
mod export;
mod files;
mod forked;
#[cfg(any(test, fuzzing))]
#[doc(hidden)]
pub mod fuzz;
mod gpu;
mod here;
mod known;
mod library;
mod listener;
mod lists;
mod loaded;
mod lost;
mod memory;
mod names;
mod notifications;
mod options;
mod overlap;
mod parameters;
mod peer;
mod peers;
mod registrar;
mod settings_files;
mod signals;
mod streams;
mod threads;
mod transfer;
mod transport;
mod ucx;
mod version;
mod worker_address;

pub use library::{NixlLibrary, NixlUnavailable};
pub use options::{NixlBackend, NixlOptions, UcxLogLevel};
pub use transport::NixlTransport;
