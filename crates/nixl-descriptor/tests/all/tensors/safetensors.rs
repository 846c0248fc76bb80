//! Files of safetensors: those of the format's own crate, and hostile ones.

use std::error::Error;
use std::fs;
use std::io::ErrorKind;

use ::safetensors::SafeTensors;
use ::safetensors::tensor::{Dtype, TensorView, serialize};
use nixl_descriptor::tensor::safetensors::{
    SafetensorsError as E, SafetensorsFile, SafetensorsHeader,
};
use nixl_descriptor::tensor::{DType, Tensor, TensorError};
use nixl_descriptor::{Region, copy};
use proptest::prelude::*;

use super::targets;

/// A file as the format's own crate writes it.
fn written() -> Vec<u8> {
    let floats: Vec<u8> = (0..6).flat_map(|n| (n as f32).to_le_bytes()).collect();
    let tensors = [
        ("weight", Dtype::F32, vec![2, 3], &floats[..]),
        ("mask", Dtype::BOOL, vec![3], &[1, 0, 1][..]),
        ("scale", Dtype::BF16, vec![], &[0x80, 0x3f][..]),
        ("fp4", Dtype::F4, vec![2, 2], &[0x12, 0x34][..]),
        ("none", Dtype::I64, vec![0, 4], &[][..]),
    ];
    let views = tensors
        .map(|(name, dtype, shape, data)| (name, TensorView::new(dtype, shape, data).unwrap()));
    serialize(views, Some([("format".to_owned(), "pt".to_owned())].into())).unwrap()
}

fn header(json: &str, data: u64) -> Result<SafetensorsHeader, E> {
    let mut start = (json.len() as u64).to_le_bytes().to_vec();
    start.extend(json.as_bytes());
    SafetensorsHeader::parse(&start, start.len() as u64 + data)
}

#[test]
#[cfg_attr(miri, ignore = "reads files")]
fn files_of_the_formats_own_crate_are_read_by_name() {
    let bytes = written();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.safetensors");
    fs::write(&path, &bytes).unwrap();
    let longer = Region::zeroed(bytes.len() + 100).unwrap();
    let mut map = memmap2::MmapMut::map_anon(bytes.len()).unwrap();
    map.copy_from_slice(&bytes);
    let mapping = Region::try_from(map.make_read_only().unwrap()).unwrap();
    let files = [
        SafetensorsFile::from_memory(mapping).unwrap(),
        SafetensorsFile::read(&path).unwrap(),
        SafetensorsFile::read_into(&path, longer).unwrap(),
        SafetensorsFile::from_memory(Region::try_from(bytes.clone()).unwrap()).unwrap(),
    ];
    for file in files {
        assert_eq!(file.memory().len(), bytes.len());
        assert_eq!(file.header().metadata(), [("format".to_owned(), "pt".to_owned())]);
        assert_eq!(file.header().tensors().len(), 5);
        let weight = file.load("weight").unwrap();
        assert_eq!((weight.dtype(), weight.shape()), (DType::F32, &[2, 3][..]));
        assert_eq!(weight.to_vec::<f32>().unwrap(), [0.0, 1.0, 2.0, 3.0, 4.0, 5.0]);
        assert_eq!(file.load("mask").unwrap().to_bytes().unwrap(), [1, 0, 1]);
        let fp4 = file.tensor("fp4").unwrap();
        assert_eq!((fp4.dtype(), fp4.to_bytes().unwrap()), (DType::F4, vec![0x12, 0x34]));
        assert!(file.load("scale").unwrap().shape().is_empty());
        let name = "none".to_owned();
        let empty = E::Tensor { name, error: TensorError::Empty { axis: 0 } };
        assert_eq!(file.tensor("none").unwrap_err(), empty);
        let missing = E::NoSuchTensor { name: "bias".to_owned() };
        assert_eq!(file.tensor("bias").unwrap_err(), missing);
    }
}

