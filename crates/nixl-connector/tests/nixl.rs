//! The NIXL transport keeps every promise of the conformance suite, between two connectors of one process.
#![cfg(all(feature = "nixl", feature = "conformance"))]

use std::fs::File;

use bytes::Bytes;
use memmap2::Mmap;
use nixl_connector::conformance::{CASES, Harness};
use nixl_connector::{Connector, ConnectorBuilder, ConnectorError};
use nixl_descriptor::{Region, RegisterError};

struct OverNixl;

impl Harness for OverNixl {
    fn pair(&self) -> [ConnectorBuilder; 2] {
        ["target--", "initiate"].map(|name| Connector::builder().name(name))
    }
}

#[tokio::test]
async fn conformance() {
    let mut broken = Vec::new();
    for case in CASES {
        if let Err(failure) = case.run(&OverNixl).await {
            broken.push(format!("{}: {failure}", case.name()));
        }
    }
    assert!(broken.is_empty(), "{} of {}:\n{}", broken.len(), CASES.len(), broken.join("\n"));
}

/// A peer that writes to a readable offer of them would end this process.
#[tokio::test]
async fn read_only_pages_are_not_registered() {
    let connector = Connector::builder().build().await.unwrap();
    let file = File::open("/proc/self/exe").unwrap();
    // SAFETY: the program's file does not change while it runs.
    #[allow(unsafe_code)]
    let file = unsafe { Mmap::map(&file) }.unwrap();
    let (len, constant) = (file.len(), Bytes::from_static(b"constant"));
    let refused = |len| ConnectorError::Register(RegisterError::ReadOnlyPages { len });
    for (region, len) in [(Region::try_from(file), len), (Region::try_from(constant), 8)] {
        let region = region.unwrap();
        let error = connector.create_readable(region.clone()).await.unwrap_err();
        assert_eq!(error, refused(len));
        assert!(error.to_string().contains("Connector::buffer"), "{error}");
        let bytes = region.to_vec().unwrap();
        let buffer = connector.buffer(len).unwrap();
        buffer.copy_from_slice(0, &bytes).unwrap();
        connector.create_readable(buffer).await.unwrap();
    }
    // Read-only by contract alone.
    let heap = Region::try_from(Bytes::from(vec![0; 5000])).unwrap();
    connector.create_readable(heap).await.unwrap();
}
