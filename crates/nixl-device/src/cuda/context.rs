//! The primary context of a device: where all its memory, streams and events live.

use std::collections::{BTreeSet, HashMap};
use std::fmt;
use std::hash::{Hash, Hasher};
use std::mem;
use std::ops::RangeInclusive;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, OnceLock};

use crate::locks::lock;
use crate::system::process::ForkGeneration;

use super::api::{Address, Api, DeviceNumber, Handle};
use super::callback;
use super::capture::RelaxedCapture;
use super::device::attribute;
use super::driver::Driver;
use super::error::{
    CudaError, DeviceError, NOT_INITIALIZED, NOT_PERMITTED, NOT_READY, NOT_SUPPORTED,
    PEER_ACCESS_ALREADY_ENABLED, PEER_ACCESS_UNSUPPORTED,
};
use super::functions::Functions;
use super::placement::Placement;
use super::probe::loaded;
use super::reaper;

/// The primary context of a CUDA device: the one that the CUDA runtime, and so every framework, uses too.
///
/// A small handle, free to copy. The context is retained at its first request and stays until the process ends.
/// It may be used from any thread; no thread needs to make it current.
///
/// After a sticky error ([`CudaError::is_sticky`]) every call on this context returns that error, and what the device
/// may still have been using is leaked instead of freed: see [`leaked`](Self::leaked).
///
/// ```
/// use nixl_device::cuda::{Context, DeviceError};
///
/// match Context::primary(0) {
///     Ok(context) => println!("{:?}", context.memory_info()),
///     Err(DeviceError::Unavailable(reason)) => println!("no CUDA: {reason}"),
///     Err(error) => println!("{error}"),
/// }
/// ```
#[derive(Clone, Copy)]
pub struct Context {
    state: &'static ContextState,
}

/// Lives as long as the process.
pub(super) struct ContextState {
    driver: &'static Driver,
    ordinal: u32,
    device: DeviceNumber,
    raw: Handle,
    /// The sticky error that broke the context.
    poison: OnceLock<CudaError>,
    leaked: AtomicU64,
    /// The devices whose memory this context was given access to.
    peers: Mutex<BTreeSet<u32>>,
    /// Memory of other processes that is open here, by its handle.
    pub(super) imports: Mutex<HashMap<[u8; 64], Import>>,
    placement: OnceLock<Placement>,
    generation: ForkGeneration,
}

/// Memory of another process that is open in a context.
pub(super) struct Import {
    pub(super) users: usize,
    pub(super) address: Address,
}

impl ContextState {
    pub(super) fn new(
        driver: &'static Driver,
        ordinal: u32,
        device: DeviceNumber,
        raw: Handle,
    ) -> Self {
        Self {
            driver,
            ordinal,
            device,
            raw,
            poison: OnceLock::new(),
            leaked: AtomicU64::new(0),
            peers: Mutex::default(),
            imports: Mutex::default(),
            placement: OnceLock::new(),
            generation: ForkGeneration::current(),
        }
    }
}

/// Free and total memory of a device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MemoryInfo {
    free: u64,
    total: u64,
}

impl MemoryInfo {
    /// Bytes that are free now.
    #[must_use]
    pub fn free(&self) -> u64 {
        self.free
    }

    /// Bytes in all.
    #[must_use]
    pub fn total(&self) -> u64 {
        self.total
    }
}

impl Context {
    pub(super) fn new(state: &'static ContextState) -> Self {
        Self { state }
    }

    /// The primary context of the device with this ordinal.
    ///
    /// The first call for a device blocks for some hundred milliseconds and takes some hundred megabytes of the
    /// device's memory; later ones cost nothing. Panics: never.
    ///
    /// # Errors
    ///
    /// [`DeviceError`]: CUDA is not there, there is no such device, or its context cannot be made.
    pub fn primary(ordinal: u32) -> Result<Self, DeviceError> {
        loaded()?.context(ordinal)
    }

    /// The device's ordinal, as in `cuda:N`.
    #[must_use]
    pub fn ordinal(&self) -> u32 {
        self.state.ordinal
    }

