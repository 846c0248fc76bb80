//! What each path costs: the one table from which paths are chosen.

use crate::Cost;

/// What each kind of path costs, as far as its cost differs: from begin to awaited completion. The defaults were measured
/// on two H200s of one host (NVLink, PCIe 5 x16, no RDMA NIC) unless a comment says otherwise.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct PathCosts {
    /// The processor copies inside the process.
    pub memcpy: Cost,
    /// The GPUs of this process copy inside it.
    pub local: Cost,
    /// Shared GPU memory to memory of the same GPU.
    pub ipc_same_gpu: Cost,
    /// Shared GPU memory to another GPU.
    pub ipc_other_gpu: Cost,
    /// Shared GPU memory to pinned host memory.
    pub ipc_pinned: Cost,
    /// Shared GPU memory to pageable host memory.
    pub ipc_pageable: Cost,
    /// GPU memory of this side and host memory of the peer, whose GPU copies.
    pub ipc_lent: Cost,
    /// Shared host memory to a GPU.
    pub shared_to_gpu: Cost,
    /// Shared host memory to host memory.
    pub shared_to_host: Cost,
    /// A NIC that reaches GPU memory.
    pub gpu_direct: Cost,
    /// The engine in host memory of one machine.
    pub direct_shared: Cost,
    /// The engine over a NIC, host to host.
    pub direct_rdma: Cost,
    /// The engine over sockets, reading.
    pub direct_tcp_read: Cost,
    /// The engine over sockets, writing.
    pub direct_tcp_write: Cost,
    /// Through pinned memory, with the peer's help, in memory of one machine.
    pub staged_shared: Cost,
    /// The same over a NIC.
    pub staged_rdma: Cost,
    /// The same over sockets.
    pub staged_tcp: Cost,
    /// The fixed part of staging, in microseconds, if the peer need not help.
    pub staged_alone_us: f64,
    /// The engine's own way with GPU memory.
    pub emulated: Cost,
    /// The engine's own way between two processes on one GPU.
    pub emulated_same_gpu: Cost,
    /// The engine's own way between GPUs of one machine.
    pub emulated_other_gpu: Cost,
}

impl Default for PathCosts {
    fn default() -> Self {
        let cost = |fixed_us, gbps| Cost::new(fixed_us, 0.0, gbps);
        Self {
            // One thread 12 GB/s.
            memcpy: cost(0.2, 12.0),
            // Device to pinned: 7.1 us for 4 KiB, 55 GB/s. The block executor's own table is finer.
            local: cost(7.1, 55.0),
            // 41 us for 4 KiB, 64 MiB in 154 us: two processes take turns on one GPU.
            ipc_same_gpu: cost(41.0, 590.0),
            // 18.6 us for 4 KiB, the notification included; a copy over NVLink alone reaches 367 GB/s for 64 MiB.
            ipc_other_gpu: cost(18.0, 360.0),
            // 25 to 28 us for 4 KiB, 48 GB/s for 64 MiB.
            ipc_pinned: cost(25.0, 49.0),
            // Through a ring of pinned slots: 24 to 26 us for 4 KiB, 34 to 38 GB/s for 64 MiB.
            ipc_pageable: cost(25.0, 36.0),
            // The rate as above, since the peer may have pinned its memory or not. Not measured: the two messages more, at
            // 17 us each.
            ipc_lent: cost(60.0, 36.0),
            // Shared memory is mapped here, then as ipc_pageable.
            shared_to_gpu: cost(25.0, 36.0),
            // One thread's memcpy and the notification.
            shared_to_host: cost(3.0, 12.0),
            // Not measured: an NDR port carries 50 GB/s.
            gpu_direct: cost(6.0, 40.0),
            // UCX by CMA: 4.7 us for 4 KiB, 10 GB/s for 1 MiB, 6 GB/s for 64 MiB.
            direct_shared: cost(4.3, 8.0),
            // Not measured, as for gpu_direct.
            direct_rdma: cost(4.0, 40.0),
            // 17.7 us for 4 KiB; 1.8 GB/s for 64 MiB read, 6.4 written.
            direct_tcp_read: cost(16.0, 1.8),
            direct_tcp_write: cost(16.0, 6.4),
            // Several messages, then the slowest hop: the engine's.
            staged_shared: cost(280.0, 7.0),
            staged_rdma: cost(300.0, 30.0),
            staged_tcp: cost(300.0, 3.0),
            // A copy to or from a slot, and the engine's request: no message but the last. 39 to 59 us for 4 KiB.
            staged_alone_us: 45.0,
            // 82 to 136 us for 4 KiB; 0.17 to 0.7 GB/s for 64 MiB, from run to run.
            emulated: cost(85.0, 0.5),
            // 62 to 93 us for 4 KiB, 213 to 262 GB/s for 64 MiB.
            emulated_same_gpu: cost(62.0, 260.0),
            // 33 to 61 us for 4 KiB, 154 to 254 GB/s for 64 MiB.
            emulated_other_gpu: cost(50.0, 240.0),
        }
    }
}
