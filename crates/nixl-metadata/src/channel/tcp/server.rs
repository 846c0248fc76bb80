//! A server of a hub on a socket.

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, UnixListener, UnixStream};
use tokio::sync::{Semaphore, mpsc};
use tokio::time::timeout;

use super::TcpAddress;
use super::stream::{Stream, read};
use crate::channel::error::Fault;
use crate::channel::service::Service;
use crate::channel::watch::AbortOnDrop;
use crate::channel::wire::{Answer, Call, decode, frame};
use crate::channel::{ChannelError, ChannelOptions, Exposure, Hub};

/// How long a client may take to send its call, and to take each frame of the answer.
const PATIENCE: Duration = Duration::from_secs(10);

/// Options of a server. `Debug` shows no key.
#[derive(Clone)]
pub struct ServerOptions {
    connections: usize,
    #[cfg(feature = "channel-tls")]
    tls: Option<Arc<rustls::ServerConfig>>,
}

impl Default for ServerOptions {
    fn default() -> Self {
        Self {
            connections: 1024,
            #[cfg(feature = "channel-tls")]
            tls: None,
        }
    }
}

impl ServerOptions {
    /// At most 1,024 connections, without TLS.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Sets the most connections; calls on further ones fail with [`ChannelError::Full`].
    #[must_use]
    pub const fn connections(mut self, connections: usize) -> Self {
        self.connections = connections;
        self
    }

    /// Serves TLS on TCP. Certificates of clients are part of the configuration.
    #[cfg(feature = "channel-tls")]
    #[must_use]
    pub fn tls(mut self, config: rustls::ServerConfig) -> Self {
        self.tls = Some(Arc::new(config));
        self
    }

    const fn is_tls(&self) -> bool {
        #[cfg(feature = "channel-tls")]
        return self.tls.is_some();
        #[cfg(not(feature = "channel-tls"))]
        false
    }
}

impl fmt::Debug for ServerOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ServerOptions")
            .field("connections", &self.connections)
            .field("is_tls", &self.is_tls())
            .finish()
    }
}

/// A server of a hub, until it is dropped.
#[derive(Debug)]
pub struct Server {
    address: TcpAddress,
    _task: AbortOnDrop,
}

impl Server {
    /// Listens at an address and serves a hub there; port 0 takes a free one. A Unix socket that is there already, and has no
    /// server, is replaced.
    ///
    /// A server without TLS that listens beyond loopback passes on sealed entries and requests alone, unless `options` allow its
    /// host.
    ///
    /// # Errors
    ///
    /// [`ChannelError::Down`] if it cannot listen there.
    pub async fn bind(
        address: impl Into<TcpAddress>,
        hub: Hub,
        server: ServerOptions,
        options: ChannelOptions,
    ) -> Result<Self, ChannelError> {
        let address = address.into();
        let down = |error: io::Error| ChannelError::down(&address.to_string(), error);
        let (listener, bound) = match &address {
            TcpAddress::Tcp(at) => {
                let listener = TcpListener::bind(at).await.map_err(down)?;
                let bound = listener.local_addr().map_err(down)?;
                (Listener::Tcp(listener), TcpAddress::Tcp(bound.to_string()))
            }
            TcpAddress::Unix(path) => {
                remove_dead_socket(path).await;
                (Listener::Unix(UnixListener::bind(path).map_err(down)?), address.clone())
            }
        };
        let exposure =
            bound.host().map_or(Exposure::ThisHost, |host| Exposure::of(host, server.is_tls()));
        let service = Service::new(hub, options, &exposure);
        let task = tokio::spawn(accept(listener, service, server)).abort_handle();
        Ok(Self { address: bound, _task: AbortOnDrop(task) })
    }

    /// Where it listens.
    #[must_use]
    pub const fn address(&self) -> &TcpAddress {
        &self.address
    }

    /// Its TCP address.
    #[must_use]
    pub fn local_addr(&self) -> Option<SocketAddr> {
        match &self.address {
            TcpAddress::Tcp(address) => address.parse().ok(),
            TcpAddress::Unix(_) => None,
        }
    }
}

enum Listener {
    Tcp(TcpListener),
    Unix(UnixListener),
}

/// Removes the socket of a server that was killed. Other files, and sockets with a listener, are left for `bind` to refuse.
async fn remove_dead_socket(path: &Path) {
    use std::os::unix::fs::FileTypeExt as _;
    let is_socket = std::fs::symlink_metadata(path).is_ok_and(|file| file.file_type().is_socket());
    if !is_socket {
        return;
    }
    if let Err(error) = UnixStream::connect(path).await
        && error.kind() == io::ErrorKind::ConnectionRefused
    {
        let _absent = std::fs::remove_file(path);
    }
}

