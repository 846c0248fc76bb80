//! The execution of an engine's own transfer between processes.

use std::fmt;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use nixl_metadata::OperationKind;

use crate::{
    CompletionMode, CompletionNotifier, Execution, PathKind, PathReport, PeerMemory, Transfer,
    TransferRequest, TransportError,
};

/// One request of the engine's, and the notification that the target waits for.
///
/// The notification travels with the request, on the same connection, except where the offer's slot is mapped and the bytes are
/// known to be in place when the request is complete: those of a read are then in local memory, and those of a write if the
/// engine [says so](crate::Transport::completes_in_memory). A slot spares two system calls.
pub struct DirectTransfer {
    stage: Stage,
    /// `None` if the notification travels with the request.
    notifier: Option<CompletionNotifier>,
    report: PathReport,
}

enum Stage {
    Moving(Box<dyn Transfer>),
    Notifying,
    Ended(PeerMemory),
}

impl DirectTransfer {
    /// Prepares the request.
    ///
    /// # Errors
    ///
    /// As [`Transport::prepare`](crate::Transport::prepare); [`TransportError::Closed`] if there is no route.
    pub fn prepare(kind: PathKind, request: &TransferRequest<'_>) -> Result<Self, TransportError> {
        let Some(route) = &request.route else { return Err(TransportError::Closed) };
        let key = request.remote.notification_key();
        let in_place = request.kind == OperationKind::Read || route.transport.completes_in_memory();
        let notifier =
            (route.slot.is_some() && in_place).then(|| CompletionNotifier::new(route, key));
        let notification = match notifier {
            None if route.notifies => Some(Bytes::copy_from_slice(key.as_bytes())),
            _ => None,
        };
        let (bytes, name) = (request.local.total_bytes(), route.transport.name());
        let transfer = request.clone().transfer(notification)?;
        let report = PathReport::new(kind, name, bytes, transfer.descriptors())
            .with_prepared_lists(transfer.is_listed());
        Ok(Self { stage: Stage::Moving(transfer), notifier, report })
    }
}

impl Execution for DirectTransfer {
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), TransportError>> {
        if let Stage::Moving(transfer) = &mut self.stage {
            let moved = ready!(transfer.poll(cx));
            let memory = match (&moved, transfer.was_posted()) {
                (Ok(()), _) => PeerMemory::QUIET,
                (Err(_), true) => PeerMemory::UNPROVEN,
                (Err(_), false) => PeerMemory::UNTOUCHED,
            };
            // The request is released before the peer may take its memory back.
            self.stage = match (&moved, &self.notifier) {
                (Ok(()), Some(_)) => Stage::Notifying,
                _ => Stage::Ended(memory),
            };
            moved?;
        }
        if let (Stage::Notifying, Some(notifier)) = (&self.stage, &self.notifier) {
            let notified = ready!(notifier.notify());
            self.stage = Stage::Ended(PeerMemory::QUIET);
            notified?;
        }
        Poll::Ready(Ok(()))
    }

    fn completion_mode(&self) -> CompletionMode {
        match &self.stage {
            Stage::Moving(transfer) => transfer.completion_mode(),
            Stage::Notifying | Stage::Ended(_) => CompletionMode::Polled,
        }
    }

    fn abandon(&mut self) -> bool {
        match &self.stage {
            Stage::Moving(transfer) => !transfer.in_flight(),
            Stage::Notifying | Stage::Ended(_) => true,
        }
    }

    fn report(&self) -> PathReport {
        self.report.clone()
    }

    fn takes_turns(&self) -> bool {
        true
    }

    fn peer_memory(&self) -> PeerMemory {
        match &self.stage {
            Stage::Moving(transfer) if !transfer.was_posted() => PeerMemory::UNTOUCHED,
            Stage::Moving(_) => PeerMemory::UNPROVEN,
            Stage::Notifying => PeerMemory::QUIET,
            Stage::Ended(memory) => *memory,
        }
    }
}

impl fmt::Debug for DirectTransfer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DirectTransfer").field("report", &self.report).finish_non_exhaustive()
    }
}
