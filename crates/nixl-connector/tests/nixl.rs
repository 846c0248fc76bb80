//! The NIXL transport, two connectors in one process.
#![cfg(feature = "nixl")]

use nixl_connector::Connector;
use nixl_descriptor::Region;
use nixl_metadata::RdmaMetadata;

#[tokio::test]
async fn smoke() {
    let a = Connector::builder().name("a").build().await.unwrap();
    let b = Connector::builder().name("b").build().await.unwrap();
    for len in [1usize, 4096, 1 << 20, 16 << 20] {
        let source: Vec<u8> = (0..len).map(|i| (i * 7 + 3) as u8).collect();
        let mut offered =
            a.create_readable(Region::try_from(source.clone()).unwrap()).await.unwrap();
        let json = offered.metadata().to_dynamo_json();
        let remote = RdmaMetadata::decode(json.as_bytes()).unwrap();
        let local = Region::zeroed(len).unwrap();
        let mut read = b.begin_read(&remote, local.clone()).await.unwrap();
        let done = read.wait_for_completion().await.unwrap();
        eprintln!("{}", done.path().unwrap());
        let passive = offered.wait_for_completion().await.unwrap();
        eprintln!("passive {:?}", passive.elapsed());
        assert!(local.to_vec().unwrap() == source);
    }
    eprintln!("{:?}", a.stats());
}
