//! The client of a hub over HTTP.

use std::fmt;
use std::sync::Arc;

use async_trait::async_trait;
use reqwest::{Client, Response};

use crate::channel::remote::{Messages, Remote, ServerLink};
use crate::channel::request::{HttpOptions, accepted, body, parse, place};
use crate::channel::shared::Shared;
use crate::channel::wire::{Frames, OVERHEAD};
use crate::channel::{Channel, ChannelError, ChannelOptions};

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

#[async_trait]
impl ServerLink for Http {
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
