//! Problem details (RFC 9457): the one place where a failure gets its type and HTTP status.
//!
//! A handler returns a [`Problem`]; the edge layer logs it once and writes its document, since only the edge knows the request's id,
//! path and `Accept`. The document never holds a cause.

use std::borrow::Cow;
use std::sync::Arc;

use axum::body::Body;
use axum::response::{IntoResponse, Response};
use http::header::{CONTENT_RANGE, CONTENT_TYPE, RETRY_AFTER, WWW_AUTHENTICATE};
use http::{HeaderName, HeaderValue, StatusCode};
use serde_json::{Map, Value, json};

use super::access::CHALLENGE;
use crate::core::{ErrorKind, Violation};
use crate::jobs;

/// A kind of failure: an HTTP status and a URI that does not change.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct ProblemType {
    pub(super) status: StatusCode,
    pub(super) uri: &'static str,
    pub(super) title: &'static str,
}

macro_rules! types {
    ($($name:ident = $status:ident $uri:expr, $title:literal;)*) => {
        $(pub(super) const $name: &ProblemType = &ProblemType { status: StatusCode::$status, uri: $uri, title: $title };)*
        #[cfg(test)]
        const ALL: &[&ProblemType] = &[$($name),*];
    };
}
macro_rules! ogc {
    ($name:literal) => {
        concat!("http://www.opengis.net/def/exceptions/ogcapi-processes-1/1.0/", $name)
    };
}
macro_rules! own {
    ($name:literal) => {
        concat!("urn:vespiary:problem:", $name)
    };
}

types! {
    NO_SUCH_PROCESS = NOT_FOUND ogc!("no-such-process"), "No such process";
    NO_SUCH_JOB = NOT_FOUND ogc!("no-such-job"), "No such job";
    RESULT_NOT_READY = NOT_FOUND ogc!("result-not-ready"), "Result not ready";
    RESULT_NOT_AVAILABLE = NOT_FOUND ogc!("result-not-available"), "Result not available";
    NO_SUCH_OUTPUT = BAD_REQUEST ogc!("no-such-output"), "No such output";
    INVALID_QUERY = BAD_REQUEST ogc!("invalid-query-parameter-value"), "Invalid query parameter";
    JOB_REMOVED = GONE own!("job-removed"), "Job removed";
    JOB_FAILED = INTERNAL_SERVER_ERROR own!("job-failed"), "Job failed";
    LOG_NOT_AVAILABLE = NOT_FOUND own!("log-not-available"), "Log not available";
    INVALID_REQUEST = BAD_REQUEST own!("invalid-request"), "Invalid request";
    IDEMPOTENCY_KEY_REUSED = UNPROCESSABLE_ENTITY own!("idempotency-key-reused"), "Idempotency key reused";
    UNAUTHENTICATED = UNAUTHORIZED own!("unauthenticated"), "Credential needed";
    FORBIDDEN = FORBIDDEN own!("forbidden"), "Forbidden";
    POLICY_VIOLATED = FORBIDDEN own!("policy-violated"), "Outside the policy";
    TOO_LARGE = PAYLOAD_TOO_LARGE own!("too-large"), "Too large";
    RANGE_NOT_SATISFIABLE = RANGE_NOT_SATISFIABLE own!("range-not-satisfiable"), "Range not satisfiable";
    PROCESSOR_FAILED = INTERNAL_SERVER_ERROR own!("processor-failed"), "Processor failed";
    NOT_RUNNABLE = NOT_IMPLEMENTED own!("not-runnable"), "Not runnable here";
    OVERLOADED = SERVICE_UNAVAILABLE own!("overloaded"), "Overloaded";
    UNAVAILABLE = SERVICE_UNAVAILABLE own!("unavailable"), "Unavailable";
    INTERNAL = INTERNAL_SERVER_ERROR own!("internal"), "Internal error";
    NOT_FOUND = NOT_FOUND own!("not-found"), "Nothing here";
    METHOD_NOT_ALLOWED = METHOD_NOT_ALLOWED own!("method-not-allowed"), "Method not allowed";
    NOT_ACCEPTABLE = NOT_ACCEPTABLE own!("not-acceptable"), "Not acceptable";
    UNSUPPORTED_MEDIA_TYPE = UNSUPPORTED_MEDIA_TYPE own!("unsupported-media-type"), "Unsupported media type";
    REQUEST_TIMEOUT = REQUEST_TIMEOUT own!("request-timeout"), "Request not received in time";
    URI_TOO_LONG = URI_TOO_LONG own!("uri-too-long"), "URI too long";
    HEADERS_TOO_LARGE = REQUEST_HEADER_FIELDS_TOO_LARGE own!("headers-too-large"), "Header fields too large";
    NOT_READY = SERVICE_UNAVAILABLE own!("not-ready"), "Not ready";
}