#[test]
#[cfg_attr(miri, ignore = "opens files in memory")]
fn a_tensor_that_the_file_does_not_align_is_loaded_by_a_copy() {
    let json = r#"{"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]},"b":{"dtype":"U16","shape":[1],"data_offsets":[1,3]}}"#;
    let padded = format!("{json:<width$}", width = json.len().next_multiple_of(8));
    let mut bytes = (padded.len() as u64).to_le_bytes().to_vec();
    bytes.extend(padded.as_bytes());
    bytes.extend([1, 2, 3]);
    let file = Region::zeroed(bytes.len()).unwrap();
    file.copy_from_slice(0, &bytes).unwrap();
    let file = SafetensorsFile::from_memory(file).unwrap();
    let misaligned = TensorError::Misaligned { dtype: DType::U16, alignment: 2, past: 1 };
    let refused = E::Tensor { name: "b".to_owned(), error: misaligned };
    assert_eq!(file.tensor("b").unwrap_err(), refused);
    assert_eq!(file.load("b").unwrap().to_vec::<u16>().unwrap(), [0x0302]);
}

#[test]
#[cfg_attr(miri, ignore = "opens files in memory")]
fn a_whole_file_is_copied_and_its_tensors_read_there() {
    let bytes = written();
    let file = SafetensorsFile::from_memory(Region::try_from(bytes.clone()).unwrap()).unwrap();
    let memory = Region::zeroed(bytes.len()).unwrap().whole();
    let there = SafetensorsFile::with_header(file.header().clone(), memory).unwrap();
    copy(file.memory(), there.memory()).unwrap();
    assert_eq!(there.load("mask").unwrap().to_bytes().unwrap(), [1, 0, 1]);
    let short = Region::zeroed(bytes.len() - 1).unwrap();
    let error = SafetensorsFile::with_header(file.header().clone(), short).unwrap_err();
    let (needed, given) = (bytes.len() as u64, bytes.len() as u64 - 1);
    assert_eq!(error, E::MemorySize { needed, given });
}

#[test]
#[cfg_attr(miri, ignore = "writes files")]
fn tensors_are_written_as_the_formats_own_crate_reads_them() {
    let weight = Tensor::from_vec((0..24).map(|n| n as f32).collect(), &[2, 3, 4]).unwrap();
    let turned = weight.permute(&[2, 0, 1]).unwrap();
    let mask = Tensor::from_vec(vec![1u8, 2, 3], &[3]).unwrap();
    let step = Tensor::from_vec(vec![-7i64], &[]).unwrap();
    let tensors =
        [("mask", &mask), ("turned", &turned), ("\"weight\"/é", &weight), ("step", &step)];
    let pairs = [("format", "pt"), ("by", "a \"test\"")];
    let file = SafetensorsFile::from_tensors(tensors, &pairs).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("written.safetensors");
    file.write(&path).unwrap();
    let bytes = fs::read(&path).unwrap();
    let read = SafeTensors::deserialize(&bytes).unwrap();
    assert_eq!(read.len(), 4);
    for (name, tensor) in tensors {
        let view = read.tensor(name).unwrap();
        assert_eq!((view.shape(), view.data()), (tensor.shape(), &*tensor.to_bytes().unwrap()));
        // Each is aligned where it is.
        let own = file.tensor(name).unwrap();
        assert_eq!((own.dtype(), own.to_bytes()), (tensor.dtype(), tensor.to_bytes()));
    }
    let (_, header) = SafeTensors::read_metadata(&bytes).unwrap();
    let found = header.metadata().clone().unwrap();
    assert_eq!(found, pairs.map(|(name, text)| (name.to_owned(), text.to_owned())).into());
    let again = SafetensorsFile::read(&path).unwrap();
    assert_eq!(again.header(), file.header());

    let exists = file.write(&path).unwrap_err();
    assert!(matches!(exists, E::Io { kind: ErrorKind::AlreadyExists, .. }), "{exists:?}");
    let written = |tensors: &[(&str, &Tensor)]| {
        SafetensorsFile::from_tensors(tensors.iter().copied(), &[]).map(|file| file.memory().len())
    };
    let name = || "mask".to_owned();
    assert_eq!(
        written(&[("mask", &mask), ("mask", &step)]),
        Err(E::DuplicateName { name: name() })
    );
    let name = "__metadata__".to_owned();
    assert_eq!(written(&[("__metadata__", &mask)]), Err(E::ReservedName { name }));
    // A file without tensors is one.
    assert_eq!(written(&[]), Ok(16));
}

