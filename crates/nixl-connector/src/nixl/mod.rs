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
//! | calls block while memory is registered | `agent`: callers only ever *try* its gate |
//! | a request, list or notification map used with the wrong agent or after it | `agent` owns the agent; no part of it leaves this module |
//! | a blob with a bad name panics, a forged one evicts a healthy peer, a changed one wedges it | `blob` parses every blob strictly, `peers` compares it with what is loaded |
//! | memory of a kind that NIXL does not know is written beyond the end of a table | `blob` refuses it |
//! | a damaged worker address ends the process | `worker_address` parses all of it before UCX does |
//! | a dead peer keeps its endpoints, attempts to reach it leak files | `directory` makes NIXL forget it, and limits the attempts; `endpoints` probes first whether it listens |
//! | changing memory makes it forget and reload the peer, which leaks sockets on both sides | `peers` loads keys without content once, over all addresses |
//! | its listening socket is closed for good after one refused `accept` | `listener` detects it, and the connector's health reports it |
//! | its one error code also means that no file can be opened | `files` checks |
//! | a peer that does not answer blocks everything for minutes | `agent` makes UCX connect without waiting |
//! | without a current context GPU memory is taken for host memory | `gpu` makes it current around calls |
//! | and if UCX did not see its allocation | `ucx/settings` makes UCX query the driver |
//! | settings with commas, and those of the process, cannot be passed, and invalid ones are ignored | `ucx` validates and sets them in UCX itself |
//! | more network interfaces than UCX takes end its start, and more than 64 names in a list the process | `ucx/choice` names some; `ucx/settings` counts |
//! | UCX's module for EFA loads a second libnl, whose destructors crash at exit | `ucx/settings` excludes it without such a device |
//! | UCX ends the owner's process if a reader over TCP dies before its reply | `ucx/replies` replaces the responsible functions |
//! | UCX prints on standard output | `ucx/log` passes its messages to `tracing` |
//! | without access to `HOME`, or with too few files, no agent is made, without a reason | `configuration` and `files` check first |
//! | a refused thread ends the process, and so does a file beyond the limit or a log that cannot be opened | `threads`, `files` and `ucx/files` check first |
//! | after a refused registration of GPU memory, no peer accepts the agent's metadata | `registrar` tries it with another agent first |
//! | deregistering under a running request dangles | registrations are held by the transfer |
//! | a non-UTF-8 notification blocks all later ones | read as bytes, one by one |
//! | a sender's name with a NUL is not found, or resolves to another peer | skipped and counted, without notifications of others |
//! | unreceived notifications are queued without a bound | an idle connection receives them once a second |
//! | the agent is destroyed on the thread of its last drop | `agent` sends it to the control thread |
//! | a thread inside NIXL during exit crashes, and so does a remaining agent | `exit` closes the gate, waits for the threads, and destroys the agents |
//! | closing a library with this code leaves UCX and the C library with dangling functions | `loaded` keeps it open |
//! | in the child of a fork UCX waits for a missing thread, and shares its events with the parent | `forked` resets UCX there, and serves its events |

mod agent;
mod blob;
mod configuration;
mod directory;
mod endpoints;
mod exit;
mod export;
mod files;
mod forked;
#[cfg(any(test, fuzzing))]
#[doc(hidden)]
pub mod fuzz;
mod gpu;
mod here;
mod introduced;
mod library;
mod listener;
mod loaded;
mod names;
mod options;
mod peer;
mod peers;
mod registrar;
mod threads;
mod transfer;
mod transport;
mod ucx;
mod version;
mod worker_address;

pub use library::{NixlLibrary, NixlUnavailable};
pub use options::{NixlBackend, NixlOptions, UcxLogLevel};
pub use transport::NixlTransport;
