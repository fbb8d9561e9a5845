//! `POST /processes/{process}/execution`: at once, or with the results if they come in time (OGC API - Processes 1.0, 7.11).

use axum::body::Body;
use axum::extract::{Request, State};
use axum::response::Response;
use bytes::{Bytes, BytesMut};
use http::header::{CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_TYPE, HeaderMap, LINK, LOCATION};
use http::{HeaderName, HeaderValue, StatusCode};
use http_body_util::{BodyExt as _, LengthLimitError, Limited};

use super::access::{Caller, require, shown_headers};
use super::links::Base;
use super::memory::Room;
use super::prefer::{Mode, Prefer};
use super::problem::{INVALID_REQUEST, Problem, REQUEST_TIMEOUT, TOO_LARGE, UNSUPPORTED_MEDIA_TYPE};
use super::query::{Path, Query};
use super::results::{self, Wish};
use super::status_info::StatusInfo;
use super::{ApiState, json_answer, negotiate, processes};
use crate::core::{Job, JobStatus, Role};
use crate::jobs::{Error, Submission};

const PREFERENCE_APPLIED: HeaderName = HeaderName::from_static("preference-applied");

/// Executes a process, or says what an execution would do (`?dryRun=true`).
pub(super) async fn execute(
    State(state): State<ApiState>,
    Caller(caller): Caller,
    Path(id): Path<String>,
    base: Base,
    query: Query,
    request: Request,
) -> Result<Response, Problem> {
    // A misspelt `dryRun` would be an execution.
    query.only(&["dryRun"])?;
    let offered = state.jobs().offered();
    let found = offered.processes.binary_search_by(|process| process.description.id.as_str().cmp(&id)).ok();
    let process = found.and_then(|at| offered.processes.get(at)).ok_or_else(|| processes::no_such_process(&id))?;
    let modes = process.description.modes;
    let wish = Wish { document: negotiate::format(&query)? };
    let dry_run = query.flag("dryRun")?;
    // Before any of the body is kept in memory. A credential in the inputs gives no role.
    require(&caller, &[Role::Execute])?;
    let (parts, body) = request.into_parts();
    check_type(&parts.headers)?;
    let key = idempotency_key(&parts.headers)?;
    let prefer = Prefer::parse(&parts.headers);
    let Received { bytes, room } = receive(&state, &parts.headers, body).await?;
    let headers = shown_headers(&parts.headers);
    let submission = Submission {
        principal: &caller,
        process_id: &id,
        body: &bytes,
        headers: &headers,
        idempotency_key: key.as_deref(),
    };
    if dry_run {
        return json_answer(StatusCode::OK, &state.jobs().dry_run(submission).await?);
    }
    // What must not end halfway when the client goes away is a task of its own in there.
    let job = state.jobs().submit(submission, room).await?;
    drop(bytes);

    let mode = prefer.mode(modes, state.settings().max_wait());
    let job = match mode {
        Mode::Async => job,
        // A server that stops does not keep its clients waiting: the job goes on.
        Mode::Wait(at_most) => tokio::select! {
            ended = state.jobs().wait(job.clone(), at_most) => ended?,
            () = state.stopping().cancelled() => job,
        },
    };
    let results = if matches!(mode, Mode::Wait(_)) && job.status.is_final() {
        ended(&state, &job, &base, &parts.headers, wish).await?
    } else {
        None
    };
    let is_async = results.is_none();
    let mut response = results.map_or_else(|| accepted(&job, &base), Ok)?;
    if let Some(applied) = prefer.applied(modes, mode, is_async).and_then(|text| HeaderValue::from_str(&text).ok()) {
        response.headers_mut().insert(PREFERENCE_APPLIED, applied);
    }
    Ok(response)
}

/// 201 with the job's status.
fn accepted(job: &Job, base: &Base) -> Result<Response, Problem> {
    let mut response = json_answer(StatusCode::CREATED, &StatusInfo::new(job, base))?;
    if let Ok(location) = HeaderValue::from_str(&base.job(job.id)) {
        response.headers_mut().insert(LOCATION, location);
    }
    Ok(response)
}

/// The results of a job that ended while its client waited, or why there are none. `None` when they cannot be read at this moment: its
/// client must learn of the job all the same, and not execute again.
async fn ended(
    state: &ApiState,
    job: &Job,
    base: &Base,
    headers: &HeaderMap,
    wish: Wish,
) -> Result<Option<Response>, Problem> {
    if job.status == JobStatus::Dismissed {
        return Err(Error::ResultNotAvailable { id: job.id, why: "it was dismissed" }.into());
    }
    let found = match state.jobs().own_results(job.id).await {
        Err(cause) if cause.is_passing() => return Ok(None),
        found => found?,
    };
    let mut response = results::answer(state, found, base, headers, wish).await?;
    let link = HeaderValue::from_str(&format!("<{}>; rel=\"monitor\"", base.job(job.id)));
    if let (true, Ok(link)) = (state.settings().sync_monitor_link, link) {
        response.headers_mut().append(LINK, link);
    }
    Ok(Some(response))
}

