//! Shapes, strides and views that are refused, by errors with the numbers.

use nixl_descriptor::tensor::{DType, Tensor, TensorError as E, TensorLayout};
use nixl_descriptor::{DescriptorList, Region};

fn strided(shape: &[usize], strides: &[i64]) -> Result<TensorLayout, E> {
    TensorLayout::strided(DType::F32, shape, strides)
}

fn tensor() -> Tensor {
    Tensor::from_vec((0..24u16).collect(), &[2, 3, 4]).unwrap()
}

#[test]
fn sizes_that_do_not_fit_the_memory() {
    let memory = || Region::zeroed(48).unwrap();
    let (dtype, given) = (DType::F32, 48);
    for (shape, elements) in [(&[3usize, 5][..], 15), (&[3, 3], 9), (&[], 1)] {
        let error = Tensor::new(memory(), dtype, shape).unwrap_err();
        let needed = 4 * elements;
        assert_eq!(error, E::WrongSize { dtype, elements, needed, given });
    }
    assert!(Tensor::new(memory(), dtype, &[3, 4]).is_ok());
    let layout = strided(&[4, 3], &[4, 1]).unwrap();
    let error = Tensor::with_layout(memory(), layout).unwrap_err();
    assert_eq!(error, E::OutOfBounds { dtype, needed: 60, given });
    let error = tensor().copy_from_slice(&[0u16; 23]).unwrap_err();
    assert_eq!(error, E::WrongSize { dtype: DType::U16, elements: 24, needed: 48, given: 46 });
}

#[test]
fn sizes_that_overflow() {
    let dtype = DType::F32;
    let of = |shape: &[usize]| TensorLayout::new(dtype, shape).unwrap_err();
    assert_eq!(of(&[usize::MAX, 2]), E::Overflow { dtype, axis: 0 });
    assert_eq!(of(&[2, usize::MAX, 2]), E::Overflow { dtype, axis: 1 });
    assert_eq!(of(&[usize::MAX / 32 + 1]), E::Overflow { dtype, axis: 0 });
    assert_eq!(of(&[1, 0, 2]), E::Empty { axis: 1 });
    assert_eq!(of(&[1; 65]), E::TooManyDimensions { rank: 65 });
    assert!(TensorLayout::new(dtype, &[1; 64]).is_ok());
    let error = strided(&[3], &[i64::MAX]).unwrap_err();
    assert_eq!(error, E::Overflow { dtype, axis: 0 });
    // The stride of a dimension with one element has no effect.
    let one = strided(&[1, 2], &[i64::MAX, 1]).unwrap();
    assert_eq!((one.span(), one.is_contiguous()), (8, true));
}

#[test]
fn strides_that_are_none() {
    assert_eq!(strided(&[2, 3], &[3]).unwrap_err(), E::StrideCount { strides: 1, rank: 2 });
    assert_eq!(strided(&[2, 3], &[3, -1]).unwrap_err(), E::NegativeStride { axis: 1, stride: -1 });
    let broadcast = strided(&[2, 3], &[0, 1]).unwrap_err();
    assert_eq!(broadcast, E::Overlap { axis: 0, stride: 0, extent: 1 });
    let windows = strided(&[4, 3], &[1, 1]).unwrap_err();
    assert_eq!(windows, E::Overlap { axis: 1, stride: 1, extent: 4 });
    let rows = strided(&[4, 3], &[2, 1]).unwrap_err();
    assert_eq!(rows, E::Overlap { axis: 0, stride: 2, extent: 3 });
}

