//! Media is offered in Dynamo's form, ends by reads or by its life time, and is read into tensors.

use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::Duration;

use nixl_connector::media::{MediaEnd, MediaReceiver, MediaSender, content_hash, media_layout};
use nixl_connector::simulated::Fabric;
use nixl_connector::{Connector, ConnectorError};
use nixl_descriptor::Region;
use nixl_descriptor::tensor::{DType, Tensor, TensorError};
use nixl_metadata::MetadataError;
use nixl_metadata::media::{
    DecodedMedia, EmbeddingsRequest, ImageLayout, ImageMetadata, MediaItem, MediaMetadata,
    VideoMetadata,
};
use nixl_ops::ManualClock;
use serde_json::{Value, json};

use crate::net::{Net, net};

fn image_metadata() -> Option<MediaMetadata> {
    Some(MediaMetadata::Image(ImageMetadata::new(None, "Rgb8", ImageLayout::HWC)))
}

fn image(sender: &MediaSender) -> Tensor {
    let image = sender.buffer(DType::U8, &[2, 5, 3]).unwrap();
    image.copy_from_slice(&(0..30).collect::<Vec<u8>>()).unwrap();
    image
}

/// The message as it arrives, after a change.
fn sent(media: &DecodedMedia, change: impl FnOnce(&mut Value)) -> DecodedMedia {
    let mut message = json!({"Decoded": media});
    change(&mut message["Decoded"]);
    match MediaItem::from_json(message.to_string().as_bytes()).unwrap() {
        MediaItem::Decoded(media) => *media,
        other => panic!("{other:?}"),
    }
}

/// The message without this library's field, as Dynamo's frontends print it.
fn as_dynamo(media: &DecodedMedia) -> DecodedMedia {
    sent(media, |message| drop(message.as_object_mut().unwrap().remove("nixl_offer")))
}

fn both(net: &Net) -> (MediaSender, MediaReceiver) {
    (MediaSender::new(net.target.clone()), MediaReceiver::new(net.initiator.clone()))
}

#[tokio::test]
async fn media_is_read_by_as_many_as_its_owner_says() {
    let net = net().await;
    let (sender, receiver) = both(&net);
    let sender = sender.readers(NonZeroU32::new(3).unwrap());
    let image = image(&sender);
    assert!(image.region().is_pooled(), "a part of a slab");
    let mut offer = sender.offer(&image, image_metadata()).await.unwrap();
    let media = sent(offer.media(), |_| ());
    assert_eq!((media.dtype(), media.shape()), ("UINT8", &[2, 5, 3][..]));
    for _ in 0..3 {
        let read = receiver.read(&media).await.unwrap();
        assert_eq!((read.dtype(), read.shape()), (DType::U8, &[2, 5, 3][..]));
        assert_eq!(read.to_bytes().unwrap(), image.to_bytes().unwrap());
        assert!(receiver.verify(&media, &read).await.unwrap());
    }
    assert_eq!(offer.ended().await, Ok(MediaEnd::Read));
    assert!(receiver.read(&media).await.is_err(), "it is used up");
    image.copy_from_slice(&[0u8; 30]).unwrap();
}

#[tokio::test]
async fn readers_of_dynamo_are_not_counted_and_the_life_time_ends_the_offer() {
    let clock = Arc::new(ManualClock::new());
    let fabric = Fabric::new(clock.clone());
    let build =
        |name| Connector::builder().clock(clock.clone()).transport(fabric.transport(name)).build();
    let (frontend, worker) = (build("frontend").await.unwrap(), build("worker").await.unwrap());
    let life_time = Duration::from_secs(30);
    let sender = MediaSender::new(frontend.clone()).life_time(life_time);
    let receiver = MediaReceiver::new(worker);
    let image = image(&sender);
    let mut offer = sender.offer(&image, image_metadata()).await.unwrap();
    let media = as_dynamo(offer.media());
    assert_eq!(media.offer(), None);
    for _ in 0..5 {
        let read = receiver.read(&media).await.unwrap();
        assert_eq!(read.to_bytes().unwrap(), image.to_bytes().unwrap());
    }
    assert!(image.copy_from_slice(&[0u8; 30]).is_err(), "it is offered");
    clock.advance(life_time + Duration::from_millis(1));
    assert_eq!(offer.ended().await, Ok(MediaEnd::LifeTimeOver));
    image.copy_from_slice(&[0u8; 30]).unwrap();
    assert_eq!(frontend.stats().active(), 0);
}

#[tokio::test]
async fn a_dropped_offer_gives_its_memory_back_at_once() {
    let net = net().await;
    let (sender, _) = both(&net);
    let image = image(&sender);
    let offer = sender.offer(&image, image_metadata()).await.unwrap();
    assert!(image.copy_from_slice(&[0u8; 30]).is_err(), "it is offered");
    drop(offer);
    image.copy_from_slice(&[0u8; 30]).unwrap();
}

#[tokio::test]
async fn media_is_read_into_memory_that_the_worker_has() {
    let net = net().await;
    let (sender, receiver) = both(&net);
    let image = image(&sender);
    let offer = sender.offer(&image, image_metadata()).await.unwrap();
    let media = sent(offer.media(), |_| ());
    let batch = Tensor::from_vec(vec![0u8; 60], &[2, 2, 5, 3]).unwrap();
    let wrong = receiver.read_into(&media, &batch).await.unwrap_err();
    assert!(matches!(wrong, ConnectorError::OtherTensor { .. }), "{wrong:?}");
    let wide = Tensor::from_vec(vec![0u8; 36], &[2, 6, 3]).unwrap();
    let gaps = receiver.read_into(&media, &wide.slice(1, ..5).unwrap()).await.unwrap_err();
    assert!(matches!(gaps, ConnectorError::OtherTensor { .. }), "{gaps:?}");
    receiver.read_into(&media, &batch.select(0, 1).unwrap()).await.unwrap();
    let expected = [vec![0; 30], image.to_bytes().unwrap()].concat();
    assert_eq!(batch.to_bytes().unwrap(), expected);
}

