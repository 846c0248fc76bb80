//! Messages of the initiator and the target.

use serde::{Deserialize, Serialize};

use nixl_benches::Layout;
use nixl_connector::OperationKind;

/// Who moves the bytes.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub(crate) enum Engine {
    Connector,
    NixlSys,
}

impl Engine {
    pub(crate) const BOTH: [Self; 2] = [Self::Connector, Self::NixlSys];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Connector => "nixl-connector",
            Self::NixlSys => "nixl-sys",
        }
    }
}

impl From<Engine> for String {
    fn from(engine: Engine) -> Self {
        engine.name().to_owned()
    }
}

/// `OperationKind`, for the channel and the reports.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub(crate) enum Kind {
    Read,
    Write,
}

impl Kind {
    pub(crate) const BOTH: [Self; 2] = [Self::Read, Self::Write];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Read => "read",
            Self::Write => "write",
        }
    }
}

impl From<Kind> for OperationKind {
    fn from(kind: Kind) -> Self {
        match kind {
            Kind::Read => Self::Read,
            Kind::Write => Self::Write,
        }
    }
}

/// One iteration, as the target sees it.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Serialize)]
pub(crate) struct Offer {
    pub(crate) engine: Engine,
    pub(crate) kind: Kind,
    pub(crate) layout: Layout,
    /// Every piece is an operation of its own.
    pub(crate) split: bool,
    /// Of the pattern.
    pub(crate) seed: u64,
    /// The plain engine's target looks for the notification all the time, not only once it is told to. The connector's
    /// always does.
    pub(crate) watch: bool,
}

#[derive(Debug, Deserialize, Serialize)]
pub(crate) enum Request {
    /// The plain engine's metadata of the initiator.
    Meet { metadata: Vec<u8> },
    /// Prepare the memory and offer it.
    Offer(Offer),
    /// The transfers of the last offer are over.
    Finish,
    /// Offer a byte; when it has been read, read the one that this metadata offers. The plain engine's target answers a
    /// notification instead.
    Ping { engine: Engine, metadata: String },
    /// Do nothing for this long, with or without an operation outstanding.
    Idle { outstanding: bool, millis: u64 },
}

#[derive(Debug, Deserialize, Serialize)]
pub(crate) enum Reply {
    /// The plain engine's metadata of the target, and where its memory is.
    Met { metadata: Vec<u8>, address: u64 },
    /// The connector's metadata of every operation; none for the plain engine.
    Offered { metadata: Vec<String> },
    /// When the target learnt of the completion, and whether what it received is right.
    Finished { at: u64, correct: bool },
    /// CPU time used, and time passed, in nanoseconds.
    Idled { cpu: u64, wall: u64 },
}
