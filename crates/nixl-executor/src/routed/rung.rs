//! The engine's own transfer, whose end the peer learns by a doorbell.

use std::task::{Poll, ready};

use nixl_ops::{Execution, Gate, PathKind, PathReport, Transfer, TransferRequest, TransportError};

use crate::ipc::LastWord;

/// One request of the engine's without its notification, which goes through the kernel's sockets even between two processes of
/// one host: most of what a small transfer costs. For NIXL over UCX, which flushes the endpoint before it calls a transfer
/// complete: the bytes are in place at the other side then, so it is time to ring.
pub(super) struct Rung {
    stage: Stage,
    last_word: LastWord,
    report: PathReport,
}

enum Stage {
    Moving(Box<dyn Transfer>),
    Telling,
    Ended,
}

impl Rung {
    pub(super) fn prepare(
        kind: PathKind,
        request: &TransferRequest<'_>,
        last_word: LastWord,
    ) -> Result<Box<dyn Execution>, TransportError> {
        let transfer = request.clone().transfer(None)?;
        let name = request.route.as_ref().map_or("", |route| route.transport.name()).to_owned();
        let bytes = request.local.total_bytes();
        let report = PathReport::new(kind, name, bytes, transfer.descriptors());
        let stage = Stage::Moving(transfer);
        let execution = Box::new(Self { stage, last_word, report });
        Ok(Gate::before(execution, request.local.pending()))
    }
}

impl Execution for Rung {
    fn poll(&mut self) -> Poll<Result<(), TransportError>> {
        if let Stage::Moving(transfer) = &mut self.stage {
            let moved = ready!(transfer.poll());
            // The request is released before the peer may take its memory back.
            self.stage = if moved.is_ok() { Stage::Telling } else { Stage::Ended };
            moved?;
        }
        if let Stage::Telling = self.stage {
            let told = ready!(self.last_word.say());
            self.stage = Stage::Ended;
            told?;
        }
        Poll::Ready(Ok(()))
    }

    fn abandon(&mut self) -> bool {
        match &self.stage {
            Stage::Moving(transfer) => !transfer.in_flight(),
            Stage::Telling | Stage::Ended => true,
        }
    }

    fn report(&self) -> PathReport {
        self.report.clone()
    }
}
