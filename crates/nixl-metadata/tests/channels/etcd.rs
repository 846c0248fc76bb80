//! Users of etcd, and requests whose worker has ended.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use axum::http::StatusCode;
use axum::response::IntoResponse as _;
use axum::routing::post;
use axum::{Json, Router};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use nixl_metadata::channel::etcd::EtcdOptions;
use nixl_metadata::channel::{ChannelError, Incarnation, etcd};
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::runtime::Runtime;

use crate::process::{self, Process};
use crate::servers::{Backend as _, Etcd};
use crate::suite::{entry, name, options, soon};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_user_gets_in_also_after_the_server_forgot_its_token() {
    let arguments = |folder: &Path, ports: &[SocketAddr; 2]| process::etcd("http", folder, ports);
    let test = "a_user_gets_in_also_after_the_server_forgot_its_token";
    let Some(mut server) = Process::etcd(test, arguments).await else { return };
    let address = format!("http://{}", server.address());
    for (call, argument) in [
        ("auth/user/add", json!({ "name": "root", "password": "secret" })),
        ("auth/role/add", json!({ "name": "root" })),
        ("auth/user/grant", json!({ "user": "root", "role": "root" })),
        ("auth/enable", json!({})),
    ] {
        self::call(&address, call, &argument).await;
    }
    let connect = |etcd: EtcdOptions| etcd::connect(&address, etcd, options()).unwrap();
    let channel = connect(EtcdOptions::new().user("root", "secret"));
    let first = entry("w", 1, b"entry");
    let published = channel.publish(first.clone()).await.unwrap();
    assert_eq!(channel.fetch(&name("w")).await.unwrap(), first);
    for other in [EtcdOptions::new().user("root", "wrong"), EtcdOptions::new()] {
        let fetched = connect(other).fetch(&name("w")).await.map(drop);
        assert!(matches!(&fetched, Err(ChannelError::Unauthorized { .. })), "{fetched:?}");
    }
    server.kill();
    server.restart().await;
    assert_eq!(channel.fetch(&name("w")).await.unwrap(), first);
    drop(published);
}

/// A call of the gateway, by the test itself.
async fn call(address: &str, call: &str, argument: &Value) -> Value {
    let client = reqwest::Client::builder().no_proxy();
    let client = client.use_preconfigured_tls(crate::tls::client(false)).build().unwrap();
    let sent = client.post(format!("{address}/v3/{call}")).json(argument).send().await.unwrap();
    let (status, text) = (sent.status(), sent.text().await.unwrap());
    assert!(status.is_success(), "{text}");
    serde_json::from_str(&text).unwrap()
}

