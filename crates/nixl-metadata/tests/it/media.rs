//! Media in Dynamo's form: round trips, the form itself, and hostile messages.

use std::collections::BTreeMap;

use nixl_device::Device;
use nixl_metadata::media::{
    ContentHasher, DecodedMedia, EmbeddingsRequest, ImageLayout, ImageMetadata, MediaItem,
    MediaMetadata, VideoMetadata,
};
use nixl_metadata::{
    AgentMetadata, Field, Limits, MetadataError as E, NotificationKey, OperationKind, RdmaMetadata,
    SerializedDescriptor,
};
use proptest::prelude::*;
use serde_json::{Value, json};

use crate::support::{any_metadata, minimal};
use crate::targets;

fn agent() -> AgentMetadata {
    AgentMetadata::compress(b"an agent").unwrap()
}

fn image() -> MediaMetadata {
    MediaMetadata::Image(ImageMetadata::new(Some("Png".to_owned()), "Rgb8", ImageLayout::HWC))
}

fn video(sampled_timestamps: Vec<f64>) -> VideoMetadata {
    VideoMetadata::new(24.0, 10.0, sampled_timestamps)
}

fn media(shape: &[u64], metadata: Option<MediaMetadata>) -> Result<DecodedMedia, E> {
    let memory = SerializedDescriptor::new(Device::HOST, 4096, shape.iter().product())?;
    DecodedMedia::new(agent(), memory, shape.to_vec(), "UINT8".to_owned(), metadata)
}

/// A message as Dynamo 1.6.1 prints it.
fn printed() -> Value {
    json!({"Decoded": {
        "nixl_metadata": "b64:eJxLzFNITE/NKwEADNIC/w==",
        "nixl_descriptor": {"addr": 4096, "size": 6, "mem_type": "Dram", "device_id": 0},
        "shape": [1, 2, 3],
        "dtype": "UINT8",
        "metadata": {"Image": {"format": "Png", "color_type": "Rgb8", "layout": "HWC"}},
        "content_hash": "7a9bbcb11a898630",
    }})
}

fn parse(value: &Value) -> Result<MediaItem, E> {
    MediaItem::from_json(value.to_string().as_bytes())
}

/// The error after a change of the printed message.
fn changed(pointer: &str, value: Value) -> E {
    let mut message = printed();
    *message.pointer_mut(pointer).unwrap() = value;
    parse(&message).unwrap_err()
}

#[test]
fn a_message_has_the_fields_of_dynamo_in_their_order() {
    let media = media(&[1, 2, 3], Some(image())).unwrap().with_content_hash(0x7a9b_bcb1_1a89_8630);
    let text = serde_json::to_string(&MediaItem::Decoded(Box::new(media.clone()))).unwrap();
    let mut expected = printed();
    let agent = serde_json::to_value(&media).unwrap()["nixl_metadata"].clone();
    *expected.pointer_mut("/Decoded/nixl_metadata").unwrap() = agent;
    assert_eq!(serde_json::from_str::<Value>(&text).unwrap(), expected);
    let order = [
        "nixl_metadata",
        "nixl_descriptor",
        "addr",
        "size",
        "mem_type",
        "device_id",
        "shape",
        "dtype",
        "metadata",
        "Image",
        "format",
        "color_type",
        "layout",
        "content_hash",
    ];
    let places = order.map(|name| text.find(&format!("\"{name}\"")).unwrap());
    assert!(places.is_sorted(), "{text}");
    assert_eq!(MediaItem::from_json(text.as_bytes()), Ok(MediaItem::Decoded(Box::new(media))));

    // What is absent, is absent or null as Dynamo has it; a GPU's memory is named.
    let memory = SerializedDescriptor::new(Device::cuda(3), 4096, 6).unwrap();
    let bare = DecodedMedia::new(agent_of(&text), memory, vec![6], "UINT8".to_owned(), None);
    let value = serde_json::to_value(bare.unwrap()).unwrap();
    assert_eq!(value["metadata"], Value::Null);
    assert!(value.get("content_hash").is_none() && value.get("nixl_offer").is_none());
    assert_eq!(value["nixl_descriptor"]["mem_type"], "Vram");
    assert_eq!(value["nixl_descriptor"]["device_id"], 3);
}

fn agent_of(text: &str) -> AgentMetadata {
    match MediaItem::from_json(text.as_bytes()).unwrap() {
        MediaItem::Decoded(media) => media.agent_metadata().clone(),
        other => panic!("{other:?}"),
    }
}

