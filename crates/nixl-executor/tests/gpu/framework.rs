//! A framework that captures CUDA graphs as PyTorch does: with driver calls of its own, in the mode "global".

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::thread::{self, JoinHandle};

use libloading::Library;
use nixl_device::cuda::{Context, DeviceMemory};

/// `CU_STREAM_CAPTURE_MODE_GLOBAL`
const GLOBAL: i32 = 0;
/// `CU_STREAM_NON_BLOCKING`
const NON_BLOCKING: u32 = 1;

macro_rules! calls {
    ($($name:ident = $symbol:literal ($($argument:ident: $kind:ty),*);)*) => {
        struct Calls {
            $($name: unsafe extern "C" fn($($kind),*) -> i32,)*
        }

        impl Calls {
            fn load() -> Self {
                // SAFETY: the driver's initialisers may run at any time.
                let library = unsafe { Library::new("libcuda.so.1") }.unwrap();
                let calls = Self {
                    // SAFETY: the type is the symbol's signature in `cuda.h`, where handles are pointers.
                    $($name: *unsafe { library.get($symbol) }.unwrap(),)*
                };
                // What was found must stay.
                std::mem::forget(library);
                calls
            }
        }

        $(
            /// The driver's function of this name, in the capture mode that the thread has.
            fn $name($($argument: $kind),*) -> i32 {
                // SAFETY: the handles, pointers and lengths are the framework's own, and live during the call.
                unsafe { (calls().$name)($($argument),*) }
            }
        )*
    };
}

calls! {
    ctx_get_current = b"cuCtxGetCurrent\0" (out: *mut usize);
    ctx_set_current = b"cuCtxSetCurrent\0" (context: usize);
    stream_create = b"cuStreamCreate\0" (out: *mut usize, flags: u32);
    stream_destroy = b"cuStreamDestroy_v2\0" (stream: usize);
    stream_synchronize = b"cuStreamSynchronize\0" (stream: usize);
    begin_capture = b"cuStreamBeginCapture_v2\0" (stream: usize, mode: i32);
    end_capture = b"cuStreamEndCapture\0" (stream: usize, graph: *mut usize);
    graph_instantiate = b"cuGraphInstantiateWithFlags\0" (out: *mut usize, graph: usize, flags: u64);
    graph_launch = b"cuGraphLaunch\0" (graph: usize, stream: usize);
    graph_exec_destroy = b"cuGraphExecDestroy\0" (graph: usize);
    graph_destroy = b"cuGraphDestroy\0" (graph: usize);
    memset = b"cuMemsetD8Async\0" (to: u64, value: u8, len: usize, stream: usize);
    copy_to_host = b"cuMemcpyDtoHAsync_v2\0" (to: *mut u8, from: u64, len: usize, stream: usize);
    event_query = b"cuEventQuery\0" (event: usize);
}

fn calls() -> &'static Calls {
    static CALLS: OnceLock<Calls> = OnceLock::new();
    CALLS.get_or_init(Calls::load)
}

/// A stream and memory that graphs fill. Used by the thread that made it, for which the context is current from then on.
pub(crate) struct Framework {
    context: usize,
    stream: usize,
    memory: DeviceMemory,
}

/// What a framework has seen.
#[derive(Debug, Default)]
pub(crate) struct Seen {
    pub(crate) captures: u64,
    pub(crate) replays: u64,
    /// Each failure, in words.
    pub(crate) failures: Vec<String>,
}

impl Framework {
    const LEN: usize = 1 << 20;

    pub(crate) fn new(context: &Context) -> Self {
        let memory = DeviceMemory::new(context, Self::LEN).unwrap();
        let (mut raw, mut stream) = (0, 0);
        let current = context.enter().unwrap();
        assert_eq!(ctx_get_current(&raw mut raw), 0);
        // The guard relaxes the thread's capture mode, which a framework does not.
        drop(current);
        assert_eq!(ctx_set_current(raw), 0);
        assert_eq!(stream_create(&raw mut stream, NON_BLOCKING), 0);
        Self { context: raw, stream, memory }
    }

    pub(crate) fn stream(&self) -> usize {
        self.stream
    }