    /// The device as the rest of the workspace names it.
    #[must_use]
    pub fn device(&self) -> crate::Device {
        crate::Device::cuda(self.state.ordinal)
    }

    /// An attribute of the device. `None` if the driver does not know it.
    pub(super) fn attribute(&self, which: i32) -> Option<i32> {
        attribute(self.state.driver, self.state.device, which)
    }

    /// The driver's number of the device.
    pub(super) fn raw_device(&self) -> DeviceNumber {
        self.state.device
    }

    /// Fails with the sticky error that broke this context, if one did and it was noticed.
    ///
    /// # Errors
    ///
    /// That error, with the call that returned it first.
    pub fn health(&self) -> Result<(), CudaError> {
        match self.state.poison.get() {
            Some(&error) => Err(error),
            None => Ok(()),
        }
    }

    /// How many allocations and kept values were leaked because the driver would not free them, or could not tell
    /// whether the device still uses them. More than 0 only after errors.
    #[must_use]
    pub fn leaked(&self) -> u64 {
        self.state.leaked.load(Ordering::Relaxed)
    }

    /// Makes this context current for the calling thread, for code that calls CUDA itself, until the guard is dropped;
    /// then the one before is current again. Drop guards in the reverse order of their making. Until then the thread's
    /// stream-capture mode is relaxed too: see [`relax_capture`](super::relax_capture).
    ///
    /// # Errors
    ///
    /// The sticky error that broke the context, `CUDA_ERROR_NOT_PERMITTED` inside a callback of a stream, or what the
    /// driver says.
    pub fn enter(&self) -> Result<Current, CudaError> {
        self.enter_for("cuCtxSetCurrent")
    }

    fn enter_for(&self, call: &'static str) -> Result<Current, CudaError> {
        if callback::on_callback_thread() {
            return Err(CudaError {
                code: NOT_PERMITTED,
                name: Some("CUDA_ERROR_NOT_PERMITTED"),
                call,
            });
        }
        if self.is_inherited() {
            // The driver's error, which does not work in a fork's child.
            let name = Some("CUDA_ERROR_NOT_INITIALIZED");
            return Err(CudaError { code: NOT_INITIALIZED, name, call });
        }
        self.health()?;
        let functions = self.functions();
        // Before the calls below, which then find the mode as it should be.
        let relaxed = functions.relax();
        let mut previous = 0;
        // SAFETY: the pointer is to a live variable, written during the call only.
        let code = functions.call(|api| unsafe { (api.ctx_get_current)(&raw mut previous) });
        self.check("cuCtxGetCurrent", code)?;
        if previous != self.state.raw {
            // SAFETY: the context is retained for good.
            let code = functions.call(|api| unsafe { (api.ctx_set_current)(self.state.raw) });
            self.check("cuCtxSetCurrent", code)?;
        }
        Ok(Current { context: *self, previous, _relaxed: relaxed })
    }

    /// Makes a call with this context current.
    pub(super) fn call(
        &self,
        call: &'static str,
        function: impl FnOnce(&Api) -> i32,
    ) -> Result<(), CudaError> {
        let _current = self.enter_for(call)?;
        self.check(call, self.functions().call(function))
    }

    /// Queries whether something is done, which is no error while it is not.
    pub(super) fn query(
        &self,
        call: &'static str,
        function: impl FnOnce(&Api) -> i32,
    ) -> Result<bool, CudaError> {
        let _current = self.enter_for(call)?;
        match self.functions().call(function) {
            NOT_READY => Ok(false),
            code => self.check(call, code).map(|()| true),
        }
    }

    /// Turns a code into a result and takes note if it breaks the context.
    pub(super) fn check(&self, call: &'static str, code: i32) -> Result<(), CudaError> {
        let result = self.state.driver.check(call, code);
        if let Err(error) = result
            && error.is_sticky()
            && self.state.poison.set(error).is_ok()
        {
            callback::fail_all(*self, error);
        }
        result
    }

