//! The cost table from which paths are chosen.

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::local::{Cost, CostsError};

/// What each kind of path costs, as far as its cost differs: from begin to awaited completion. The defaults were measured
/// on two H200s of one host (NVLink, PCIe 5 x16, no RDMA NIC) unless a comment has another.
///
/// A file of them, as [`to_json`](Self::to_json) writes, has one entry for each field of the source: the fixed part and that
/// of each further chunk in microseconds, and the rate in 1e9 bytes a second. Entries that are missing have their defaults.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct PathCosts {
    /// The processor copies inside the process.
    pub(crate) memcpy: Cost,
    /// The GPUs of this process copy inside it.
    pub(crate) local: Cost,
    /// Shared GPU memory to memory of the same GPU.
    pub(crate) ipc_same_gpu: Cost,
    /// Shared GPU memory to another GPU.
    pub(crate) ipc_other_gpu: Cost,
    /// Shared GPU memory to pinned host memory.
    pub(crate) ipc_pinned: Cost,
    /// Shared GPU memory to pageable host memory.
    pub(crate) ipc_pageable: Cost,
    /// GPU memory of this side and host memory of the peer, whose GPU copies.
    pub(crate) ipc_remote_copy: Cost,
    /// GPU memory of the peer that cannot be shared and shared memory of the same GPU: the peer copies.
    pub(crate) remote_copy_same_gpu: Cost,
    /// The same between two GPUs.
    pub(crate) remote_copy_other_gpu: Cost,
    /// GPU memory on both sides, through slots on the same GPU.
    pub(crate) staged_on_same_gpu: Cost,
    /// The same between two GPUs.
    pub(crate) staged_on_other_gpu: Cost,
    /// Shared host memory to a GPU.
    pub(crate) shared_to_gpu: Cost,
    /// Shared host memory to host memory.
    pub(crate) shared_to_host: Cost,
    /// A NIC that reaches GPU memory.
    pub(crate) gpu_direct: Cost,
    /// The engine in host memory of one machine.
    pub(crate) direct_shared: Cost,
    /// The engine over a NIC, host to host.
    pub(crate) direct_rdma: Cost,
    /// The engine over sockets, reading.
    pub(crate) direct_tcp_read: Cost,
    /// The engine over sockets, writing.
    pub(crate) direct_tcp_write: Cost,
    /// Through pinned memory, with the peer's help, in memory of one machine.
    pub(crate) staged_shared: Cost,
    /// The same over a NIC.
    pub(crate) staged_rdma: Cost,
    /// The same over sockets.
    pub(crate) staged_tcp: Cost,
    /// The fixed part of staging, in microseconds, if the peer need not help.
    pub(crate) staged_one_sided_us: f64,
    /// The engine's own way with GPU memory.
    pub(crate) engine_staged: Cost,
    /// The engine's own way between two processes on one GPU.
    pub(crate) engine_staged_same_gpu: Cost,
    /// The engine's own way between GPUs of one machine.
    pub(crate) engine_staged_other_gpu: Cost,
}

impl PathCosts {
    /// Parses what [`to_json`](Self::to_json) writes, or a part of it.
    ///
    /// # Errors
    ///
    /// [`CostsError`].
    pub fn from_json(json: &str) -> Result<Self, CostsError> {
        let unreadable = |e: serde_json::Error| CostsError::Unreadable { error: e.into() };
        let costs: Self = serde_json::from_str(json).map_err(unreadable)?;
        let is_sane = |value: &Value| match value.as_f64() {
            Some(us) => us >= 0.0,
            None => Cost::deserialize(value).is_ok_and(|cost| cost.is_sane()),
        };
        let entries = serde_json::to_value(&costs).map_err(unreadable)?;
        match entries.as_object().into_iter().flatten().find(|(_, value)| !is_sane(value)) {
            Some((name, _)) => Err(CostsError::ImpossiblePath { name: name.clone() }),
            None => Ok(costs),
        }
    }

    /// The text that [`from_json`](Self::from_json) reads.
    #[must_use]
    pub fn to_json(&self) -> String {
        serde_json::to_string_pretty(self).unwrap_or_default()
    }
}

