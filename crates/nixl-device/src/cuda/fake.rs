//! A fake driver for tests: it records its calls and reports misuse.
//!
//! Queued work stays queued until [`Fake::finish`]. Each [`Fake`] has contexts, streams and memory of its own, to which its
//! handles belong.
//!
//! Beside each of them a framework captures a CUDA graph on a thread of its own, in the mode "global". When the [`Fake`] is
//! dropped, a call that broke the capture, or was made in another capture mode than "relaxed", fails the test.

mod api;
mod capture;
mod physical;

use std::cell::Cell;
use std::collections::{BTreeMap, HashMap};
use std::sync::Mutex;
use std::thread;
use std::time::{Duration, Instant};

pub(super) use api::api;
use capture::Captures;
pub(super) use capture::{GLOBAL, THREAD_LOCAL, exchanges, mode, set_mode};
use physical::Physical;

use super::api::{Address, Api, DeviceNumber, Handle, StreamCallback};
use super::context::Context;
use super::driver::Driver;
use super::functions::Functions;
use super::probe::query;
use crate::locks::lock;

pub(super) struct Fake {
    world: &'static World,
    driver: &'static Driver,
    /// The stream on which a framework captures.
    framework: Handle,
}

#[derive(Default)]
struct World(Mutex<State>);

#[derive(Default)]
struct State {
    counts: HashMap<&'static str, u64>,
    failures: Vec<(&'static str, i32, u32)>,
    faults: Vec<String>,
    calls_in_callbacks: u64,
    contexts: HashMap<DeviceNumber, Handle>,
    peers_refused: bool,
    device: BTreeMap<Address, usize>,
    /// Of memory of devices that `cuMemAlloc` did not allocate.
    kinds: HashMap<Address, FakeMemory>,
    physical: Physical,
    /// Allocations that NICs can register.
    created_for_rdma: u64,
    /// The ids of allocations, by address.
    ids: HashMap<Address, u64>,
    last_id: u64,
    /// Pools of other processes.
    pools: Vec<Handle>,
    /// Memory of such pools.
    of_pools: HashMap<Address, usize>,
    next_address: Address,
    host: HashMap<usize, Box<[u8]>>,
    registered: HashMap<usize, usize>,
    opened: HashMap<Address, usize>,
    copies: Vec<(u64, u64, usize)>,
    /// Copies that the device has not passed.
    running: Vec<(u64, u64, usize)>,
    /// Events that are recorded and not passed.
    recorded: Vec<Handle>,
    live: Vec<Handle>,
    callbacks: Vec<(StreamCallback, usize)>,
    called: Vec<(StreamCallback, usize)>,
    captures: Captures,
}

/// Memory of a device that has no handle of CUDA IPC.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum FakeMemory {
    /// `cuMemAllocAsync`
    Pool,
    /// `cuMemAllocFromPoolAsync`, of a pool with file descriptors
    SharedPool,
    /// `cuMemAllocManaged`
    Managed,
    /// `cuMemCreate`
    Virtual { handle_types: u32, is_read_only: bool },
}

thread_local! {
    /// Whose devices this thread sees.
    static WORLD: Cell<Option<&'static World>> = const { Cell::new(None) };
    static CURRENT: Cell<Handle> = const { Cell::new(0) };
    static IN_CALLBACK: Cell<bool> = const { Cell::new(false) };
}

impl Fake {
    pub(super) fn new() -> Self {
        Self::with(api())
    }

    pub(super) fn with(api: Api) -> Self {
        let world: &'static World = Box::leak(Box::default());
        WORLD.set(Some(world));
        let functions = Functions::new(api);
        let facts = query(&functions).unwrap();
        let driver = Box::leak(Box::new(Driver::new(functions, facts)));
        let owner = thread::spawn(|| thread::current().id()).join().unwrap();
        let framework = {
            let mut state = lock(&world.0);
            let stream = new_handle(world, &mut state);
            state.captures.begin((stream, 0), false, owner, GLOBAL);
            stream
        };
        Self { world, driver, framework }
    }

    /// A stream that the driver's user made.
    pub(super) fn foreign_stream(&self) -> Handle {
        self.state(|state| new_handle(self.world, state))
    }

    /// This thread begins to capture on the stream, which is of the context.
    pub(super) fn begin_capture(
        &self,
        stream: Handle,
        context: &Context,
        is_blocking: bool,
        mode: i32,
    ) {
        let of = (stream, context.raw());
        let owner = thread::current().id();
        self.state(|state| state.captures.begin(of, is_blocking, owner, mode));
    }

