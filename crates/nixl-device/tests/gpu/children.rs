//! Tests with a second process: sharing memory, and breaking a context.

use std::process::Command;
use std::sync::Arc;
use std::sync::mpsc::channel;
use std::time::Duration;

use nixl_device::cuda::{
    Buffer, Context, DeviceMemory, Event, ImportedMemory, IpcEventHandle, IpcMemoryHandle, Module,
    PinnedMemory, Stream, probe,
};

use crate::kernels::PTX;
use crate::support::{download, one_gpu, pattern, upload};

const TASK: &str = "NIXL_TEST_GPU_CHILD";

/// Runs one of the ignored tests below in a process of its own.
fn child(test: &str, task: &str) {
    let output = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", test, "--ignored", "--nocapture", "--test-threads=1"])
        .env(TASK, task)
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    println!("{text}{}", String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success() && text.contains("1 passed"));
}

/// What this process is to do, if it is a child.
fn task() -> Option<String> {
    std::env::var(TASK).ok()
}

fn to_hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn from_hex<const N: usize>(text: &str) -> [u8; N] {
    let mut bytes = [0; N];
    for (index, byte) in bytes.iter_mut().enumerate() {
        *byte = u8::from_str_radix(&text[2 * index..2 * index + 2], 16).unwrap();
    }
    bytes
}

#[test]
fn another_process_reads_and_writes_exported_memory() {
    let Some(context) = one_gpu("children::another_process_reads_and_writes_exported_memory")
    else {
        return;
    };
    let bytes = pattern(100_000, 8);
    let memory = upload(&context, &bytes);
    // Not the first of its allocation's neighbours: the handle must lead to this one.
    let _neighbour = upload(&context, &[1; 100_000]);
    let event = Event::interprocess(&context).unwrap();
    let stream = Stream::new(&context).unwrap();
    event.record(&stream).unwrap();
    let handle = match memory.export() {
        Ok(handle) => handle,
        Err(error) => panic!("cannot export: {error}"),
    };
    assert!(ImportedMemory::open(&context, &handle).is_err(), "not in the same process");
    let event_handle = event.export().unwrap();
    let task = to_hex(&handle.to_bytes()) + &to_hex(&event_handle.to_bytes());
    child("children::import", &task);
    let expected: Vec<u8> = bytes.iter().map(|_| 0x5A).collect();
    assert!(download(&context, &Buffer::from(memory)) == expected);
    context.health().unwrap();
}

#[test]
#[ignore = "run by another_process_reads_and_writes_exported_memory"]
fn import() {
    let Some(task) = task() else { return };
    let handle = IpcMemoryHandle::from_bytes(&from_hex(&task[..144]));
    let event = IpcEventHandle::from_bytes(from_hex(&task[144..]));
    // On another device too, if there is one.
    let last = probe().as_ref().unwrap().device_count() - 1;
    for ordinal in [Some(0), (last > 0).then_some(last)].into_iter().flatten() {
        let context = Context::primary(ordinal).unwrap();
        let stream = Stream::new(&context).unwrap();
        let memory = match ImportedMemory::open(&context, &handle) {
            Ok(memory) => Arc::new(memory),
            Err(error) if ordinal != 0 => {
                println!("cuda:{ordinal} cannot open memory of cuda:0: {error}");
                continue;
            }
            Err(error) => panic!("{error}"),
        };
        let again = ImportedMemory::open(&context, &handle).unwrap();
        assert_eq!((again.address(), again.len()), (memory.address(), 100_000));
        let buffer = Buffer::from(Arc::clone(&memory));
        if ordinal == 0 {
            stream.wait(&Event::import(&context, &event).unwrap()).unwrap();
            assert!(download(&context, &buffer) == pattern(100_000, 8));
        }
        stream.fill(&buffer, 0, 100_000, 0x5A).unwrap();
        stream.synchronize().unwrap();
        let mut too_long = handle.to_bytes();
        too_long[64..].copy_from_slice(&(1_u64 << 40).to_le_bytes());
        let error = ImportedMemory::open(&context, &IpcMemoryHandle::from_bytes(&too_long));
        println!("{}", error.unwrap_err());
    }
}

#[test]
fn a_broken_context_says_so_and_leaks_what_it_may_still_use() {
    if one_gpu("children::a_broken_context_says_so_and_leaks_what_it_may_still_use").is_none() {
        return;
    }
    child("children::break_a_context", "break");
}

#[test]
#[ignore = "run by a_broken_context_says_so_and_leaks_what_it_may_still_use"]
fn break_a_context() {
    if task().is_none() {
        return;
    }
    let context = Context::primary(0).unwrap();
    let other = Context::primary(1).ok();
    let stream = Stream::new(&context).unwrap();
    let (memory, pinned) = (
        Buffer::from(DeviceMemory::new(&context, 4096).unwrap()),
        Buffer::from(PinnedMemory::new(&context, 4096).unwrap()),
    );
    let module = Module::load_ptx(&context, PTX).unwrap();
    let fault = module.function("fault").unwrap();
    let (sender, receiver) = channel();
    // SAFETY: the kernel reaches no mapped memory; that it breaks the context is the point.
    unsafe { fault.launch([1, 1, 1], [1, 1, 1], 0, &mut [], &stream) }.unwrap();
    let copied = stream.copy(&memory, 0, &pinned, 0, 4096);
    let added = stream.host_callback(Box::new(move |result| {
        let _ = sender.send(result);
    }));
    println!("copy after the fault: {copied:?}; callback: {added:?}");
    // No thread calls the driver meanwhile.
    match receiver.recv_timeout(Duration::from_secs(5)) {
        Ok(result) => {
            println!("the driver's callback said {result:?}");
            assert!(result.is_err());
        }
        Err(error) => println!("the driver called nothing: {error}"),
    }
    let error = context.synchronize().unwrap_err();
    println!("{error}");
    assert!(error.is_sticky());
    assert_eq!(context.health(), Err(error));
    assert!(DeviceMemory::new(&context, 64).is_err());
    drop((memory, pinned, stream, module, fault));
    println!("leaked: {}", context.leaked());
    assert!(context.leaked() >= 1);
    // What another device can still do is the driver's choice (580 makes no new context any more), but no panic.
    if let Some(other) = other {
        println!("cuda:1: {:?}", DeviceMemory::new(&other, 64).map(drop));
    }
}
