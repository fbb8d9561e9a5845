//! `GET /jobs/{job}/logs`: the log, live or archived; whole, a range of it, or followed until the job ends.

use std::sync::Arc;

use axum::body::Body;
use axum::extract::State;
use axum::response::Response;
use futures::StreamExt as _;
use http::HeaderValue;
use http::header::{ACCEPT_RANGES, CONTENT_DISPOSITION, CONTENT_TYPE, HeaderMap};

use super::ApiState;
use super::access::Asking;
use super::problem::{OVERLOADED, Problem};
use super::query::{Path, Query};
use super::{ranges, results};
use crate::jobs::ByteBody;

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
        // A server that stops ends the stream as the job would: cleanly, at a chunk.
        let body = found.body.take_until(state.stopping().clone().cancelled_owned()).boxed();
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
