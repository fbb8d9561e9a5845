//! `GET /jobs/{job}/logs`: the log, live or archived; whole, a range of it, or followed until the job ends.

use std::sync::Arc;

use axum::body::Body;
use axum::extract::State;
use axum::response::Response;
use bytes::Bytes;
use futures::stream::{self, BoxStream};
use futures::{FutureExt as _, StreamExt as _};
use http::HeaderValue;
use http::header::{ACCEPT_RANGES, CONTENT_DISPOSITION, CONTENT_TYPE, HeaderMap};
use tokio_util::sync::CancellationToken;

use super::ApiState;
use super::access::Asking;
use super::problem::{OVERLOADED, Problem};
use super::query::{Path, Query};
use super::{ranges, results};
use crate::jobs::{ByteBody, Error};

/// Answers a job's log as plain text.
pub(super) async fn log(
    State(state): State<ApiState>,
    asking: Asking,
    Path(id): Path<String>,
    query: Query,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    query.only(&["follow"])?;
    let follow = query.flag("follow")?;
    let mut range = ranges::asked(&headers, None);
    if follow && range.is_some() {
        return Err(Problem::query("follow", "cannot be combined with a Range header"));
    }
    let place = match follow {
        true => Some(
            Arc::clone(state.followers())
                .try_acquire_owned()
                .map_err(|_| Problem::new(OVERLOADED, "as many logs are followed as may be at once"))?,
        ),
        false => None,
    };
    let mut found = state.jobs().log(asking.asker(), &id, range, follow).await?;
    if range.is_some() && found.length.is_none() {
        // A log that still grows: without its length the range cannot be named, and a server may answer the whole instead.
        range = None;
        found = state.jobs().log(asking.asker(), &id, None, false).await?;
    }
    if follow {
        let body = while_serving(found.body, state.stopping().clone());
        found = ByteBody { body, size: None, first: 0, length: None };
    }
    let mut response: Response<Body> = results::bytes_answer(found, range.is_some());
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    headers.insert(CONTENT_DISPOSITION, results::disposition(&format!("{id}-log"), "text/plain"));
    if !follow {
        headers.insert(ACCEPT_RANGES, HeaderValue::from_static("bytes"));
    }
    // Who follows holds a connection for as long as the job runs, and the place with it.
    if let Some(place) = place {
        let held = |body: Body| Body::from_stream(body.into_data_stream().inspect(move |_| _ = &place));
        response = response.map(held);
    }
    Ok(results::sandboxed(response))
}

type Bodies = BoxStream<'static, Result<Bytes, Error>>;

/// A log that is followed until the server stops. Then it breaks off with an error, so that nobody takes it for whole, unless it has just
/// come to its end.
fn while_serving(body: Bodies, stopping: CancellationToken) -> Bodies {
    stream::unfold((Some(body), stopping), async |(body, stopping)| {
        let mut body = body?;
        tokio::select! {
            biased;
            () = stopping.cancelled() => match body.next().now_or_never() {
                Some(None) => None,
                _ => Some((Err(Error::Stopping), (None, stopping))),
            },
            piece = body.next() => piece.map(|piece| (piece, (Some(body), stopping))),
        }
    })
    .boxed()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pieces() -> impl futures::Stream<Item = Result<Bytes, Error>> + Send {
        stream::iter([Ok(Bytes::from_static(b"a"))])
    }

    #[tokio::test]
    async fn a_followed_log_breaks_off_when_the_server_stops() {
        let stopping = CancellationToken::new();
        let mut followed = while_serving(pieces().chain(stream::pending()).boxed(), stopping.clone());
        assert_eq!(followed.next().await.unwrap().unwrap(), "a");
        stopping.cancel();
        assert!(matches!(followed.next().await, Some(Err(Error::Stopping))));
        assert!(followed.next().await.is_none());
    }

    #[tokio::test]
    async fn one_that_has_ended_is_whole() {
        let stopping = CancellationToken::new();
        let mut followed = while_serving(pieces().boxed(), stopping.clone());
        assert_eq!(followed.next().await.unwrap().unwrap(), "a");
        stopping.cancel();
        assert!(followed.next().await.is_none(), "nothing is missing");
    }
}
