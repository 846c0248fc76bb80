//! Figures that decided how this crate does things. Run alone: `--ignored figures --nocapture --test-threads=1`.

use std::ffi::c_void;
use std::sync::mpsc::channel;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use libloading::Library;
use nixl_device::cuda::{
    Buffer, Context, DeviceMemory, DevicePool, Event, PinnedMemory, PoolLimits, Stream,
    relax_capture,
};

use crate::support::one_gpu;

const MIB: usize = 1 << 20;

fn median(mut times: Vec<Duration>) -> Duration {
    times.sort_unstable();
    times[times.len() / 2]
}

fn measure(times: usize, mut run: impl FnMut()) -> Duration {
    median(
        (0..times)
            .map(|_| {
                let start = Instant::now();
                run();
                start.elapsed()
            })
            .collect(),
    )
}

fn gb_s(len: usize, time: Duration) -> f64 {
    len as f64 / time.as_secs_f64() / 1e9
}

type HostAlloc = unsafe extern "C" fn(*mut *mut c_void, usize, u32) -> i32;
type HostFree = unsafe extern "C" fn(*mut c_void) -> i32;
type HostFunction = unsafe extern "C" fn(*mut c_void);
type LaunchHostFunction = unsafe extern "C" fn(usize, HostFunction, *mut c_void) -> i32;

fn driver() -> Library {
    // SAFETY: loaded already.
    unsafe { Library::new("libcuda.so.1") }.unwrap()
}

#[test]
#[ignore = "prints figures, checks nothing: run with `--ignored --nocapture figures`"]
fn pinned_allocation() {
    let Some(context) = one_gpu("figures::pinned_allocation") else { return };
    let library = driver();
    // SAFETY: the signatures are those of `cuda.h`.
    let allocate = unsafe { library.get::<HostAlloc>("cuMemHostAlloc") }.unwrap();
    // SAFETY: as above.
    let free = unsafe { library.get::<HostFree>("cuMemFreeHost") }.unwrap();
    let _current = context.enter().unwrap();
    for mib in [1, 16, 64, 256, 1024, 1024] {
        let mut free_time = Duration::ZERO;
        let start = Instant::now();
        let mut address = std::ptr::null_mut();
        // SAFETY: the pointer is to a live variable.
        assert_eq!(unsafe { allocate(&raw mut address, mib * MIB, 1) }, 0);
        let driver_time = start.elapsed();
        let start = Instant::now();
        // SAFETY: allocated above.
        assert_eq!(unsafe { free(address) }, 0);
        free_time += start.elapsed();
        let start = Instant::now();
        let memory = PinnedMemory::new(&context, mib * MIB).unwrap();
        let own_time = start.elapsed();
        let start = Instant::now();
        drop(memory);
        let own_free_time = start.elapsed();
        println!(
            "FIGURE pinned {mib} MiB: driver {driver_time:?} (free {free_time:?}), PinnedMemory {own_time:?} (free {own_free_time:?})"
        );
    }
}