#[test]
fn memory_that_is_not_aligned() {
    let memory = Region::zeroed(64).unwrap();
    for (dtype, alignment) in [(DType::U16, 2), (DType::BF16, 2), (DType::F32, 4), (DType::C64, 4)]
    {
        for past in 0..alignment {
            let bytes = dtype.bytes().unwrap();
            let part = memory.descriptor(past..past + bytes).unwrap();
            match Tensor::new(part, dtype, &[]) {
                Ok(_) => assert_eq!(past, 0),
                Err(error) => assert_eq!(error, E::Misaligned { dtype, alignment, past }),
            }
        }
    }
    for dtype in [DType::U8, DType::Bool, DType::F8E4M3] {
        assert!(Tensor::new(memory.descriptor(3..4).unwrap(), dtype, &[1]).is_ok());
    }
}

#[test]
fn elements_inside_of_bytes() {
    let dtype = DType::F6E3M2;
    let error = TensorLayout::new(dtype, &[3]).unwrap_err();
    assert_eq!(error, E::SubByte { dtype, elements: 3, stride: 0 });
    let layout = TensorLayout::new(dtype, &[2, 8]).unwrap();
    assert_eq!((layout.byte_len(), layout.span()), (12, 12));
    let tensor = Tensor::with_layout(Region::zeroed(12).unwrap(), layout).unwrap();
    assert!(tensor.slice(1, 4..).is_ok());
    let error = tensor.slice(1, 2..6).unwrap_err();
    assert_eq!(error, E::SubByte { dtype, elements: 2, stride: 0 });
    let error = tensor.permute(&[1, 0]).unwrap_err();
    assert_eq!(error, E::SubByte { dtype, elements: 1, stride: 1 });
}

#[test]
fn views_that_are_none() {
    let tensor = tensor();
    let rank = 3;
    assert_eq!(tensor.select(3, 0).unwrap_err(), E::NoSuchAxis { axis: 3, rank });
    assert_eq!(tensor.slice(9, ..).unwrap_err(), E::NoSuchAxis { axis: 9, rank });
    assert_eq!(tensor.select(1, 3).unwrap_err(), E::BadIndex { axis: 1, index: 3, size: 3 });
    let range = |start, end| E::BadRange { axis: 2, start, end, size: 4 };
    assert_eq!(tensor.slice(2, 2..2).unwrap_err(), range(2, 2));
    assert_eq!(tensor.slice(2, 1..5).unwrap_err(), range(1, 5));
    assert_eq!(tensor.slice(2, 0..=usize::MAX).unwrap_err(), range(0, usize::MAX));
    assert_eq!(tensor.permute(&[0, 1, 3]).unwrap_err(), E::NoSuchAxis { axis: 3, rank });
    assert_eq!(tensor.permute(&[0, 1, 1]).unwrap_err(), E::NotAPermutation { axis: 2, rank });
    assert_eq!(tensor.permute(&[0, 1]).unwrap_err(), E::NotAPermutation { axis: 2, rank });
    assert_eq!(tensor.permute(&[0, 1, 2, 0]).unwrap_err(), E::NoSuchAxis { axis: 3, rank });
    assert_eq!(tensor.reshape(&[5, 5]).unwrap_err(), E::Reshape { elements: 24, wanted: 25 });
    let columns = tensor.slice(2, ..2).unwrap();
    let gap = E::NotContiguous { axis: 1, stride: 4, expected: 2 };
    assert_eq!(columns.reshape(&[12]).unwrap_err(), gap);
    let wrong = E::WrongType { dtype: DType::U16, wanted: DType::I16 };
    assert_eq!(tensor.to_vec::<i16>().unwrap_err(), wrong);
}

#[test]
#[cfg_attr(miri, ignore = "takes minutes")]
fn more_runs_than_a_peer_takes() {
    let memory = Region::zeroed(1 << 18).unwrap();
    let bytes = Tensor::new(memory, DType::U8, &[1 << 17, 2]).unwrap();
    let even = bytes.select(1, 0).unwrap();
    let limit = Tensor::MAX_RUNS;
    let error = DescriptorList::try_from(&even).unwrap_err();
    assert_eq!(error, E::TooManyRuns { limit });
    assert_eq!(DescriptorList::try_from(even.slice(0, ..limit).unwrap()).unwrap().len(), limit);
}
