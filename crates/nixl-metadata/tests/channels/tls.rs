//! TLS between a client and a server of sockets.

use std::sync::Arc;

use nixl_metadata::channel::tcp::{Server, ServerOptions, TcpOptions};
use nixl_metadata::channel::{ChannelError, Exposure, Hub, tcp};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ClientConfig, RootCertStore, ServerConfig};

use crate::suite::{entry, name, options};

// Of a certification authority whose key was thrown away, for `localhost`, until 2126.
const CA: &[u8] = include_bytes!("data/ca.der");
const CERTIFICATE: &[u8] = include_bytes!("data/cert.der");
const KEY: &[u8] = include_bytes!("data/key.der");

fn provider() -> Arc<rustls::crypto::CryptoProvider> {
    Arc::new(rustls::crypto::ring::default_provider())
}

fn server() -> ServerConfig {
    let key = PrivateKeyDer::try_from(KEY.to_vec()).unwrap();
    let builder = ServerConfig::builder_with_provider(provider());
    let builder = builder.with_safe_default_protocol_versions().unwrap().with_no_client_auth();
    builder.with_single_cert(vec![CertificateDer::from(CERTIFICATE)], key).unwrap()
}

fn client(is_trusted: bool) -> ClientConfig {
    let mut roots = RootCertStore::empty();
    if is_trusted {
        roots.add(CertificateDer::from(CA)).unwrap();
    }
    let builder = ClientConfig::builder_with_provider(provider());
    let builder = builder.with_safe_default_protocol_versions().unwrap();
    builder.with_root_certificates(roots).with_no_client_auth()
}

#[tokio::test]
async fn entries_pass_by_tls_and_a_server_that_is_not_trusted_is_refused() {
    let tls = ServerOptions::new().tls(server());
    // Beyond loopback, unsealed: TLS is enough.
    let server = Server::bind("0.0.0.0:0", Hub::default(), tls, options()).await.unwrap();
    let address = format!("localhost:{}", server.local_addr().unwrap().port());
    let connect = |config| tcp::connect(&*address, TcpOptions::new().tls(config), options());
    let channel = connect(client(true)).unwrap();
    assert_eq!(channel.exposure(), &Exposure::Tls);
    let _published = channel.publish(entry("w", 1, b"x")).await.unwrap();
    assert_eq!(channel.fetch(&name("w")).await.unwrap(), entry("w", 1, b"x"));
    let refused = connect(client(false)).unwrap().fetch(&name("w")).await;
    assert!(matches!(refused, Err(ChannelError::Unauthorized { .. })), "{refused:?}");
}