    /// Frees something of this context. In a callback of a stream, where no call is allowed, another thread does it.
    /// What cannot be freed is leaked and counted.
    pub(super) fn release(
        self,
        call: &'static str,
        free: impl FnOnce(&Api) -> i32 + Send + 'static,
    ) {
        if self.is_inherited() {
            // It is the parent's.
            mem::forget(free);
        } else if callback::on_callback_thread() {
            reaper::run(Box::new(move || self.release(call, free)));
        } else if self.call(call, free).is_err() {
            self.count_leak();
        }
    }

    /// Whether the context is of a process that this one was forked from.
    pub(super) fn is_inherited(&self) -> bool {
        !self.state.generation.is_current()
    }

    pub(super) fn count_leak(&self) {
        self.state.leaked.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn functions(&self) -> &'static Functions {
        &self.state.driver.functions
    }

    #[cfg(test)]
    pub(super) fn raw(&self) -> Handle {
        self.state.raw
    }

    pub(super) fn state(&self) -> &'static ContextState {
        self.state
    }

    /// Where host memory near this device is.
    pub(super) fn placement(&self) -> &'static Placement {
        self.state.placement.get_or_init(|| {
            let address = super::device::pci_address(self.state.driver, self.state.device);
            Placement::near(address.ok().flatten())
        })
    }

    /// Free and total memory of the device, now.
    ///
    /// # Errors
    ///
    /// The driver's error.
    pub fn memory_info(&self) -> Result<MemoryInfo, CudaError> {
        let (mut free, mut total) = (0, 0);
        // SAFETY: the pointers are to live variables, written during the call only.
        self.call("cuMemGetInfo", |api| unsafe {
            (api.mem_get_info)(&raw mut free, &raw mut total)
        })?;
        Ok(MemoryInfo { free: free as u64, total: total as u64 })
    }

    /// Waits, blocking, until the device has done everything that was queued in this context.
    ///
    /// Not while a stream of the context captures a CUDA graph: this is the one call here that the driver refuses then
    /// in every capture mode, and the capture fails too. Nothing else of this library makes it;
    /// [`Stream::synchronize`](super::Stream::synchronize) waits for one stream and is safe.
    ///
    /// # Errors
    ///
    /// The driver's error, also of earlier work on the device.
    pub fn synchronize(&self) -> Result<(), CudaError> {
        // SAFETY: takes nothing.
        self.call("cuCtxSynchronize", |api| unsafe { (api.ctx_synchronize)() })
    }

    /// The priorities that streams of this context can have. Less is more urgent; 0 is the default.
    ///
    /// # Errors
    ///
    /// The driver's error.
    pub fn stream_priorities(&self) -> Result<RangeInclusive<i32>, CudaError> {
        let (mut least, mut greatest) = (0, 0);
        // SAFETY: the pointers are to live variables, written during the call only.
        self.call("cuCtxGetStreamPriorityRange", |api| unsafe {
            (api.ctx_get_stream_priority_range)(&raw mut least, &raw mut greatest)
        })?;
        Ok(greatest..=least)
    }

    /// Whether `address` is host memory that the driver has pinned, in any way: memory that devices copy without
    /// blocking. `false` for all other memory, and if the driver does not report it. Takes under a microsecond.
    #[must_use]
    pub fn is_pinned(&self, address: u64) -> bool {
        const MEMORY_TYPE: i32 = 2;
        const HOST: u32 = 1;
        // Stays 0 for memory that the driver does not know, which is no error.
        let mut kind = 0u32;
        let (mut attribute, mut out) = (MEMORY_TYPE, std::ptr::from_mut(&mut kind).cast());
        let asked = self.call("cuPointerGetAttributes", |api| match api.pointer_get_attributes {
            // SAFETY: the lists are live variables, one element each, and the second leads to a live variable of the
            // attribute's type; all are used during the call only. The address is looked up, not followed.
            Some(attributes) => unsafe { attributes(1, &raw mut attribute, &raw mut out, address) },
            None => NOT_SUPPORTED,
        });
        asked.is_ok() && kind == HOST
    }

    /// Lets kernels and copies of this context reach the memory of another device directly. Once done it stays so;
    /// later calls for the same pair cost nothing. It holds in this direction only.
    ///
    /// # Errors
    ///
    /// `CUDA_ERROR_PEER_ACCESS_UNSUPPORTED` if there is no direct way between the devices; else the driver's error.
    pub fn enable_peer_access(&self, peer: &Self) -> Result<(), CudaError> {
        if self.state.ordinal == peer.state.ordinal {
            return Ok(());
        }
        // Held over the calls, so that each pair is enabled once.
        let mut peers = lock(&self.state.peers);
        if peers.contains(&peer.state.ordinal) {
            return self.health();
        }
        let mut possible = 0;
        // SAFETY: the pointer is to a live variable, written during the call only.
        self.call("cuDeviceCanAccessPeer", |api| unsafe {
            (api.device_can_access_peer)(&raw mut possible, self.state.device, peer.state.device)
        })?;
        if possible == 0 {
            return Err(CudaError {
                code: PEER_ACCESS_UNSUPPORTED,
                name: Some("CUDA_ERROR_PEER_ACCESS_UNSUPPORTED"),
                call: "cuDeviceCanAccessPeer",
            });
        }
        peer.health()?;
        // SAFETY: the peer's context is retained for good.
        let enabled = self.call("cuCtxEnablePeerAccess", |api| unsafe {
            (api.ctx_enable_peer_access)(peer.state.raw, 0)
        });
        match enabled {
            Err(error) if error.code != PEER_ACCESS_ALREADY_ENABLED => Err(error),
            // The framework that shares this context may have been first.
            _ => {
                peers.insert(peer.state.ordinal);
                Ok(())
            }
        }
    }
}

