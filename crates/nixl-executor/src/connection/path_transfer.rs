//! One operation's transfer: on the fastest path, and on the next ones if that fails.

use std::num::NonZeroU64;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use nixl_descriptor::{DescriptorList, Leased, Registration};
use nixl_metadata::{AgentMetadata, OperationKind, RdmaMetadata};
use nixl_ops::{
    Execution, OperationError, PathKind, PathPolicy, PathReport, PeerId, PeerMemory, RemoteSlot,
    TicketRead, TransferRequest, Transport, TransportError, forward_execution,
};

use super::attempt::Attempt;
use super::path_connection::PathConnection;
use super::probe::PROBE;
use super::telemetry::note_attempt;
use crate::peers::{EngineEstimate, HealthState, PathKey, Peer, Underway};
use crate::planner::{AvailablePath, MAX_ATTEMPTS, PathHistory, PathPlan, may_retry};
use crate::transfers::is_not_open;

/// An operation that goes by the paths of its plan.
pub(super) struct PathTransfer {
    connection: Arc<PathConnection>,
    plan: Arc<PathPlan>,
    history: PathHistory,
    /// Failures that the history takes into account.
    failures: u64,
    peer: Arc<Peer>,
    bytes: u64,
    /// What the next path would need; none if there is no other.
    request: Option<Owned>,
    path: AvailablePath,
    current: Attempt,
    leased: Leased,
    /// What those before the current one left at the peer's memory.
    before: Option<PeerMemory>,
    ended: bool,
    /// The current one only shows whether the path works.
    proving: bool,
    /// Of those before the current one.
    steps: u64,
    tries: u32,
    abandoned: bool,
    /// Measures the current path, where the time shows its speed.
    underway: Option<Underway>,
}

/// A request that outlives its call.
struct Owned {
    kind: OperationKind,
    local: DescriptorList,
    leased: Leased,
    slot: Option<RemoteSlot>,
    notifies: bool,
    connection: Option<NonZeroU64>,
    ticket_read: Option<TicketRead>,
    remote: RdmaMetadata,
    transport: Arc<dyn Transport>,
    peer: PeerId,
    registrations: Arc<[Registration]>,
    initiator_metadata: Option<AgentMetadata>,
    policy: PathPolicy,
}

impl Owned {
    fn of(request: &TransferRequest<'_>) -> Option<Self> {
        let route = request.route()?;
        Some(Self {
            kind: request.kind(),
            local: request.local().clone(),
            leased: request.leased().clone(),
            slot: route.slot().cloned(),
            notifies: route.notifies(),
            connection: route.connection(),
            ticket_read: route.ticket_read().cloned(),
            remote: request.remote().clone(),
            transport: Arc::clone(route.transport()),
            peer: route.peer().clone(),
            registrations: Arc::clone(route.registrations()),
            initiator_metadata: route.initiator_metadata().cloned(),
            policy: request.policy(),
        })
    }

    fn request(&self) -> TransferRequest<'_> {
        let request = TransferRequest::inter_process(
            self.kind,
            (&self.local, &self.leased),
            &self.remote,
            &self.transport,
            &self.peer,
            self.registrations.clone(),
        )
        .with_initiator_metadata(self.initiator_metadata.clone())
        .with_slot(self.slot.as_ref())
        .on_connection(self.connection)
        .by_ticket(self.ticket_read.as_ref())
        .under(self.policy);
        match self.notifies {
            true => request,
            false => request.without_notification(),
        }
    }
}

