//! The client.

use std::fmt;
use std::sync::Arc;

use async_trait::async_trait;
use reqwest::{Client, Response, StatusCode, Url};

use crate::channel::remote::{Carrier, Messages, Remote};
use crate::channel::shared::Shared;
use crate::channel::wire::{Frames, OVERHEAD};
use crate::channel::{Channel, ChannelError, ChannelOptions, Exposure};

/// Options of a client. `Debug` shows no token and no key.
#[derive(Clone, Default)]
pub struct HttpOptions {
    token: Option<String>,
    #[cfg(feature = "channel-tls")]
    tls: Option<rustls::ClientConfig>,
}

impl HttpOptions {
    /// Without a token, and without TLS.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Shows this bearer token.
    #[must_use]
    pub fn token(mut self, token: impl Into<String>) -> Self {
        self.token = Some(token.into());
        self
    }

    /// The TLS of `https` addresses. A client certificate is part of the configuration.
    #[cfg(feature = "channel-tls")]
    #[must_use]
    pub fn tls(mut self, config: rustls::ClientConfig) -> Self {
        self.tls = Some(config);
        self
    }

    /// A client, and the exposure of its connections to an address.
    pub(crate) fn client(self, url: &Url) -> Result<(Client, Exposure), ChannelError> {
        let down = |error: reqwest::Error| ChannelError::down(&place(url), error);
        // Redirects would take the metadata elsewhere, and proxies of the environment too.
        let mut client = Client::builder().redirect(reqwest::redirect::Policy::none()).no_proxy();
        if let Some(token) = self.token {
            let mut value = reqwest::header::HeaderValue::try_from(format!("Bearer {token}"))
                .map_err(|_| {
                    ChannelError::refused("the token has characters that HTTP cannot carry")
                })?;
            value.set_sensitive(true);
            client = client
                .default_headers([(reqwest::header::AUTHORIZATION, value)].into_iter().collect());
        }
        let is_tls = url.scheme() == "https";
        #[cfg(feature = "channel-tls")]
        match self.tls {
            Some(config) => client = client.use_preconfigured_tls(config),
            None if is_tls => {
                return Err(ChannelError::refused("an https address needs a TLS configuration"));
            }
            None => client = client.use_preconfigured_tls(crate::channel::tls::none()?),
        }
        #[cfg(not(feature = "channel-tls"))]
        if is_tls {
            return Err(ChannelError::refused("an https address needs the feature `channel-tls`"));
        }
        let exposure = Exposure::of(url.host_str().unwrap_or_default(), is_tls);
        Ok((client.build().map_err(down)?, exposure))
    }
}

impl fmt::Debug for HttpOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HttpOptions")
            .field("has_token", &self.token.is_some())
            .finish_non_exhaustive()
    }
}

/// A channel to the [router](super::router) that is nested at this address, as `http://127.0.0.1:8200/channel`.
///
/// # Errors
///
/// [`ChannelError::Refused`] for a text that is no address, [`ChannelError::Unsealed`] for another host without TLS, unless it is
/// allowed or the channel seals.
pub fn connect(
    base: &str,
    http: HttpOptions,
    options: ChannelOptions,
) -> Result<Arc<dyn Channel>, ChannelError> {
    let base = parse(base)?;
    let (client, exposure) = http.client(&base)?;
    let limit = options.limit().saturating_add(OVERHEAD);
    let carrier = Http { client, place: place(&base), base: base.to_string(), limit };
    Shared::channel(Remote::new(carrier), options, exposure)
}

/// An address of HTTP, without a user and a password, which are no credentials here.
pub(crate) fn parse(text: &str) -> Result<Url, ChannelError> {
    let url = Url::parse(text).ok().filter(|url| {
        matches!(url.scheme(), "http" | "https")
            && url.has_host()
            && url.username().is_empty()
            && url.password().is_none()
    });
    url.ok_or_else(|| {
        ChannelError::refused(
            "the address of a channel is http:// or https://, a host, and no password",
        )
    })
}