impl PartialEq for Context {
    fn eq(&self, other: &Self) -> bool {
        std::ptr::eq(self.state, other.state)
    }
}

impl Eq for Context {}

impl Hash for Context {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.state.ordinal.hash(state);
    }
}

impl fmt::Debug for Context {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Context")
            .field("ordinal", &self.state.ordinal)
            .field("health", &self.health())
            .finish_non_exhaustive()
    }
}

/// While this lives, a context is current for the thread that called [`Context::enter`].
#[derive(Debug)]
#[must_use = "the context is current only as long as this lives"]
pub struct Current {
    context: Context,
    previous: Handle,
    /// Dropped after the context before is current again. It ties this to its thread, to which what is current belongs.
    _relaxed: RelaxedCapture,
}

impl Drop for Current {
    fn drop(&mut self) {
        if self.previous != self.context.state.raw {
            let functions = self.context.functions();
            // SAFETY: the handle is what the driver named as current, or null. If it is gone by now the call fails,
            // and nothing can be done about it.
            functions.call(|api| unsafe { (api.ctx_set_current)(self.previous) });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::api::Api;
    use super::super::device_memory::DeviceMemory;
    use super::super::fake::{self, Fake};
    use super::super::pinned::PinnedMemory;
    use super::*;

    #[test]
    fn a_context_is_retained_once() {
        let fake = Fake::new();
        let contexts: Vec<_> = (0..3).map(|_| fake.context(0)).collect();
        assert!(contexts.iter().all(|context| *context == contexts[0]));
        assert_eq!(fake.count("cuDevicePrimaryCtxRetain"), 1);
        assert_ne!(contexts[0], fake.context(1));
    }

    #[test]
    fn there_is_no_device_beyond_the_last() {
        let fake = Fake::new();
        assert_eq!(
            fake.driver().context(2),
            Err(DeviceError::NoSuchDevice { ordinal: 2, count: 2 })
        );
    }

    #[test]
    fn a_context_that_cannot_be_made_is_tried_again() {
        let fake = Fake::new();
        fake.fail("cuDevicePrimaryCtxRetain", 2, 1);
        let error = fake.driver().context(0);
        assert!(
            matches!(&error, Err(DeviceError::Cuda(error)) if error.is_out_of_memory()),
            "{error:?}"
        );
        assert!(fake.driver().context(0).is_ok());
    }

    #[test]
    fn the_context_before_is_current_again() {
        let fake = Fake::new();
        let (first, second) = (fake.context(0), fake.context(1));
        let before = fake.current();
        {
            let _outer = first.enter().unwrap();
            assert_eq!(fake.current(), first.raw());
            {
                let _inner = second.enter().unwrap();
                assert_eq!(fake.current(), second.raw());
                let _same = second.enter().unwrap();
            }
            assert_eq!(fake.current(), first.raw());
            second.memory_info().unwrap();
            assert_eq!(fake.current(), first.raw());
        }
        assert_eq!(fake.current(), before);
    }

    #[test]
    fn an_unknown_code_survives() {
        let fake = Fake::new();
        let context = fake.context(0);
        fake.fail("cuMemGetInfo", 4711, 1);
        let expected = CudaError { code: 4711, name: None, call: "cuMemGetInfo" };
        assert_eq!(context.memory_info(), Err(expected));
        assert!(context.memory_info().is_ok(), "not sticky");
    }

    #[test]
    fn a_sticky_error_is_the_answer_to_every_later_call_of_that_context_alone() {
        let fake = Fake::new();
        let (context, other) = (fake.context(0), fake.context(1));
        fake.fail("cuCtxSynchronize", 700, 1);
        let error = context.synchronize().unwrap_err();
        assert_eq!(error.name, Some("CUDA_ERROR_ILLEGAL_ADDRESS"));
        assert!(error.is_sticky());
        assert_eq!(context.memory_info(), Err(error));
        assert_eq!(context.enter().err(), Some(error));
        assert_eq!(context.health(), Err(error));
        assert_eq!(other.health(), Ok(()));
        assert!(other.memory_info().is_ok());
        assert_eq!(other.enable_peer_access(&context), Err(error));
    }

    #[test]
    fn pinned_memory_is_known_by_every_address_in_it() {
        let fake = Fake::new();
        let context = fake.context(0);
        let len = 3 * 4096;
        let pinned = PinnedMemory::new(&context, len).unwrap();
        let start = pinned.address();
        for (at, expected) in [(0, true), (len / 2, true), (len - 1, true), (1 << 40, false)] {
            assert_eq!(context.is_pinned(start + at as u64), expected, "{at}");
        }
        drop(pinned);
        assert!(!context.is_pinned(start));
        let device = DeviceMemory::new(&context, len).unwrap();
        assert!(!context.is_pinned(device.address()));
        assert_eq!(fake.faults(), Vec::<String>::new());
    }

    #[test]
    fn what_the_driver_cannot_tell_is_not_pinned() {
        let fake = Fake::with(Api { pointer_get_attributes: None, ..fake::api() });
        let context = fake.context(0);
        let pinned = PinnedMemory::new(&context, 4096).unwrap();
        assert!(!context.is_pinned(pinned.address()));

        let fake = Fake::new();
        let context = fake.context(0);
        let pinned = PinnedMemory::new(&context, 4096).unwrap();
        fake.fail("cuPointerGetAttributes", 1, 1);
        assert!(!context.is_pinned(pinned.address()));
        assert!(context.is_pinned(pinned.address()));
    }

    #[test]
    fn peer_access_is_enabled_once_for_each_direction() {
        let fake = Fake::new();
        let (a, b) = (fake.context(0), fake.context(1));
        for _ in 0..3 {
            a.enable_peer_access(&b).unwrap();
        }
        assert_eq!(fake.count("cuCtxEnablePeerAccess"), 1);
        b.enable_peer_access(&a).unwrap();
        assert_eq!(fake.count("cuCtxEnablePeerAccess"), 2);
        a.enable_peer_access(&a).unwrap();
        assert_eq!(fake.count("cuCtxEnablePeerAccess"), 2);
    }

    #[test]
    fn peer_access_that_a_framework_enabled_is_fine() {
        let fake = Fake::new();
        let (a, b) = (fake.context(0), fake.context(1));
        fake.fail("cuCtxEnablePeerAccess", 704, 1);
        assert_eq!(a.enable_peer_access(&b), Ok(()));
    }

    #[test]
    fn refused_peer_access_is_an_error() {
        let fake = Fake::new();
        fake.refuse_peers();
        let error = fake.context(0).enable_peer_access(&fake.context(1));
        assert!(error.is_err_and(|error| error.is_not_supported() && error.code == 217));
    }
}
