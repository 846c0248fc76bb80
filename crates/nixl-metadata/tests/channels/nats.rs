//! Servers of NATS that cannot keep entries or do not accept a client.

use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use async_nats::jetstream;
use nixl_metadata::channel::nats::NatsOptions;
use nixl_metadata::channel::{ChannelError, Incarnation, nats};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;

use crate::process::{self, Process};
use crate::servers::{Backend as _, Nats, TOKEN};
use crate::suite::{entry, name, options, soon};

#[tokio::test]
async fn a_server_without_jetstream_is_named() {
    let test = "a_server_without_jetstream_is_named";
    let Some(server) = Nats::without_jetstream(test).await else { return };
    let channel = server.connect(NatsOptions::new(), options()).await;
    let published = channel.publish(entry("w", 1, b"entry")).await.map(drop);
    let fetched = channel.fetch(&name("w")).await.map(drop);
    for refused in [published, fetched] {
        assert!(
            matches!(&refused, Err(ChannelError::Refused { reason }) if reason.contains("JetStream")),
            "{refused:?}"
        );
    }
}

#[tokio::test]
async fn a_wrong_password_is_unauthorized() {
    let test = "a_wrong_password_is_unauthorized";
    let Some(server) = Nats::start(test).await else { return };
    let channel = server.connect(NatsOptions::new().user("u", "wrong"), options()).await;
    let fetched = channel.fetch(&name("w")).await.map(drop);
    assert!(matches!(&fetched, Err(ChannelError::Unauthorized { .. })), "{fetched:?}");
}

/// A bucket that the test makes, with this age and this size.
async fn bucket(server: &Nats, age: Duration, max_bytes: i64) -> jetstream::kv::Store {
    let client = async_nats::ConnectOptions::new().user_and_password("u".into(), TOKEN.into());
    let context = jetstream::new(client.connect(server.address()).await.unwrap());
    // `create_key_value` asks servers before 2.10 what they do not answer.
    let stream = jetstream::stream::Config {
        name: "KV_nixl".to_owned(),
        subjects: vec!["$KV.nixl.>".to_owned()],
        max_age: age,
        max_bytes,
        max_messages_per_subject: 1,
        discard: jetstream::stream::DiscardPolicy::New,
        allow_rollup: true,
        deny_delete: true,
        allow_direct: true,
        ..Default::default()
    };
    context.create_stream(stream).await.unwrap();
    context.get_key_value("nixl").await.unwrap()
}

#[tokio::test]
async fn a_bucket_that_would_keep_dead_entries_is_refused() {
    let test = "a_bucket_that_would_keep_dead_entries_is_refused";
    for (age, keeps) in [(0, "for ever"), (60, "for 60s")] {
        let Some(server) = Nats::start(test).await else { return };
        bucket(&server, Duration::from_secs(age), -1).await;
        let channel = server.channel(options()).await;
        let published = channel.publish(entry("w", 1, b"entry")).await.map(drop);
        let Err(ChannelError::Refused { reason }) = published else { panic!("{published:?}") };
        assert!(reason.contains(keeps) && reason.contains("TTL"), "{reason}");
    }
}

#[tokio::test]
async fn a_full_bucket_and_a_damaged_value_are_told_apart_from_a_lost_connection() {
    let test = "a_full_bucket_and_a_damaged_value_are_told_apart_from_a_lost_connection";
    let Some(server) = Nats::start(test).await else { return };
    let store = bucket(&server, Duration::from_secs(4), 64 << 10).await;
    let channel = server.channel(options()).await;
    let full = channel.publish(entry("w", 1, &[7; 100 << 10])).await.map(drop);
    assert!(matches!(full, Err(ChannelError::Full { .. })), "{full:?}");
    let _published = channel.publish(entry("w", 1, b"entry")).await.unwrap();
    // One that is no entry, and one of another worker.
    store.put("78", "no entry".into()).await.unwrap();
    let other = store.get("77").await.unwrap().unwrap();
    store.put("79", other).await.unwrap();
    let listed = channel.list("").await.unwrap();
    assert_eq!(listed.iter().map(|line| line.name().as_str()).collect::<Vec<_>>(), ["w"]);
}