#[test]
#[cfg_attr(miri, ignore = "reads files")]
fn files_that_are_cut_short_or_absent() {
    let bytes = written();
    for len in 1..bytes.len() {
        let error = SafetensorsHeader::parse(&bytes[..len], len as u64).unwrap_err();
        let cut = matches!(error, E::Truncated { .. } | E::DataTruncated { .. });
        assert!(cut, "{len}: {error:?}");
        let memory = Region::try_from(bytes[..len].to_vec()).unwrap();
        assert_eq!(SafetensorsFile::from_memory(memory).unwrap_err(), error);
    }
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.safetensors");
    let error = SafetensorsFile::read(&path).unwrap_err();
    assert!(matches!(error, E::Io { kind: ErrorKind::NotFound, .. }), "{error:?}");
    assert!(error.source().is_some_and(|source| source.is::<std::io::Error>()), "{error:?}");
    for len in [0, 5, 20, bytes.len() - 1] {
        fs::write(&path, &bytes[..len]).unwrap();
        let error = SafetensorsFile::read(&path).unwrap_err();
        let cut = matches!(error, E::Truncated { .. } | E::DataTruncated { .. });
        assert!(cut, "{len}: {error:?}");
    }
    fs::write(&path, &bytes).unwrap();
    let error = SafetensorsFile::read_into(&path, Region::zeroed(10).unwrap()).unwrap_err();
    assert_eq!(error, E::MemorySize { needed: bytes.len() as u64, given: 10 });
}

#[test]
fn a_header_of_any_length_is_refused_before_it_is_read() {
    for len in [100_000_001, 1 << 40, 1 << 63, u64::MAX] {
        let mut bytes = len.to_le_bytes().to_vec();
        bytes.extend(b"{}");
        let error = SafetensorsHeader::parse(&bytes, u64::MAX).unwrap_err();
        assert_eq!(error, E::HeaderTooLarge { len });
        let memory = Region::try_from(bytes).unwrap();
        assert_eq!(SafetensorsFile::from_memory(memory).unwrap_err(), error);
    }
    let bytes = 100_000_000u64.to_le_bytes();
    let error = SafetensorsHeader::parse(&bytes, 1 << 30).unwrap_err();
    assert_eq!(error, E::Truncated { needed: 100_000_008, given: 8 });
}

