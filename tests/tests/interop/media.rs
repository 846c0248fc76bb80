//! Dynamo's reader of media, `media_nixl`, and this library's, both ways.

use std::num::NonZeroU32;
use std::time::Duration;

use nixl_connector::media::{MediaEnd, MediaReceiver, MediaSender, content_hash};
use nixl_connector::{Connector, ConnectorError};
use nixl_descriptor::tensor::{DType, Tensor};
use nixl_metadata::media::{
    DecodedMedia, EmbeddingsRequest, ImageLayout, ImageMetadata, MediaItem, MediaMetadata,
    VideoMetadata,
};
use nixl_tests::eventually;
use serde_json::{Value, json};

use crate::DEADLINE;
use crate::peer::Python;

/// Heights and widths.
const IMAGES: [(usize, usize); 4] = [(1, 1), (480, 640), (7, 1013), (1080, 1920)];

async fn connector() -> Connector {
    Connector::builder().timeout(DEADLINE).build().await.unwrap()
}

fn image_metadata() -> MediaMetadata {
    MediaMetadata::Image(ImageMetadata::new(Some("Png".to_owned()), "Rgb8", ImageLayout::HWC))
}

fn filled(sender: &MediaSender, shape: &[usize], seed: usize) -> (Tensor, Vec<u8>) {
    let tensor = sender.buffer(DType::U8, shape).unwrap();
    let bytes: Vec<u8> = (0..tensor.layout().byte_len()).map(|at| (at * 7 + seed) as u8).collect();
    tensor.copy_from_slice(&bytes).unwrap();
    (tensor, bytes)
}

fn printed(media: &DecodedMedia) -> Value {
    serde_json::to_value(media).unwrap()
}

fn crc32(bytes: &[u8]) -> String {
    format!("{:08x}", crc32fast::hash(bytes))
}

#[tokio::test]
async fn python_reads_images_that_rust_offers_as_often_as_it_likes() {
    let (rust, mut python) = (connector().await, Python::start());
    let sender = MediaSender::new(rust);
    for (seed, (height, width)) in IMAGES.into_iter().enumerate() {
        let shape = [height, width, 3];
        let (tensor, bytes) = filled(&sender, &shape, seed);
        let offer = sender.offer(&tensor, Some(image_metadata())).await.unwrap();
        let message = printed(offer.media());
        for _ in 0..2 {
            let read = python.read_media(&message);
            assert_eq!(read["crc32"], crc32(&bytes));
            assert_eq!(read["shape"], json!(shape));
            assert_eq!(read["metadata"], message["metadata"]);
        }
        // The request is over: its memory can be decoded to again.
        drop(offer);
        tensor.copy_from_slice(&bytes).unwrap();
    }
}

#[tokio::test]
async fn python_reads_a_video_that_rust_offers() {
    let (rust, mut python) = (connector().await, Python::start());
    let sender = MediaSender::new(rust);
    let (tensor, bytes) = filled(&sender, &[4, 32, 48, 3], 1);
    let metadata = MediaMetadata::Video(VideoMetadata::new(24.0, 2.5, vec![0.0, 0.5, 1.0, 1.5]));
    let offer = sender.offer(&tensor, Some(metadata)).await.unwrap();
    let message = printed(offer.media());
    let read = python.read_media(&message);
    assert_eq!((&read["crc32"], &read["metadata"]), (&json!(crc32(&bytes)), &message["metadata"]));
    assert!(tensor.copy_from_slice(&bytes).is_err(), "it is offered");
    drop(offer);
    tensor.copy_from_slice(&bytes).unwrap();
}

#[tokio::test]
async fn rust_reads_images_that_a_frontend_like_dynamos_offers() {
    let (rust, mut python) = (connector().await, Python::start());
    let receiver = MediaReceiver::new(rust);
    for (seed, (height, width)) in (1..).zip(IMAGES) {
        let shape = [height, width, 3];
        let (message, theirs) = python.offer_media(&shape, seed);
        let MediaItem::Decoded(media) = MediaItem::from_json(message.as_bytes()).unwrap() else {
            panic!("{message}");
        };
        assert_eq!(media.offer(), None);
        let tensor = receiver.read(&media).await.unwrap();
        assert_eq!((tensor.dtype(), tensor.shape()), (DType::U8, &shape[..]));
        assert_eq!(crc32(&tensor.to_bytes().unwrap()), theirs);
        let hash = content_hash(&tensor, media.metadata()).unwrap().unwrap();
        let stated = media.as_ref().clone().with_content_hash(hash);
        assert!(receiver.verify(&stated, &tensor).await.unwrap());
        let other = stated.with_content_hash(!hash);
        let error = receiver.verify(&other, &tensor).await.unwrap_err();
        assert_eq!(error, ConnectorError::ContentHash { stated: !hash, found: hash });
    }
}