/// Where the time of a large allocation goes.
#[test]
#[ignore = "prints figures, checks nothing: run with `--ignored --nocapture figures`"]
#[cfg(target_os = "linux")]
fn pinned_stages() {
    use rustix::mm::{Advice, MapFlags, ProtFlags, madvise, mmap_anonymous, munmap};
    type Register = unsafe extern "C" fn(*mut c_void, usize, u32) -> i32;
    let Some(context) = one_gpu("figures::pinned_stages") else { return };
    let library = driver();
    // SAFETY: the signatures are those of `cuda.h`.
    let register = unsafe { library.get::<Register>("cuMemHostRegister_v2") }.unwrap();
    // SAFETY: as above.
    let unregister = unsafe { library.get::<HostFree>("cuMemHostUnregister") }.unwrap();
    let _current = context.enter().unwrap();
    for (huge, threads, mib) in [
        (true, 16, 1024),
        (true, 1, 1024),
        (true, 4, 1024),
        (true, 8, 1024),
        (true, 16, 1024),
        (true, 32, 1024),
        (false, 16, 1024),
        (true, 1, 16),
        (true, 8, 16),
        (true, 8, 64),
        (true, 16, 64),
    ] {
        let len = mib * MIB;
        // SAFETY: a new mapping.
        let map = unsafe {
            mmap_anonymous(
                std::ptr::null_mut(),
                len,
                ProtFlags::READ | ProtFlags::WRITE,
                MapFlags::PRIVATE,
            )
        };
        let start = map.unwrap();
        let advice = if huge { Advice::LinuxHugepage } else { Advice::LinuxNoHugepage };
        // SAFETY: inside the mapping.
        unsafe { madvise(start, len, advice) }.unwrap();
        let clock = Instant::now();
        let address = start as usize;
        std::thread::scope(|scope| {
            for thread in 0..threads {
                scope.spawn(move || {
                    for offset in
                        (thread * len / threads..(thread + 1) * len / threads).step_by(4096)
                    {
                        // SAFETY: inside the mapping; each thread has its own part.
                        unsafe { ((address + offset) as *mut u8).write_volatile(0) };
                    }
                });
            }
        });
        let touch = clock.elapsed();
        let clock = Instant::now();
        // SAFETY: the mapping is alive.
        assert_eq!(unsafe { register(start, len, 1) }, 0);
        let pin = clock.elapsed();
        let clock = Instant::now();
        // SAFETY: registered above.
        assert_eq!(unsafe { unregister(start) }, 0);
        let unpin = clock.elapsed();
        // SAFETY: it is not used any more.
        unsafe { munmap(start, len) }.unwrap();
        println!(
            "FIGURE stages {mib} MiB, huge pages {huge}, {threads} threads: touch {touch:?}, register {pin:?}, unregister {unpin:?}"
        );
    }
}

#[test]
#[ignore = "prints figures, checks nothing: run with `--ignored --nocapture figures`"]
fn latencies() {
    let Some(context) = one_gpu("figures::latencies") else { return };
    let stream = Stream::new(&context).unwrap();
    let event = Event::new(&context).unwrap();
    let blocking = Event::blocking(&context).unwrap();
    let foreign = "without a current context";
    let guard = context.enter().unwrap();
    let report = |what: &str, time: Duration| println!("FIGURE {what}: {time:?}");
    report("event query", measure(2000, || assert_eq!(event.query(), Ok(true))));
    report("event record", measure(1000, || event.record(&stream).unwrap()));
    stream.synchronize().unwrap();
    let wait = |event: &Event| {
        measure(1000, || {
            event.record(&stream).unwrap();
            event.synchronize().unwrap();
        })
    };
    report("record and synchronize, spinning", wait(&event));
    report("record and synchronize, blocking event", wait(&blocking));
    report(
        "record and poll",
        measure(1000, || {
            event.record(&stream).unwrap();
            while !event.query().unwrap() {}
        }),
    );
    report("keep", measure(1000, || stream.keep(()).unwrap()));
    stream.synchronize().unwrap();

    let (sender, receiver) = channel();
    let callback = || {
        measure(1000, || {
            let sender = sender.clone();
            stream.host_callback(Box::new(move |_| sender.send(()).unwrap())).unwrap();
            receiver.recv().unwrap();
        })
    };
    report("host_callback to the waiter awake", callback());
    let when = Arc::new(Mutex::new(None));
    let mut times = Vec::new();
    for _ in 0..1000 {
        let (seen, start) = (Arc::clone(&when), Instant::now());
        stream
            .host_callback(Box::new(move |_| *seen.lock().unwrap() = Some(start.elapsed())))
            .unwrap();
        stream.synchronize().unwrap();
        times.extend(when.lock().unwrap().take());
    }
    report("host_callback to the function", median(times));

    unsafe extern "C" fn note(data: *mut c_void) {
        // SAFETY: lives until the stream is synchronized.
        let (start, time) = unsafe { &mut *data.cast::<(Instant, Duration)>() };
        *time = start.elapsed();
    }
    let library = driver();
    // SAFETY: the signature is that of `cuda.h`.
    let launch = unsafe { library.get::<LaunchHostFunction>("cuLaunchHostFunc") }.unwrap();
    let times = (0..1000)
        .map(|_| {
            let mut data = (Instant::now(), Duration::ZERO);
            // SAFETY: stream and data outlive the synchronization.
            assert_eq!(unsafe { launch(stream.as_raw(), note, (&raw mut data).cast()) }, 0);
            stream.synchronize().unwrap();
            data.1
        })
        .collect();
    report("cuLaunchHostFunc to the function", median(times));
    drop(guard);
    report(
        &format!("event query {foreign}"),
        measure(2000, || assert_eq!(event.query(), Ok(true))),
    );
    let relaxed = relax_capture();
    report(
        &format!("event query {foreign}, capture mode relaxed before"),
        measure(2000, || assert_eq!(event.query(), Ok(true))),
    );
    drop(relaxed);
    let pairs = measure(200, || (0..100).for_each(|_| drop(relax_capture())));
    report("relaxing the capture mode and restoring it", pairs / 100);

    let pool = DevicePool::new(&context, PoolLimits::new(1 << 30));
    report(
        "cuMemAlloc and cuMemFree 64 MiB",
        measure(20, || drop(DeviceMemory::new(&context, 64 * MIB).unwrap())),
    );
    report("pooled 64 MiB", measure(200, || drop(pool.allocate(64 * MIB).unwrap())));
}