    /// `cuEventQuery` in the capture mode that the thread has, as a library makes it that knows nothing of captures.
    pub(crate) fn query_as_it_is(&self, event: usize) -> i32 {
        assert_eq!(ctx_set_current(self.context), 0);
        event_query(event)
    }

    pub(crate) fn begin(&self) -> i32 {
        begin_capture(self.stream, GLOBAL)
    }

    /// Gives the stream a kernel or the like, which a capture takes.
    pub(crate) fn fill(&self, value: u8) -> i32 {
        memset(self.memory.address(), value, Self::LEN, self.stream)
    }

    /// The code, and the graph if it is 0.
    pub(crate) fn end(&self) -> (i32, usize) {
        let mut graph = 0;
        (end_capture(self.stream, &raw mut graph), graph)
    }

    /// Launches a graph that fills with `value`, twice, and looks at the bytes.
    pub(crate) fn replay(&self, graph: usize, value: u8) -> Result<(), String> {
        let mut executable = 0;
        step("cuGraphInstantiate", graph_instantiate(&raw mut executable, graph, 0))?;
        for _ in 0..2 {
            step("cuMemsetD8Async", self.fill(!value))?;
            step("cuGraphLaunch", graph_launch(executable, self.stream))?;
            let mut bytes = vec![!value; Self::LEN];
            let (to, from) = (bytes.as_mut_ptr(), self.memory.address());
            step("cuMemcpyDtoHAsync", copy_to_host(to, from, Self::LEN, self.stream))?;
            step("cuStreamSynchronize", stream_synchronize(self.stream))?;
            if bytes.iter().any(|byte| *byte != value) {
                return Err("a replay left other bytes than it should".to_owned());
            }
        }
        step("cuGraphExecDestroy", graph_exec_destroy(executable))?;
        step("cuGraphDestroy", graph_destroy(graph))
    }

    /// A whole capture, held open while `meanwhile` runs, and two replays.
    pub(crate) fn capture(&self, value: u8, meanwhile: impl FnOnce()) -> Result<(), String> {
        step("cuStreamBeginCapture", self.begin())?;
        let filled = self.fill(!value);
        meanwhile();
        let filled = filled.max(self.fill(value));
        let (ended, graph) = self.end();
        step("cuMemsetD8Async on the capturing stream", filled)?;
        step("cuStreamEndCapture", ended)?;
        self.replay(graph, value)
    }
}

impl Drop for Framework {
    fn drop(&mut self) {
        stream_destroy(self.stream);
        ctx_set_current(0);
    }
}

fn step(call: &str, code: i32) -> Result<(), String> {
    if code == 0 { Ok(()) } else { Err(format!("{call} failed with code {code}")) }
}

/// A framework on a thread of its own that captures and replays until told to stop.
pub(crate) struct Running {
    /// How many steps the other threads have made.
    steps: Arc<AtomicU64>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<Seen>>,
}

impl Running {
    /// Each capture stays open until the others have made `steps` steps more.
    pub(crate) fn start(context: Context, steps: u64) -> Self {
        let (made, stop) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicBool::new(false)));
        let (theirs, stopped) = (Arc::clone(&made), Arc::clone(&stop));
        let thread = thread::spawn(move || {
            let framework = Framework::new(&context);
            let mut seen = Seen::default();
            while !stopped.load(Ordering::SeqCst) {
                let until = theirs.load(Ordering::SeqCst) + steps;
                let waits = || {
                    while theirs.load(Ordering::SeqCst) < until && !stopped.load(Ordering::SeqCst) {
                        thread::yield_now();
                    }
                };
                seen.captures += 1;
                match framework.capture(seen.captures as u8, waits) {
                    Ok(()) => seen.replays += 2,
                    Err(failure) => seen.failures.push(failure),
                }
            }
            seen
        });
        Self { steps: made, stop, thread: Some(thread) }
    }

    pub(crate) fn step(&self) {
        self.steps.fetch_add(1, Ordering::SeqCst);
    }

    pub(crate) fn stop(mut self) -> Seen {
        self.stop.store(true, Ordering::SeqCst);
        self.thread.take().unwrap().join().unwrap()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // When a test panics, the thread must not hold the process.
        self.stop.store(true, Ordering::SeqCst);
    }
}
