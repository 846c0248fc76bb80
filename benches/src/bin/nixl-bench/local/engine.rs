//! The engines that copy.

/// The executor, and what it is compared with.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub(crate) enum Engine {
    /// Our executor, from `execute` to the awaited completion.
    Executor,
    /// `cuMemcpyAsync` for each chunk on one stream, then `cuStreamSynchronize`.
    CudaCopies,
    /// One `cuMemcpyBatchAsync`, then `cuStreamSynchronize`.
    CudaBatch,
    /// As many bytes in one contiguous copy: the limit.
    CudaOneCopy,
    /// One `cuMemcpyAsync` of pageable memory, then `cuStreamSynchronize`.
    CudaPageable,
    /// The processor on one thread.
    Memcpy,
}

impl Engine {
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Executor => "nixl-executor",
            Self::CudaCopies => "cuda-copies",
            Self::CudaBatch => "cuda-batch",
            Self::CudaOneCopy => "cuda-one-copy",
            Self::CudaPageable => "cuda-pageable",
            Self::Memcpy => "memcpy",
        }
    }

    /// What carries the bytes and by which call; the executor says the latter itself.
    pub(crate) fn path(self) -> (&'static str, &'static str) {
        match self {
            Self::Executor => ("local", "none"),
            Self::CudaCopies | Self::CudaOneCopy | Self::CudaPageable => ("cuda", "cuMemcpyAsync"),
            Self::CudaBatch => ("cuda", "cuMemcpyBatchAsync"),
            Self::Memcpy => ("none", "memcpy"),
        }
    }
}

impl From<Engine> for String {
    fn from(engine: Engine) -> Self {
        engine.name().to_owned()
    }
}