#[test]
fn items_stand_in_lists_by_the_names_of_their_parts() {
    let message = json!({
        "image_url": [{"Url": "https://example.com/a.png"}, printed(), {"UuidOnly": "17"}],
        "video_url": [],
    });
    let items: BTreeMap<String, Vec<MediaItem>> = serde_json::from_value(message.clone()).unwrap();
    let [MediaItem::Url(_), MediaItem::Decoded(media), MediaItem::UuidOnly(_)] =
        &items["image_url"][..]
    else {
        panic!("{items:?}");
    };
    assert_eq!(media.agent_metadata().inflate(&Limits::default()).unwrap(), "an agent");
    assert_eq!(media.metadata(), Some(&image()));
    assert_eq!(serde_json::to_value(&items).unwrap(), message);
    let shown = format!("{items:?}");
    assert!(!shown.contains("example") && !shown.contains("4096"), "{shown}");
}

#[test]
fn an_offer_of_the_memory_goes_along() {
    let offer = RdmaMetadata::new(
        OperationKind::Read,
        vec![SerializedDescriptor::new(Device::HOST, 4096, 6).unwrap()],
        agent(),
        NotificationKey::random(),
    );
    let offer = offer.unwrap();
    let media = DecodedMedia::of_offer(offer.clone(), vec![6], "UINT8".to_owned(), None).unwrap();
    assert!(offer.was_encoded_without_terms());
    let text = serde_json::to_string(&media).unwrap();
    let received: DecodedMedia = serde_json::from_str(&text).unwrap();
    assert_eq!(received.offer(), Some(&offer));
    assert_eq!(received.to_read().unwrap(), offer);

    // Dynamo's own message has none: its readers make up a key.
    let MediaItem::Decoded(media) = parse(&printed()).unwrap() else { panic!() };
    let (first, second) = (media.to_read().unwrap(), media.to_read().unwrap());
    assert_eq!(first.descriptors(), second.descriptors());
    assert_ne!(first.notification_key(), second.notification_key());

    // It is of this memory, and to be read.
    let mut message = serde_json::to_value(&received).unwrap();
    message["nixl_descriptor"]["addr"] = json!(8192);
    assert_eq!(parse(&json!({"Decoded": message})), Err(E::MediaOffer));
    message["nixl_offer"] = json!("%");
    let error = parse(&json!({"Decoded": message}));
    assert_eq!(error, Err(E::NotBase64 { field: Field::MediaOffer }));
    message["nixl_offer"] = json!("AAAA");
    assert!(parse(&json!({"Decoded": message})).is_err());
    assert_eq!(media.with_offer(minimal()), Err(E::MediaOffer));
}

#[test]
fn hashes_are_those_of_dynamo() {
    // The value of Dynamo's own test.
    let mut whole = ContentHasher::image(&[1, 2, 3]);
    whole.update(&[0, 1, 2, 3, 4, 5]);
    assert_eq!(whole.finish(), 0x7a9b_bcb1_1a89_8630);
    let of_video = |metadata: &VideoMetadata, shape: &[u64], bytes: &[u8]| {
        let mut hasher = ContentHasher::video(shape, metadata);
        bytes.chunks(5).for_each(|piece| hasher.update(piece));
        hasher.finish()
    };
    let bytes: Vec<u8> = (0..12).collect();
    let shape = [2, 1, 2, 3];
    let hash = of_video(&video(vec![0.0, 5.0]), &shape, &bytes);
    // By the formula, written out.
    let json = br#"{"source_fps":24.0,"source_duration":10.0,"sampled_timestamps":[0.0,5.0]}"#;
    let mut input = [&5u64.to_le_bytes()[..], b"video", &4u64.to_le_bytes()].concat();
    input.extend(shape.map(u64::to_le_bytes).concat());
    input.push(0);
    input.extend((json.len() as u64).to_le_bytes());
    input.extend(json);
    input.extend(12u64.to_le_bytes());
    input.extend(&bytes);
    assert_eq!(hash, xxhash_rust::xxh3::xxh3_64(&input));
    assert_ne!(of_video(&video(vec![0.0, 5.1]), &shape, &bytes), hash);
    assert_ne!(of_video(&video(vec![0.0, 5.0]), &[1, 2, 2, 3], &bytes), hash);
}