/// Refuses bodies that do not say that they are JSON. One that says nothing is taken for it: many programs send it so, and browsers,
/// which let any page do that, are told apart by their `Origin` ([`super::origin`]).
fn check_type(headers: &HeaderMap) -> Result<(), Problem> {
    if let Some(sent) = headers.get(CONTENT_TYPE) {
        let essence = sent.to_str().ok().and_then(|text| text.split(';').next()).map(str::trim);
        if !essence.is_some_and(|essence| essence.eq_ignore_ascii_case("application/json")) {
            return Err(Problem::new(UNSUPPORTED_MEDIA_TYPE, "the body must have the Content-Type application/json"));
        }
    }
    if headers.get(CONTENT_ENCODING).is_some_and(|encoding| encoding != "identity") {
        return Err(Problem::new(UNSUPPORTED_MEDIA_TYPE, "the body must not have a Content-Encoding"));
    }
    Ok(())
}

/// `Idempotency-Key`: 1 to 255 visible ASCII characters.
fn idempotency_key(headers: &HeaderMap) -> Result<Option<String>, Problem> {
    let mut sent = headers.get_all("idempotency-key").iter();
    let Some(key) = sent.next() else { return Ok(None) };
    let visible = (1..=255).contains(&key.len()) && key.as_bytes().iter().all(u8::is_ascii_graphic);
    match key.to_str() {
        Ok(key) if visible && sent.next().is_none() => Ok(Some(key.to_owned())),
        _ => {
            Err(Problem::new(INVALID_REQUEST, "Idempotency-Key must be one value of 1 to 255 visible ASCII characters"))
        }
    }
}

/// A body with its room in memory.
pub(super) struct Received {
    pub(super) bytes: Bytes,
    pub(super) room: Room,
}

/// The whole body, bounded in bytes and time.
pub(super) async fn receive(state: &ApiState, headers: &HeaderMap, body: Body) -> Result<Received, Problem> {
    let limit = state.settings().max_body_bytes();
    let too_large = || Problem::new(TOO_LARGE, format!("the body is too large: at most {limit} bytes are allowed"));
    let declared = headers
        .get(CONTENT_LENGTH)
        .and_then(|length| length.to_str().ok())
        .and_then(|length| length.parse::<u64>().ok());
    if declared.is_some_and(|length| length > limit as u64) {
        return Err(too_large());
    }
    let timeout = state.settings().request_timeout();
    let mut body = Limited::new(body, limit);
    let receiving = async {
        let mut room = state.memory().none();
        let mut bytes = BytesMut::new();
        while let Some(frame) = body.frame().await {
            let frame = frame.map_err(|error| match is_limit(&*error) {
                true => too_large(),
                false => Problem::new(INVALID_REQUEST, "the body ended before it was complete").caused_by(error),
            })?;
            if let Ok(piece) = frame.into_data() {
                room.grow_to((bytes.len() + piece.len()) as u64)?;
                bytes.extend_from_slice(&piece);
            }
        }
        Ok(Received { bytes: bytes.freeze(), room })
    };
    tokio::time::timeout(timeout, receiving).await.unwrap_or_else(|_| {
        Err(Problem::new(REQUEST_TIMEOUT, format!("the body was not received within {} s", timeout.as_secs())))
    })
}

/// Whether the limit is among the causes.
fn is_limit(error: &(dyn std::error::Error + 'static)) -> bool {
    std::iter::successors(Some(error), |error| error.source()).any(|error| error.is::<LengthLimitError>())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(sent: &[(&'static str, &str)]) -> HeaderMap {
        sent.iter()
            .map(|(name, value)| (HeaderName::from_static(name), HeaderValue::from_str(value).unwrap()))
            .collect()
    }

    #[test]
    fn bodies_are_json_or_refused() {
        for good in
            [&[][..], &[("content-type", "Application/JSON; charset=utf-8")], &[("content-encoding", "identity")]]
        {
            assert!(check_type(&headers(good)).is_ok(), "{good:?}");
        }
        for bad in [("content-type", "text/plain"), ("content-type", ""), ("content-encoding", "gzip")] {
            assert_eq!(check_type(&headers(&[bad])).unwrap_err().kind(), UNSUPPORTED_MEDIA_TYPE, "{bad:?}");
        }
    }

    #[test]
    fn a_key_is_one_visible_word() {
        let of = |values: &[(&'static str, &str)]| idempotency_key(&headers(values));
        assert_eq!(of(&[]).unwrap(), None);
        assert_eq!(of(&[("idempotency-key", "\"8e03978e-40d5\"")]).unwrap().as_deref(), Some("\"8e03978e-40d5\""));
        for bad in ["", "a b", &"x".repeat(256)] {
            assert!(of(&[("idempotency-key", bad)]).is_err(), "{bad}");
        }
        assert!(of(&[("idempotency-key", "a"), ("idempotency-key", "b")]).is_err());
    }
}
