//! Kinds of memory of the two processes.

use nixl_executor::MemoryKind;
pub(crate) use nixl_memories::Memory;

/// All that a machine with so many GPUs has. Of more than two, the others are like the second.
pub(crate) fn all(gpus: usize) -> &'static [Memory] {
    const ALL: [Memory; 5] =
        [Memory::Host, Memory::Shared, Memory::Pinned, Memory::Gpu(0), Memory::Gpu(1)];
    match gpus {
        0 => &ALL[..2],
        1 => &ALL[..4],
        _ => &ALL,
    }
}

/// Every kind of memory of a GPU.
pub(crate) fn of_gpus(gpu: u32) -> impl Iterator<Item = Memory> {
    const KINDS: [fn(u32) -> Memory; 5] =
        [Memory::Gpu, Memory::Pool, Memory::Vmm, Memory::VmmFd, Memory::Managed];
    KINDS.into_iter().map(move |kind| kind(gpu))
}

/// The kind by which the executor plans.
pub(crate) fn kind(memory: Memory) -> MemoryKind {
    match (memory, memory.gpu()) {
        (_, Some(ordinal)) => MemoryKind::Gpu(ordinal),
        (Memory::Pinned, None) => MemoryKind::Pinned,
        _ => MemoryKind::Pageable,
    }
}
