//! What can go wrong in a use case, and which kind of failure each is. The text of an error is what the client reads; its causes
//! are for the log.

use crate::archive::ArchiveError;
use crate::core::{EndReason, ErrorKind, JobId, JobStatus, PolicyViolation, Violation};
use crate::processor::ProcessorError;
use crate::runner::RunnerError;
use crate::store::StoreError;

/// Why a use case did not do as asked.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// No such process.
    #[error("there is no process '{0}'")]
    NoSuchProcess(String),
    /// No such job.
    #[error("there is no job '{0}'")]
    NoSuchJob(String),
    /// It was removed.
    #[error("job {0} was removed")]
    JobRemoved(JobId),
    /// It has not ended.
    #[error("job {id} has no results yet: it is {status}")]
    ResultNotReady {
        /// Which job.
        id: JobId,
        /// Its status.
        status: JobStatus,
    },
    /// It ended without results.
    #[error("job {id} has no results: {why}")]
    ResultNotAvailable {
        /// Which job.
        id: JobId,
        /// Why.
        why: &'static str,
    },
    /// It failed.
    #[error("job {id} failed: {message}")]
    JobFailed {
        /// Which job.
        id: JobId,
        /// The job's message.
        message: String,
        /// Why it ended.
        reason: Option<EndReason>,
        /// Exit code of the container that decided it.
        exit_code: Option<i32>,
    },
    /// There is neither run nor archived log, or no receipt yet.
    #[error("job {id} has no {what}: {why}")]
    LogNotAvailable {
        /// Which job.
        id: JobId,
        /// `log` or `receipt`.
        what: &'static str,
        /// Why.
        why: &'static str,
    },
    /// The request is not as it must be.
    #[error("the request is not valid")]
    Invalid(Vec<Violation>),
    /// The key belongs to another request.
    #[error("this Idempotency-Key was sent before with another request: send a new key with a new request")]
    IdempotencyKeyReused,
    /// The key's job was removed.
    #[error("job {0}, which this Idempotency-Key has made, was removed: send a new key to execute once more")]
    KeySpent(JobId),
    /// A credential is needed.
    #[error("this needs a valid credential")]
    Unauthenticated {
        /// The `WWW-Authenticate` header.
        challenge: String,
    },
    /// Known, but not allowed.
    #[error("{0}")]
    Forbidden(String),
    /// The plan is outside the policy.
    #[error("the plan is outside the host's policy: {}", .0.iter().map(|broken| format!("{} ({})", broken.message, broken.rule)).collect::<Vec<_>>().join("; "))]
    Policy(Vec<PolicyViolation>),
    /// Larger than allowed.
    #[error("{what} has {bytes} bytes; at most {limit} are allowed")]
    TooLarge {
        /// What is too large.
        what: &'static str,
        /// How large it is.
        bytes: u64,
        /// How large it may be.
        limit: u64,
    },
    /// The processor did not answer as it must.
    #[error("the processor of this process failed: {0}")]
    Processor(#[source] ProcessorError),
    /// The processor's plan makes no sense.
    #[error("the processor of this process made a plan that cannot be run: {}", .0.iter().map(|found| format!("{} at {}", found.message, found.pointer)).collect::<Vec<_>>().join("; "))]
    InvalidPlan(Vec<Violation>),
    /// The runner cannot run such a plan.
    #[error("{0}")]
    NotRunnable(String),
    /// The database failed.
    #[error("the database is not available")]
    Store(#[from] StoreError),
    /// The archive failed.
    #[error("the archive is not available")]
    Archive(#[from] ArchiveError),
    /// The range starts behind the end.
    #[error("the range starts behind the end of {size} bytes")]
    RangeNotSatisfiable {
        /// Bytes that there are.
        size: u64,
    },
    /// The runner failed.
    #[error("the runner is not available")]
    Runner(#[from] RunnerError),
    /// The log could not be taken.
    #[error("the log could not be captured")]
    Capture(#[from] super::capture::CaptureError),
    /// The result could not be kept while it was taken from the log.
    #[error("the result could not be kept")]
    Spool(#[from] super::capture::spool::SpoolError),
    /// Too many requests are being carried out.
    #[error("too many executions are being started at once")]
    Overloaded,
    /// The server stops while it answers.
    #[error("the server stops; ask again")]
    Stopping,
    /// What was asked for was removed.
    #[error("{what} was removed")]
    Removed {
        /// The output or the log.
        what: &'static str,
    },
    /// A task of ours was stopped or panicked.
    #[error("the request could not be carried out")]
    Task(#[source] tokio::task::JoinError),
    /// A value of ours could not be written as JSON.
    #[error("a value could not be written as JSON")]
    Json(#[source] serde_json::Error),
}

impl Error {
    /// The kind of failure, which decides problem type and HTTP status.
    #[must_use]
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::NoSuchProcess(_) => ErrorKind::NoSuchProcess,
            Self::NoSuchJob(_) => ErrorKind::NoSuchJob,
            Self::JobRemoved(_) | Self::KeySpent(_) => ErrorKind::JobRemoved,
            Self::ResultNotReady { .. } => ErrorKind::ResultNotReady,
            Self::ResultNotAvailable { .. } => ErrorKind::ResultNotAvailable,
            Self::JobFailed { .. } => ErrorKind::JobFailed,
            Self::LogNotAvailable { .. } => ErrorKind::LogNotAvailable,
            Self::Invalid(_) => ErrorKind::InvalidRequest,
            Self::IdempotencyKeyReused => ErrorKind::IdempotencyKeyReused,
            Self::Unauthenticated { .. } => ErrorKind::Unauthenticated,
            Self::Forbidden(_) => ErrorKind::Forbidden,
            Self::Policy(_) => ErrorKind::PolicyViolated,
            Self::TooLarge { .. } => ErrorKind::TooLarge,
            Self::Overloaded
            | Self::Processor(ProcessorError::Overloaded { .. })
            | Self::Store(StoreError::Overloaded) => ErrorKind::Overloaded,
            Self::Removed { .. } => ErrorKind::ResultNotAvailable,
            Self::Processor(_) | Self::InvalidPlan(_) => ErrorKind::ProcessorFailed,
            Self::NotRunnable(_) => ErrorKind::NotRunnable,
            Self::RangeNotSatisfiable { .. } => ErrorKind::RangeNotSatisfiable,
            Self::Store(StoreError::Unavailable(_) | StoreError::Timeout(_) | StoreError::Unconfirmed(_)) => {
                ErrorKind::Unavailable
            }
            Self::Archive(ArchiveError::Unavailable(_) | ArchiveError::Timeout(_)) | Self::Stopping => {
                ErrorKind::Unavailable
            }
            Self::Runner(RunnerError::Unavailable { .. }) => ErrorKind::Unavailable,
            Self::Store(_)
            | Self::Archive(_)
            | Self::Runner(_)
            | Self::Capture(_)
            | Self::Spool(_)
            | Self::Task(_)
            | Self::Json(_) => ErrorKind::Internal,
        }
    }

    /// Whether the same may work in a moment.
    #[must_use]
    pub fn is_passing(&self) -> bool {
        matches!(self.kind(), ErrorKind::Unavailable | ErrorKind::Overloaded)
    }

    /// What is wrong with the request, place by place.
    #[must_use]
    pub fn violations(&self) -> &[Violation] {
        match self {
            Self::Invalid(violations) => violations,
            _ => &[],
        }
    }
}
