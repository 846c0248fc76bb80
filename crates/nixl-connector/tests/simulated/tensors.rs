//! Tensors are offered with their description, and read as tensors.

use nixl_connector::{ConnectorError, offered_tensor};
use nixl_descriptor::tensor::{DType, Tensor, TensorError};
use nixl_descriptor::{DescriptorList, Region};
use nixl_metadata::{MetadataError, NotificationKey, RdmaMetadata, TensorDescription};

use nixl_ops::PairingError;

use crate::net::net;

const LIMIT: usize = 1 << 20;

fn image() -> Tensor {
    Tensor::from_vec((0..60u16).collect(), &[4, 5, 3]).unwrap()
}

fn sent(metadata: &RdmaMetadata) -> RdmaMetadata {
    RdmaMetadata::decode(&metadata.to_native_bytes().unwrap()).unwrap()
}

#[tokio::test]
async fn a_tensor_is_offered_and_read_with_its_shape() {
    let net = net().await;
    for (view, runs) in [
        (image(), 1),
        (image().slice(1, 1..4).unwrap(), 4),
        (image().permute(&[2, 0, 1]).unwrap(), 60),
    ] {
        let offered = net.target.create_readable(&view).await.unwrap();
        let remote = sent(offered.metadata());
        assert_eq!(remote.descriptors().len(), runs);
        let strides = remote.tensor().unwrap().dimensions().iter().map(|&(_, stride)| stride);
        assert!(strides.eq(view.strides().iter().map(|&stride| stride as u64)));
        let local = net.initiator.read_tensor(&remote, LIMIT).await.unwrap();
        assert_eq!((local.dtype(), local.shape()), (DType::U16, view.shape()));
        assert!(local.is_contiguous() && local.region().is_pooled());
        assert_eq!(local.to_vec::<u16>().unwrap(), view.to_vec::<u16>().unwrap());
        offered.await.unwrap();
    }
}

#[tokio::test]
async fn a_tensor_is_read_into_one_of_the_same_shape() {
    let net = net().await;
    let view = image().slice(1, 1..4).unwrap();
    let offer = async || net.target.create_readable(&view).await.unwrap();
    let offered = offer().await;
    let remote = sent(offered.metadata());
    let other = Tensor::from_vec(vec![0u16; 36], &[3, 4, 3]).unwrap();
    let error = net.initiator.read_into_tensor(&remote, &other).await.unwrap_err();
    let layout = offered_tensor(&remote).unwrap();
    let local = Box::new(other.layout().clone());
    assert_eq!(error, ConnectorError::OtherTensor { offered: Box::new(layout), local });

    // Strides of its own, of as many runs.
    let wide = Tensor::from_vec(vec![0u16; 4 * 9 * 3], &[4, 9, 3]).unwrap();
    let part = wide.slice(1, 6..).unwrap();
    net.initiator.read_into_tensor(&remote, &part).await.unwrap();
    assert_eq!(part.to_vec::<u16>().unwrap(), view.to_vec::<u16>().unwrap());
    assert_eq!(wide.slice(1, ..6).unwrap().to_vec::<u16>().unwrap(), [0; 72]);
    offered.await.unwrap();

    let offered = offer().await;
    let remote = sent(offered.metadata());
    let turned = Tensor::from_vec(vec![0u16; 36], &[3, 3, 4]).unwrap().permute(&[2, 1, 0]).unwrap();
    let error = net.initiator.read_into_tensor(&remote, &turned).await.unwrap_err();
    let count = PairingError::Count { local: 36, remote: 4 };
    assert_eq!(error, ConnectorError::Pairing(count));
}

#[tokio::test]
async fn offers_that_are_no_tensor_are_refused() {
    let net = net().await;
    let plain = net.target.create_readable(Region::zeroed(64).unwrap()).await.unwrap();
    let error = net.initiator.read_tensor(&sent(plain.metadata()), LIMIT).await.unwrap_err();
    assert_eq!(error, ConnectorError::NoTensor);

    let offered = net.target.create_readable(image()).await.unwrap();
    let remote = sent(offered.metadata());
    let error = net.initiator.read_tensor(&remote, 100).await.unwrap_err();
    assert_eq!(error, ConnectorError::OverLimit { bytes: 120, limit: 100 });
    let dynamo = RdmaMetadata::decode(remote.to_dynamo_json().as_bytes()).unwrap();
    let error = net.initiator.read_tensor(&dynamo, LIMIT).await.unwrap_err();
    assert_eq!(error, ConnectorError::NoTensor);

    let described = |code, bits, size| {
        let metadata = RdmaMetadata::new(
            remote.operation_kind(),
            remote.descriptors().to_vec(),
            remote.agent_metadata().clone(),
            NotificationKey::random(),
        );
        metadata.unwrap().with_tensor(TensorDescription::new(code, bits, vec![(size, 1)])?)
    };
    let later = described(200, 16, 60).unwrap();
    let error = net.initiator.read_tensor(&later, LIMIT).await.unwrap_err();
    assert_eq!(error, ConnectorError::UnknownElement { code: 200, bits: 16 });
    let refused = MetadataError::TensorBytes { described: 122, offered: 120 };
    assert_eq!(described(1, 16, 61), Err(refused));
}

#[tokio::test]
async fn a_tensor_in_too_many_pieces_is_refused_here() {
    let net = net().await;
    let memory = Region::zeroed(1 << 18).unwrap();
    let bytes = Tensor::new(memory, DType::U8, &[1 << 17, 2]).unwrap();
    let error = net.target.create_readable(bytes.select(1, 0).unwrap()).await.unwrap_err();
    assert_eq!(error, ConnectorError::Tensor(TensorError::TooManyRuns { limit: Tensor::MAX_RUNS }));
    let few = DescriptorList::try_from(bytes.select(1, 0).unwrap().slice(0, ..9).unwrap());
    let offered = net.target.create_readable(few.unwrap()).await.unwrap();
    assert_eq!(offered.metadata().tensor().unwrap().byte_len(), 9);
}
