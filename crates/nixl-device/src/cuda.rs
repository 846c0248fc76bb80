//! CUDA, on any machine: its devices, their memory, and copies between memories.
//!
//! Nothing of CUDA is needed to build, and `libcuda` is not needed to run. Everything begins with one cached [`probe()`];
//! without a driver all that leads to a [`Context`] returns [`CudaUnavailable`], and nothing panics. A call that the
//! driver refuses is a [`CudaError`], for every code.
//!
//! - [`devices`], [`gpu_links`], [`nic_links`] and [`local_gpu_direct`] describe the hardware.
//! - [`Context`] is where all that follows lives. A sticky error ends it for good; each later call reports that.
//! - [`DeviceMemory`], [`PinnedMemory`], [`HostRegistration`] and [`ImportedMemory`] own memory; [`DevicePool`] and
//!   [`PinnedPool`] keep some for reuse, within limits. [`MemoryAttributes`] are of memory that others allocated.
//! - [`PhysicalMemory`] is an allocation of the VMM API, which other processes map by a [`ShareableHandle`], as
//!   [`MappedMemory`]; [`PoolMemory`] is one of a pool that was made for that, which they open as [`ImportedPoolMemory`].
//! - [`Stream`] and [`Event`] order work. [`Stream::copy`] is safe: memory is not freed while a copy is queued.
//!   [`Stream::keep`] does the same for executors, which copy between plain addresses.
//! - [`Module`] and [`Function`] run kernels.
//! - [`relax_capture`] keeps other CUDA calls from ending a framework's capture: see below.
//!
//! ```
//! use std::sync::Arc;
//! use nixl_device::cuda::{Buffer, Context, DeviceMemory, PinnedMemory, Stream, is_available};
//!
//! if is_available() {
//!     let context = Context::primary(0)?;
//!     let stream = Stream::new(&context)?;
//!     let memory: Buffer = DeviceMemory::new(&context, 4096)?.into();
//!     let pinned = Arc::new(PinnedMemory::new(&context, 4096)?);
//!     stream.fill(&memory, 0, 4096, 7)?;
//!     stream.copy(&pinned.clone().into(), 0, &memory, 0, 4096)?;
//!     stream.synchronize()?;
//!     let mut bytes = [0; 4096];
//!     pinned.read(0, &mut bytes)?;
//!     assert_eq!(bytes, [7; 4096]);
//! }
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! # Beside a framework that captures CUDA graphs
//!
//! While a thread captures in the mode "global", the default of the CUDA runtime and of PyTorch, a query of an event, a
//! synchronisation or an allocation by *any* thread ends the capture, and gets error 900 itself. Threads whose capture mode
//! is relaxed are exempt. So the functions of the driver can be reached through one place alone (`functions.rs`), which
//! relaxes the mode of the calling thread and restores it after the call, on unwinding too. What follows from it:
//!
//! * Everything here may be called at any time from any thread, also from one that captures, and leaves captures alone; but
//!   for [`Context::synchronize`], which conflicts with a capture in its context in every mode.
//! * A stream of the caller that captures gets no work: [`Event::record_on_foreign`] checks it first, and returns
//!   [`ForeignStreamError`]. The default stream counts as capturing while a blocking stream of its context does.
//! * A stream and an event of this library must not take part in a capture of the caller's.
//! * Code that calls CUDA otherwise on threads beside a framework holds a guard of [`relax_capture`] meanwhile.
//!
//! The exchange of the mode is a call of its own, two for each call of the driver; a thread that holds the guard, as threads
//! of this library do, makes it once.
//!
//! # Why the driver is called directly
//!
//! The functions are found once, at the probe, in a table of our own (`api.rs`) instead of through `cudarc`. That
//! would add types and constants, of which this module needs some fifty lines. It would cost a choice of a
//! CUDA version for every program that depends on this crate (its version features exclude each other), calls that
//! panic where the library or a symbol is missing, even when an error is only printed, and results as a Rust
//! enumeration, for which a code of a newer driver is undefined behaviour. Here a result is a number, a missing function
//! is an error of the probe or an `Option`, and tests replace the table by a fake driver.
#![allow(unsafe_code)] // Calling the driver by address, and handing out memory that it gave.

mod api;
mod attributes;
#[cfg(test)]
mod bindings;
mod callback;
mod capture;
mod context;
mod copy;
mod device;
mod device_memory;
mod driver;
mod error;
mod event;
#[cfg(test)]
mod fake;
mod foreign_stream;
mod functions;
mod gpu_direct;
mod gpu_link;
mod hold;
mod ipc;
mod mapping;
mod memory_error;
mod module;
mod nvml;
mod pinned;
mod placement;
mod pool;
mod pool_memory;
mod probe;
mod raw_copy;
mod reaper;
mod registration;
mod shareable_handle;
mod size_class;
mod stream;
mod unavailable;
mod uses;
mod virtual_memory;

pub use attributes::MemoryAttributes;
pub use callback::HostCallback;
pub use capture::{RelaxedCapture, relax_capture};
pub use context::{Context, Current, MemoryInfo};
pub use copy::{Buffer, CopyError};
pub use device::{CudaDevice, DeviceUuid, devices};
pub use device_memory::DeviceMemory;
pub use error::{CudaError, CudaErrorClass, DeviceError};
pub use event::{Event, IpcEventHandle};
pub use foreign_stream::ForeignStreamError;
pub use gpu_direct::{
    GpuDirectAttributes, GpuDirectSupport, LocalGpuDirect, NicLink, local_gpu_direct, nic_links,
};
pub use gpu_link::{GpuLink, Interconnect, gpu_links};
pub use ipc::{ImportedMemory, IpcMemoryHandle};
pub use memory_error::MemoryError;
pub use module::{Function, Module, ModuleError};
pub use pinned::{HostAccessError, PinnedMemory};
pub use pool::{DevicePool, PinnedPool, PoolLimits, PoolStats};
pub use pool_memory::{ImportedPoolMemory, PoolMemory};
pub use probe::{CudaDriver, is_available, probe};
pub use registration::HostRegistration;
pub use shareable_handle::ShareableHandle;
pub use stream::Stream;
pub use unavailable::CudaUnavailable;
pub use virtual_memory::{MappedMemory, PhysicalMemory, VirtualMemory};
