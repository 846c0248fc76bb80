//! Counters of the paths that are tried for operations; docs/OBSERVABILITY.md lists them.

use metrics::{Counter, Unit, counter, describe_counter, describe_gauge};
use nixl_ops::{ByLabels, PathKind, PerRecorder, TransportError, transport_label};

/// Counts a path that was tried, when it is known how that went.
pub(super) fn note_attempt(kind: PathKind, transport: &str, result: Result<(), &TransportError>) {
    let outcome = result.err().map_or("ok", TransportError::cause);
    let labels =
        [("kind", kind.class()), ("transport", transport_label(transport)), ("outcome", outcome)];
    counter!("nixl_attempts_total", &labels).increment(1);
}

/// The counters of attempts that go well.
#[derive(Debug)]
pub(crate) struct Successes(PerRecorder<ByLabels<(&'static str, &'static str), Counter>>);

impl Successes {
    pub(crate) fn new() -> Self {
        Self(PerRecorder::new(describe))
    }

    /// As [`note_attempt`].
    pub(crate) fn attempt(&self, kind: PathKind, transport: &str) {
        let counter = |(kind, transport)| {
            let labels = [("kind", kind), ("transport", transport), ("outcome", "ok")];
            counter!("nixl_attempts_total", &labels)
        };
        let labels = (kind.class(), transport_label(transport));
        self.0.with(|attempts| attempts.get(labels, counter).increment(1));
    }
}

/// Passes the units and descriptions of this crate's metrics to the installed recorder.
fn describe() {
    use Unit::{Bytes, Count};
    describe_counter!("nixl_attempts_total", Count, "Paths that were tried for operations");
    describe_counter!(
        "nixl_requests_of_strangers_total",
        Count,
        "Staging requests of unknown agents"
    );
    describe_gauge!(
        "nixl_pinned_bytes",
        Bytes,
        "Peers' memory and staging slots that are pinned here"
    );
    describe_gauge!("nixl_gpu_slot_bytes", Bytes, "GPU memory that staging slots take here");
    describe_gauge!("nixl_mapped_bytes", Bytes, "Address space that peers' host memory takes here");
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::sync::atomic::{AtomicU64, Ordering};
    use std::sync::{Arc, Mutex};

    use metrics::{
        Gauge, Histogram, Key, KeyName, Metadata, Recorder, SharedString, Unit, with_local_recorder,
    };

    use super::*;

    /// Keeps the counters, by name and labels.
    #[derive(Default)]
    struct Counters(Mutex<BTreeMap<String, Arc<AtomicU64>>>);

    impl Counters {
        fn take(self) -> Vec<(String, u64)> {
            let all = self.0.into_inner().unwrap();
            all.into_iter().map(|(name, count)| (name, count.load(Ordering::Relaxed))).collect()
        }
    }

    impl Recorder for Counters {
        fn describe_counter(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}
        fn describe_gauge(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}
        fn describe_histogram(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}

        fn register_counter(&self, key: &Key, _: &Metadata<'_>) -> Counter {
            let labels: Vec<_> = key.labels().map(|label| label.value()).collect();
            let name = format!("{} {}", key.name(), labels.join(" "));
            Counter::from_arc(Arc::clone(self.0.lock().unwrap().entry(name).or_default()))
        }

        fn register_gauge(&self, _: &Key, _: &Metadata<'_>) -> Gauge {
            Gauge::noop()
        }

        fn register_histogram(&self, _: &Key, _: &Metadata<'_>) -> Histogram {
            Histogram::noop()
        }
    }

    #[test]
    fn attempts_are_counted_by_the_recorder_that_is_there() {
        let successes = Successes::new();
        successes.attempt(PathKind::StagedBothSides, "nixl/UCX");
        let counters = Counters::default();
        with_local_recorder(&counters, || {
            let gone = TransportError::PeerGone { name: "a peer's own words".to_owned() };
            note_attempt(PathKind::CudaIpc, "cuda", Err(&gone));
            note_attempt(PathKind::StagedBothSides, "nixl/UCX", Ok(()));
            successes.attempt(PathKind::StagedBothSides, "nixl/UCX");
            successes.attempt(PathKind::CudaIpc, "copies");
        });
        let expected = [
            ("nixl_attempts_total cuda-ipc cuda peer-gone", 1),
            ("nixl_attempts_total cuda-ipc other ok", 1),
            ("nixl_attempts_total staged-both-sides nixl ok", 2),
        ];
        let expected = expected.map(|(name, count)| (name.to_owned(), count));
        assert_eq!(counters.take(), expected);
        // More recorders than handles are kept for.
        let others = [(); 3].map(|()| Counters::default());
        for recorder in others.iter().chain(&others) {
            with_local_recorder(recorder, || successes.attempt(PathKind::CudaIpc, "cuda"));
        }
        let expected = [("nixl_attempts_total cuda-ipc cuda ok".to_owned(), 2)];
        assert!(others.into_iter().all(|recorder| recorder.take() == expected));
    }
}
