//! An engine that only keeps accounts, and memory that reports when it is freed.
#![allow(unsafe_code, reason = "implements traits that are trusted with memory")]

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;

use bytes::Bytes;
use nixl_descriptor::{
    Region, RegionSpan, RegisterError, Registered, Registrar, RegistrarId, Retired,
};
use nixl_device::SharedError;

/// What happened, and to the memory at which address.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Event {
    Registered(u64),
    Deregistered(u64),
    Freed(u64),
}

#[derive(Clone, Debug, Default)]
pub(crate) struct Log(Arc<Mutex<Vec<Event>>>);

impl Log {
    pub(crate) fn events(&self) -> Vec<Event> {
        self.0.lock().unwrap().clone()
    }

    fn push(&self, event: Event) {
        self.0.lock().unwrap().push(event);
    }

    /// Fails if memory was freed while registered, or deregistered more often than registered.
    pub(crate) fn check(&self) {
        let mut registered: HashMap<u64, u32> = HashMap::new();
        for event in self.events() {
            match event {
                Event::Registered(address) => *registered.entry(address).or_default() += 1,
                Event::Deregistered(address) => {
                    let count = registered.get_mut(&address).expect("registered before");
                    *count =
                        count.checked_sub(1).expect("deregistered no more often than registered");
                }
                Event::Freed(address) => {
                    assert_eq!(
                        registered.remove(&address).unwrap_or(0),
                        0,
                        "freed while registered"
                    );
                }
            }
        }
    }

    pub(crate) fn count(&self, pick: impl Fn(Event) -> bool) -> usize {
        self.events().into_iter().filter(|event| pick(*event)).count()
    }

    pub(crate) fn registered(&self) -> usize {
        self.count(|event| matches!(event, Event::Registered(_)))
    }

    pub(crate) fn deregistered(&self) -> usize {
        self.count(|event| matches!(event, Event::Deregistered(_)))
    }

    pub(crate) fn freed(&self) -> usize {
        self.count(|event| matches!(event, Event::Freed(_)))
    }

    /// A read-only region whose memory logs that it is freed.
    pub(crate) fn region(&self, len: usize) -> Region {
        Bytes::from_owner(Tracked { bytes: vec![0; len], log: self.clone() }).try_into().unwrap()
    }
}

struct Tracked {
    bytes: Vec<u8>,
    log: Log,
}

impl AsRef<[u8]> for Tracked {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

impl Drop for Tracked {
    fn drop(&mut self) {
        self.log.push(Event::Freed(self.bytes.as_ptr().addr() as u64));
    }
}

/// Deregisters what is retired only when told to.
#[derive(Debug)]
pub(crate) struct Engine {
    id: RegistrarId,
    log: Log,
    retired: Mutex<Vec<Retired>>,
    pub(crate) refuse_register: AtomicBool,
    pub(crate) refuse_deregister: Arc<AtomicBool>,
}

impl Engine {
    pub(crate) fn new(log: &Log) -> Arc<Self> {
        Arc::new(Self {
            id: RegistrarId::new(),
            log: log.clone(),
            retired: Mutex::default(),
            refuse_register: AtomicBool::new(false),
            refuse_deregister: Arc::default(),
        })
    }

    pub(crate) fn retired(&self) -> usize {
        self.retired.lock().unwrap().len()
    }

    /// Deregisters what is retired so far; how many of those failed.
    pub(crate) fn settle(&self) -> usize {
        let retired = std::mem::take(&mut *self.retired.lock().unwrap());
        retired.into_iter().filter_map(|retired| retired.deregister().err()).count()
    }
}

pub(crate) fn refusal() -> RegisterError {
    RegisterError::Engine { engine: "fake", error: SharedError::text("refused") }
}

// SAFETY: there is no engine behind it, so nothing touches the memory.
unsafe impl Registrar for Engine {
    fn id(&self) -> RegistrarId {
        self.id
    }

    fn register(&self, span: &RegionSpan) -> Result<Box<dyn Registered>, RegisterError> {
        if self.refuse_register.load(Ordering::SeqCst) {
            return Err(refusal());
        }
        // As an engine does, give other threads time to get in the way.
        (0..20).for_each(|_| thread::yield_now());
        self.log.push(Event::Registered(span.address()));
        // Holds no clone of the span: that the memory lives is this crate's doing.
        Ok(Box::new(Known {
            address: span.address(),
            log: self.log.clone(),
            refuse: Arc::clone(&self.refuse_deregister),
        }))
    }

    fn retire(&self, retired: Retired) {
        self.retired.lock().unwrap().push(retired);
    }
}

#[derive(Debug)]
struct Known {
    address: u64,
    log: Log,
    refuse: Arc<AtomicBool>,
}

// SAFETY: there is no engine behind it, so nothing touches the memory.
unsafe impl Registered for Known {
    fn deregister(self: Box<Self>) -> Result<(), RegisterError> {
        if self.refuse.load(Ordering::SeqCst) {
            return Err(refusal());
        }
        self.log.push(Event::Deregistered(self.address));
        Ok(())
    }
}
