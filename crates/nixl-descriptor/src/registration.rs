//! Registrations of memory with an engine, which keep it allocated until it is deregistered.
#![allow(unsafe_code, reason = "declares traits that are trusted with memory; has no unsafe block")]

use std::fmt;
use std::mem;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use nixl_device::{Device, ForkGeneration, SharedError};

use crate::access::Access;
use crate::memory::Memory;
use crate::pages;
use crate::region::Region;

/// Names a registrar; unique in this process and never reused.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct RegistrarId(u64);

impl RegistrarId {
    /// A new name.
    #[must_use]
    #[expect(
        clippy::new_without_default,
        reason = "every one is different, so none is the default"
    )]
    pub fn new() -> Self {
        static LAST: AtomicU64 = AtomicU64::new(0);
        Self(LAST.fetch_add(1, Relaxed) + 1)
    }
}

impl fmt::Display for RegistrarId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "registrar {}", self.0)
    }
}

/// Registers memory with one engine.
///
/// May be dropped on any thread, with the last registration; its `Drop` must not block on the engine either.
///
/// # Safety
/// Memory is freed, and handed back to safe code, by an implementation's results:
/// * [`register`](Self::register) returns `Err` only if the engine does not know the memory, that is, neither it nor a peer
///   of it reads or writes the memory then or later.
/// * The engine touches the memory no further than `span` goes: `span.len()` bytes from `span.address()` on, and those of
///   [`Access::ReadOnly`] it does not write on behalf of this process. (What an engine may let peers do beyond that is in
///   the crate's documentation.)
///
/// * What it hands out keeps the contract of [`Registered`].
pub unsafe trait Registrar: fmt::Debug + Send + Sync {
    /// The name it got when it was made.
    fn id(&self) -> RegistrarId;

    /// Makes all of `span` known to the engine. **Blocks** (milliseconds to seconds): never called on an async thread.
    ///
    /// The registration should hold a clone of `span` until the engine has deregistered it: then no other code can free the
    /// memory too early, for any use of the registration.
    ///
    /// # Errors
    /// [`RegisterError`]; then the engine does not know the memory.
    fn register(&self, span: &RegionSpan) -> Result<Box<dyn Registered>, RegisterError>;

    /// As [`register`](Self::register), where that takes microseconds now. `None`, as by default: `register` must be called.
    fn register_quickly(
        &self,
        span: &RegionSpan,
    ) -> Option<Result<Box<dyn Registered>, RegisterError>> {
        let _ = span;
        None
    }

    /// Deregisters later, on another thread: that thread calls [`Retired::deregister`] and reports a failure.
    ///
    /// Must not block and must not panic: it runs wherever the last handle happens to be dropped.
    fn retire(&self, retired: Retired);
}

/// Memory registered with an engine, as made by [`Registrar::register`].
///
/// This crate never drops one without calling [`deregister`](Self::deregister).
///
/// # Safety
/// Once [`deregister`](Self::deregister) has returned `Ok`, neither the engine nor a peer of it reads or writes the memory
/// that was registered, now or later: the memory may be freed at that moment. An implementation that does not know says
/// `Err`.
///
/// ```compile_fail,E0200
/// use nixl_descriptor::{RegisterError, Registered};
///
/// #[derive(Debug)]
/// struct Careless;
///
/// // Not `unsafe impl`: the compiler refuses it.
/// impl Registered for Careless {
///     fn deregister(self: Box<Self>) -> Result<(), RegisterError> {
///         Ok(())
///     }
/// }
/// ```
pub unsafe trait Registered: fmt::Debug + Send + Sync {
    /// Makes the engine forget the memory. **Blocks.** After `Ok`, the engine does not touch it any more.
    ///
    /// # Errors
    /// [`RegisterError`]: the engine may still touch the memory, which is then never freed.
    fn deregister(self: Box<Self>) -> Result<(), RegisterError>;
}

