//! The router.

use std::convert::Infallible;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::{DefaultBodyLimit, Request, State};
use axum::http::header::AUTHORIZATION;
use axum::http::{HeaderMap, StatusCode};
use axum::middleware::{Next, from_fn_with_state};
use axum::response::{IntoResponse as _, Response};
use axum::routing::post;
use bytes::Bytes;
use futures_util::stream;
use tokio::sync::{Semaphore, mpsc};
use tokio::time::timeout;

use crate::channel::error::Fault;
use crate::channel::service::Service;
use crate::channel::watch::AbortOnDrop;
use crate::channel::wire::{Answer, Call, decode, encode, frame};
use crate::channel::{ChannelError, ChannelOptions, Exposure, Hub};

/// How long a client may take to take each frame of a stream.
const PATIENCE: Duration = Duration::from_secs(10);

/// The most streams of a router.
const STREAMS: usize = 1024;

/// The most calls at one time, each with a message in memory.
const CALLS: usize = 1024;

/// Options of a router. `Debug` shows no token.
#[derive(Clone)]
pub struct RouterOptions {
    exposure: Exposure,
    token: Option<Arc<str>>,
}

impl RouterOptions {
    /// For a server whose connections are of this `exposure`, which the router cannot see. Over [`Exposure::Open`] it passes on sealed
    /// entries and requests alone, unless the channel's options allow that host.
    #[must_use]
    pub const fn new(exposure: Exposure) -> Self {
        Self { exposure, token: None }
    }

    /// Answers only those who have this bearer token.
    #[must_use]
    pub fn token(mut self, token: impl AsRef<str>) -> Self {
        self.token = Some(token.as_ref().into());
        self
    }
}

impl fmt::Debug for RouterOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RouterOptions")
            .field("exposure", &self.exposure)
            .field("has_token", &self.token.is_some())
            .finish()
    }
}

#[derive(Clone)]
struct Shared {
    service: Service,
    token: Option<Arc<str>>,
    streams: Arc<Semaphore>,
    calls: Arc<Semaphore>,
}

/// The routes `/call` and `/stream` of a hub, to be nested in a server of the application's.
pub fn router(hub: Hub, http: RouterOptions, options: ChannelOptions) -> Router {
    let service = Service::new(hub, options, &http.exposure);
    let limit = DefaultBodyLimit::max(service.limit());
    let [streams, calls] = [STREAMS, CALLS].map(|most| Arc::new(Semaphore::new(most)));
    let shared = Shared { service, token: http.token, streams, calls };
    Router::new()
        .route("/call", post(call).layer(from_fn_with_state(shared.clone(), bounded)))
        .route("/stream", post(streamed))
        .layer(limit)
        .layer(from_fn_with_state(shared.clone(), authorized))
        .with_state(shared)
}

async fn authorized(State(shared): State<Shared>, request: Request, next: Next) -> Response {
    let is_allowed =
        shared.token.as_deref().is_none_or(|token| has_token(request.headers(), token));
    if is_allowed { next.run(request).await } else { StatusCode::UNAUTHORIZED.into_response() }
}

/// Takes a call into memory if there are not too many.
async fn bounded(State(shared): State<Shared>, request: Request, next: Next) -> Response {
    match shared.calls.try_acquire() {
        Ok(_permit) => next.run(request).await,
        Err(_) => message(&full("the router's calls")),
    }
}

/// The answer of a router that is full, as a message.
fn full(what: &str) -> Answer {
    Answer::Failed { fault: Fault::of(&ChannelError::Full { what: what.to_owned() }) }
}

/// Compares all bytes, so that the time does not depend on those that are right.
fn has_token(headers: &HeaderMap, token: &str) -> bool {
    let given = headers.get(AUTHORIZATION).map(|value| value.as_bytes());
    let Some(given) = given.and_then(|value| value.strip_prefix(b"Bearer ")) else { return false };
    let differs = given.iter().zip(token.as_bytes()).fold(0, |differs, (a, b)| differs | (a ^ b));
    given.len() == token.len() && differs == 0
}

async fn call(State(shared): State<Shared>, body: Bytes) -> Response {
    let answer = match decode::<Call>(&body, "a call") {
        Ok(call) => shared.service.answer(call).await,
        Err(error) => Answer::Failed { fault: Fault::of(&error) },
    };
    message(&answer)
}

fn message(answer: &Answer) -> Response {
    match encode(answer) {
        Ok(message) => message.into_response(),
        Err(_) => StatusCode::INTERNAL_SERVER_ERROR.into_response(),
    }
}

async fn streamed(State(shared): State<Shared>, body: Bytes) -> Response {
    let Ok(call) = decode::<Call>(&body, "a call") else {
        return StatusCode::BAD_REQUEST.into_response();
    };
    let Ok(permit) = Arc::clone(&shared.streams).try_acquire_owned() else {
        let full = frame(&full("the router's streams"));
        return full
            .map_or(StatusCode::INTERNAL_SERVER_ERROR.into_response(), |f| f.into_response());
    };
    let (frames, mut queue) = mpsc::channel(1);
    let (bounded, body) = mpsc::channel::<Bytes>(1);
    let task = tokio::spawn(async move {
        let _permit = permit;
        let sends = async {
            while let Some(frame) = queue.recv().await {
                // A client that takes nothing would keep its place for ever.
                if !matches!(timeout(PATIENCE, bounded.send(frame)).await, Ok(Ok(()))) {
                    return;
                }
            }
        };
        let streams = async move { shared.service.stream(call, &frames).await };
        tokio::select! {
            () = sends => {}
            () = async { streams.await; std::future::pending().await } => {}
        }
    });
    let state = (body, AbortOnDrop(task.abort_handle()));
    let body = stream::unfold(state, |(mut body, task)| async move {
        let frame = body.recv().await?;
        Some((Ok::<_, Infallible>(frame), (body, task)))
    });
    Body::from_stream(body).into_response()
}