impl Default for PathCosts {
    fn default() -> Self {
        let cost = |fixed_us, gbps| Cost::new(fixed_us, 0.0, gbps);
        Self {
            // One thread 12 GB/s.
            memcpy: cost(0.2, 12.0),
            // Device to pinned: 7.1 us for 4 KiB, 55 GB/s. The block executor's own table is finer.
            local: cost(7.1, 55.0),
            // 14 us for 4 KiB, 49 to 52 us for 64 MiB.
            ipc_same_gpu: cost(14.0, 2000.0),
            // 12 to 14 us for 4 KiB, 185 to 188 us for 64 MiB.
            ipc_other_gpu: cost(14.0, 393.0),
            // 12 us for 4 KiB, 54 GB/s for 64 MiB.
            ipc_pinned: cost(12.4, 55.0),
            // Through a ring of pinned slots: 13 to 17 us for 4 KiB, 39 to 41 GB/s for 64 MiB.
            ipc_pageable: cost(15.0, 41.0),
            // 105 to 116 us for 4 KiB: two messages, each of which wakes a thread. The rate is that of pinned memory,
            // which the peer's may be or not (then it is 30 to 41 GB/s).
            ipc_remote_copy: cost(106.0, 55.0),
            // 60 to 67 us for 4 KiB, 172 to 183 us for 64 MiB (one H200). Between two GPUs not measured: the rate is that of
            // ipc_other_gpu.
            remote_copy_same_gpu: cost(62.0, 570.0),
            remote_copy_other_gpu: cost(62.0, 393.0),
            // Between two GPUs 68 to 99 us for 4 KiB, 367 to 432 us for 64 MiB. On one GPU 840 us to 1.01 ms for 64 MiB; 4 KiB takes 380
            // to 470 us there, since two processes take turns on it, which the fixed part leaves out.
            staged_on_same_gpu: cost(90.0, 75.0),
            staged_on_other_gpu: cost(70.0, 216.0),
            // Pinned here: 15 us for 4 KiB, 51 to 55 GB/s for 64 MiB.
            shared_to_gpu: cost(15.0, 54.0),
            // 3.4 to 4.7 us for 4 KiB, 52 to 56 GB/s for 64 MiB by eight threads.
            shared_to_host: cost(4.0, 50.0),
            // Not measured: an NDR port carries 50 GB/s, and the fixed part is a guess.
            gpu_direct: cost(20.0, 40.0),
            // UCX by CMA: 5.7 to 8.6 us for 4 KiB, 6 GB/s for 1 MiB, 5.5 to 7.5 GB/s for 64 MiB.
            direct_shared: cost(5.8, 7.0),
            // Not measured, as for gpu_direct.
            direct_rdma: cost(19.0, 40.0),
            // 27 to 33 us for 4 KiB; 1.3 to 1.8 GB/s for 64 MiB read, 5.1 to 6.4 written.
            direct_tcp_read: cost(30.0, 1.6),
            direct_tcp_write: cost(27.0, 5.4),
            // Several messages, then the slowest hop, the engine's: 177 to 260 us for 4 KiB.
            staged_shared: cost(240.0, 7.0),
            staged_rdma: cost(300.0, 30.0),
            // 253 to 310 us for 4 KiB, 4.8 GB/s for 64 MiB.
            staged_tcp: cost(280.0, 4.8),
            // A copy to or from a slot, and the engine's request: no message but the last. 31 to 37 us for 4 KiB.
            staged_one_sided_us: 33.0,
            // 72 to 111 us for 4 KiB; 0.15 to 0.25 GB/s for 64 MiB.
            engine_staged: cost(85.0, 0.2),
            // 15 to 16 us for 4 KiB, 117 to 156 us for 64 MiB.
            engine_staged_same_gpu: cost(15.4, 560.0),
            // 15 to 16 us for 4 KiB, 289 to 318 us for 64 MiB.
            engine_staged_other_gpu: cost(15.6, 233.0),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_file_round_trips_and_may_be_a_part() {
        let costs = PathCosts::default();
        assert_eq!(PathCosts::from_json(&costs.to_json()), Ok(costs.clone()));
        let part = r#"{"staged_one_sided_us": 40.0}"#;
        let expected = PathCosts { staged_one_sided_us: 40.0, ..costs };
        assert_eq!(PathCosts::from_json(part), Ok(expected));
    }

    #[test]
    fn impossible_figures_and_unknown_entries_are_refused() {
        let impossible = |name: &str| Err(CostsError::ImpossiblePath { name: name.to_owned() });
        let rate = r#"{"memcpy": {"fixed_us": 1.0, "per_chunk_us": 0.0, "gbps": 0.0}}"#;
        assert_eq!(PathCosts::from_json(rate), impossible("memcpy"));
        let negative = r#"{"staged_one_sided_us": -1.0}"#;
        assert_eq!(PathCosts::from_json(negative), impossible("staged_one_sided_us"));
        let unknown = PathCosts::from_json(r#"{"magic": 1.0}"#);
        assert!(matches!(unknown, Err(CostsError::Unreadable { .. })), "{unknown:?}");
    }
}
