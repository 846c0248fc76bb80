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
            // 16 to 18 us for 4 KiB, 49 to 52 us for 64 MiB.
            ipc_same_gpu: cost(16.5, 2000.0),
            // 16 us for 4 KiB, 185 to 188 us for 64 MiB.
            ipc_other_gpu: cost(15.5, 393.0),
            // 13 to 17 us for 4 KiB, 54 GB/s for 64 MiB.
            ipc_pinned: cost(14.0, 55.0),
            // Through a ring of pinned slots: 13 to 14 us for 4 KiB, 41 GB/s for 64 MiB.
            ipc_pageable: cost(13.5, 41.0),
            // 290 to 305 us for 4 KiB; 64 MiB at 34 to 35 GB/s if the peer's memory is pageable, and 42 to 46 if it is pinned.
            // Two messages, and whoever gets them has to wake up.
            ipc_lent: cost(290.0, 45.0),
            // Pinned here: 14 to 19 us for 4 KiB, 51 to 55 GB/s for 64 MiB.
            shared_to_gpu: cost(16.0, 54.0),
            // 8 to 10 us for 4 KiB, 52 to 56 GB/s for 64 MiB by eight threads.
            shared_to_host: cost(8.0, 50.0),
            // Not measured: an NDR port carries 50 GB/s, and the fixed part is that of the engine elsewhere.
            gpu_direct: cost(20.0, 40.0),
            // UCX by CMA: 20 us for 4 KiB, 6 GB/s for 1 MiB, 6.4 to 7.5 GB/s for 64 MiB.
            direct_shared: cost(19.5, 7.0),
            // Not measured, as for gpu_direct.
            direct_rdma: cost(19.0, 40.0),
            // 17.7 us for 4 KiB; 1.8 GB/s for 64 MiB read, 6.4 written.
            direct_tcp_read: cost(16.0, 1.8),
            direct_tcp_write: cost(16.0, 6.4),
            // Several messages, then the slowest hop, the engine's: 177 to 260 us for 4 KiB.
            staged_shared: cost(240.0, 7.0),
            staged_rdma: cost(300.0, 30.0),
            staged_tcp: cost(300.0, 3.0),
            // A copy to or from a slot, and the engine's request: no message but the last. 31 to 37 us for 4 KiB.
            staged_alone_us: 33.0,
            // 59 to 113 us for 4 KiB; 0.17 to 0.25 GB/s for 64 MiB.
            emulated: cost(75.0, 0.2),
            // 34 to 39 us for 4 KiB, 132 to 136 us for 64 MiB.
            emulated_same_gpu: cost(36.0, 680.0),
            // 33 to 37 us for 4 KiB, 303 to 316 us for 64 MiB.
            emulated_other_gpu: cost(35.0, 245.0),
        }
    }
}
