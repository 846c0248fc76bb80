//! The cost table from which copy strategies are chosen, by route.

use std::time::Duration;

use nixl_device::SharedError;
use nixl_ops::Advice;
use serde::{Deserialize, Serialize};

use crate::local::{MemoryKind, Strategy};

/// The cost of a strategy on a route, as a line: `fixed + per_chunk × (chunks - 1) + bytes / rate`.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Serialize)]
pub struct Cost {
    pub(crate) fixed_us: f64,
    pub(crate) per_chunk_us: f64,
    pub(crate) gbps: f64,
}

impl Cost {
    /// A cost with these figures.
    #[must_use]
    pub const fn new(fixed_us: f64, per_chunk_us: f64, gbps: f64) -> Self {
        Self { fixed_us, per_chunk_us, gbps }
    }

    /// The estimate for a transfer.
    #[must_use]
    pub fn estimate(&self, chunks: usize, bytes: u64) -> Duration {
        let us = self.fixed_us
            + self.per_chunk_us * chunks.saturating_sub(1) as f64
            + bytes as f64 / (self.gbps.max(1e-3) * 1e3);
        Duration::try_from_secs_f64(us / 1e6).unwrap_or(Duration::MAX)
    }

    pub(crate) fn is_sane(&self) -> bool {
        [self.fixed_us, self.per_chunk_us, self.gbps].iter().all(|x| x.is_finite() && *x >= 0.0)
            && self.gbps > 0.0
    }

    /// From submit to awaited completion of the smallest transfer, in microseconds.
    #[must_use]
    pub fn fixed_us(&self) -> f64 {
        self.fixed_us
    }

    /// For each further chunk, in microseconds.
    #[must_use]
    pub fn per_chunk_us(&self) -> f64 {
        self.per_chunk_us
    }

    /// The rate for long chunks, in 1e9 bytes a second.
    #[must_use]
    pub fn gbps(&self) -> f64 {
        self.gbps
    }
}

/// The pair of memories of a copy, for its cost.
#[derive(Clone, Copy, Debug, Deserialize, Eq, Hash, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum CopyRoute {
    /// Host to host.
    Host,
    /// From a GPU to the host.
    DeviceToHost,
    /// From the host to a GPU.
    HostToDevice,
    /// Inside one GPU.
    SameDevice,
    /// From GPU to GPU.
    DeviceToDevice,
}

impl CopyRoute {
    /// The route between two memories.
    #[must_use]
    pub fn between(src: MemoryKind, dst: MemoryKind) -> Self {
        use MemoryKind::Gpu;
        match (src, dst) {
            (Gpu(a), Gpu(b)) if a == b => Self::SameDevice,
            (Gpu(_), Gpu(_)) => Self::DeviceToDevice,
            (Gpu(_), _) => Self::DeviceToHost,
            (_, Gpu(_)) => Self::HostToDevice,
            _ => Self::Host,
        }
    }
}

/// The table of costs. Made for an H200 by default; `cargo xtask tune` measures a machine and writes a file that
/// [`from_json`](Self::from_json) reads.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Costs {
    /// The origin of the figures.
    machine: String,
    rows: Vec<Row>,
}

#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Serialize)]
#[serde(deny_unknown_fields)]
struct Row {
    route: CopyRoute,
    strategy: Strategy,
    cost: Cost,
}

/// A file of costs cannot be used.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum CostsError {
    /// The file is not in the format of [`Costs::to_json`] or `PathCosts::to_json`.
    #[error(
        "the file of costs cannot be read: {error}; `cargo xtask tune` writes one of `Costs`, and `PathCosts::to_json` one of `PathCosts`"
    )]
    Unreadable {
        /// The place and the fault.
        #[source]
        error: SharedError,
    },
    /// A figure is negative, infinite or no number.
    #[error(
        "row {row} of the file of costs has an impossible figure; make it again with `cargo xtask tune`"
    )]
    Impossible {
        /// The row, from zero.
        row: usize,
    },
    /// A figure of a path is negative, or a rate is 0.
    #[error(
        "the cost of {name} in the file of path costs is impossible: give times of at least 0 us and a rate above 0"
    )]
    ImpossiblePath {
        /// The entry of the file.
        name: String,
    },
}

impl CostsError {
    /// The remedy: [`Advice::GiveUp`], since the file stays as it is.
    #[must_use]
    pub fn advice(&self) -> Advice {
        match self {
            Self::Unreadable { .. } | Self::Impossible { .. } | Self::ImpossiblePath { .. } => {
                Advice::GiveUp
            }
        }
    }
}

