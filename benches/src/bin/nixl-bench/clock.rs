//! One clock for both processes.

use rustix::time::{ClockId, Timespec, clock_gettime};

/// Nanoseconds of the system's monotonic clock, the same in every process of the machine.
pub(crate) fn now() -> u64 {
    nanos(clock_gettime(ClockId::Monotonic))
}

/// Nanoseconds of CPU time that all threads of this process have used.
pub(crate) fn cpu_time() -> u64 {
    nanos(clock_gettime(ClockId::ProcessCPUTime))
}

/// Nanoseconds of CPU time that this thread has used.
pub(crate) fn thread_cpu_time() -> u64 {
    nanos(clock_gettime(ClockId::ThreadCPUTime))
}

fn nanos(time: Timespec) -> u64 {
    // No clock is ever negative, and 64 bits of nanoseconds last for centuries.
    time.tv_sec.unsigned_abs() * 1_000_000_000 + time.tv_nsec.unsigned_abs()
}