/// Why an engine could not register or deregister memory.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum RegisterError {
    /// The engine cannot use such memory.
    #[error("the engine cannot register memory of {device}")]
    Unsupported {
        /// Where the memory is.
        device: Device,
    },
    /// The engine registers memory for reading and writing, and would write to pages that cannot be written when a peer
    /// does, which ends the process.
    #[error(
        "the engine cannot register {len} bytes on read-only pages, because a peer that writes to them would end the \
         process: copy them into a buffer (`Connector::buffer`), and use that"
    )]
    ReadOnlyPages {
        /// Bytes of the region.
        len: usize,
    },
    /// Something ran out, such as locked memory.
    #[error("out of {what}: {hint}")]
    OutOfResources {
        /// What ran out.
        what: String,
        /// What to do about it.
        hint: String,
    },
    /// The engine failed.
    #[error("{engine}: {error}")]
    Engine {
        /// The engine.
        engine: &'static str,
        /// Its error, or its text.
        #[source]
        error: SharedError,
    },
}

/// All the memory of a region, or of the slab that it is a part of, as a registrar sees it. A clone keeps the memory allocated, but not the
/// [`Region`].
#[derive(Clone)]
pub struct RegionSpan {
    memory: Arc<Memory>,
}

impl RegionSpan {
    fn of(region: &Region) -> Self {
        Self { memory: Arc::clone(region.whole_region().memory()) }
    }

    /// Counted before the engine can know the memory, so that even a panic in the registrar leaks it at worst.
    fn begun(region: &Region) -> Self {
        let span = Self::of(region);
        span.memory.begin_registration();
        span
    }

    pub(crate) fn memory(&self) -> &Arc<Memory> {
        &self.memory
    }

    /// Address of the first byte in its device's address space. `address() + len()` does not wrap.
    #[must_use]
    pub fn address(&self) -> u64 {
        self.memory.address()
    }

    /// Number of bytes, at least one.
    #[must_use]
    #[expect(clippy::len_without_is_empty, reason = "a region is never empty")]
    pub fn len(&self) -> usize {
        self.memory.len()
    }

    /// Where the memory is.
    #[must_use]
    pub fn device(&self) -> Device {
        self.memory.device()
    }

    /// What peers may do with the memory. An engine that cannot enforce read-only access still gets to know.
    #[must_use]
    pub fn access(&self) -> Access {
        self.memory.access()
    }

    /// Whether the processor may write all of its pages: of [`Access::ReadOnly`] memory of the host, the system is asked,
    /// which takes microseconds to milliseconds by how much this process has mapped. Such memory may lie among writable pages
    /// (`Bytes` on the heap) or not (constants of the program, most mapped files). Other memory was vouched for.
    ///
    /// `false` also if the system does not report it.
    #[must_use]
    pub fn has_writable_pages(&self) -> bool {
        let asked = self.device().is_host() && self.access() != Access::ReadWrite;
        !asked || pages::are_writable(self.address(), self.len() as u64)
    }
}

impl fmt::Debug for RegionSpan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RegionSpan")
            .field("address", &format_args!("{:#x}", self.address()))
            .field("len", &self.len())
            .field("device", &self.device())
            .field("access", &self.access())
            .finish()
    }
}

/// A handle to a region's registration with one engine. Cheap to clone; the last one to go has it retired.
///
/// The memory stays allocated while a registration exists and until the engine has confirmed its end, even if the
/// [`Region`] is gone. It does not keep other operations away: that is what leases are for.
#[derive(Clone, Debug)]
pub struct Registration(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    /// `Some` until retired.
    registered: Option<Box<dyn Registered>>,
    span: RegionSpan,
    registrar: Arc<dyn Registrar>,
    number: u64,
    generation: ForkGeneration,
}

