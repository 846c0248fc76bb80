//! Two devices.

use nixl_device::cuda::{Buffer, DeviceMemory, Event, Stream};

use crate::support::{download, pattern, two_gpus, upload};

#[test]
fn bytes_cross_with_and_without_peer_access() {
    let Some([a, b]) = two_gpus("two_gpus::bytes_cross_with_and_without_peer_access") else {
        return;
    };
    let bytes = pattern(3_000_001, 4);
    let from = Buffer::from(upload(&a, &bytes));
    for enable in [false, true] {
        if enable {
            for _ in 0..2 {
                println!("{:?} {:?}", a.enable_peer_access(&b), b.enable_peer_access(&a));
            }
        }
        for context in [&a, &b] {
            let to = Buffer::from(DeviceMemory::new(&b, bytes.len()).unwrap());
            let stream = Stream::new(context).unwrap();
            stream.copy(&to, 0, &from, 0, bytes.len()).unwrap();
            stream.synchronize().unwrap();
            assert!(download(&b, &to) == bytes);
        }
    }
}

#[test]
fn a_stream_waits_for_an_event_of_the_other_device() {
    let Some([a, b]) = two_gpus("two_gpus::a_stream_waits_for_an_event_of_the_other_device") else {
        return;
    };
    let len = 64 << 20;
    let (first, second) = (Stream::new(&a).unwrap(), Stream::new(&b).unwrap());
    let from = Buffer::from(DeviceMemory::new(&a, len).unwrap());
    let to = Buffer::from(DeviceMemory::new(&b, len).unwrap());
    let event = Event::new(&a).unwrap();
    for round in 1..10 {
        first.fill(&from, 0, len, round).unwrap();
        event.record(&first).unwrap();
        second.wait(&event).unwrap();
        second.copy(&to, 0, &from, 0, len).unwrap();
        second.synchronize().unwrap();
        assert!(download(&b, &to).iter().all(|byte| *byte == round));
    }
    assert!(event.record(&second).is_err(), "an event belongs to its context");
}
