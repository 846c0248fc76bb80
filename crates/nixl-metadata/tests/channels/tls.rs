//! TLS of each channel, with the real servers of NATS and etcd.

use std::io;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use axum::serve::Listener;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use nixl_metadata::channel::etcd::EtcdOptions;
use nixl_metadata::channel::http::{HttpOptions, RouterOptions};
use nixl_metadata::channel::nats::NatsOptions;
use nixl_metadata::channel::tcp::{Server, ServerOptions, TcpOptions};
use nixl_metadata::channel::{Channel, ChannelError, Exposure, Hub, etcd, http, nats, tcp};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ClientConfig, RootCertStore, ServerConfig};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

use crate::process::{self, Process};
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

pub(crate) fn client(is_trusted: bool) -> ClientConfig {
    let mut roots = RootCertStore::empty();
    if is_trusted {
        roots.add(CertificateDer::from(CA)).unwrap();
    }
    let builder = ClientConfig::builder_with_provider(provider());
    let builder = builder.with_safe_default_protocol_versions().unwrap();
    builder.with_root_certificates(roots).with_no_client_auth()
}

/// The arguments that name the certificate and its key, in files as servers of other projects take them.
fn files(folder: &Path, arguments: [&str; 2]) -> [String; 2] {
    let pem = |kind: &str, bytes| {
        let text = STANDARD.encode(bytes);
        let lines: Vec<_> = text.as_bytes().chunks(64).map(String::from_utf8_lossy).collect();
        format!("-----BEGIN {kind}-----\n{}\n-----END {kind}-----\n", lines.join("\n"))
    };
    let [certificate, key] = ["cert.pem", "key.pem"].map(|file| folder.join(file));
    std::fs::write(&certificate, pem("CERTIFICATE", CERTIFICATE)).unwrap();
    std::fs::write(&key, pem("PRIVATE KEY", KEY)).unwrap();
    let [of_certificate, of_key] = arguments;
    [format!("{of_certificate}={}", certificate.display()), format!("{of_key}={}", key.display())]
}

/// Entries and requests pass.
async fn passes(channel: &dyn Channel) {
    assert_eq!(channel.exposure(), &Exposure::Tls);
    let first = entry("w", 1, b"x");
    let published = channel.publish(first.clone()).await.unwrap();
    assert_eq!(channel.fetch(first.name()).await.unwrap(), first);
    let mut inbox = channel.serve(first.name(), first.incarnation()).await.unwrap();
    let (me, within) = (name("me"), Duration::from_secs(10));
    let asks = channel.request(&me, first.name(), "ticket?".into(), within);
    let (reply, ()) = tokio::join!(asks, async {
        inbox.next().await.unwrap().reply("ticket").unwrap();
    });
    assert_eq!(&reply.unwrap()[..], b"ticket");
    drop(published);
}

async fn is_refused(channel: &dyn Channel) {
    let refused = channel.fetch(&name("w")).await;
    assert!(matches!(refused, Err(ChannelError::Unauthorized { .. })), "{refused:?}");
}

#[tokio::test]
async fn entries_pass_by_tls_and_a_server_that_is_not_trusted_is_refused() {
    let tls = ServerOptions::new().tls(server());
    // Beyond loopback, unsealed: TLS is enough.
    let server = Server::bind("0.0.0.0:0", Hub::default(), tls, options()).await.unwrap();
    let address = format!("localhost:{}", server.local_addr().unwrap().port());
    let connect = |is_trusted| {
        tcp::connect(&*address, TcpOptions::new().tls(client(is_trusted)), options()).unwrap()
    };
    passes(&*connect(true)).await;
    is_refused(&*connect(false)).await;
}

/// A listener of the application's, with TLS.
struct Secured {
    listener: TcpListener,
    acceptor: TlsAcceptor,
}

impl Listener for Secured {
    type Io = TlsStream<TcpStream>;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (Self::Io, SocketAddr) {
        loop {
            let Ok((stream, peer)) = self.listener.accept().await else { continue };
            if let Ok(stream) = self.acceptor.accept(stream).await {
                return (stream, peer);
            }
        }
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }
}