impl Registration {
    /// Registers the whole of `region`, or the slab that it is a part of, **blocking** until the engine is done. Does not look for an
    /// earlier registration: that is what [`RegistrationCache`](crate::RegistrationCache) does.
    ///
    /// # Errors
    /// The registrar's error.
    pub fn new(registrar: &Arc<dyn Registrar>, region: &Region) -> Result<Self, RegisterError> {
        let span = RegionSpan::begun(region);
        let registered = registrar.register(&span);
        Self::of(registrar, span, registered)
    }

    /// As [`new`](Self::new), if the engine does it [quickly](Registrar::register_quickly).
    pub(crate) fn quickly(
        registrar: &Arc<dyn Registrar>,
        region: &Region,
    ) -> Option<Result<Self, RegisterError>> {
        let span = RegionSpan::begun(region);
        let registered = registrar.register_quickly(&span);
        if registered.is_none() {
            span.memory.end_registration();
        }
        Some(Self::of(registrar, span, registered?))
    }

    fn of(
        registrar: &Arc<dyn Registrar>,
        span: RegionSpan,
        registered: Result<Box<dyn Registered>, RegisterError>,
    ) -> Result<Self, RegisterError> {
        static LAST: AtomicU64 = AtomicU64::new(0);
        match registered {
            Ok(registered) => {
                let (registrar, number) = (Arc::clone(registrar), LAST.fetch_add(1, Relaxed));
                let (registered, generation) = (Some(registered), ForkGeneration::current());
                Ok(Self(Arc::new(Inner { registered, span, registrar, number, generation })))
            }
            Err(error) => {
                span.memory.end_registration();
                Err(error)
            }
        }
    }

    /// The registrar whose engine has the registration.
    #[must_use]
    pub fn registrar(&self) -> RegistrarId {
        self.0.registrar.id()
    }

    /// The memory that is registered.
    #[must_use]
    pub fn span(&self) -> &RegionSpan {
        &self.0.span
    }

    /// A number that no other registration of this process has, nor will have.
    #[must_use]
    pub fn number(&self) -> u64 {
        self.0.number
    }

    /// Whether no other handle exists. Stays true while no other thread can reach this one.
    pub(crate) fn is_sole(&self) -> bool {
        Arc::strong_count(&self.0) == 1
    }

    /// What is left to deregister, unless another handle exists.
    pub(crate) fn into_retired(self) -> Option<Retired> {
        Arc::into_inner(self.0)?.take_retired()
    }
}

impl Inner {
    fn take_retired(&mut self) -> Option<Retired> {
        let registered = self.registered.take()?;
        Some(Retired { registered: Some(registered), span: self.span.clone() })
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        if !self.generation.is_current() {
            // The engine with the registration is the parent's.
            mem::forget(self.registered.take());
            return;
        }
        if let Some(retired) = self.take_retired() {
            self.registrar.retire(retired);
        }
    }
}

/// A registration that is no longer used, together with the memory it covers.
///
/// Dropping it deregisters as well, and ignores the error.
#[derive(Debug)]
#[must_use = "dropping it deregisters, which blocks"]
pub struct Retired {
    /// `Some` until deregistered.
    registered: Option<Box<dyn Registered>>,
    span: RegionSpan,
}

impl Retired {
    /// The memory to deregister.
    #[must_use]
    pub fn span(&self) -> &RegionSpan {
        &self.span
    }

    /// Deregisters, **blocking** until the engine is done, then releases the memory. The memory is freed here if
    /// nothing else refers to it; if the engine fails, it never is (see [`leaked`](crate::leaked())).
    ///
    /// # Errors
    /// The engine's error.
    pub fn deregister(mut self) -> Result<(), RegisterError> {
        self.finish()
    }

    fn finish(&mut self) -> Result<(), RegisterError> {
        let Some(registered) = self.registered.take() else {
            return Ok(());
        };
        registered.deregister()?;
        self.span.memory.end_registration();
        Ok(())
    }
}

impl Drop for Retired {
    fn drop(&mut self) {
        // The failure is not lost: it stays counted in the memory, which is therefore leaked and reported as such.
        let _ = self.finish();
    }
}
