//! `/healthz`, `/readyz` and `/metrics`: how the server is, for those who run it.

use std::sync::atomic::Ordering;

use axum::body::Body;
use axum::extract::State;
use axum::response::Response;
use http::header::CONTENT_TYPE;
use http::{HeaderValue, StatusCode};
use serde_json::{Value, json};

use super::access::{Caller, require};
use super::problem::{NOT_READY, Problem};
use super::query::Query;
use super::{ApiState, json_answer};
use crate::core::Role;
use crate::jobs::Jobs;

/// The parameter that names parts which do not count.
const EXCLUDE: &str = "exclude";

/// Says what the metrics of this module are.
pub(super) fn describe_metrics() {
    metrics::describe_counter!("vespiary_http_requests_total", "Requests answered, by route, method and status");
    metrics::describe_histogram!(
        "vespiary_http_request_seconds",
        metrics::Unit::Seconds,
        "Time to the head of an answer"
    );
    metrics::describe_gauge!("vespiary_http_requests_in_flight", "Requests that are being answered");
    metrics::describe_gauge!(
        "vespiary_launches",
        "Jobs that this server writes and launches at this moment, each for the first time"
    );
}

/// `GET /healthz`: the process runs and answers. Needs no credential and asks nobody.
pub(super) async fn alive() -> Result<Response, Problem> {
    json_answer(StatusCode::OK, &json!({ "status": "ok" }))
}

/// `GET /readyz`: whether every part works now, and which one does not; as at the API server of Kubernetes, `exclude=PART` leaves one out.
/// Needs no credential.
pub(super) async fn ready(State(state): State<ApiState>, query: Query) -> Result<Response, Problem> {
    query.only(&[EXCLUDE])?;
    let excluded = excluded(&query)?;
    let mut parts =
        vec![("server", if state.stopping().is_cancelled() { Err("it is stopping".to_owned()) } else { Ok(()) })];
    parts.extend(state.jobs().readiness(&excluded).await);
    readiness(&parts)
}

/// The parts that are not asked. A name that is none would leave out nothing, unnoticed.
fn excluded(query: &Query) -> Result<Vec<&str>, Problem> {
    let names = query.list(EXCLUDE)?;
    match names.iter().all(|name| Jobs::PARTS.contains(name)) {
        true => Ok(names),
        false => Err(Problem::query(EXCLUDE, &format!("must be of {}", Jobs::PARTS.join(", ")))),
    }
}

fn readiness(parts: &[(&'static str, Result<(), String>)]) -> Result<Response, Problem> {
    let shown: Vec<Value> = parts
        .iter()
        .map(|(name, state)| match state {
            Ok(()) => json!({ "name": name, "ready": true }),
            Err(reason) => json!({ "name": name, "ready": false, "reason": reason }),
        })
        .collect();
    let failing: Vec<&str> = parts.iter().filter(|(_, state)| state.is_err()).map(|(name, _)| *name).collect();
    if failing.is_empty() {
        return json_answer(StatusCode::OK, &json!({ "status": "ready", "parts": shown }));
    }
    Err(Problem::new(NOT_READY, format!("not ready: {}", failing.join(", "))).member("parts", Value::Array(shown)))
}

/// `GET /metrics`: Prometheus text. Needs the role `read`.
pub(super) async fn metrics(State(state): State<ApiState>, Caller(caller): Caller) -> Result<Response, Problem> {
    require(&caller, &[Role::Read])?;
    #[allow(clippy::cast_precision_loss, reason = "a count of requests in flight is far below 2^52")]
    metrics::gauge!("vespiary_http_requests_in_flight").set(state.in_flight().load(Ordering::Relaxed) as f64);
    #[allow(clippy::cast_precision_loss, reason = "a count of jobs")]
    metrics::gauge!("vespiary_launches").set(state.jobs().launches() as f64);
    let mut response = Response::new(Body::from(state.metrics().render()));
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("text/plain; version=0.0.4; charset=utf-8"));
    Ok(response)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_part_that_fails_is_named() {
        assert_eq!(readiness(&[("store", Ok(()))]).unwrap().status(), 200);
        let problem = readiness(&[("store", Ok(())), ("archive", Err("read-only".to_owned()))]).unwrap_err();
        assert_eq!(problem.kind(), NOT_READY);
        assert!(format!("{problem:?}").contains("not ready: archive"));
    }

    #[test]
    fn only_parts_that_there_are_can_be_left_out() {
        let parse = |query: &str| Query::parse(query).unwrap();
        assert_eq!(excluded(&parse("exclude=archive&exclude=runner")).unwrap(), ["archive", "runner"]);
        assert_eq!(excluded(&parse("")).unwrap(), Vec::<&str>::new());
        assert!(excluded(&parse("exclude=archives")).is_err() && excluded(&parse("exclude=server")).is_err());
    }
}