    /// Ends a capture, and returns the code.
    pub(super) fn end_capture(&self, stream: Handle) -> i32 {
        self.state(|state| state.captures.end(stream))
    }

    /// Memory as a framework allocates it.
    pub(super) fn allocate(&self, kind: FakeMemory, len: usize) -> Address {
        self.state(|state| {
            let address = state.allocate(len);
            state.kinds.insert(address, kind);
            address
        })
    }

    /// Memory of `cuMemCreate` as a framework maps it: pieces of so many bytes that follow each other, each of which has these types of
    /// handle.
    pub(super) fn map(&self, pieces: &[(usize, u32)]) -> Address {
        self.state(|state| {
            let address = state.allocate(pieces.iter().map(|(len, _)| len).sum());
            let is_read_only = false;
            let handle_types = pieces.iter().fold(u32::MAX, |all, (_, types)| all & types);
            state.kinds.insert(address, FakeMemory::Virtual { handle_types, is_read_only });
            let mut at = address;
            for (len, handle_types) in pieces {
                state.physical.create_and_map(at, *len, *handle_types);
                at += *len as u64;
            }
            address
        })
    }

    /// The memory at an address is freed, and other memory allocated there.
    pub(super) fn replace(&self, address: Address) {
        self.state(|state| state.give_id(address));
    }

    /// Pools of other processes that are open, and memory of them.
    pub(super) fn imported_pools(&self) -> (usize, usize) {
        self.state(|state| (state.pools.len(), state.of_pools.len()))
    }

    /// Another allocation is mapped where one was.
    pub(super) fn remap(&self, address: Address) {
        self.state(|state| state.physical.replace(address));
    }

    /// Handles that are not released, ranges that are mapped, and ranges that are reserved, all but those of frameworks.
    pub(super) fn imported(&self) -> (usize, usize, usize) {
        self.state(|state| state.physical.imported())
    }

    /// The devices that have a context.
    pub(super) fn contexts(&self) -> Vec<DeviceNumber> {
        self.state(|state| state.contexts.keys().copied().collect())
    }

    /// Allocations of `cuMemCreate` that NICs can register.
    pub(super) fn created_for_rdma(&self) -> u64 {
        self.state(|state| state.created_for_rdma)
    }

    /// The stream of the framework that captures on another thread.
    pub(super) fn framework(&self) -> Handle {
        self.framework
    }

    /// Takes the calls that were made in another capture mode than "relaxed".
    pub(super) fn strays(&self) -> Vec<&'static str> {
        self.state(|state| state.captures.strays())
    }

    pub(super) fn driver(&self) -> &'static Driver {
        WORLD.set(Some(self.world));
        self.driver
    }

    pub(super) fn context(&self, ordinal: u32) -> Context {
        let context = self.driver().context(ordinal).unwrap();
        context.placement();
        context
    }

    pub(super) fn current(&self) -> Handle {
        CURRENT.get()
    }

    /// Lets the next calls of a function fail.
    pub(super) fn fail(&self, call: &'static str, code: i32, times: u32) {
        self.state(|state| state.failures.push((call, code, times)));
    }

    pub(super) fn refuse_peers(&self) {
        self.state(|state| state.peers_refused = true);
    }

    pub(super) fn count(&self, call: &'static str) -> u64 {
        self.state(|state| state.counts.get(call).copied().unwrap_or(0))
    }

    pub(super) fn faults(&self) -> Vec<String> {
        self.state(|state| state.faults.clone())
    }

    pub(super) fn calls_in_callbacks(&self) -> u64 {
        self.state(|state| state.calls_in_callbacks)
    }

    pub(super) fn copies(&self) -> Vec<(u64, u64, usize)> {
        self.state(|state| state.copies.clone())
    }

    pub(super) fn forget_registrations(&self) {
        self.state(|state| state.registered.clear());
    }

    pub(super) fn live_bytes(&self) -> usize {
        self.state(|state| {
            let device: usize = state.device.values().sum();
            let host: usize = state.host.values().map(|bytes| bytes.len()).sum();
            let registered: usize = state.registered.values().sum();
            device + host + registered
        })
    }

    /// The device does everything that is queued.
    pub(super) fn finish(&self) {
        self.finish_with(0);
    }

    /// The same, and callbacks get this code.
    pub(super) fn finish_with(&self, code: i32) {
        finish(self.world, code);
    }

    /// Calls callbacks again that were called, which a driver never should.
    pub(super) fn repeat_callbacks(&self) {
        let called = self.state(|state| std::mem::take(&mut state.called));
        run_callbacks(called, 0);
    }

    pub(super) fn wait_until(&self, done: impl Fn(&Self) -> bool) {
        let deadline = Instant::now() + Duration::from_secs(20);
        while !done(self) {
            assert!(Instant::now() < deadline, "it never happens");
            thread::sleep(Duration::from_micros(100));
        }
    }

    fn state<T>(&self, read: impl FnOnce(&mut State) -> T) -> T {
        read(&mut lock(&self.world.0))
    }
}

