//! NVIDIA's run-time compiler for CUDA C++, from its wheel: it needs neither a GPU nor a toolkit.

use std::path::PathBuf;

use anyhow::Result;

use super::pip::Pip;
use super::store::{Component, Store};

/// The version decides which drivers take what it compiles: those since 520 take this one's. Older
/// ones come as wheels for x86-64 only.
const REQUIREMENT: &str = "nvidia-cuda-nvrtc-cu11==11.8.89";
const LIBRARY: &str = "nvidia/cuda_nvrtc/lib/libnvrtc.so.11.2";

/// Where its library is.
pub(super) fn provide(store: &Store) -> Result<PathBuf> {
    let component = Component { name: "nvrtc", stamp: REQUIREMENT, files: &[LIBRARY] };
    let dir = store.provide(&component, |dir| {
        let pip = Pip::find()?;
        eprintln!("installing {REQUIREMENT}");
        pip.install(dir, ["--no-deps", REQUIREMENT])
    })?;
    Ok(dir.join(LIBRARY))
}