/// The type of a kind of failure of the use cases.
pub(super) fn type_of(kind: ErrorKind) -> &'static ProblemType {
    match kind {
        ErrorKind::NoSuchProcess => NO_SUCH_PROCESS,
        ErrorKind::NoSuchJob => NO_SUCH_JOB,
        ErrorKind::JobRemoved => JOB_REMOVED,
        ErrorKind::ResultNotReady => RESULT_NOT_READY,
        ErrorKind::ResultNotAvailable => RESULT_NOT_AVAILABLE,
        ErrorKind::JobFailed => JOB_FAILED,
        ErrorKind::LogNotAvailable => LOG_NOT_AVAILABLE,
        ErrorKind::InvalidRequest => INVALID_REQUEST,
        ErrorKind::IdempotencyKeyReused => IDEMPOTENCY_KEY_REUSED,
        ErrorKind::Unauthenticated => UNAUTHENTICATED,
        ErrorKind::Forbidden => FORBIDDEN,
        ErrorKind::PolicyViolated => POLICY_VIOLATED,
        ErrorKind::TooLarge => TOO_LARGE,
        ErrorKind::RangeNotSatisfiable => RANGE_NOT_SATISFIABLE,
        ErrorKind::ProcessorFailed => PROCESSOR_FAILED,
        ErrorKind::NotRunnable => NOT_RUNNABLE,
        ErrorKind::Overloaded => OVERLOADED,
        ErrorKind::Unavailable => UNAVAILABLE,
        ErrorKind::Internal => INTERNAL,
    }
}

type Cause = Box<dyn std::error::Error + Send + Sync>;

/// A failure on its way to the edge.
#[derive(Debug)]
pub(super) struct Problem(Box<Parts>);

#[derive(Debug)]
struct Parts {
    kind: &'static ProblemType,
    detail: Cow<'static, str>,
    violations: Vec<Violation>,
    members: Map<String, Value>,
    headers: Vec<(HeaderName, HeaderValue)>,
    cause: Option<Cause>,
}

impl Problem {
    /// A failure of this type; `detail` is for the client.
    pub(super) fn new(kind: &'static ProblemType, detail: impl Into<Cow<'static, str>>) -> Self {
        let mut headers = Vec::new();
        if kind.status == StatusCode::SERVICE_UNAVAILABLE {
            let seconds = if kind == OVERLOADED { "1" } else { "5" };
            headers.push((RETRY_AFTER, HeaderValue::from_static(seconds)));
        }
        if kind == UNAUTHENTICATED {
            headers.push((WWW_AUTHENTICATE, HeaderValue::from_static(CHALLENGE)));
        }
        let detail = detail.into();
        Self(Box::new(Parts { kind, detail, violations: Vec::new(), members: Map::new(), headers, cause: None }))
    }

    /// A query parameter that is not as it must be.
    pub(super) fn query(name: &str, message: &str) -> Self {
        Self::new(INVALID_QUERY, format!("query parameter '{name}': {message}")).member("parameter", json!(name))
    }

    /// The failure that an answer without a document stands for: the framework's own refusals.
    pub(super) fn of_status(status: StatusCode) -> Self {
        match status {
            StatusCode::NOT_FOUND => Self::new(NOT_FOUND, "there is no resource at this path"),
            StatusCode::METHOD_NOT_ALLOWED => Self::new(
                METHOD_NOT_ALLOWED,
                "this resource does not have this method; the Allow header names those it has",
            ),
            StatusCode::PAYLOAD_TOO_LARGE => Self::new(TOO_LARGE, "the request is too large"),
            StatusCode::UNSUPPORTED_MEDIA_TYPE => {
                Self::new(UNSUPPORTED_MEDIA_TYPE, "the request's media type is not supported")
            }
            status if status.is_client_error() => Self::new(INVALID_REQUEST, "the request cannot be understood"),
            _ => Self::new(INTERNAL, "the server failed; the log has the cause under this request's id"),
        }
    }

    /// Sets a header, in place of one of the same name.
    pub(super) fn header(mut self, name: HeaderName, value: HeaderValue) -> Self {
        self.0.headers.retain(|(held, _)| *held != name);
        self.0.headers.push((name, value));
        self
    }

    /// Adds a member to the document.
    pub(super) fn member(mut self, name: &str, value: Value) -> Self {
        self.0.members.insert(name.to_owned(), value);
        self
    }

    /// Keeps the cause for the log.
    pub(super) fn caused_by(mut self, cause: impl Into<Cause>) -> Self {
        self.0.cause = Some(cause.into());
        self
    }

    #[cfg(test)]
    pub(super) fn kind(&self) -> &'static ProblemType {
        self.0.kind
    }
}