impl Listener {
    async fn accept(&self) -> io::Result<Box<dyn Stream>> {
        match self {
            Self::Tcp(listener) => {
                let (stream, _) = listener.accept().await?;
                stream.set_nodelay(true)?;
                Ok(Box::new(stream))
            }
            Self::Unix(listener) => Ok(Box::new(listener.accept().await?.0)),
        }
    }
}

async fn accept(listener: Listener, service: Service, options: ServerOptions) {
    let free = Arc::new(Semaphore::new(options.connections.min(Semaphore::MAX_PERMITS)));
    let is_tcp = matches!(listener, Listener::Tcp(_));
    // Connections end with the server.
    let mut connections = tokio::task::JoinSet::new();
    loop {
        while connections.try_join_next().is_some() {}
        let Ok(stream) = listener.accept().await else {
            // Of one connection, or for want of descriptors.
            tokio::time::sleep(Duration::from_millis(10)).await;
            continue;
        };
        let permit = Arc::clone(&free).try_acquire_owned();
        let (service, options) = (service.clone(), options.clone());
        let Ok(permit) = permit else {
            // A client that expects TLS would take a message in the clear for an attack.
            if is_tcp && options.is_tls() {
                continue;
            }
            let full = ChannelError::Full { what: "the server".to_owned() };
            let full = Answer::Failed { fault: Fault::of(&full) };
            let mut stream = stream;
            connections.spawn(async move {
                let _gone = timeout(ALMOST_NONE, write(&mut stream, &full)).await;
            });
            continue;
        };
        connections.spawn(async move {
            let _permit = permit;
            let secured =
                async { if is_tcp { secure(stream, &options).await } else { Ok(stream) } };
            if let Ok(Ok(stream)) = timeout(PATIENCE, secured).await {
                serve(stream, service).await;
            }
        });
    }
}

/// How long a client that is one too many has for its answer.
const ALMOST_NONE: Duration = Duration::from_millis(100);

#[cfg(feature = "channel-tls")]
async fn secure(stream: Box<dyn Stream>, options: &ServerOptions) -> io::Result<Box<dyn Stream>> {
    let Some(config) = &options.tls else { return Ok(stream) };
    Ok(Box::new(tokio_rustls::TlsAcceptor::from(Arc::clone(config)).accept(stream).await?))
}

#[cfg(not(feature = "channel-tls"))]
#[expect(clippy::unused_async, reason = "with TLS it waits")]
async fn secure(stream: Box<dyn Stream>, _options: &ServerOptions) -> io::Result<Box<dyn Stream>> {
    Ok(stream)
}

async fn write(stream: &mut Box<dyn Stream>, answer: &Answer) -> Result<(), ChannelError> {
    let lost = |error| ChannelError::lost("the client", error);
    stream.write_all(&frame(answer)?).await.map_err(lost)?;
    stream.flush().await.map_err(lost)
}

/// Answers the call of a connection.
async fn serve(mut stream: Box<dyn Stream>, service: Service) {
    let lost = |error| ChannelError::lost("the client", error);
    let call = match timeout(PATIENCE, read(&mut stream, service.limit(), lost)).await {
        Ok(Ok(message)) => decode::<Call>(&message, "a call"),
        Ok(Err(error)) => Err(error),
        Err(_) => return,
    };
    let call = match call {
        Ok(call) => call,
        Err(error) => {
            let failed = Answer::Failed { fault: Fault::of(&error) };
            let _gone = timeout(PATIENCE, write(&mut stream, &failed)).await;
            return;
        }
    };
    if !matches!(call, Call::Follow { .. } | Call::Serve { .. }) {
        // A client sends one call, and its end by going away.
        let mut more = [0];
        let answer = tokio::select! {
            answer = service.answer(call) => answer,
            _gone = stream.read(&mut more) => return,
        };
        let _gone = timeout(PATIENCE, write(&mut stream, &answer)).await;
        return;
    }
    let (frames, mut queue) = mpsc::channel::<Bytes>(4);
    let sends = async {
        while let Some(frame) = queue.recv().await {
            let sent = async {
                stream.write_all(&frame).await?;
                stream.flush().await
            };
            if !matches!(timeout(PATIENCE, sent).await, Ok(Ok(()))) {
                return;
            }
        }
    };
    let streams = async move {
        service.stream(call, &frames).await;
    };
    // `streams` drops its end of the queue, which `sends` empties first.
    tokio::select! {
        () = sends => {}
        () = async { streams.await; std::future::pending().await } => {}
    }
}