#[test]
#[ignore = "prints figures, checks nothing: run with `--ignored --nocapture figures`"]
fn bandwidth() {
    let Some(context) = one_gpu("figures::bandwidth") else { return };
    let stream = Stream::new(&context).unwrap();
    println!("FIGURE batch copies: {}", context.has_batch_copy());
    for (len, host) in [(8 * MIB, "driver's"), (64 * MIB, "mapped"), (256 * MIB, "mapped")] {
        let pinned = Buffer::from(PinnedMemory::new(&context, len).unwrap());
        let device = Buffer::from(DeviceMemory::new(&context, len).unwrap());
        for (what, to, from) in
            [("pinned→device", &device, &pinned), ("device→pinned", &pinned, &device)]
        {
            let time = measure(20, || {
                stream.copy(to, 0, from, 0, len).unwrap();
                stream.synchronize().unwrap();
            });
            println!(
                "FIGURE {what} {} MiB ({host}): {time:?}, {:.1} GB/s",
                len / MIB,
                gb_s(len, time)
            );
        }
    }
    let len = 4096;
    let pinned = Buffer::from(PinnedMemory::new(&context, len).unwrap());
    let device = Buffer::from(DeviceMemory::new(&context, len).unwrap());
    let time = measure(1000, || {
        stream.copy(&device, 0, &pinned, 0, len).unwrap();
        stream.synchronize().unwrap();
    });
    println!("FIGURE safe copy of 4 KiB and synchronize: {time:?}");
    if context.has_batch_copy() {
        batches(&context, &stream);
    }
}

fn batches(context: &Context, stream: &Stream) {
    let len = 64 * MIB;
    let pinned = PinnedMemory::new(context, len).unwrap();
    let device = DeviceMemory::new(context, len).unwrap();
    for piece in [4096, 65_536, 262_144] {
        let at = |base: u64| -> Vec<u64> {
            (0..len / piece).map(|i| base + (i * piece) as u64).collect()
        };
        let (dsts, srcs, lens) =
            (at(pinned.address()), at(device.address()), vec![piece; len / piece]);
        let time = measure(5, || {
            // SAFETY: all inside memory that outlives the copies.
            unsafe { stream.copy_batch_async(&dsts, &srcs, &lens) }.unwrap();
            stream.synchronize().unwrap();
        });
        println!(
            "FIGURE batch device→pinned 64 MiB of {piece}: {time:?}, {:.1} GB/s",
            gb_s(len, time)
        );
    }
}