#[test]
fn headers_that_lie() {
    let name = || "a".to_owned();
    let one = |dtype: &str, shape: &str, offsets: &str| {
        let json =
            format!(r#"{{"a":{{"dtype":"{dtype}","shape":{shape},"data_offsets":{offsets}}}}}"#);
        header(&json, 8).map(|header| header.tensors().len())
    };
    assert_eq!(one("U8", "[8]", "[0,8]"), Ok(1));
    let unknown = E::UnknownType { name: name(), dtype: "u8".to_owned() };
    assert_eq!(one("u8", "[8]", "[0,8]"), Err(unknown));
    let dtype = DType::U16;
    let wrong = E::WrongSize { name: name(), dtype, needed: 16, given: 8 };
    assert_eq!(one("U16", "[8]", "[0,8]"), Err(wrong));
    let bad = |error| Err(E::BadShape { name: name(), error });
    let (dtype, half) = (DType::U8, DType::F4);
    let huge = "[9223372036854775808,4]";
    assert_eq!(one("U8", huge, "[0,8]"), bad(TensorError::Overflow { dtype, axis: 0 }));
    let odd = TensorError::SubByte { dtype: half, elements: 3, stride: 0 };
    assert_eq!(one("F4", "[3]", "[0,8]"), bad(odd));
    let many = format!("[{}1]", "1,".repeat(if cfg!(miri) { 100 } else { 1_000_000 }));
    assert_eq!(one("U8", &many, "[0,8]"), bad(TensorError::TooManyDimensions { rank: 65 }));
    assert_eq!(one("U8", "[8]", "[8,0]"), Err(E::BadOffsets { name: name(), start: 8, end: 0 }));
    let far = format!("[{},{}]", u64::MAX - 8, u64::MAX);
    let (start, end) = (u64::MAX - 8, u64::MAX);
    assert_eq!(one("U8", "[8]", &far), Err(E::BadOffsets { name: name(), start, end }));
    assert_eq!(one("U8", "[9]", "[0,9]"), Err(E::DataTruncated { needed: 9, given: 8 }));
    assert_eq!(one("U8", "[7]", "[0,7]"), Err(E::Gap { start: 7, end: 8 }));
    assert_eq!(one("U8", "[7]", "[1,8]"), Err(E::Gap { start: 0, end: 1 }));

    let two = |first: &str, second: &str, a: &str, b: &str| {
        let entry = |name: &str, at: &str| {
            format!(r#""{name}":{{"dtype":"U8","shape":[4],"data_offsets":{at}}}"#)
        };
        header(&format!("{{{},{}}}", entry(first, a), entry(second, b)), 8).map(|_| ())
    };
    assert_eq!(two("a", "b", "[4,8]", "[0,4]"), Ok(()));
    let overlap = E::Overlap { name: "b".to_owned(), start: 3, end: 4 };
    assert_eq!(two("a", "b", "[0,4]", "[3,7]"), Err(overlap));
    assert_eq!(two("a", "a", "[0,4]", "[4,8]"), Err(E::DuplicateName { name: name() }));
    assert_eq!(two("a", "\\u0061", "[0,4]", "[4,8]"), Err(E::DuplicateName { name: name() }));
}

#[test]
fn headers_that_are_no_json_of_safetensors() {
    for json in [
        "",
        " {}",
        "[]",
        "{",
        "{}}",
        "null",
        r#"{"a":1}"#,
        r#"{"a":{}}"#,
        r#"{"a":{"dtype":"U8","shape":[-1],"data_offsets":[0,1]}}"#,
        r#"{"a":{"dtype":"U8","shape":[1.5],"data_offsets":[0,1]}}"#,
        r#"{"a":{"dtype":"U8","shape":[18446744073709551616],"data_offsets":[0,1]}}"#,
        r#"{"a":{"dtype":"U8","shape":[],"data_offsets":[0]}}"#,
        r#"{"a":{"dtype":"U8","dtype":"U8","shape":[],"data_offsets":[0,1]}}"#,
        r#"{"__metadata__":{"a":1}}"#,
        r#"{"__metadata__":{"a":"1"},"__metadata__":{"b":"2"}}"#,
        r#"{"__metadata__":{"a":"1","b":"2","\u0061":"3"}}"#,
        "{\"\u{0}\":1}",
    ] {
        let error = header(json, 0).unwrap_err();
        assert!(matches!(error, E::BadHeader { .. }), "{json}: {error:?}");
    }
    let deep = format!(r#"{{"a":{}"#, "[".repeat(if cfg!(miri) { 200 } else { 100_000 }));
    assert!(matches!(header(&deep, 0), Err(E::BadHeader { .. })));
    let mut bytes = 2u64.to_le_bytes().to_vec();
    bytes.extend(*b"{\xff");
    assert!(matches!(SafetensorsHeader::parse(&bytes, 10), Err(E::BadHeader { .. })));
    assert_eq!(header("{}   ", 0).unwrap().tensors(), []);
}

proptest! {
    #[test]
    #[cfg_attr(miri, ignore = "opens files in memory")]
    fn damaged_files_are_refused_or_hold(
        damage in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..6),
        cut in proptest::option::of(any::<prop::sample::Index>()),
    ) {
        let mut bytes = written();
        for (at, byte) in damage {
            let at = at.index(bytes.len());
            bytes[at] = byte;
        }
        if let Some(cut) = cut {
            bytes.truncate(cut.index(bytes.len()));
        }
        targets::safetensors(&bytes);
        targets::safetensors(bytes.get(8..).unwrap_or_default());
    }
}