#[tokio::test]
async fn what_cannot_be_offered_is_refused() {
    let net = net().await;
    let (sender, _) = both(&net);
    let image = image(&sender);
    let columns = image.slice(1, 1..3).unwrap();
    let error = sender.offer(&columns, image_metadata()).await.unwrap_err();
    let gap = TensorError::NotContiguous { axis: 0, stride: 15, expected: 6 };
    assert_eq!(error, ConnectorError::Tensor(gap));
    let video = MediaMetadata::Video(VideoMetadata::new(1.0, 1.0, vec![0.0; 3]));
    let error = sender.offer(&image, Some(video)).await.unwrap_err();
    let frames = MetadataError::MediaFrames { stated: 3, frames: 2 };
    assert_eq!(error, ConnectorError::Metadata(frames));
    // Nothing stays offered.
    image.copy_from_slice(&[0u8; 30]).unwrap();
}

#[tokio::test]
async fn messages_that_lie_are_refused_before_memory_is_taken() {
    let net = net().await;
    let (sender, receiver) = both(&net);
    let image = image(&sender);
    let offer = sender.offer(&image, image_metadata()).await.unwrap();
    let media = as_dynamo(offer.media());

    let shape = sent(&media, |message| message["shape"] = json!([2, 5, 4]));
    let (dtype, elements) = (DType::U8, 40);
    let wrong = TensorError::WrongSize { dtype, elements, needed: 40, given: 30 };
    assert_eq!(receiver.read(&shape).await.unwrap_err(), ConnectorError::Tensor(wrong));
    let float = sent(&media, |message| message["dtype"] = json!("FLOAT32"));
    assert!(matches!(media_layout(&float), Err(ConnectorError::Tensor(_))));
    let unknown = sent(&media, |message| message["dtype"] = json!("UINT9"));
    let dtype = "UINT9".to_owned();
    assert_eq!(media_layout(&unknown).unwrap_err(), ConnectorError::MediaType { dtype });
    let large = sent(&media, |message| {
        message["shape"] = json!([1u64 << 40]);
        message["nixl_descriptor"]["size"] = json!(1u64 << 40);
    });
    let error = receiver.read(&large).await.unwrap_err();
    let limit = MediaReceiver::LIMIT;
    assert_eq!(error, ConnectorError::OverLimit { bytes: 1 << 40, limit });
    // Memory that is not the owner's to read.
    let elsewhere = sent(&media, |message| {
        message["nixl_descriptor"]["addr"] = json!(1u64 << 50);
    });
    assert!(receiver.read(&elsewhere).await.is_err());
    assert!(receiver.read(&media).await.is_ok(), "others are not concerned");
}

#[tokio::test]
async fn hashes_that_differ_are_found() {
    let net = net().await;
    let (sender, receiver) = both(&net);
    let image = image(&sender);
    let offer = sender.offer(&image, image_metadata()).await.unwrap();
    let found = content_hash(&image, image_metadata().as_ref()).unwrap();
    assert_eq!(offer.media().content_hash(), found);
    let (found, stated) = (found.unwrap(), 7);
    let other = offer.media().clone().with_content_hash(stated);
    let error = receiver.verify(&other, &image).await.unwrap_err();
    assert_eq!(error, ConnectorError::ContentHash { stated, found });
    // Only bytes have one, as in Dynamo.
    let floats = Tensor::new(Region::zeroed(24).unwrap(), DType::F32, &[1, 2, 3]).unwrap();
    assert_eq!(content_hash(&floats, image_metadata().as_ref()), Ok(None));
    assert_eq!(content_hash(&image, None), Ok(None));
    let stated = offer.media().clone().with_content_hash(7);
    assert_eq!(receiver.verify(&stated, &floats).await, Ok(false), "nothing was compared");
}

#[tokio::test]
async fn embeddings_are_read_and_their_owner_learns_of_it() {
    let net = net().await;
    let (sender, receiver) = both(&net);
    let values: Vec<f32> = (0..24).map(|n| n as f32 / 4.0).collect();
    let embeddings = Tensor::from_vec(values.clone(), &[2, 3, 4]).unwrap();
    let (request, operation) = sender.offer_embeddings(&embeddings).await.unwrap();
    let mut json = serde_json::to_value(&request).unwrap();
    assert_eq!(json["embedding_dtype_str"], "float32");
    let parse = |json: &Value| EmbeddingsRequest::from_json(json.to_string().as_bytes()).unwrap();
    let request = parse(&json);
    json["embedding_dtype_str"] = json!("float64");
    let (dtype, elements) = (DType::F64, 24);
    let wrong = TensorError::WrongSize { dtype, elements, needed: 192, given: 96 };
    let error = receiver.read_embeddings(&parse(&json)).await.unwrap_err();
    assert_eq!(error, ConnectorError::Tensor(wrong));
    let read = receiver.read_embeddings(&request).await.unwrap();
    assert_eq!(read.shape(), [2, 3, 4]);
    assert_eq!(read.to_vec::<f32>().unwrap(), values);
    operation.await.unwrap();
}