#[tokio::test]
async fn rust_reads_what_rust_offers_and_says_so() {
    let (frontend, worker) = (connector().await, connector().await);
    let sender = MediaSender::new(frontend).readers(NonZeroU32::new(2).unwrap());
    let receiver = MediaReceiver::new(worker);
    let (tensor, bytes) = filled(&sender, &[64, 64, 3], 5);
    let mut offer = sender.offer(&tensor, Some(image_metadata())).await.unwrap();
    let media: DecodedMedia = serde_json::from_value(printed(offer.media())).unwrap();
    for _ in 0..2 {
        let read = receiver.read(&media).await.unwrap();
        assert!(receiver.verify(&media, &read).await.unwrap());
        assert_eq!(read.to_bytes().unwrap(), bytes);
    }
    assert_eq!(offer.ended().await, Ok(MediaEnd::Read));
    tensor.copy_from_slice(&bytes).unwrap();
}

/// Python's reads are not counted, so the memory comes back by the life time.
#[tokio::test]
async fn a_hundred_images_pass_each_way_and_the_memory_comes_back() {
    const COUNT: usize = 100;
    // Both processes have the clock of one host.
    let rust = Connector::builder().timeout(DEADLINE).clock_skew(Duration::ZERO).build();
    let (rust, mut python) = (rust.await.unwrap(), Python::start());
    let sender = MediaSender::new(rust.clone()).life_time(Duration::from_secs(5));
    let mut offered = Vec::new();
    for seed in 0..COUNT {
        let (tensor, bytes) = filled(&sender, &[24 + seed, 32, 3], seed);
        let offer = sender.offer(&tensor, Some(image_metadata())).await.unwrap();
        let hash = content_hash(&tensor, offer.media().metadata()).unwrap();
        assert_eq!(offer.media().content_hash(), hash);
        assert_eq!(python.read_media(&printed(offer.media()))["crc32"], crc32(&bytes));
        offered.push((tensor, bytes, offer));
    }
    let receiver = MediaReceiver::new(rust.clone());
    for seed in 0..COUNT as u64 {
        let (message, theirs) = python.offer_media(&[24, 32 + seed as usize, 3], seed);
        let MediaItem::Decoded(media) = MediaItem::from_json(message.as_bytes()).unwrap() else {
            panic!("{message}");
        };
        let tensor = receiver.read(&media).await.unwrap();
        assert_eq!(crc32(&tensor.to_bytes().unwrap()), theirs);
        let hash = content_hash(&tensor, media.metadata()).unwrap().unwrap();
        assert!(
            receiver
                .verify(&media.as_ref().clone().with_content_hash(hash), &tensor)
                .await
                .unwrap()
        );
    }
    for (tensor, bytes, mut offer) in offered {
        assert_eq!(offer.ended().await, Ok(MediaEnd::LifeTimeOver));
        tensor.copy_from_slice(&bytes).unwrap();
    }
    eventually("the offers are forgotten", DEADLINE, || {
        let stats = rust.stats();
        (stats.passive() == 0 && stats.retained().bytes() == 0).then_some(())
    });
}

#[tokio::test]
async fn python_reads_embeddings_that_rust_offers_and_says_so() {
    let (rust, mut python) = (connector().await, Python::start());
    let sender = MediaSender::new(rust);
    for shape in [[1, 1, 8], [3, 257, 64], [1, 1024, 896]] {
        let count = shape.iter().product::<usize>();
        let values = (0..count).map(|n| n as f32 / 4.0).collect();
        let embeddings = Tensor::from_vec::<f32>(values, &shape).unwrap();
        let (request, mut operation) = sender.offer_embeddings(&embeddings).await.unwrap();
        let read = python.read_embeddings(&serde_json::to_value(&request).unwrap());
        assert_eq!(read["shape"], json!(shape));
        assert_eq!(read["dtype"], "float32");
        assert_eq!(read["crc32"], crc32(&embeddings.to_bytes().unwrap()));
        operation.wait_for_completion().await.unwrap();
    }
}

#[tokio::test]
async fn rust_reads_embeddings_that_python_offers_and_python_learns_of_it() {
    let (rust, mut python) = (connector().await, Python::start());
    let receiver = MediaReceiver::new(rust);
    for (seed, shape) in [[1, 1, 8], [3, 257, 64], [1, 1024, 896]].into_iter().enumerate() {
        let offered = python.offer_embeddings(&shape, seed as u64);
        let request = EmbeddingsRequest::from_json(offered["request"].to_string().as_bytes());
        let read = receiver.read_embeddings(&request.unwrap()).await.unwrap();
        assert_eq!((read.dtype(), read.shape()), (DType::F32, &shape[..]));
        assert_eq!(offered["crc32"], crc32(&read.to_bytes().unwrap()));
        python.sent_embeddings(&offered["id"]);
    }
}