impl Drop for Fake {
    fn drop(&mut self) {
        if !thread::panicking() {
            assert_eq!(self.strays(), [""; 0], "not called in the capture mode \"relaxed\"");
            assert_eq!(self.state(|state| state.captures.broken()), 0, "a capture failed");
        }
    }
}

fn finish(world: &World, code: i32) {
    let callbacks = {
        let mut state = lock(&world.0);
        state.running.clear();
        state.recorded.clear();
        let callbacks = std::mem::take(&mut state.callbacks);
        state.called.extend(&callbacks);
        callbacks
    };
    run_callbacks(callbacks, code);
}

/// On another thread, as the driver does.
fn run_callbacks(callbacks: Vec<(StreamCallback, usize)>, code: i32) {
    let run = move || {
        IN_CALLBACK.set(true);
        for (callback, data) in callbacks {
            // SAFETY: registered with this data.
            unsafe { callback(0, code, std::ptr::without_provenance_mut(data)) };
        }
    };
    thread::spawn(run).join().unwrap();
}

/// What a context, stream, event, module or function leads to.
struct Object {
    world: &'static World,
}

fn new_handle(world: &'static World, state: &mut State) -> Handle {
    let object: &'static Object = Box::leak(Box::new(Object { world }));
    let handle = std::ptr::from_ref(object).expose_provenance();
    state.live.push(handle);
    handle
}

fn world_of(handle: Handle) -> &'static World {
    assert_ne!(handle, 0, "a handle is null");
    // SAFETY: all handles are made by `new_handle`, and objects are never freed.
    let object = unsafe { &*std::ptr::with_exposed_provenance::<Object>(handle) };
    object.world
}

fn current_world() -> &'static World {
    world_of(CURRENT.get())
}

fn device_world() -> &'static World {
    WORLD.get().unwrap()
}

/// What all functions have in common.
fn call(world: &World, name: &'static str, run: impl FnOnce(&mut State) -> i32) -> i32 {
    let mut state = lock(&world.0);
    *state.counts.entry(name).or_default() += 1;
    state.calls_in_callbacks += u64::from(IN_CALLBACK.get());
    if let Some(code) = state.refusal(name) {
        return code;
    }
    if let Some(failure) =
        state.failures.iter_mut().find(|(call, _, times)| *call == name && *times > 0)
    {
        failure.2 -= 1;
        return failure.1;
    }
    run(&mut state)
}

impl State {
    fn allocate(&mut self, len: usize) -> Address {
        let address = (self.next_address + 1).next_multiple_of(1 << 30);
        self.next_address = address + len as u64;
        self.device.insert(address, len);
        self.give_id(address);
        address
    }

    fn give_id(&mut self, address: Address) {
        self.last_id += 1;
        self.ids.insert(address, self.last_id);
    }

    fn kill(&mut self, what: &str, handle: Handle) -> i32 {
        match self.live.iter().position(|live| *live == handle) {
            Some(index) => {
                self.live.swap_remove(index);
                0
            }
            None => self.fault(format!("{what} {handle:#x} is destroyed twice")),
        }
    }

    fn fault(&mut self, message: String) -> i32 {
        self.faults.push(message);
        400
    }

    fn check_idle(&mut self, start: u64, len: usize) {
        let overlaps = |other: u64, other_len: usize| {
            start < other + other_len as u64 && other < start + len as u64
        };
        if self.running.iter().any(|(dst, src, len)| overlaps(*dst, *len) || overlaps(*src, *len)) {
            self.fault(format!("{start:#x} is freed while a copy is queued"));
        }
    }
}

fn put<T>(out: *mut T, value: T) -> i32 {
    // SAFETY: callers pass live variables.
    unsafe { out.write(value) };
    0
}
