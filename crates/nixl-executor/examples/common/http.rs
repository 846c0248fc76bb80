//! Bodies of HTTP answers, bounded: the other side chooses their length.

use anyhow::{Context as _, Result, bail};
use reqwest::Response;
use serde::de::DeserializeOwned;

/// The JSON of a successful answer of at most so many bytes. Another answer is an error with its text.
pub(crate) async fn json<T: DeserializeOwned>(response: Response, limit: usize) -> Result<T> {
    let status = response.status();
    let body = body(response, limit).await?;
    if !status.is_success() {
        bail!("{status}: {}", String::from_utf8_lossy(&body));
    }
    serde_json::from_slice(&body).context("the answer is not what was asked for")
}

async fn body(mut response: Response, limit: usize) -> Result<Vec<u8>> {
    let mut body = Vec::new();
    while let Some(piece) = response.chunk().await? {
        if body.len() + piece.len() > limit {
            bail!("the answer is longer than {limit} bytes");
        }
        body.extend_from_slice(&piece);
    }
    Ok(body)
}