impl From<jobs::Error> for Problem {
    fn from(error: jobs::Error) -> Self {
        let mut problem = Self::new(type_of(error.kind()), error.to_string());
        problem.0.violations = error.violations().to_vec();
        match &error {
            jobs::Error::Unauthenticated { challenge } => {
                // A plugin's words: what no header can hold is replaced, not answered without a challenge.
                let value = HeaderValue::from_str(challenge).unwrap_or(HeaderValue::from_static(CHALLENGE));
                problem = problem.header(WWW_AUTHENTICATE, value);
            }
            jobs::Error::RangeNotSatisfiable { size } => {
                if let Ok(value) = HeaderValue::from_str(&format!("bytes */{size}")) {
                    problem = problem.header(CONTENT_RANGE, value);
                }
            }
            jobs::Error::JobFailed { id, reason, exit_code, .. } => {
                problem = problem.member("jobID", json!(id));
                if let Some(reason) = reason {
                    problem = problem.member("reason", json!(reason.as_str()));
                }
                if let Some(code) = exit_code {
                    problem = problem.member("exitCode", json!(code));
                }
            }
            _ => {}
        }
        problem.caused_by(error)
    }
}

/// A problem inside a response that has not reached the edge.
#[derive(Clone)]
struct Pending(Arc<Problem>);

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let mut response = Response::new(Body::empty());
        *response.status_mut() = self.0.kind.status;
        response.extensions_mut().insert(Pending(Arc::new(self)));
        response
    }
}

/// What the edge knows of a request that failed.
pub(super) struct Occurrence<'a> {
    pub(super) request_id: &'a str,
    pub(super) method: &'a http::Method,
    pub(super) path: &'a str,
    /// Whether the client asked for `application/json` and did not name `application/problem+json`.
    pub(super) plain_json: bool,
}

/// Logs a failed answer's problem and writes its document. Headers that the answer has already are kept.
pub(super) fn finish(mut response: Response, at: &Occurrence<'_>) -> Response {
    let problem = response
        .extensions_mut()
        .remove::<Pending>()
        .map_or_else(|| Arc::new(Problem::of_status(response.status())), |pending| pending.0);
    let parts = &problem.0;
    log(parts, at);
    let body = document(parts, at);
    *response.status_mut() = parts.kind.status;
    let headers = response.headers_mut();
    headers.remove(http::header::CONTENT_LENGTH);
    let media_type = if at.plain_json { "application/json" } else { "application/problem+json" };
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(media_type));
    for (name, value) in &parts.headers {
        headers.insert(name.clone(), value.clone());
    }
    response.map(|_| Body::from(body))
}

fn document(parts: &Parts, at: &Occurrence<'_>) -> Vec<u8> {
    let mut document = Map::new();
    document.insert("type".to_owned(), json!(parts.kind.uri));
    document.insert("title".to_owned(), json!(parts.kind.title));
    document.insert("status".to_owned(), json!(parts.kind.status.as_u16()));
    document.insert("detail".to_owned(), json!(parts.detail));
    document.insert("instance".to_owned(), json!(at.path));
    document.insert("requestId".to_owned(), json!(at.request_id));
    if !parts.violations.is_empty() {
        document.insert("violations".to_owned(), json!(parts.violations));
    }
    for (name, value) in &parts.members {
        document.entry(name.clone()).or_insert_with(|| value.clone());
    }
    Value::Object(document).to_string().into_bytes()
}

fn log(parts: &Parts, at: &Occurrence<'_>) {
    let cause = parts.cause.as_deref().map_or_else(String::new, |cause| chain(cause));
    let Occurrence { request_id, method, path, .. } = at;
    let (kind, status) = (parts.kind.uri, parts.kind.status.as_u16());
    let path = path.escape_debug();
    match status {
        500 if parts.kind != JOB_FAILED => {
            tracing::error!(request.id = %request_id, %method, %path, problem = kind, cause, "a request failed: {}", parts.detail);
        }
        503 => {
            tracing::warn!(request.id = %request_id, %method, %path, problem = kind, cause, "a request was put off: {}", parts.detail);
        }
        _ => {
            tracing::debug!(request.id = %request_id, %method, %path, problem = kind, status, "a request was refused: {}", parts.detail);
        }
    }
}

