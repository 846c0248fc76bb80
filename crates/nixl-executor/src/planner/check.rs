//! Availability checks of each kind of path, with the reason against those that are unavailable: one file a kind.

mod cuda_ipc;
mod engine;
mod local;
mod remote_copy;
mod shared_memory;
mod sides;
mod staged;

use std::borrow::Cow;

use nixl_ops::{Medium, OperationKind, PathKind};

use super::{PathCosts, PathQuery, Refusal};
use crate::facts::{LocalFacts, PeerFacts};
use crate::local::Cost;

/// What a path is carried by and costs, and what makes it possible.
pub(super) struct Availability {
    pub(super) medium: Option<Medium>,
    pub(super) cost: Cost,
    pub(super) why: Cow<'static, str>,
}

/// Why a path is not there.
pub(super) struct Missing {
    pub(super) refusal: Refusal,
    pub(super) reason: Cow<'static, str>,
}

type CheckResult = Result<Availability, Missing>;

fn missing(reason: impl Into<Cow<'static, str>>) -> Missing {
    Missing { refusal: Refusal::Missing, reason: reason.into() }
}

/// The path is not one between memories like these.
fn not_applicable(reason: &'static str) -> Missing {
    Missing { refusal: Refusal::Inapplicable, reason: reason.into() }
}

fn available(medium: Option<Medium>, cost: Cost, why: impl Into<Cow<'static, str>>) -> CheckResult {
    Ok(Availability { medium, cost, why: why.into() })
}

/// Everything that the facts are judged by.
pub(super) struct Check<'a> {
    pub(super) query: &'a PathQuery,
    pub(super) here: &'a LocalFacts,
    pub(super) peer: &'a PeerFacts,
    pub(super) costs: &'a PathCosts,
}

impl Check<'_> {
    pub(super) fn check(&self, kind: PathKind) -> CheckResult {
        if !matches!(kind, PathKind::SameProcessCopy | PathKind::Local(_))
            && self.query.offered.ours
        {
            return Err(not_applicable("both sides are memory of this process"));
        }
        if self.query.is_read_only && self.query.operation == OperationKind::Read {
            return Err(missing("the driver lets the GPU only read the local memory"));
        }
        match kind {
            PathKind::SameProcessCopy => self.same_process_copy(),
            PathKind::Local(_) => self.local(),
            PathKind::CudaIpc => self.cuda_ipc(),
            PathKind::SharedMemory => self.shared_memory(),
            PathKind::StagedOnGpu => self.staged_on_gpu(),
            PathKind::GpuDirect => self.gpu_direct(),
            PathKind::Direct => self.direct(),
            PathKind::StagedOneSide => self.staged_one_side(),
            PathKind::StagedBothSides => self.staged_both_sides(),
            PathKind::EngineStaged => self.engine_staged(),
            _ => Err(missing("the planner does not know this kind of path")),
        }
    }
}

/// Whether a peer that speaks version `theirs` of some messages understands this release's. Each release speaks its own version
/// and those before, and is understood by the next.
fn supports_version(messages: &str, theirs: u16, ours: u16) -> Result<(), Missing> {
    match (1..=ours + 1).contains(&theirs) {
        true => Ok(()),
        false => Err(missing(format!(
            "the peer speaks version {theirs} of {messages} messages, and this release version {ours}"
        ))),
    }
}
