//! Copies between addresses.

use nixl_device::cuda::{Buffer, DeviceMemory, Stream};

use crate::support::{download, one_gpu, pattern, upload};

#[test]
fn a_batch_copies_each_piece_to_its_place() {
    let Some(context) = one_gpu("copies::a_batch_copies_each_piece_to_its_place") else {
        return;
    };
    let (pieces, len) = (257, 1000);
    let bytes = pattern(pieces * len, 5);
    let from = upload(&context, &bytes);
    let to = upload(&context, &vec![0xEE; pieces * len + 1]);
    let stream = Stream::new(&context).unwrap();
    // The last piece goes first.
    let dsts: Vec<u64> =
        (0..pieces).rev().map(|index| to.address() + (index * len) as u64).collect();
    let srcs: Vec<u64> = (0..pieces).map(|index| from.address() + (index * len) as u64).collect();
    // SAFETY: all inside memory that outlives the copies, and no piece is used twice.
    let queued = unsafe { stream.copy_batch_async(&dsts, &srcs, &vec![len; pieces]) };
    println!("batch copies: {}, {queued:?}", context.has_batch_copy());
    if !context.has_batch_copy() {
        assert!(queued.is_err_and(|error| error.is_not_supported()));
        return;
    }
    queued.unwrap();
    stream.synchronize().unwrap();
    let copied = download(&context, &Buffer::from(to));
    for (index, piece) in bytes.chunks(len).enumerate() {
        let place = (pieces - 1 - index) * len;
        assert!(copied[place..place + len] == *piece, "piece {index}");
    }
    assert_eq!(copied[pieces * len], 0xEE);
}

#[test]
fn filling_stays_inside() {
    let Some(context) = one_gpu("copies::filling_stays_inside") else {
        return;
    };
    let stream = Stream::new(&context).unwrap();
    let memory = Buffer::from(DeviceMemory::new(&context, 100).unwrap());
    stream.fill(&memory, 0, 100, 1).unwrap();
    stream.fill(&memory, 7, 86, 2).unwrap();
    stream.synchronize().unwrap();
    let bytes = download(&context, &memory);
    let expected = |index| if (7..93).contains(&index) { 2 } else { 1 };
    assert!(bytes.iter().enumerate().all(|(index, byte)| *byte == expected(index)));
}

#[test]
fn an_address_that_is_none_is_an_error() {
    let Some(context) = one_gpu("copies::an_address_that_is_none_is_an_error") else {
        return;
    };
    let stream = Stream::new(&context).unwrap();
    let memory = DeviceMemory::new(&context, 64).unwrap();
    // SAFETY: no memory is at this address, and the driver checks a destination of a fill.
    let filled = unsafe { stream.memset_async(0, 1, 64) };
    println!("{filled:?}");
    assert!(filled.is_err_and(|error| !error.is_sticky()));
    stream.fill(&memory.into(), 0, 64, 1).unwrap();
    stream.synchronize().unwrap();
}