impl PathTransfer {
    /// Prepares the transfer by the fastest path that can be prepared.
    pub(super) fn begin(
        connection: Arc<PathConnection>,
        peer: Arc<Peer>,
        (plan, mut history, failures): (Arc<PathPlan>, PathHistory, u64),
        request: &TransferRequest<'_>,
    ) -> Result<Box<dyn Execution>, TransportError> {
        let bytes = request.local().total_bytes();
        let mut tries = 0;
        let (path, (current, proving)) = loop {
            let chosen = plan.choose(bytes, &history);
            let chosen =
                chosen.inspect_err(|error| tracing::info!(%error, "every path is refused"))?;
            let path = chosen.path.clone();
            tries += 1;
            match connection.first(path.kind, &peer, &plan, request) {
                Ok(first) => break (path, first),
                Err(error) => {
                    connection.note_failure(&peer, &plan, path.kind, &error);
                    // The connector reconnects to the peer, and calls again.
                    let another = may_retry(false, &error) || unregistered(&error, &plan);
                    if wants_reconnect(&error) || tries >= MAX_ATTEMPTS || !another {
                        return Err(error);
                    }
                    history.note_tried(path.kind, error.to_string());
                }
            }
        };
        let leased = request.leased().clone();
        let another = plan.available.len() > 1 || proving;
        let underway = is_measured(&plan, request.local())
            .then(|| Underway::begin(&peer, connection.link.clock().now()));
        let request = if another { Owned::of(request) } else { None };
        let abandoned = false;
        Ok(Box::new(Self {
            connection,
            plan,
            history,
            failures,
            peer,
            bytes,
            request,
            path,
            current,
            leased,
            before: None,
            ended: false,
            proving,
            steps: 0,
            tries,
            abandoned,
            underway,
        }))
    }

    /// After a failure: the next path, if there is one and it may be tried.
    fn next(&mut self, error: TransportError) -> Result<(), TransportError> {
        let mut error = error;
        let Some(request) = &self.request else { return Err(error) };
        while !self.abandoned
            && self.tries < MAX_ATTEMPTS
            && !self.current.target_told()
            && (may_retry(false, &error) || unregistered(&error, &self.plan))
        {
            self.history.note_tried(self.path.kind, error.to_string());
            let Ok(chosen) = self.plan.choose(self.bytes, &self.history) else {
                return Err(error);
            };
            self.path = chosen.path.clone();
            self.tries += 1;
            let request = request.request();
            match self.connection.first(self.path.kind, &self.peer, &self.plan, &request) {
                Ok((execution, proving)) => {
                    self.replace(execution, proving);
                    return Ok(());
                }
                Err(next) => {
                    self.connection.note_failure(&self.peer, &self.plan, self.path.kind, &next);
                    error = next;
                }
            }
        }
        Err(error)
    }

    /// The path works: the whole operation by it.
    fn proceed(&mut self) -> Result<(), TransportError> {
        let Some(request) = &self.request else { return Err(TransportError::Closed) };
        let (kind, query) = (self.path.kind, &self.plan.query);
        let execution = self.connection.begin(kind, query, &request.request())?;
        self.replace(execution, false);
        Ok(())
    }

    fn replace(&mut self, execution: Attempt, proving: bool) {
        self.steps += self.current.steps() + 1;
        self.before = self.before.max(Some(self.current.peer_memory()));
        (self.current, self.proving) = (execution, proving);
        if self.underway.take().is_some() {
            let now = self.connection.link.clock().now();
            self.underway = Some(Underway::begin(&self.peer, now));
        }
    }

    /// Remembers that the current path works.
    fn note_success(&self) {
        let kind = self.path.kind;
        self.connection.successes.attempt(kind, self.connection.link.transport().name());
        let path_key = PathKey::new(kind, self.plan.query.memories());
        let proven_at = self.history.is_proven(kind).then_some(self.failures);
        self.peer.note_success(path_key, proven_at);
    }

    /// The current path has carried the operation out.
    fn measure(&mut self) {
        let Some(underway) = self.underway.take() else { return };
        let (kind, now) = (self.path.kind, self.connection.link.clock().now());
        let took = underway.took(now);
        if let Some(measured) = self.peer.lock().plans.measured(&self.plan) {
            let estimate = self.path.cost.estimate(1, self.bytes);
            match took {
                Some(took) => measured.note(kind, self.bytes, estimate, took, now),
                None => measured.note_taken(kind, self.bytes),
            }
        }
        underway.end(now);
    }
}

/// Whether the time of an operation shows the speed of its path: it is long, in long pieces, waits for no work on its memory, and
/// another path could be taken.
fn is_measured(plan: &PathPlan, local: &DescriptorList) -> bool {
    plan.available.len() > 1
        && EngineEstimate::tells(local.total_bytes(), local.len())
        && local.pending().is_empty()
}