/// It is not executed twice: a later start of the worker does not get it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_request_whose_worker_ended_with_it_times_out() {
    let test = "a_request_whose_worker_ended_with_it_times_out";
    let Some(etcd) = Etcd::start(test).await else { return };
    let (runtime, w) = (Runtime::new().unwrap(), name("w"));
    let first = etcd.channel_on(&runtime, options()).await;
    let serves = {
        let w = w.clone();
        async move {
            let inbox = first.serve(&w, Incarnation::new(1)).await;
            (first, inbox.unwrap())
        }
    };
    let (_first, mut inbox) = runtime.spawn(serves).await.unwrap();
    let channel = etcd.channel(options()).await;
    let asks = tokio::spawn({
        let (channel, w) = (channel.clone(), w.clone());
        async move { channel.request(&name("me"), &w, "x".into(), Duration::from_secs(4)).await }
    });
    let _taken = soon("the request", inbox.next()).await.unwrap();
    runtime.shutdown_background();
    let mut later = channel.serve(&w, Incarnation::new(2)).await.unwrap();
    let again = tokio::time::timeout(Duration::from_secs(4), later.next()).await;
    assert!(again.is_err(), "{again:?}");
    let reply = asks.await.unwrap();
    assert!(matches!(reply, Err(ChannelError::TimedOut { .. })), "{reply:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn renewals_write_no_value_unless_the_key_is_gone() {
    let Some(etcd) = Etcd::start("renewals_write_no_value_unless_the_key_is_gone").await else {
        return;
    };
    let channel = etcd.channel(options()).await;
    let published = channel.publish(entry("w", 1, b"entry")).await.unwrap();
    let key = STANDARD.encode("nixl/entry/77");
    let (url, of_key) = (etcd.url(), json!({ "key": key }));
    let stored = async || call(&url, "kv/range", &of_key).await["kvs"][0].clone();
    let first = stored().await;
    // Some lives.
    tokio::time::sleep(Duration::from_secs(6)).await;
    assert_eq!(stored().await["mod_revision"], first["mod_revision"]);
    call(&url, "kv/deleterange", &of_key).await;
    soon("the key", async {
        while stored().await["value"] != first["value"] {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    })
    .await;
    drop(published);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_damaged_value_hides_no_other_and_a_full_store_says_so() {
    let test = "a_damaged_value_hides_no_other_and_a_full_store_says_so";
    let arguments = |folder: &Path, ports: &[SocketAddr; 2]| {
        let quota = "--quota-backend-bytes=2000000".to_owned();
        [process::etcd("http", folder, ports), vec![quota]].concat()
    };
    let Some(server) = Process::etcd(test, arguments).await else { return };
    let address = format!("http://{}", server.address());
    let channel = etcd::connect(&address, EtcdOptions::new(), options()).unwrap();
    let _published = channel.publish(entry("w", 1, b"entry")).await.unwrap();
    let key = STANDARD.encode("nixl/entry/78");
    let value = STANDARD.encode("no entry");
    call(&address, "kv/put", &json!({ "key": key, "value": value })).await;
    let listed = channel.list("").await.unwrap();
    assert_eq!(listed.iter().map(|line| line.name().as_str()).collect::<Vec<_>>(), ["w"]);
    // Each replaces the one before, which etcd keeps.
    let full = soon("the end of the room", async {
        for start in 1.. {
            if let Err(error) = channel.publish(entry("y", start, &[7; 500_000])).await {
                return error;
            }
        }
        unreachable!()
    });
    let full = full.await;
    assert!(matches!(full, ChannelError::Full { .. }), "{full:?}");
}

/// Both see the requests until the earlier start learns of its end.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_request_is_executed_once_while_a_later_start_takes_over() {
    const REQUESTS: usize = 50;
    let test = "each_request_is_executed_once_while_a_later_start_takes_over";
    let Some(etcd) = Etcd::start(test).await else { return };
    let (channel, w) = (etcd.channel(options()).await, name("w"));
    let executed = Arc::new(std::sync::Mutex::new(Vec::new()));
    let mut servers = Vec::new();
    for start in [1, 2] {
        let mut inbox = channel.serve(&w, Incarnation::new(start)).await.unwrap();
        let executed = Arc::clone(&executed);
        servers.push(tokio::spawn(async move {
            while let Ok(request) = inbox.next().await {
                executed.lock().unwrap().push(request.payload().to_vec());
                let _late = request.reply("done");
            }
        }));
    }
    let asks = (0..REQUESTS).map(|number| {
        let (channel, w, payload) = (Arc::clone(&channel), w.clone(), number.to_string());
        let within = Duration::from_secs(20);
        tokio::spawn(async move { channel.request(&w, &w, payload.into(), within).await })
    });
    for ask in asks.collect::<Vec<_>>() {
        assert_eq!(&ask.await.unwrap().unwrap()[..], b"done");
    }
    servers.iter().for_each(tokio::task::JoinHandle::abort);
    let mut executed = executed.lock().unwrap().clone();
    assert_eq!(executed.len(), REQUESTS);
    executed.sort();
    executed.dedup();
    assert_eq!(executed.len(), REQUESTS);
}

/// Of an etcd that ends or has no leader, and of a proxy before one that is down.
#[tokio::test]
async fn calls_are_repeated_while_a_server_or_its_proxy_starts() {
    let calls = Arc::new(AtomicUsize::new(0));
    let range = move || {
        let call = calls.fetch_add(1, Ordering::Relaxed);
        async move {
            match [1, 4, 10, 13].get(call) {
                Some(code) => {
                    let failed = Json(json!({ "code": code, "message": "in the middle" }));
                    (StatusCode::INTERNAL_SERVER_ERROR, failed).into_response()
                }
                None if call == 4 => (StatusCode::SERVICE_UNAVAILABLE, "<html>").into_response(),
                None => Json(json!({ "header": { "revision": "1" } })).into_response(),
            }
        }
    };
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = format!("http://{}", listener.local_addr().unwrap());
    let routes = Router::new().route("/v3/kv/range", post(range));
    tokio::spawn(async move { axum::serve(listener, routes).await.unwrap() });
    let channel = etcd::connect(&address, EtcdOptions::new(), options()).unwrap();
    let fetched = channel.fetch(&name("w")).await;
    assert!(matches!(fetched, Err(ChannelError::NotFound { .. })), "{fetched:?}");
}

#[tokio::test]
async fn a_call_that_is_not_answered_is_repeated() {
    let calls = Arc::new(AtomicUsize::new(0));
    let range = move || {
        let is_first = calls.fetch_add(1, Ordering::Relaxed) == 0;
        async move {
            if is_first {
                std::future::pending::<()>().await;
            }
            Json(json!({ "header": { "revision": "1" } }))
        }
    };
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = format!("http://{}", listener.local_addr().unwrap());
    let routes = Router::new().route("/v3/kv/range", post(range));
    tokio::spawn(async move { axum::serve(listener, routes).await.unwrap() });
    let channel = etcd::connect(&address, EtcdOptions::new(), options()).unwrap();
    let fetched = channel.fetch(&name("w")).await;
    assert!(matches!(fetched, Err(ChannelError::NotFound { .. })), "{fetched:?}");
}
