//! What kinds of failure there are. Each module has an error type of its own; `jobs` maps them to these kinds, and `api` maps
//! the kinds to problem details.

use serde::{Deserialize, Serialize};

/// One thing that is wrong with a request, and where.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Violation {
    /// A JSON pointer (RFC 6901) into the request's body, `/inputs/name` say; empty for the whole of it.
    pub pointer: String,
    /// What is wrong and what is expected, one sentence in lower case without a full stop.
    pub message: String,
}

impl Violation {
    /// A violation at this place.
    #[must_use]
    pub fn new(pointer: impl Into<String>, message: impl Into<String>) -> Self {
        Self { pointer: pointer.into(), message: message.into() }
    }
}

/// The kinds of failure that a client can tell apart: each is one problem type and one HTTP status.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ErrorKind {
    /// No process of this id (404, `no-such-process`).
    NoSuchProcess,
    /// No job of this id (404, `no-such-job`).
    NoSuchJob,
    /// The job was removed (410).
    JobRemoved,
    /// The job has not finished (404, `result-not-ready`).
    ResultNotReady,
    /// The job has no results and will have none (404, `result-not-available`).
    ResultNotAvailable,
    /// The job failed; its results are this error (500).
    JobFailed,
    /// The job has neither log nor receipt (404).
    LogNotAvailable,
    /// The request's body, query or headers are not as they must be (400); carries violations.
    InvalidRequest,
    /// The same Idempotency-Key came with another request (422).
    IdempotencyKeyReused,
    /// A credential is needed, or the one given is wrong (401); carries a challenge.
    Unauthenticated,
    /// The principal may not do this (403).
    Forbidden,
    /// The plan is outside the host's policy (403); the rule is named.
    PolicyViolated,
    /// The request is larger than allowed (413).
    TooLarge,
    /// The range starts behind the end (416).
    RangeNotSatisfiable,
    /// The processor trapped, ran out of its limits or answered nonsense (500).
    ProcessorFailed,
    /// The plan cannot be run by the configured runner (501).
    NotRunnable,
    /// Too much is asked at once (503, with Retry-After).
    Overloaded,
    /// A part that the server depends on is not available (503, with Retry-After).
    Unavailable,
    /// A fault of ours (500); the log has the cause.
    Internal,
}