impl PathConnection {
    /// What an operation by a path begins with, and whether that only shows whether the path works.
    fn first(
        &self,
        kind: PathKind,
        peer: &Peer,
        plan: &PathPlan,
        request: &TransferRequest<'_>,
    ) -> Result<(Attempt, bool), TransportError> {
        let query = &plan.query;
        if request.local().total_bytes() > PROBE
            && !self.has_proven(kind, peer, plan)
            && let Some(probe) = self.probe(kind, query, request)?
        {
            return Ok((Attempt::Other(probe), true));
        }
        Ok((self.begin(kind, query, request)?, false))
    }

    /// Whether a path worked the last time.
    fn has_proven(&self, kind: PathKind, peer: &Peer, plan: &PathPlan) -> bool {
        let now = self.link.clock().now();
        let state = peer.lock().health.state(PathKey::new(kind, plan.query.memories()), now);
        state == HealthState::Proven
    }

    /// Remembers that a path failed.
    fn note_failure(&self, peer: &Peer, plan: &PathPlan, kind: PathKind, error: &TransportError) {
        note_attempt(kind, self.link.transport().name(), Err(error));
        if kind == PathKind::SharedMemory || wants_reconnect(error) {
            // The memory of a process that has ended is free only once it is closed here.
            self.imports.sweep_soon();
        }
        // The others say nothing about the path.
        if may_retry(false, error) && !is_not_open(error) {
            let path_key = PathKey::new(kind, plan.query.memories());
            peer.note_failure(path_key, error.to_string(), self.link.clock().now());
        }
    }
}

#[deny(clippy::missing_trait_methods, reason = "a wrapper forwards every method")]
impl Execution for PathTransfer {
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), TransportError>> {
        loop {
            let result = match self.current.poll(cx) {
                Poll::Pending => return Poll::Pending,
                Poll::Ready(result) => result,
            };
            let result = match result {
                Ok(()) if self.proving && self.abandoned => Err(TransportError::Closed),
                Ok(()) if self.proving => match self.proceed() {
                    Ok(()) => continue,
                    Err(error) => Err(error),
                },
                result => result,
            };
            let result = match result {
                Ok(()) => {
                    self.note_success();
                    self.measure();
                    Ok(())
                }
                Err(error) => {
                    let (plan, kind) = (&self.plan, self.path.kind);
                    self.connection.note_failure(&self.peer, plan, kind, &error);
                    match self.next(error) {
                        Ok(()) => continue,
                        Err(error) => Err(OperationError::from(error)),
                    }
                }
            };
            self.ended = true;
            return Poll::Ready(result.map_err(|error| match error {
                OperationError::Transport(error) => error,
                _ => TransportError::Closed,
            }));
        }
    }

    fn abandon(&mut self) -> bool {
        self.abandoned = true;
        self.current.abandon()
    }

    fn report(&self) -> PathReport {
        let report = self.current.report().with_kind(self.path.kind);
        let medium = report.medium().or(self.path.medium);
        report
            .with_medium(medium)
            .with_degraded(self.plan.degraded(&self.path).cloned())
            .rejecting(self.plan.alternatives(self.path.kind, self.bytes, &self.history))
    }

    fn expected(&self) -> Option<Duration> {
        let estimate = || self.path.cost.estimate(1, self.bytes);
        self.current.expected().or_else(|| self.awaits_notification().then(estimate))
    }

    fn steps(&self) -> u64 {
        self.steps + self.current.steps()
    }

    fn peer_memory(&self) -> PeerMemory {
        let current = self.current.peer_memory();
        self.before.map_or(current, |before| before.max(current))
    }

    forward_execution! { current: awaits_notification completion_mode posts_quickly takes_turns target_told }
}

impl Drop for PathTransfer {
    fn drop(&mut self) {
        // Dropped in flight: what the current path uses stays leased.
        if !self.ended && !self.current.abandon() {
            self.leased.clone().leak();
        }
    }
}

/// Whether the engine must reconnect to the peer, on any path.
fn wants_reconnect(error: &TransportError) -> bool {
    matches!(error, TransportError::UnknownPeer { .. } | TransportError::PeerGone { .. })
}

/// Whether the engine does not know the peer's GPU memory, which it may not be able to register at all. Other paths do not
/// need that; if there is none, the metadata may be stale.
fn unregistered(error: &TransportError, plan: &PathPlan) -> bool {
    matches!(error, TransportError::NotRegistered { .. })
        && !plan.query.remote.is_host()
        && plan.available.len() > 1
}
