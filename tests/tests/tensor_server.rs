//! The example `tensor_server` as two processes over real NIXL, files that are no good, and a server that lies.
#![allow(clippy::unwrap_used, reason = "a test says so, by failing too")]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use axum::routing::{get, post};
use axum::{Json, Router};
use nixl_tests::{Program, pattern};
use reqwest::Client;
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::net::TcpListener;
use xxhash_rust::xxh3::xxh3_64;

const EXAMPLE: &str = env!("CARGO_BIN_EXE_example-tensor_server");

/// Name, type, shape and bytes of each tensor. None begins at the start of a block.
const TENSORS: [(&str, &str, &[usize], usize); 4] = [
    ("model.embed.weight", "F32", &[300, 70], 84_000),
    ("model.norm.weight", "BF16", &[5], 10),
    ("model.flags", "U8", &[3, 3], 9),
    ("model.odd", "F32", &[2], 8),
];

fn file(folder: &TempDir, tensors: &Value, data: &[u8]) -> PathBuf {
    let mut header = tensors.to_string();
    while !header.len().is_multiple_of(8) {
        header.push(' ');
    }
    let path = folder.path().join("model.safetensors");
    let len = (header.len() as u64).to_le_bytes();
    fs::write(&path, [&len, header.as_bytes(), data].concat()).unwrap();
    path
}

/// The file of these tensors, and what is to be said of each.
fn model(folder: &TempDir) -> (PathBuf, Vec<String>) {
    let (mut header, mut data, mut said) = (json!({}), Vec::new(), Vec::new());
    for (seed, (name, dtype, shape, len)) in (1..).zip(TENSORS) {
        let bytes = pattern(seed, len);
        let offsets = [data.len(), data.len() + len];
        header[name] = json!({ "dtype": dtype, "shape": shape, "data_offsets": offsets });
        said.push(format!("{name} {dtype} {shape:?} {:016x}", xxh3_64(&bytes)));
        data.extend(bytes);
    }
    (file(folder, &header, &data), said)
}

fn serve(path: &Path) -> Program {
    let path = path.to_str().unwrap();
    Program::start(EXAMPLE, &["serve", "--file", path, "--listen", "127.0.0.1:0"], "http://")
}

fn read(from: &str, args: &[&str]) -> Output {
    Command::new(EXAMPLE).args(["read", "--from", from]).args(args).output().unwrap()
}

fn said(from: &str, args: &[&str]) -> Vec<String> {
    let ended = read(from, args);
    assert!(ended.status.success(), "{ended:?}");
    String::from_utf8(ended.stdout).unwrap().lines().map(str::to_owned).collect()
}

fn failed(ended: &Output, saying: &str) {
    let stderr = String::from_utf8_lossy(&ended.stderr);
    assert_eq!(ended.status.code(), Some(1), "{stderr}");
    assert!(stderr.contains(saying) && !stderr.contains("panicked"), "{saying}: {stderr}");
}

#[test]
fn tensors_are_read_by_their_names() {
    let folder = tempfile::tempdir().unwrap();
    let (path, expected) = model(&folder);
    let server = serve(&path);
    let names = TENSORS.map(|(name, ..)| name);
    assert_eq!(said(server.said(), &[]), names);
    // All but the one that the file does not align.
    assert_eq!(said(server.said(), &names[..3]), expected[..3]);
    failed(&read(server.said(), &[names[3]]), "aligned");
    assert_eq!(said(server.said(), &[names[1], names[1]]), [&*expected[1]; 2]);
    failed(&read(server.said(), &["model.none"]), "there is no such tensor");
    failed(&read(server.said(), &["--limit", "83999", names[0]]), "at most 83999");
    let from = server.said().to_owned();
    drop(server);
    failed(&read(&from, &[names[0]]), "the server does not answer");
}

#[test]
fn files_that_are_no_good_are_one_error() {
    let folder = tempfile::tempdir().unwrap();
    let tensor = |shape: &[usize], end: usize| json!({ "a": { "dtype": "F32", "shape": shape, "data_offsets": [0, end] } });
    let raw = |name: &str, bytes: &[u8]| {
        let path = folder.path().join(name);
        fs::write(&path, bytes).unwrap();
        path
    };
    for (path, saying) in [
        (raw("long", &[&(1_u64 << 63).to_le_bytes()[..], b"{}"].concat()), "9223372036854775808"),
        (raw("empty", b""), "ends"),
        (file(&folder, &tensor(&[2, 2], 8), &[0; 8]), "16"),
    ] {
        let path = path.to_str().unwrap();
        let ended = Command::new(EXAMPLE).args(["serve", "--file", path]).output().unwrap();
        failed(&ended, saying);
        assert!(ended.stdout.is_empty(), "{ended:?}");
    }
}

/// A server that passes on another's answers with other shapes.
async fn lies(server: &Program, shape: Value) -> String {
    let from = server.said().to_owned();
    let export = format!("{from}/export");
    let exported = async move || {
        let found = Client::builder().no_proxy().build().unwrap().get(&export).send().await;
        Json(found.unwrap().json::<Value>().await.unwrap())
    };
    let tensor = async move |Json(wanted): Json<Value>| {
        let client = Client::builder().no_proxy().build().unwrap();
        let found = client.post(format!("{from}/tensor")).json(&wanted).send().await;
        let mut granted = found.unwrap().json::<Value>().await.unwrap();
        granted["shape"] = shape.clone();
        Json(granted)
    };
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = format!("http://{}", listener.local_addr().unwrap());
    let routes = Router::new().route("/export", get(exported)).route("/tensor", post(tensor));
    tokio::spawn(async move { axum::serve(listener, routes).await.unwrap() });
    address
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn shapes_that_do_not_fit_are_refused_before_anything_is_read() {
    let folder = tempfile::tempdir().unwrap();
    let server = serve(&model(&folder).0);
    let name = TENSORS[0].0;
    for (shape, saying) in [
        (json!([300, 700]), "does not fit"),
        (json!([1]), "does not fit"),
        (json!([1 << 20, 1 << 20]), "at most"),
        (json!([u64::MAX, 2]), "cannot read"),
        (json!([0]), "cannot read"),
    ] {
        failed(&read(&lies(&server, shape).await, &[name]), saying);
    }
}
