//! The media of the suite, with their servers.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use nixl_metadata::channel::etcd::EtcdOptions;
use nixl_metadata::channel::http::{HttpOptions, RouterOptions};
use nixl_metadata::channel::nats::NatsOptions;
use nixl_metadata::channel::tcp::{Server, ServerOptions, TcpOptions};
use nixl_metadata::channel::{Channel, ChannelOptions, Exposure, Hub, etcd, http, nats, tcp};
use tokio::runtime::Runtime;

use crate::process::{self, Process};
use crate::suite::options;

/// A backend whose server can be stopped and started.
#[async_trait]
pub(crate) trait Backend: Send {
    async fn channel(&self, options: ChannelOptions) -> Arc<dyn Channel>;

    /// A channel whose tasks run on another runtime.
    async fn channel_on(&self, runtime: &Runtime, options: ChannelOptions) -> Arc<dyn Channel>;

    /// Kills the server, if there is one.
    async fn stop(&mut self) -> bool {
        false
    }

    /// Starts it anew at the same address.
    async fn start(&mut self) {}

    /// Whether a worker's later start ends the inbox of the earlier one.
    fn ends_older_inboxes(&self) -> bool {
        true
    }
}

pub(crate) struct InProcess(Hub);

impl InProcess {
    pub(crate) async fn start(_name: &str) -> Option<Self> {
        Some(Self(Hub::default()))
    }
}

#[async_trait]
impl Backend for InProcess {
    async fn channel(&self, options: ChannelOptions) -> Arc<dyn Channel> {
        self.0.channel(options)
    }

    async fn channel_on(&self, _runtime: &Runtime, options: ChannelOptions) -> Arc<dyn Channel> {
        self.0.channel(options)
    }
}

/// A server on TCP or a Unix socket.
pub(crate) struct Socket {
    address: String,
    server: Option<Server>,
    _folder: Option<tempfile::TempDir>,
}

impl Socket {
    pub(crate) async fn tcp(_name: &str) -> Option<Self> {
        Some(Self::at("127.0.0.1:0".to_owned(), None).await)
    }

    pub(crate) async fn unix(_name: &str) -> Option<Self> {
        let folder = tempfile::tempdir().unwrap();
        let address = format!("unix:{}", folder.path().join("hub").display());
        Some(Self::at(address, Some(folder)).await)
    }

    async fn at(address: String, folder: Option<tempfile::TempDir>) -> Self {
        let server = serve(&address).await;
        Self { address: server.address().to_string(), server: Some(server), _folder: folder }
    }
}

async fn serve(address: &str) -> Server {
    let limits = options().max_bytes(1 << 20);
    Server::bind(address, Hub::default(), ServerOptions::new(), limits).await.unwrap()
}

#[async_trait]
impl Backend for Socket {
    async fn channel(&self, options: ChannelOptions) -> Arc<dyn Channel> {
        tcp::connect(&*self.address, TcpOptions::new(), options).unwrap()
    }

    async fn channel_on(&self, _runtime: &Runtime, options: ChannelOptions) -> Arc<dyn Channel> {
        tcp::connect(&*self.address, TcpOptions::new(), options).unwrap()
    }

    async fn stop(&mut self) -> bool {
        self.server = None;
        true
    }

    async fn start(&mut self) {
        // The old listener is closed when its task is dropped.
        let address = self.address.clone();
        self.server = Some(
            bound(|| async {
                let limits = options().max_bytes(1 << 20);
                Server::bind(&*address, Hub::default(), ServerOptions::new(), limits).await.ok()
            })
            .await,
        );
    }
}

