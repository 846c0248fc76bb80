//! Servers of NATS that cannot keep entries or do not accept a client.

use nixl_metadata::channel::ChannelError;
use nixl_metadata::channel::nats::NatsOptions;

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