#[tokio::test]
async fn http_passes_by_tls_and_a_server_that_is_not_trusted_is_refused() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let base = format!("https://localhost:{}/channel", listener.local_addr().unwrap().port());
    let acceptor = TlsAcceptor::from(Arc::new(server()));
    let guarded = RouterOptions::new(Exposure::Tls).token("secret");
    let hub = http::router(Hub::default(), guarded, options());
    let routes = axum::Router::new().nest("/channel", hub);
    tokio::spawn(async move { axum::serve(Secured { listener, acceptor }, routes).await });
    let connect = |token, is_trusted| {
        let http = HttpOptions::new().token(token).tls(client(is_trusted));
        http::connect(&base, http, options()).unwrap()
    };
    passes(&*connect("secret", true)).await;
    is_refused(&*connect("secret", false)).await;
    is_refused(&*connect("other", true)).await;
    let none = http::connect(&base, HttpOptions::new(), options()).map(drop);
    assert!(matches!(none, Err(ChannelError::Refused { .. })), "{none:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nats_passes_by_tls_and_a_server_that_is_not_trusted_is_refused() {
    let arguments = |folder: &Path, ports: &[SocketAddr; 2]| {
        let tls = files(folder, ["--tlscert", "--tlskey"]);
        [process::nats(folder, ports), vec!["--tls".to_owned()], tls.to_vec()].concat()
    };
    let test = "nats_passes_by_tls_and_a_server_that_is_not_trusted_is_refused";
    let Some(server) = Process::nats(test, arguments).await else { return };
    let address = format!("tls://localhost:{}", server.address().port());
    let connect = async |is_trusted| {
        let nats = NatsOptions::new().tls(client(is_trusted));
        let options = options().call_time(Duration::from_secs(3));
        nats::connect(&address, nats, options).await.unwrap()
    };
    passes(&*connect(true).await).await;
    // The library does not tell a certificate from a connection that fails.
    let refused = connect(false).await.fetch(&name("w")).await;
    assert!(matches!(refused, Err(ChannelError::Down { source: Some(_), .. })), "{refused:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn etcd_passes_by_tls_and_a_server_that_is_not_trusted_is_refused() {
    let arguments = |folder: &Path, ports: &[SocketAddr; 2]| {
        let tls = files(folder, ["--cert-file", "--key-file"]);
        [process::etcd("https", folder, ports), tls.to_vec()].concat()
    };
    let test = "etcd_passes_by_tls_and_a_server_that_is_not_trusted_is_refused";
    let Some(server) = Process::etcd(test, arguments).await else { return };
    let address = format!("https://localhost:{}", server.address().port());
    let connect = |is_trusted| {
        let etcd = EtcdOptions::new().tls(client(is_trusted));
        etcd::connect(&address, etcd, options()).unwrap()
    };
    passes(&*connect(true)).await;
    is_refused(&*connect(false)).await;
}

#[tokio::test]
async fn a_server_at_its_limit_of_connections_does_not_refuse_credentials() {
    let tls = ServerOptions::new().tls(server()).connections(0);
    let server = Server::bind("127.0.0.1:0", Hub::default(), tls, options()).await.unwrap();
    let address = format!("localhost:{}", server.local_addr().unwrap().port());
    let channel = tcp::connect(&*address, TcpOptions::new().tls(client(true)), options()).unwrap();
    let error = channel.fetch(&name("w")).await.unwrap_err();
    assert!(matches!(error, ChannelError::Down { .. }), "{error:?}");
}

/// As a proxy or a server that is at its limit.
#[tokio::test]
async fn a_server_that_speaks_no_tls_does_not_refuse_credentials() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let base = format!("https://localhost:{}/", listener.local_addr().unwrap().port());
    tokio::spawn(async move { axum::serve(listener, axum::Router::new()).await });
    let options = || options().call_time(Duration::from_secs(1));
    let http = http::connect(&base, HttpOptions::new().tls(client(true)), options()).unwrap();
    let etcd = etcd::connect(&base, EtcdOptions::new().tls(client(true)), options()).unwrap();
    for channel in [http, etcd] {
        let error = channel.fetch(&name("w")).await.unwrap_err();
        assert!(matches!(error, ChannelError::Down { .. }), "{error:?}");
    }
}