async fn bound<T, F: Future<Output = Option<T>>>(bind: impl Fn() -> F) -> T {
    crate::suite::soon("a free address", async {
        loop {
            if let Some(bound) = bind().await {
                return bound;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    })
    .await
}

/// A router in a server of the test's.
pub(crate) struct Http {
    address: SocketAddr,
    server: Option<Runtime>,
}

pub(crate) const TOKEN: &str = "a secret of the test";

impl Http {
    pub(crate) async fn start(_name: &str) -> Option<Self> {
        let mut http = Self { address: "127.0.0.1:0".parse().unwrap(), server: None };
        http.bind().await;
        Some(http)
    }

    async fn bind(&mut self) {
        // A runtime of its own: its end closes all connections, as that of a process does.
        let runtime = Runtime::new().unwrap();
        let address = self.address;
        let listener = bound(|| async move { tokio::net::TcpListener::bind(address).await.ok() });
        let listener = listener.await.into_std().unwrap();
        self.address = listener.local_addr().unwrap();
        runtime.spawn(async move {
            let listener = tokio::net::TcpListener::from_std(listener).unwrap();
            let guarded = RouterOptions::new(Exposure::ThisHost).token(TOKEN);
            let hub = http::router(Hub::default(), guarded, options().max_bytes(1 << 20));
            axum::serve(listener, axum::Router::new().nest("/channel", hub)).await.unwrap();
        });
        self.server = Some(runtime);
    }

    pub(crate) fn url(&self) -> String {
        format!("http://{}/channel", self.address)
    }

    fn connect(&self, options: ChannelOptions) -> Arc<dyn Channel> {
        http::connect(&self.url(), HttpOptions::new().token(TOKEN), options).unwrap()
    }
}

#[async_trait]
impl Backend for Http {
    async fn channel(&self, options: ChannelOptions) -> Arc<dyn Channel> {
        self.connect(options)
    }

    async fn channel_on(&self, _runtime: &Runtime, options: ChannelOptions) -> Arc<dyn Channel> {
        self.connect(options)
    }

    async fn stop(&mut self) -> bool {
        if let Some(server) = self.server.take() {
            server.shutdown_background();
        }
        true
    }

    async fn start(&mut self) {
        self.bind().await;
    }
}

impl Drop for Http {
    fn drop(&mut self) {
        if let Some(server) = self.server.take() {
            server.shutdown_background();
        }
    }
}

pub(crate) struct Nats(Process);

impl Nats {
    pub(crate) async fn start(name: &str) -> Option<Self> {
        let arguments = |folder: &Path, ports: &[SocketAddr; 2]| {
            let user = ["--user", "u", "--pass", TOKEN].map(str::to_owned);
            [process::nats(folder, ports), user.to_vec()].concat()
        };
        Process::nats(name, arguments).await.map(Self)
    }

    pub(crate) async fn without_jetstream(name: &str) -> Option<Self> {
        let arguments = |_: &Path, ports: &[SocketAddr; 2]| {
            let port = ports[0].port().to_string();
            ["--addr", "127.0.0.1", "--port", &port].map(str::to_owned).to_vec()
        };
        Process::nats(name, arguments).await.map(Self)
    }

    pub(crate) fn address(&self) -> String {
        self.0.address().to_string()
    }

    pub(crate) async fn connect(
        &self,
        nats: NatsOptions,
        options: ChannelOptions,
    ) -> Arc<dyn Channel> {
        nats::connect(&format!("nats://{}", self.0.address()), nats, options).await.unwrap()
    }
}

#[async_trait]
impl Backend for Nats {
    async fn channel(&self, options: ChannelOptions) -> Arc<dyn Channel> {
        self.connect(NatsOptions::new().user("u", TOKEN), options).await
    }

    async fn channel_on(&self, runtime: &Runtime, options: ChannelOptions) -> Arc<dyn Channel> {
        let address = format!("nats://{}", self.0.address());
        let connects = async move {
            nats::connect(&address, NatsOptions::new().user("u", TOKEN), options).await.unwrap()
        };
        runtime.spawn(connects).await.unwrap()
    }

    async fn stop(&mut self) -> bool {
        self.0.kill();
        true
    }

    async fn start(&mut self) {
        self.0.restart().await;
    }

    /// Both are asked, and the first reply counts.
    fn ends_older_inboxes(&self) -> bool {
        false
    }
}

pub(crate) struct Etcd(Process);

impl Etcd {
    pub(crate) async fn start(name: &str) -> Option<Self> {
        let arguments =
            |folder: &Path, ports: &[SocketAddr; 2]| process::etcd("http", folder, ports);
        Process::etcd(name, arguments).await.map(Self)
    }

    pub(crate) fn url(&self) -> String {
        format!("http://{}", self.0.address())
    }
}

#[async_trait]
impl Backend for Etcd {
    async fn channel(&self, options: ChannelOptions) -> Arc<dyn Channel> {
        etcd::connect(&self.url(), EtcdOptions::new(), options).unwrap()
    }

    async fn channel_on(&self, _runtime: &Runtime, options: ChannelOptions) -> Arc<dyn Channel> {
        etcd::connect(&self.url(), EtcdOptions::new(), options).unwrap()
    }

    async fn stop(&mut self) -> bool {
        self.0.kill();
        true
    }

    async fn start(&mut self) {
        self.0.restart().await;
    }
}