/// A server that says this first, and this to each piece that it reads.
async fn fake(greeting: &'static str, answer: &'static str) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = format!("nats://{}", listener.local_addr().unwrap());
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                let mut piece = [0; 4096];
                let _gone = stream.write_all(greeting.as_bytes()).await;
                while stream.read(&mut piece).await.is_ok_and(|len| len > 0) {
                    let _gone = stream.write_all(answer.as_bytes()).await;
                }
            });
        }
    });
    address
}

#[tokio::test]
async fn servers_that_are_slow_or_no_servers_of_nats_are_errors_in_time() {
    const INFO: &str =
        "INFO {\"server_id\":\"a\",\"version\":\"2.9.10\",\"max_payload\":1048576}\r\n";
    for (greeting, answer) in [
        ("", ""),
        (INFO, ""),
        (INFO, "PONG\r\n"),
        (INFO, "-ERR 'Stale Connection'\r\n"),
        (INFO, "PONG\r\nMSG other 7 3\r\nabc\r\n"),
        (INFO, "nonsense\r\n"),
        ("HTTP/1.1 400 Bad Request\r\n\r\n", ""),
    ] {
        let address = fake(greeting, answer).await;
        let hasty = options().call_time(Duration::from_millis(700));
        let channel = nats::connect(&address, NatsOptions::new(), hasty).await.unwrap();
        let (w, within) = (name("w"), Duration::from_millis(700));
        let errors = soon("the errors", async {
            [
                channel.fetch(&w).await.map(drop).unwrap_err(),
                channel.publish(entry("w", 1, b"x")).await.map(drop).unwrap_err(),
                channel.list("").await.map(drop).unwrap_err(),
                channel.request(&w, &w, "x".into(), within).await.map(drop).unwrap_err(),
                channel.watch(&w).await.map(drop).unwrap_err(),
                channel.serve(&w, Incarnation::new(1)).await.map(drop).unwrap_err(),
            ]
        });
        for error in errors.await {
            let is_named = matches!(
                error,
                ChannelError::Down { .. }
                    | ChannelError::Lost { .. }
                    | ChannelError::TimedOut { .. }
            );
            assert!(is_named, "{greeting} {answer}: {error:?}");
        }
    }
}

/// Whether a client with these credentials gets in.
async fn is_let_in(server: &Process, credentials: NatsOptions) -> bool {
    let address = format!("nats://{}", server.address());
    let channel = nats::connect(&address, credentials, options()).await.unwrap();
    match channel.publish(entry("w", 1, b"entry")).await {
        Ok(_) => true,
        Err(ChannelError::Unauthorized { .. }) => false,
        Err(error) => panic!("{error:?}"),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_token_lets_in() {
    let arguments = |folder: &Path, ports: &[SocketAddr; 2]| {
        [process::nats(folder, ports), ["--auth", "secret"].map(str::to_owned).to_vec()].concat()
    };
    let Some(server) = Process::nats("a_token_lets_in", arguments).await else { return };
    assert!(is_let_in(&server, NatsOptions::new().token("secret")).await);
    assert!(!is_let_in(&server, NatsOptions::new().token("other")).await);
    assert!(!is_let_in(&server, NatsOptions::new()).await);
}

// The pair of NATS's documentation.
const NKEY: &str = "UDXU4RCSJNZOIQHZNWXHXORDPRTGNJAHAHFRGZNEEJCPQTT2M7NLCNF4";
const SEED: &str = "SUACSSL3UAHUDXKFSNVUZRF5UHPMWZ6BFDTJ7M6USDXIEDNPPQYYYCU3VY";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_seed_of_an_nkey_lets_in() {
    let arguments = |folder: &Path, ports: &[SocketAddr; 2]| {
        let file = folder.join("nats.conf");
        let users = format!("authorization {{ users = [ {{ nkey: {NKEY} }} ] }}");
        std::fs::write(&file, users).unwrap();
        let file = ["--config".to_owned(), file.display().to_string()];
        [process::nats(folder, ports), file.to_vec()].concat()
    };
    let Some(server) = Process::nats("the_seed_of_an_nkey_lets_in", arguments).await else {
        return;
    };
    assert!(is_let_in(&server, NatsOptions::new().nkey(SEED)).await);
    assert!(!is_let_in(&server, NatsOptions::new().user("u", "p")).await);
}
