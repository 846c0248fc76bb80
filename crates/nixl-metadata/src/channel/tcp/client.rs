//! The client of a server on a socket.

use std::fmt;
use std::io;
use std::sync::Arc;

use async_trait::async_trait;
use tokio::io::AsyncWriteExt as _;
use tokio::net::{TcpStream, UnixStream};

use super::TcpAddress;
use super::stream::{Stream, read};
use crate::channel::remote::{Messages, Remote, ServerLink};
use crate::channel::shared::Shared;
use crate::channel::wire::OVERHEAD;
use crate::channel::{Channel, ChannelError, ChannelOptions, Exposure};

/// Options of a client. `Debug` shows no key.
#[derive(Clone, Default)]
#[non_exhaustive]
pub struct TcpOptions {
    #[cfg(feature = "channel-tls")]
    tls: Option<Arc<rustls::ClientConfig>>,
}

impl TcpOptions {
    /// Without TLS.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Connects by TLS, to a server whose certificate names the host of the address. A client certificate is part of the
    /// configuration.
    #[cfg(feature = "channel-tls")]
    #[must_use]
    pub fn tls(mut self, config: rustls::ClientConfig) -> Self {
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

impl fmt::Debug for TcpOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TcpOptions").field("is_tls", &self.is_tls()).finish()
    }
}

/// A channel to a [`Server`](super::Server). Each call makes a connection, so the server need not be there yet.
///
/// # Errors
///
/// [`ChannelError::Unsealed`] for another host without TLS, unless it is allowed or the channel seals.
pub fn connect(
    address: impl Into<TcpAddress>,
    tcp: TcpOptions,
    options: ChannelOptions,
) -> Result<Arc<dyn Channel>, ChannelError> {
    let address = address.into();
    let exposure =
        address.host().map_or(Exposure::ThisHost, |host| Exposure::of(host, tcp.is_tls()));
    let limit = options.limit().saturating_add(OVERHEAD);
    let carrier = Socket { place: address.to_string(), address, tcp, limit };
    Shared::channel(Remote::new(carrier), options, exposure)
}

#[derive(Debug)]
struct Socket {
    address: TcpAddress,
    place: String,
    tcp: TcpOptions,
    limit: usize,
}

impl Socket {
    async fn open(&self) -> Result<Box<dyn Stream>, ChannelError> {
        let down = |error: io::Error| ChannelError::down(&self.place, error);
        match &self.address {
            TcpAddress::Unix(path) => Ok(Box::new(UnixStream::connect(path).await.map_err(down)?)),
            TcpAddress::Tcp(address) => {
                let stream = TcpStream::connect(address).await.map_err(down)?;
                stream.set_nodelay(true).map_err(down)?;
                self.secured(stream).await
            }
        }
    }

    #[cfg(feature = "channel-tls")]
    async fn secured(&self, stream: TcpStream) -> Result<Box<dyn Stream>, ChannelError> {
        let Some(config) = &self.tcp.tls else { return Ok(Box::new(stream)) };
        let host = self.address.host().unwrap_or_default();
        let host = host.trim_start_matches('[').trim_end_matches(']').to_owned();
        let name = rustls::pki_types::ServerName::try_from(host)
            .map_err(|error| ChannelError::down(&self.place, error))?;
        let connector = tokio_rustls::TlsConnector::from(Arc::clone(config));
        let stream = connector.connect(name, stream).await.map_err(|error| {
            let cause = error.get_ref().and_then(|cause| cause.downcast_ref::<rustls::Error>());
            let is_refusal = cause.is_some_and(crate::channel::tls::is_of_credentials);
            match is_refusal {
                true => ChannelError::Unauthorized { place: self.place.clone() },
                false => ChannelError::down(&self.place, error),
            }
        })?;
        Ok(Box::new(stream))
    }

    #[cfg(not(feature = "channel-tls"))]
    #[expect(clippy::unused_async, reason = "with TLS it waits")]
    async fn secured(&self, stream: TcpStream) -> Result<Box<dyn Stream>, ChannelError> {
        Ok(Box::new(stream))
    }

    async fn send(&self, message: &[u8]) -> Result<Box<dyn Stream>, ChannelError> {
        let too_large = |_| ChannelError::TooLarge { len: message.len(), limit: u32::MAX as usize };
        let head = u32::try_from(message.len()).map_err(too_large)?.to_le_bytes();
        let mut stream = self.open().await?;
        let lost = |error| ChannelError::lost(&self.place, error);
        stream.write_all(&[&head[..], message].concat()).await.map_err(lost)?;
        stream.flush().await.map_err(lost)?;
        Ok(stream)
    }
}

#[async_trait]
impl ServerLink for Socket {
    fn place(&self) -> &str {
        &self.place
    }

    async fn call(&self, message: Vec<u8>) -> Result<Vec<u8>, ChannelError> {
        let mut stream = self.send(&message).await?;
        read(&mut stream, self.limit, |error| ChannelError::lost(&self.place, error)).await
    }

    async fn stream(&self, message: Vec<u8>) -> Result<Box<dyn Messages>, ChannelError> {
        let stream = self.send(&message).await?;
        Ok(Box::new(Frames { stream, place: self.place.clone(), limit: self.limit }))
    }
}

struct Frames {
    stream: Box<dyn Stream>,
    place: String,
    limit: usize,
}

#[async_trait]
impl Messages for Frames {
    async fn next(&mut self) -> Result<Vec<u8>, ChannelError> {
        read(&mut self.stream, self.limit, |error| ChannelError::lost(&self.place, error)).await
    }
}