#[test]
fn fields_of_later_versions_are_skipped_or_kept() {
    let mut message = printed();
    message["Decoded"]["later"] = json!({"a": [1]});
    message["Decoded"]["metadata"] = json!({"Video": {
        "source_fps": 24.0, "source_duration": 10.0, "sampled_timestamps": [0.5],
        "source_total_frames": 240, "frames_indices": [12], "even_later": 1,
    }});
    let item = parse(&message).unwrap();
    let again = serde_json::to_value(&item).unwrap();
    assert_eq!(again["Decoded"]["metadata"]["Video"]["frames_indices"], json!([12]));
    assert_eq!(parse(&again), Ok(item));
}

#[test]
fn kinds_and_layouts_of_later_versions_are_passed_on() {
    for metadata in [
        json!({"Smell": {"notes": [1.5, "smoke"]}}),
        json!({"Image": {"format": null, "color_type": "Rgb8", "layout": "CHW", "tiles": 4}}),
        json!("Silence"),
    ] {
        let mut message = printed();
        message["Decoded"]["metadata"] = metadata.clone();
        let MediaItem::Decoded(media) = parse(&message).unwrap() else { panic!("{message}") };
        assert!(matches!(media.metadata(), Some(MediaMetadata::Other(_))), "{media:?}");
        let passed = serde_json::to_value(MediaItem::Decoded(media)).unwrap();
        assert_eq!(passed["Decoded"]["metadata"], metadata);
    }
}