/// An error and its causes in one line.
pub(super) fn chain(error: &(dyn std::error::Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        next = cause.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;
    use crate::core::{EndReason, JobId};

    const KINDS: [ErrorKind; 19] = [
        ErrorKind::NoSuchProcess,
        ErrorKind::NoSuchJob,
        ErrorKind::JobRemoved,
        ErrorKind::ResultNotReady,
        ErrorKind::ResultNotAvailable,
        ErrorKind::JobFailed,
        ErrorKind::LogNotAvailable,
        ErrorKind::InvalidRequest,
        ErrorKind::IdempotencyKeyReused,
        ErrorKind::Unauthenticated,
        ErrorKind::Forbidden,
        ErrorKind::PolicyViolated,
        ErrorKind::TooLarge,
        ErrorKind::RangeNotSatisfiable,
        ErrorKind::ProcessorFailed,
        ErrorKind::NotRunnable,
        ErrorKind::Overloaded,
        ErrorKind::Unavailable,
        ErrorKind::Internal,
    ];

    async fn rendered(problem: impl IntoResponse, plain_json: bool) -> (Response<()>, Value) {
        let at = Occurrence { request_id: "r-1", method: &http::Method::GET, path: "/jobs/\"x", plain_json };
        let (head, body) = finish(problem.into_response(), &at).into_parts();
        let bytes = axum::body::to_bytes(body, 1 << 20).await.unwrap();
        (Response::from_parts(head, ()), serde_json::from_slice(&bytes).unwrap())
    }

    #[test]
    fn every_kind_has_one_type_and_no_type_stands_twice() {
        let types: HashSet<_> = KINDS.iter().map(|kind| type_of(*kind).uri).collect();
        assert_eq!(types.len(), KINDS.len());
        assert_eq!(KINDS.iter().collect::<HashSet<_>>().len(), KINDS.len());
        assert_eq!(ALL.iter().map(|kind| kind.uri).collect::<HashSet<_>>().len(), ALL.len());
        for kind in ALL {
            assert!(kind.status.is_client_error() || kind.status.is_server_error());
        }
    }

    #[test]
    fn the_readme_lists_every_type_under_its_status() {
        let readme = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/../README.md")).unwrap();
        let (_, errors) = readme.split_once("\n## Errors\n").unwrap();
        let (errors, _) = errors.split_once("\n## ").unwrap();
        for kind in ALL {
            let name = kind.uri.rsplit(['/', ':']).next().unwrap();
            let mark = if kind.uri.starts_with("http:") { r"\*" } else { "" };
            let row = errors.lines().find(|row| row.contains(&format!("`{name}`{mark}"))).expect(name);
            assert!(row.split('|').nth(1).unwrap().contains(kind.status.as_str()), "{name} under {}", kind.status);
        }
        assert_eq!(errors.matches(r"\*").count(), ALL.iter().filter(|kind| kind.uri.starts_with("http:")).count());
    }

    #[tokio::test]
    async fn the_document_says_what_and_where_but_not_why_inside() {
        let cause = std::io::Error::other("secret path");
        let problem = Problem::new(type_of(ErrorKind::Unavailable), "the database is not available").caused_by(cause);
        let (head, document) = rendered(problem, false).await;
        assert_eq!(head.status(), 503);
        assert_eq!(head.headers()[RETRY_AFTER], "5");
        assert_eq!(head.headers()[CONTENT_TYPE], "application/problem+json");
        assert_eq!(
            document,
            json!({"type": "urn:vespiary:problem:unavailable", "title": "Unavailable", "status": 503, "requestId": "r-1",
                   "detail": "the database is not available", "instance": "/jobs/\"x"})
        );
    }

    #[tokio::test]
    async fn members_headers_and_media_type_follow_the_error() {
        let id = JobId::new();
        let failed =
            jobs::Error::JobFailed { id, message: "m".into(), reason: Some(EndReason::Error), exit_code: Some(3) };
        let (head, document) = rendered(Problem::from(failed), true).await;
        assert_eq!(head.headers()[CONTENT_TYPE], "application/json");
        assert_eq!((&document["exitCode"], &document["reason"]), (&json!(3), &json!("Error")));

        let invalid = jobs::Error::Invalid(vec![Violation::new("/inputs/name", "is missing")]);
        let (head, document) = rendered(Problem::from(invalid), false).await;
        assert_eq!(head.status(), 400);
        assert_eq!(document["violations"], json!([{"pointer": "/inputs/name", "message": "is missing"}]));

        let (head, _) = rendered(Problem::from(jobs::Error::Unauthenticated { challenge: "a\nb".into() }), false).await;
        assert_eq!(head.headers()[WWW_AUTHENTICATE], CHALLENGE);
        let (head, _) = rendered(Problem::from(jobs::Error::RangeNotSatisfiable { size: 9 }), false).await;
        assert_eq!(
            (head.status().as_u16(), &head.headers()[CONTENT_RANGE]),
            (416, &HeaderValue::from_static("bytes */9"))
        );
        let (head, document) = rendered((StatusCode::METHOD_NOT_ALLOWED, "text"), false).await;
        assert_eq!((head.status().as_u16(), &document["type"]), (405, &json!(METHOD_NOT_ALLOWED.uri)));
    }
}