/// The address for errors: no query.
pub(crate) fn place(url: &Url) -> String {
    let mut shown = url.clone();
    shown.set_query(None);
    shown.set_fragment(None);
    shown.to_string().trim_end_matches('/').to_owned()
}

struct Http {
    client: Client,
    base: String,
    place: String,
    limit: usize,
}

impl fmt::Debug for Http {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Http").field("place", &self.place).finish_non_exhaustive()
    }
}

impl Http {
    async fn post(&self, route: &str, message: Vec<u8>) -> Result<Response, ChannelError> {
        let url = format!("{}/{route}", self.base.trim_end_matches('/'));
        let sent = self.client.post(url).body(message).send().await;
        accepted(sent, &self.place, self.limit)
    }
}

/// The response to a request, unless it failed or was refused.
pub(crate) fn accepted(
    sent: reqwest::Result<Response>,
    place: &str,
    limit: usize,
) -> Result<Response, ChannelError> {
    let response = match sent {
        Ok(response) => response,
        Err(error) if error.is_connect() => {
            return Err(ChannelError::down(place, error.without_url()));
        }
        Err(error) => return Err(ChannelError::lost(place, error.without_url())),
    };
    match response.status() {
        StatusCode::OK => Ok(response),
        StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => {
            Err(ChannelError::Unauthorized { place: place.to_owned() })
        }
        StatusCode::PAYLOAD_TOO_LARGE => Err(ChannelError::TooLarge { len: limit, limit }),
        StatusCode::SERVICE_UNAVAILABLE => Err(ChannelError::Full { what: place.to_owned() }),
        // Of proxies before a server that is down.
        StatusCode::BAD_GATEWAY | StatusCode::GATEWAY_TIMEOUT => {
            Err(ChannelError::Lost { place: place.to_owned(), source: None })
        }
        status => Err(ChannelError::refused(&format!("{place} answered {status}"))),
    }
}

/// The body of a response, up to a limit.
pub(crate) async fn body(
    mut response: Response,
    place: &str,
    limit: usize,
) -> Result<Vec<u8>, ChannelError> {
    if let Some(len) = response.content_length().filter(|len| *len > limit as u64) {
        return Err(ChannelError::TooLarge {
            len: usize::try_from(len).unwrap_or(usize::MAX),
            limit,
        });
    }
    let mut bytes = Vec::new();
    let lost = |error: reqwest::Error| ChannelError::lost(place, error.without_url());
    while let Some(piece) = response.chunk().await.map_err(lost)? {
        let len = bytes.len() + piece.len();
        if len > limit {
            return Err(ChannelError::TooLarge { len, limit });
        }
        bytes.extend_from_slice(&piece);
    }
    Ok(bytes)
}

#[async_trait]
impl Carrier for Http {
    fn place(&self) -> &str {
        &self.place
    }

    async fn call(&self, message: Vec<u8>) -> Result<Vec<u8>, ChannelError> {
        body(self.post("call", message).await?, &self.place, self.limit).await
    }

    async fn stream(&self, message: Vec<u8>) -> Result<Box<dyn Messages>, ChannelError> {
        let response = self.post("stream", message).await?;
        let (place, limit) = (self.place.clone(), self.limit);
        Ok(Box::new(Pieces { response, frames: Frames::default(), place, limit }))
    }
}

struct Pieces {
    response: Response,
    frames: Frames,
    place: String,
    limit: usize,
}

#[async_trait]
impl Messages for Pieces {
    async fn next(&mut self) -> Result<Vec<u8>, ChannelError> {
        let lost = |error: reqwest::Error| ChannelError::lost(&self.place, error.without_url());
        loop {
            if let Some(message) = self.frames.next(self.limit)? {
                return Ok(message);
            }
            match self.response.chunk().await.map_err(lost)? {
                Some(piece) => self.frames.push(&piece),
                None => return Err(ChannelError::Lost { place: self.place.clone(), source: None }),
            }
        }
    }
}
