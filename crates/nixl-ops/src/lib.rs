//! The life of operations: status, driver, completion, offers and messages between connections.
//!
//! This crate defines operations, not engines: the [state machine](OperationStatus) of every transfer, the traits of an engine
//! ([`Transport`]) and of a strategy ([`Executor`], [`ConnectionExecutor`]), and the [`Driver`] that polls operations to their
//! end. It contains no NIXL, no CUDA, no sockets, and reads time only from an injected [`Clock`].
//!
//! Guarantees to callers, for every engine:
//!
//! * **Memory outlives the engine's access.** A posted transfer is polled to a terminal state even if its operation was
//!   dropped, cancelled or timed out; its memory stays leased until then. If the engine is not quiet at the drain deadline, its
//!   waiter gets an error, and the driver polls the engine rarely, [for as long as the driver lives](Overdue). Then the memory
//!   is leaked and [counted](nixl_descriptor::leaked), never reused.
//! * **Every offer ends.** An offer that is given up is free at once unless a peer may be using it; then it is retained or
//!   quarantined until the peer's confirmation, a [proof of quiet](QuietProof), or the end of its life time, and
//!   [`DriverStats`] counts it.
//! * **Every grant ends at once.** The owner of granted blocks needs no reader's consent: a late read is [detected](WordCheck).
//! * **Every wait ends.** Operations have deadlines; a lost notification or a stalled engine becomes
//!   [`OperationError::TimedOut`].
//! * **A panic ends one operation.** A panic of a waker, an execution or a destructor of a user's memory is
//!   [contained](contained()). If a driver ends nevertheless, all its operations fail at once.
//! * **Async threads stay free.** One poll of a wait spins for at most 50 us, and spins that do not see the end take at most 5
//!   % of a thread's time.
//! * **Idle costs nothing.** The driver spins for tens of microseconds, backs off, and parks when nothing is outstanding. Once
//!   a second it receives notifications, which engines queue without a bound.
//! * **No lie about completion.** [`OperationStatus::Complete`] means the bytes are in the destination.
//!
//! Applications use these operations through `nixl-connector`; this crate is for authors of transports and executors.
//!
//! ```
//! use nixl_ops::OperationStatus;
//!
//! let status = OperationStatus::InProgress;
//! assert!(!status.is_terminal());
//! assert_eq!(status.short_name(), "PROC");
//! ```
#![deny(unsafe_code)]

mod advice;
mod backoff;
mod blocking;
mod clock;
mod completion;
mod connect;
mod contained;
mod control;
mod deadline;
mod direct;
mod drain;
mod driver;
mod driver_config;
mod driver_stats;
mod error;
mod execution;
mod executor;
mod fair;
mod forwarding;
#[cfg(any(all(test, not(loom)), fuzzing))]
#[doc(hidden)]
pub mod fuzz;
mod grants;
mod leasing;
mod mailbox;
mod notifier;
mod offer;
mod operation;
mod options;
mod outcome;
mod overdue;
mod pairing;
mod parking;
mod passive;
mod path;
mod peer_id;
mod policy;
mod posts;
mod prepared_lists;
mod recent_map;
mod request;
mod setting;
mod sleeper;
mod slots;
mod spent;
mod spin;
mod status;
mod sync;
mod task;
mod telemetry;
mod ticket_read;
mod transfer;
mod transport;
mod typical;
mod unexpected;
mod usage;
mod wait_for;
mod wakes;
mod with_timeout;

pub use backoff::Backoff;
pub use clock::{Clock, ManualClock, SystemClock};
use completion::CompletionCell;
pub use connect::{ConnectSpec, Connected, Idle};
pub use contained::contained;
pub use direct::DirectTransfer;
pub use drain::OnLeaving;
pub use driver::{Driver, Next, Reactor};
pub use driver_config::DriverConfig;
pub use driver_stats::DriverStats;
pub use error::{EndedOffer, OperationError, TransportError};
pub use execution::{Execution, PeerMemory};
pub use executor::{
    BlockingThread, ConnectionContext, ConnectionExecutor, Executor, OfferRegistry, PeerService,
    Prefault, PrefaultStep, Preparation, Received, TransportExecutor,
};
pub use grants::{
    DoneOutcome, ExportNotification, FreeBlocks, GrantError, GrantMessage, GrantMessageKind,
    GrantStats, GrantTable, GrantTableOptions, GrantTerms, GrantWords, Granted, GrantedCopy,
    LayerWatch, NotificationReceiver, NotificationSender, OutstandingTickets, SpentWords,
    StaleRead, TicketEnd, WordCheck, WrittenBlocks,
};
pub use mailbox::{Mailbox, Mailboxes};
pub use nixl_device::Advice;
pub use nixl_metadata::{ClaimDemand, OperationKind};
pub use notifier::CompletionNotifier;
pub use offer::{Claim, Offer};
pub use operation::{
    CancelHandle, CancelOutcome, CopyOperation, MemoryFate, OperationFuture, ReadOperation,
    ReadableOperation, Reclaimed, RevokeOutcome, Settled, UnquietOffer, WritableEnder,
    WritableOperation, WriteOperation,
};
pub use options::OperationOptions;
pub use outcome::Completion;
pub use overdue::Overdue;
pub use pairing::{PairingError, pair};
pub use passive::{Claimant, Held, OfferSpec, OfferWord, OfferWords, QuietProof, QuietWatch};
pub use path::{Hop, Medium, PathKind, PathReport, Rejected};
pub use peer_id::PeerId;
pub use policy::PathPolicy;
pub use prepared_lists::{EngineLists, Listed, ListsSpec, PreparedLists};
pub use recent_map::RecentMap;
pub use request::{Route, TransferRequest};
pub use setting::{EngineSetting, SettingSource};
pub use sleeper::Sleeper;
pub use slots::{FoundSlot, OfferSlot, RecentCheck, RemoteSlot, RemoteSlots, foreign_process};
pub use spent::{KeyRecord, KeyUse, SpentKeys, SpentStats};
pub use status::{OperationStatus, StatusError};
pub use telemetry::{ByLabels, GaugeShare, PerRecorder, transport_label};
pub use ticket_read::TicketRead;
pub use transfer::{CompletionMode, Transfer, TransferSpec};
pub use transport::{OnLost, Transport};
pub use usage::OfferUse;
pub use wait_for::WaitFor;