#[test]
fn messages_that_are_none() {
    let bad = |pointer: &str, value: Value| {
        let error = changed(pointer, value.clone());
        assert!(matches!(error, E::BadMedia { .. }), "{pointer} {value}: {error:?}");
    };
    bad("/Decoded/nixl_descriptor/addr", json!(-1));
    bad("/Decoded/nixl_descriptor/size", json!("6"));
    bad("/Decoded/nixl_descriptor/mem_type", json!("dramatic"));
    bad("/Decoded/nixl_descriptor", json!(null));
    bad("/Decoded/shape", json!([1.5]));
    bad("/Decoded/dtype", json!(8));
    bad("/Decoded/metadata", json!({}));
    bad("/Decoded/metadata", json!({"Smell": {}, "Image": {}}));
    bad("/Decoded/metadata/Image/layout", json!(7));
    bad("/Decoded/metadata/Image/color_type", json!(null));
    bad("/Decoded/metadata", json!({"Video": {}}));
    let deep = (0..17).fold(json!(1), |inside, _| json!([inside]));
    bad("/Decoded/metadata", json!({ "Smell": deep }));
    bad("/Decoded/metadata", json!({ "Smell": vec![0; 5000] }));
    bad("/Decoded", json!([]));
    for json in ["", "{\"Decoded\":{", "{\"Decoded\":"] {
        let error = MediaItem::from_json(json.as_bytes());
        assert_eq!(error, Err(E::Truncated { field: Field::Document }), "{json}");
    }
    assert!(matches!(MediaItem::from_json(b"{]"), Err(E::NotJson { .. })));
    assert!(matches!(MediaItem::from_json(br#"{"Other":"a"}"#), Err(E::BadMedia { .. })));
    let twice = printed().to_string().replace("{\"Decoded\":{", "{\"Decoded\":{\"dtype\":\"U\",");
    assert!(matches!(MediaItem::from_json(twice.as_bytes()), Err(E::BadMedia { .. })));

    assert_eq!(changed("/Decoded/nixl_metadata", json!("b64:%")), E::BadBase64);
    assert_eq!(changed("/Decoded/nixl_descriptor/addr", json!(0)), E::NullPointer { index: 0 });
    assert_eq!(changed("/Decoded/nixl_descriptor/size", json!(0)), E::ZeroSize { index: 0 });
    let wrap = changed("/Decoded/nixl_descriptor/size", json!(u64::MAX));
    assert_eq!(wrap, E::WrapAround { index: 0 });
    let file = changed("/Decoded/nixl_descriptor/mem_type", json!("File"));
    assert_eq!(file, E::MediaMemory { device_id: 0 });
    for hash in ["", "7a9bbcb11a89863", "7a9bbcb11a8986300", "+a9bbcb11a898630", "7a9bbcb11a89863é"]
    {
        assert_eq!(changed("/Decoded/content_hash", json!(hash)), E::BadContentHash, "{hash}");
    }
    let empty = changed("/Decoded/shape", json!([1, 0]));
    assert_eq!(empty, E::TensorSize { axis: 1, size: 0 });
    let huge = changed("/Decoded/shape", json!([u64::MAX, 2]));
    assert_eq!(huge, E::TensorSize { axis: 0, size: u64::MAX });
    let rank = changed("/Decoded/shape", json!(vec![1; 100_000]));
    assert_eq!(rank, E::TensorRank { limit: 64 });
    assert_eq!(changed("/Decoded/dtype", json!("")), E::Empty { field: Field::MediaDtype });
    let long = changed("/Decoded/dtype", json!("U".repeat(33)));
    assert_eq!(long, E::TooLarge { field: Field::MediaDtype, len: 33, limit: 32 });
    let long = changed("/Decoded/metadata/Image/color_type", json!("R".repeat(40)));
    assert_eq!(long, E::TooLarge { field: Field::MediaName, len: 40, limit: 32 });

    let frames = |timestamps: usize| {
        let metadata = MediaMetadata::Video(video(vec![0.5; timestamps]));
        let message = serde_json::to_value(metadata).unwrap();
        changed("/Decoded/metadata", message)
    };
    assert_eq!(frames(2), E::MediaFrames { stated: 2, frames: 1 });
    assert_eq!(frames(100_000), E::MediaFrameLimit { limit: 1 << 16 });
    let infinite = media(&[1], Some(MediaMetadata::Video(video(vec![f64::INFINITY]))));
    assert_eq!(infinite, Err(E::MediaNumber));

    let limits = Limits::default().encoded_bytes(100);
    let error = MediaItem::from_json_with(printed().to_string().as_bytes(), &limits).unwrap_err();
    assert!(matches!(error, E::TooLarge { field: Field::Document, limit: 100, .. }), "{error:?}");
}

#[test]
fn requests_of_embeddings_are_dynamos() {
    let request = EmbeddingsRequest::new(vec![2, 2048], "uint8".to_owned(), minimal()).unwrap();
    let json = serde_json::to_value(&request).unwrap();
    let offer: Value = serde_json::from_str(&minimal().to_dynamo_json()).unwrap();
    let expected = json!({
        "embeddings_shape": [2, 2048], "embedding_dtype_str": "uint8", "serialized_request": offer,
    });
    assert_eq!(json, expected);
    let parse = |json: &Value| EmbeddingsRequest::from_json(json.to_string().as_bytes());
    assert_eq!(parse(&json), Ok(request));
    let changed = |name: &str, value: Value| {
        let mut json = json.clone();
        json[name] = value;
        parse(&json).unwrap_err()
    };
    assert_eq!(changed("embeddings_shape", json!([0])), E::TensorSize { axis: 0, size: 0 });
    let empty = changed("embedding_dtype_str", json!(""));
    assert_eq!(empty, E::Empty { field: Field::MediaDtype });
    let mut write = json["serialized_request"].clone();
    write["operation_kind"] = json!(2);
    assert_eq!(changed("serialized_request", write), E::MediaOffer);
    let path = changed("serialized_request", json!("/tmp/a.safetensors"));
    assert!(matches!(path, E::BadMedia { .. }), "{path:?}");
}

proptest! {
    #[test]
    fn messages_arrive_as_they_were_sent(
        offer in any_metadata(),
        shape in proptest::collection::vec(1..50u64, 0..5),
        hash in proptest::option::of(any::<u64>()),
        along in any::<bool>(),
        timestamps in proptest::collection::vec(-1e9..1e9f64, 1..9),
        is_video in any::<bool>(),
    ) {
        let memory = offer.descriptors()[0];
        prop_assume!(memory.device().kind().as_str() != "xpu");
        let mut shape = shape;
        let metadata = match is_video {
            true => {
                shape.insert(0, timestamps.len() as u64);
                MediaMetadata::Video(video(timestamps))
            }
            false => image(),
        };
        let agent = offer.agent_metadata().clone();
        let media = DecodedMedia::new(agent, memory, shape, "UINT8".to_owned(), Some(metadata));
        let mut media = media.unwrap();
        if along && offer.descriptors().len() == 1 && offer.operation_kind() == OperationKind::Read {
            media = media.with_offer(offer).unwrap();
        }
        if let Some(hash) = hash {
            media = media.with_content_hash(hash);
        }
        let item = MediaItem::Decoded(Box::new(media));
        let json = serde_json::to_string(&item).unwrap();
        prop_assert_eq!(MediaItem::from_json(json.as_bytes()), Ok(item));
        targets::media(json.as_bytes());
    }
}