impl Default for Costs {
    /// Figures of H200s in one host (PCIe 5 x16, NVLink), submit to awaited completion; see docs/BENCHMARKS.md.
    fn default() -> Self {
        use CopyRoute::{DeviceToDevice, DeviceToHost, Host, HostToDevice, SameDevice};
        use Strategy::{Batch, Copies, Kernel, Memcpy, PackedCopy, PinnedRing, ThroughPinned};
        let row = |route, strategy, cost| Row { route, strategy, cost };
        Self {
            machine: "2 x H200, PCIe 5 x16, NVLink".to_owned(),
            rows: vec![
                // One thread copies at 12 GB/s, eight at 36.
                row(Host, Memcpy, Cost::new(0.2, 0.05, 12.0)),
                // 7.1 us for 4 KiB; scattered 4 KiB at 1.8 GB/s; 55 GB/s for 64 MiB.
                row(DeviceToHost, Copies, Cost::new(7.1, 2.3, 55.0)),
                row(HostToDevice, Copies, Cost::new(7.1, 2.3, 55.0)),
                // Scattered 4 KiB at 5.8 GB/s.
                row(DeviceToHost, Batch, Cost::new(9.0, 0.7, 55.0)),
                row(HostToDevice, Batch, Cost::new(9.0, 0.7, 55.0)),
                // 52 and 51 GB/s for every size of chunk.
                row(DeviceToHost, Kernel, Cost::new(10.0, 0.0, 52.0)),
                row(HostToDevice, Kernel, Cost::new(10.0, 0.0, 51.0)),
                // One copy's 55 GB/s less the first slice, which no copy overlaps: 54. Two steps on two streams, so a larger
                // fixed part; the host's side is copied run by run.
                row(DeviceToHost, PackedCopy, Cost::new(25.0, 2.3, 54.0)),
                row(HostToDevice, PackedCopy, Cost::new(25.0, 2.3, 54.0)),
                // 64 MiB in 1.8 ms, 256 MiB in 6.6 and 5.6 ms.
                row(DeviceToHost, PinnedRing, Cost::new(60.0, 0.1, 41.0)),
                row(HostToDevice, PinnedRing, Cost::new(60.0, 0.1, 44.0)),
                // A loop of copies at 4 KiB: 0.9 GB/s; one copy at 1,944 GB/s; the kernel at 1,400 and 10.3 us for its launch.
                row(SameDevice, Copies, Cost::new(7.0, 4.5, 1900.0)),
                row(SameDevice, Batch, Cost::new(9.0, 4.0, 1900.0)),
                row(SameDevice, Kernel, Cost::new(10.3, 0.0, 1400.0)),
                // 6.8 us for 4 KiB, 392 GB/s for 256 MiB; 1,280 chunks of 64 KiB in 3.0 ms one by one, in 0.85 to 1.3 ms as
                // a batch, in 0.29 ms by the kernel, which moves 320 MiB in 0.98 ms.
                row(DeviceToDevice, Copies, Cost::new(6.8, 2.3, 390.0)),
                row(DeviceToDevice, Batch, Cost::new(9.0, 0.8, 390.0)),
                row(DeviceToDevice, Kernel, Cost::new(22.0, 0.0, 350.0)),
                row(DeviceToDevice, ThroughPinned, Cost::new(60.0, 0.1, 41.0)),
            ],
        }
    }
}

impl Costs {
    /// A table of figures measured on a machine.
    #[must_use]
    pub fn new(
        machine: impl Into<String>,
        rows: impl IntoIterator<Item = (CopyRoute, Strategy, Cost)>,
    ) -> Self {
        let row = |(route, strategy, cost)| Row { route, strategy, cost };
        Self { machine: machine.into(), rows: rows.into_iter().map(row).collect() }
    }

    /// Parses a file of `cargo xtask tune`.
    ///
    /// # Errors
    ///
    /// [`CostsError`].
    pub fn from_json(json: &str) -> Result<Self, CostsError> {
        let costs: Self =
            serde_json::from_str(json).map_err(|e| CostsError::Unreadable { error: e.into() })?;
        match costs.rows.iter().position(|row| !row.cost.is_sane()) {
            Some(row) => Err(CostsError::Impossible { row }),
            None => Ok(costs),
        }
    }

    /// The text that [`from_json`](Self::from_json) reads.
    #[must_use]
    pub fn to_json(&self) -> String {
        serde_json::to_string_pretty(self).unwrap_or_default()
    }

    /// The cost of a strategy on a route. A strategy without a figure is the last choice.
    #[must_use]
    pub fn cost(&self, route: CopyRoute, strategy: Strategy) -> Cost {
        self.rows
            .iter()
            .find(|row| row.route == route && row.strategy == strategy)
            .map_or(Cost::new(1000.0, 10.0, 1.0), |row| row.cost)
    }
}

#[cfg(test)]
mod tests {
    use std::error::Error as _;

    use super::*;

    #[test]
    fn the_file_round_trips() {
        let costs = Costs::default();
        assert_eq!(Costs::from_json(&costs.to_json()), Ok(costs));
    }

    #[test]
    fn impossible_figures_and_unknown_fields_are_refused() {
        let text = Costs::default().to_json();
        let negative = text.replacen("\"gbps\": 12.0", "\"gbps\": -1.0", 1);
        let impossible = Costs::from_json(&negative).unwrap_err();
        assert_eq!(impossible, CostsError::Impossible { row: 0 });
        let unknown = text.replacen("\"machine\"", "\"model\"", 1);
        let unreadable = Costs::from_json(&unknown).unwrap_err();
        assert!(unreadable.source().unwrap().is::<serde_json::Error>(), "{unreadable:?}");
        assert_eq!([impossible, unreadable].map(|e| e.advice()), [Advice::GiveUp; 2]);
    }

    #[test]
    fn few_long_chunks_are_copied_and_many_short_ones_gathered() {
        let costs = Costs::default();
        let best = |chunks, bytes| {
            [Strategy::Copies, Strategy::Kernel]
                .into_iter()
                .min_by_key(|s| costs.cost(CopyRoute::DeviceToHost, *s).estimate(chunks, bytes))
        };
        assert_eq!(best(1, 5 << 20), Some(Strategy::Copies));
        assert_eq!(best(160, 5 << 20), Some(Strategy::Kernel));
    }
}
