//! Servers of NATS that cannot keep entries or do not accept a client.

use std::net::SocketAddr;
use std::path::Path;

use nixl_metadata::channel::nats::NatsOptions;
use nixl_metadata::channel::{ChannelError, nats};

use crate::process::{self, Process};
use crate::servers::Nats;
use crate::suite::{entry, name, options};

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
