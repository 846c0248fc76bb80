//! The path of the bytes, and the unavailable ones.

use nixl_connector::{ConnectorError, OperationError};
use nixl_executor::{PathKind, PathReport, Rejected};
use nixl_ops::TransportError;
use serde::{Deserialize, Serialize};

use super::case::Flow;

/// A path that the executor was told to take, and why it did not.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
pub(crate) struct Refusal {
    /// Where the bytes were.
    pub(crate) from: String,
    /// Where they were to go.
    pub(crate) to: String,
    pub(crate) path: String,
    pub(crate) reason: String,
    /// Until the operation failed.
    pub(crate) took_ns: u64,
    /// The same transfer completed when the executor could choose, by this path.
    pub(crate) instead: Option<String>,
}

impl Refusal {
    pub(crate) fn new(flow: Flow, kind: PathKind, rejected: &[Rejected], took_ns: u64) -> Self {
        let (from, to) = (flow.src.to_string(), flow.dst.to_string());
        let reason = reason(kind, rejected);
        Self { from, to, path: kind.to_string(), reason, took_ns, instead: None }
    }
}

/// What was said of this kind of path; if nothing, all that was said.
fn reason(kind: PathKind, rejected: &[Rejected]) -> String {
    match rejected.iter().find(|path| path.kind() == kind) {
        Some(path) => path.reason().to_string(),
        None => {
            let all = rejected.iter().map(|path| format!("{}: {}", path.kind(), path.reason()));
            all.collect::<Vec<_>>().join("; ")
        }
    }
}

/// The paths of an operation that failed because its policy left none.
pub(crate) fn rejected(error: &ConnectorError) -> Option<&[Rejected]> {
    match error {
        ConnectorError::Transport(TransportError::NoPath { rejected })
        | ConnectorError::Operation(OperationError::Transport(TransportError::NoPath {
            rejected,
        })) => Some(rejected),
        _ => None,
    }
}

/// Kind, medium and chunks.
pub(crate) fn name(path: &PathReport) -> String {
    let mut name = path.kind().to_string();
    if let Some(medium) = path.medium() {
        name += &format!("/{medium}");
    }
    if path.chunks() > 1 {
        name += &format!(" x{}", path.chunks());
    }
    name
}

#[cfg(test)]
mod tests {
    use nixl_executor::PathKind::{Direct, GpuDirect};
    use nixl_ops::Medium;

    use super::*;
    use crate::remote::memory::Memory;

    #[test]
    fn a_path_is_named_with_its_medium_and_its_chunks() {
        let path = PathReport::new(PathKind::StagedBothSides, "nixl/UCX", 1 << 26, 1);
        assert_eq!(name(&path), "staged-both-sides");
        let path = path.with_medium(Some(Medium::Tcp)).with_chunks(64);
        assert_eq!(name(&path), "staged-both-sides/tcp x64");
    }

    #[test]
    fn a_refusal_says_what_was_said_of_its_path() {
        let flow = Flow { src: Memory::Gpu(0), dst: Memory::Host };
        let all = [Rejected::new(Direct, "GPU memory"), Rejected::new(GpuDirect, "no NIC")];
        let error = TransportError::NoPath { rejected: all.to_vec() };
        let early = ConnectorError::Transport(error.clone());
        let late = ConnectorError::Operation(OperationError::Transport(error));
        for error in [early, late] {
            let refusal = Refusal::new(flow, GpuDirect, rejected(&error).unwrap(), 5);
            assert_eq!((refusal.path.as_str(), refusal.reason.as_str()), ("gpu-direct", "no NIC"));
        }
        assert_eq!(rejected(&ConnectorError::NoTransport), None);
        let other = Refusal::new(flow, PathKind::CudaIpc, &all, 5);
        assert_eq!(other.reason, "direct: GPU memory; gpu-direct: no NIC");
    }
}
