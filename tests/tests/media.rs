//! The examples `media_frontend` and `media_worker` as two processes over real NIXL, and input that is no good.
#![allow(clippy::unwrap_used, reason = "a test says so, by failing too")]

use std::io::Cursor;
use std::time::Duration;

use axum::Router;
use axum::routing::post;
use image::{ImageFormat, RgbImage};
use nixl_metadata::media::ContentHasher;
use nixl_tests::{Program, pattern};
use reqwest::{Client, StatusCode};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{mpsc, oneshot};

const FRONTEND: &str = env!("CARGO_BIN_EXE_example-media_frontend");
const WORKER: &str = env!("CARGO_BIN_EXE_example-media_worker");

fn worker(listen: &str) -> Program {
    Program::start(WORKER, &["--listen", listen, "--limit", "4000000"], "http://")
}

fn frontend(worker: &str) -> Program {
    Program::start(FRONTEND, &["--listen", "127.0.0.1:0", "--worker", worker], "http://")
}

fn client() -> Client {
    Client::builder().no_proxy().timeout(Duration::from_secs(30)).build().unwrap()
}

fn image(height: u32, width: u32, seed: u64) -> RgbImage {
    RgbImage::from_raw(width, height, pattern(seed, (height * width * 3) as usize)).unwrap()
}

fn encoded(image: &RgbImage, format: ImageFormat) -> Vec<u8> {
    let mut bytes = Cursor::new(Vec::new());
    image.write_to(&mut bytes, format).unwrap();
    bytes.into_inner()
}

/// What the worker is to say of the pixels.
fn expected(image: &RgbImage) -> Value {
    let shape = [image.height() as u64, image.width() as u64, 3];
    let mut hasher = ContentHasher::image(&shape);
    hasher.update(image.as_raw());
    let sum: u64 = image.as_raw().iter().map(|value| u64::from(*value)).sum();
    let mean = sum as f64 / image.as_raw().len() as f64;
    json!({ "shape": shape, "mean": mean, "hash": format!("{:016x}", hasher.finish()) })
}

async fn upload(frontend: &Program, body: Vec<u8>) -> (StatusCode, String) {
    let response = client().post(format!("{}/images", frontend.said())).body(body).send().await;
    let response = response.unwrap();
    (response.status(), response.text().await.unwrap())
}

async fn passes(frontend: &Program, seed: u64) {
    let image = image(31, 57, seed);
    let (status, answer) = upload(frontend, encoded(&image, ImageFormat::Png)).await;
    assert_eq!(status, StatusCode::OK, "{answer}");
    assert_eq!(serde_json::from_str::<Value>(&answer).unwrap(), expected(&image));
}

#[tokio::test]
async fn the_worker_answers_with_the_statistics_of_the_pixels() {
    let worker = worker("127.0.0.1:0");
    let frontend = frontend(worker.said());
    for (seed, (height, width)) in (1..).zip([(1, 1), (480, 640), (7, 1013)]) {
        let original = image(height, width, seed);
        for format in [ImageFormat::Png, ImageFormat::Jpeg] {
            let body = encoded(&original, format);
            let pixels = image::load_from_memory(&body).unwrap().into_rgb8();
            assert!(format == ImageFormat::Jpeg || pixels == original);
            let (status, answer) = upload(&frontend, body).await;
            assert_eq!(status, StatusCode::OK, "{answer}");
            assert_eq!(serde_json::from_str::<Value>(&answer).unwrap(), expected(&pixels));
        }
    }
}

#[tokio::test]
async fn uploads_that_are_no_images_are_refused_and_others_pass() {
    let worker = worker("127.0.0.1:0");
    let frontend = frontend(worker.said());
    let good = encoded(&image(48, 64, 1), ImageFormat::Png);
    let mut huge = good.clone();
    // The width and the height of a PNG are in its first chunk.
    huge[16..24].copy_from_slice(&[0, 1, 0, 0, 0, 1, 0, 0]);
    let (unprocessable, large) = (StatusCode::UNPROCESSABLE_ENTITY, StatusCode::PAYLOAD_TOO_LARGE);
    for (body, status, saying) in [
        (b"no image".to_vec(), unprocessable, "neither a JPEG nor a PNG"),
        (Vec::new(), unprocessable, "neither a JPEG nor a PNG"),
        (b"GIF89a".to_vec(), unprocessable, "neither a JPEG nor a PNG"),
        (good[..good.len() / 2].to_vec(), unprocessable, "cannot be decoded"),
        (huge, unprocessable, "cannot be decoded"),
        (vec![0; 17 << 20], large, "16 MiB"),
        // Decoded, it is longer than the worker takes.
        (encoded(&RgbImage::new(1200, 1200), ImageFormat::Png), StatusCode::BAD_GATEWAY, "4320000"),
    ] {
        let (found, text) = upload(&frontend, body).await;
        assert_eq!(found, status, "{text}");
        assert!(text.contains(saying), "{text}");
        passes(&frontend, 7).await;
    }
}

