//! Memory of every kind.

use std::sync::Arc;

use nixl_device::cuda::{
    Buffer, DeviceMemory, DevicePool, HostRegistration, MemoryError, PinnedMemory, PinnedPool,
    PoolLimits, Stream,
};

use crate::support::{download, one_gpu, pattern, upload};

const MIB: usize = 1 << 20;

#[test]
fn bytes_survive_a_round_trip_through_every_kind_of_memory() {
    let Some(context) = one_gpu("memory::bytes_survive_a_round_trip_through_every_kind_of_memory")
    else {
        return;
    };
    let stream = Stream::new(&context).unwrap();
    for len in [1, 4095, 4097, MIB + 13, 64 * MIB, 65 * MIB + 1] {
        let bytes = pattern(len, len as u64);
        let steps: [Buffer; 4] = [
            PinnedMemory::new(&context, len).unwrap().into(),
            DeviceMemory::new(&context, len).unwrap().into(),
            HostRegistration::from_vec(&context, vec![0; len]).unwrap().into(),
            DeviceMemory::new(&context, len).unwrap().into(),
        ];
        let mut from = Buffer::from(upload(&context, &bytes));
        for to in steps {
            stream.copy(&to, 0, &from, 0, len).unwrap();
            from = to;
        }
        stream.synchronize().unwrap();
        assert!(download(&context, &from) == bytes, "{len} bytes differ");
    }
}

#[test]
fn registered_memory_comes_back_with_what_was_copied() {
    let Some(context) = one_gpu("memory::registered_memory_comes_back_with_what_was_copied") else {
        return;
    };
    let bytes = pattern(100_001, 3);
    let registration = Arc::new(HostRegistration::from_vec(&context, vec![0; 100_001]).unwrap());
    let stream = Stream::new(&context).unwrap();
    let from = Buffer::from(upload(&context, &bytes));
    stream.copy(&Arc::clone(&registration).into(), 0, &from, 0, bytes.len()).unwrap();
    assert!(Arc::strong_count(&registration) > 1, "the stream keeps it");
    stream.synchronize().unwrap();
    let registration = Arc::try_unwrap(registration).unwrap();
    assert!(registration.into_owner().unwrap() == bytes);
}

#[test]
fn memory_that_is_registered_twice_is_an_error() {
    let Some(context) = one_gpu("memory::memory_that_is_registered_twice_is_an_error") else {
        return;
    };
    let mut bytes = vec![0_u8; 3 * 4096];
    let start = std::ptr::NonNull::new(bytes.as_mut_ptr()).unwrap();
    // SAFETY: `bytes` outlives both, and is not used.
    let register = || unsafe { HostRegistration::from_raw_parts(&context, start, 3 * 4096, ()) };
    let first = register().unwrap();
    let second = register();
    assert!(matches!(second, Err(MemoryError::Cuda(error)) if error.code() == 712), "{second:?}");
    drop(first);
    drop(register().unwrap());
    context.health().unwrap();
}

#[test]
fn too_much_memory_is_an_error_that_harms_nothing() {
    let Some(context) = one_gpu("memory::too_much_memory_is_an_error_that_harms_nothing") else {
        return;
    };
    let total = usize::try_from(context.memory_info().unwrap().total()).unwrap();
    let error = DeviceMemory::new(&context, total + 1).unwrap_err();
    println!("{error}");
    assert!(matches!(error, MemoryError::OutOfDeviceMemory { .. }), "{error:?}");
    // More than can be mapped, so nothing is touched.
    let error = PinnedMemory::new(&context, 1 << 60).unwrap_err();
    println!("{error}");
    assert!(matches!(error, MemoryError::OutOfPinnedMemory { .. }), "{error:?}");
    assert!(upload(&context, &[1, 2, 3]).len() == 3);
}

#[test]
fn pools_serve_again_what_came_back() {
    let Some(context) = one_gpu("memory::pools_serve_again_what_came_back") else {
        return;
    };
    let device = DevicePool::new(&context, PoolLimits::new(256 * MIB));
    let pinned = PinnedPool::new(&context, PoolLimits::new(256 * MIB));
    let stream = Stream::new(&context).unwrap();
    for round in 0..20 {
        let bytes = pattern(MIB, round);
        let host = pinned.allocate(MIB).unwrap();
        host.write(0, &bytes).unwrap();
        let memory = Buffer::from(device.allocate(MIB).unwrap());
        let back = Arc::new(pinned.allocate(MIB).unwrap());
        stream.copy(&memory, 0, &host.into(), 0, MIB).unwrap();
        stream.copy(&Arc::clone(&back).into(), 0, &memory, 0, MIB).unwrap();
        drop(memory);
        stream.synchronize().unwrap();
        let mut read = vec![0; MIB];
        back.read(0, &mut read).unwrap();
        assert!(read == bytes);
    }
    let (device, pinned) = (device.stats(), pinned.stats());
    println!("{device:?}\n{pinned:?}");
    assert_eq!((device.in_use_bytes(), pinned.in_use_bytes()), (0, 0));
    assert!(device.allocated() <= 2 && pinned.allocated() <= 4);
}

#[test]
fn a_dropped_stream_and_dropped_memory_do_not_disturb_copies() {
    let Some(context) =
        one_gpu("memory::a_dropped_stream_and_dropped_memory_do_not_disturb_copies")
    else {
        return;
    };
    let len = 32 * MIB;
    let bytes = pattern(len, 9);
    let from = PinnedMemory::new(&context, len).unwrap();
    from.write(0, &bytes).unwrap();
    let to = Arc::new(PinnedMemory::new(&context, len).unwrap());
    let stream = Stream::new(&context).unwrap();
    let memory = Buffer::from(DeviceMemory::new(&context, len).unwrap());
    stream.copy(&memory, 0, &from.into(), 0, len).unwrap();
    stream.copy(&Arc::clone(&to).into(), 0, &memory, 0, len).unwrap();
    drop((stream, memory));
    context.synchronize().unwrap();
    let mut to = to;
    let to = loop {
        // The library lets go soon after.
        match Arc::try_unwrap(to) {
            Ok(to) => break to,
            Err(shared) => to = shared,
        }
        std::thread::yield_now();
    };
    let mut to = to;
    assert!(to.as_slice() == bytes);
    assert_eq!(context.leaked(), 0);
}
