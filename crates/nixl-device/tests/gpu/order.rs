//! Streams, events and callbacks.

use std::sync::mpsc::channel;

use nixl_device::cuda::{Buffer, DeviceMemory, Event, Stream};

use crate::support::{download, one_gpu};

const MIB: usize = 1 << 20;

#[test]
fn a_stream_waits_for_an_event_of_another() {
    let Some(context) = one_gpu("order::a_stream_waits_for_an_event_of_another") else {
        return;
    };
    let (first, second) = (Stream::new(&context).unwrap(), Stream::new(&context).unwrap());
    let memory = Buffer::from(DeviceMemory::new(&context, 256 * MIB).unwrap());
    let event = Event::new(&context).unwrap();
    for round in 0..20 {
        // Long, then short: without the wait the short one is overwritten.
        first.fill(&memory, 0, 256 * MIB, round).unwrap();
        event.record(&first).unwrap();
        second.wait(&event).unwrap();
        second.fill(&memory, 255 * MIB, MIB, round ^ 0xFF).unwrap();
        second.synchronize().unwrap();
        assert_eq!(event.query(), Ok(true));
    }
    let bytes = download(&context, &memory);
    assert_eq!((bytes[0], bytes[256 * MIB - 1]), (19, 19 ^ 0xFF));
}

#[test]
fn callbacks_run_in_order_and_may_drop_memory() {
    let Some(context) = one_gpu("order::callbacks_run_in_order_and_may_drop_memory") else {
        return;
    };
    let stream = Stream::new(&context).unwrap();
    let (sender, receiver) = channel();
    for index in 0..100 {
        let sender = sender.clone();
        let memory = DeviceMemory::new(&context, MIB).unwrap();
        let callback = move |result| {
            let inside = DeviceMemory::new(&memory.context(), 1).is_err();
            drop(memory);
            sender.send((index, result, inside)).unwrap();
        };
        stream.host_callback(Box::new(callback)).unwrap();
    }
    drop(sender);
    stream.synchronize().unwrap();
    let seen: Vec<_> = receiver.iter().collect();
    assert!(seen.iter().map(|(index, ..)| *index).eq(0..100));
    assert!(seen.iter().all(|(_, result, inside)| result.is_ok() && *inside));
    assert_eq!(context.leaked(), 0);
}

#[test]
fn priorities_are_taken() {
    let Some(context) = one_gpu("order::priorities_are_taken") else {
        return;
    };
    let priorities = context.stream_priorities().unwrap();
    println!("{priorities:?}");
    for priority in [*priorities.start(), *priorities.end(), i32::MIN] {
        Stream::with_priority(&context, priority).unwrap().synchronize().unwrap();
    }
}

#[test]
fn the_context_before_is_current_again() {
    let Some(context) = one_gpu("order::the_context_before_is_current_again") else {
        return;
    };
    let outer = context.enter().unwrap();
    let inner = context.enter().unwrap();
    drop(inner);
    context.memory_info().unwrap();
    drop(outer);
}