/// As many as there are places.
#[tokio::test]
async fn slow_uploads_give_their_places_up() {
    let worker = worker("127.0.0.1:0");
    let frontend = frontend(worker.said());
    let address = frontend.said().strip_prefix("http://").unwrap().to_owned();
    let mut slow = Vec::new();
    for _ in 0..32 {
        let mut stream = TcpStream::connect(&address).await.unwrap();
        let half = b"POST /images HTTP/1.1\r\nHost: test\r\nContent-Length: 1000\r\n\r\nhalf";
        stream.write_all(half).await.unwrap();
        slow.push(stream);
    }
    for mut stream in slow {
        let mut answer = [0; 12];
        let reads = stream.read_exact(&mut answer);
        tokio::time::timeout(Duration::from_secs(60), reads).await.unwrap().unwrap();
        assert_eq!(&answer, b"HTTP/1.1 408");
    }
    passes(&frontend, 3).await;
}

#[tokio::test]
async fn a_worker_that_is_down_is_an_error_until_it_is_up() {
    let first = worker("127.0.0.1:0");
    let frontend = frontend(first.said());
    passes(&frontend, 1).await;
    let address = first.said().strip_prefix("http://").unwrap().to_owned();
    drop(first);
    let (status, text) = upload(&frontend, encoded(&image(5, 5, 1), ImageFormat::Png)).await;
    assert_eq!(status, StatusCode::BAD_GATEWAY, "{text}");
    assert!(text.contains("the worker does not answer"), "{text}");
    let _second = worker(&address);
    passes(&frontend, 2).await;
}

/// A worker of the test's, which holds each message until it is answered.
async fn held() -> (String, mpsc::Receiver<(Value, oneshot::Sender<()>)>) {
    let (sender, held) = mpsc::channel(1);
    let hold = move |axum::Json(item): axum::Json<Value>| async move {
        let (release, released) = oneshot::channel();
        sender.send((item, release)).await.unwrap();
        released.await.unwrap();
        "released"
    };
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = format!("http://{}", listener.local_addr().unwrap());
    let routes = Router::new().route("/items", post(hold));
    tokio::spawn(async move { axum::serve(listener, routes).await.unwrap() });
    (address, held)
}

#[tokio::test]
async fn messages_that_do_not_fit_are_refused_and_others_pass() {
    let (address, mut held) = held().await;
    let (frontend, worker) = (frontend(&address), worker("127.0.0.1:0"));
    let image = image(20, 30, 3);
    let url = format!("{}/images", frontend.said());
    let uploads = client().post(url).body(encoded(&image, ImageFormat::Png)).send();
    let uploads = tokio::spawn(uploads);
    let (item, release) = held.recv().await.unwrap();

    let tell = async |item: &Value| {
        let sent = client().post(format!("{}/items", worker.said())).json(item).send().await;
        let response = sent.unwrap();
        (response.status(), response.text().await.unwrap())
    };
    let changed = |field: &str, value: Value| {
        let mut item = item.clone();
        item["Decoded"][field] = value;
        item
    };
    for (item, status) in [
        (changed("shape", json!([20, 31, 3])), StatusCode::UNPROCESSABLE_ENTITY),
        (changed("dtype", json!("FLOAT16")), StatusCode::UNPROCESSABLE_ENTITY),
        (changed("dtype", json!("NOTHING")), StatusCode::UNPROCESSABLE_ENTITY),
        (changed("shape", json!([1_u64 << 62, 4, 3])), StatusCode::BAD_REQUEST),
        (changed("content_hash", json!("0123456789abcdef")), StatusCode::CONFLICT),
        (json!({ "Url": "http://127.0.0.1/cat.png" }), StatusCode::UNSUPPORTED_MEDIA_TYPE),
        (json!([1, 2]), StatusCode::BAD_REQUEST),
        (json!("x".repeat(2 << 20)), StatusCode::PAYLOAD_TOO_LARGE),
    ] {
        let (found, text) = tell(&item).await;
        assert_eq!(found, status, "{text}");
    }
    drop(frontend);
    let (status, text) = tell(&item).await;
    assert_eq!(status, StatusCode::BAD_GATEWAY, "{text}");
    drop(release);
    assert!(uploads.await.unwrap().is_err(), "its frontend has ended");

    let frontend = self::frontend(worker.said());
    passes(&frontend, 4).await;
}
