//! How a job ended: the run's exit, the captured log, the outputs, and the final record made of them.

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use super::{JobId, JobStatus, Timestamp};

/// Why a run ended. The words follow Kubernetes' container and Job reasons where it has one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum EndReason {
    /// Every container ended with exit code 0.
    Completed,
    /// A container ended with another exit code, or by a signal.
    Error,
    /// It was stopped at its deadline.
    DeadlineExceeded,
    /// It was stopped on request.
    Cancelled,
    /// A container could not be started: no such command, a missing secret.
    StartError,
    /// What ran it is gone: the machine or its watcher was stopped.
    Lost,
    /// It used more memory than it may.
    #[serde(rename = "OOMKilled")]
    OomKilled,
    /// The log or result could not be taken as it must be: too large, malformed, against its schema.
    InvalidResult,
}

impl EndReason {
    /// The stable word that stands in rows and answers.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Completed => "Completed",
            Self::Error => "Error",
            Self::DeadlineExceeded => "DeadlineExceeded",
            Self::Cancelled => "Cancelled",
            Self::StartError => "StartError",
            Self::Lost => "Lost",
            Self::OomKilled => "OOMKilled",
            Self::InvalidResult => "InvalidResult",
        }
    }
}

/// How a run ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ExitState {
    /// The kind of end.
    pub reason: EndReason,
    /// The container that decided it, where one did.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub container: Option<String>,
    /// Its exit code; absent when a signal ended it or nothing ran.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub exit_code: Option<i32>,
    /// The signal that ended it.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub signal: Option<i32>,
    /// One sentence for people; what a job's `message` becomes.
    pub message: String,
    /// When the first container started, if one did.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub started: Option<Timestamp>,
    /// When the last container ended.
    pub finished: Timestamp,
}

impl ExitState {
    /// Whether everything ended with exit code 0.
    #[must_use]
    pub fn is_success(&self) -> bool {
        self.reason == EndReason::Completed
    }
}

/// What was captured of a job's log. It is kept with the job for ever and answered at `/jobs/{id}/receipt`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct CaptureReceipt {
    /// The log's key in the archive.
    pub key: String,
    /// Where the archive keeps it: `file://…` or `s3://bucket/key`.
    pub uri: String,
    /// Bytes stored.
    pub bytes: u64,
    /// Line feeds in them, plus one for a last line without.
    pub lines: u64,
    /// SHA-256 of the bytes, in lower-case hexadecimal.
    pub sha256: String,
    /// Whether nothing is missing.
    pub complete: bool,
    /// What is missing, where something is.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub missing: Option<String>,
    /// When the capture ended.
    pub captured: Timestamp,
}

/// The body of one output.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum OutputBody {
    /// Kept in the database.
    Inline(Bytes),
    /// Kept in the archive under this key.
    Archived {
        /// Its key in the archive.
        key: String,
    },
}

/// One output of a job, byte for byte as the container printed it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OutputRecord {
    /// The output's id in the process description; `result` for a process that declares none.
    pub id: String,
    /// Media type, without blanks around it.
    pub media_type: String,
    /// Bytes.
    pub size: u64,
    /// SHA-256 of the bytes, in lower-case hexadecimal.
    pub sha256: String,
    /// The bytes, or where they are.
    pub body: OutputBody,
}

/// Everything that is written when a job is finalized, in one transaction.
#[derive(Debug, Clone)]
pub struct FinalRecord {
    /// Whose record.
    pub job_id: JobId,
    /// The one who holds the claim on the job: without it nothing is written. Absent: whoever does.
    pub owner: Option<String>,
    /// `Successful` or `Failed`; a job that was dismissed meanwhile stays `Dismissed`.
    pub status: JobStatus,
    /// How the run ended; absent for a job that never had one.
    pub exit: Option<ExitState>,
    /// The job's last message, where there is something to say.
    pub message: Option<String>,
    /// What was captured; absent for a job that never had a run.
    pub receipt: Option<CaptureReceipt>,
    /// The outputs of a successful job.
    pub outputs: Vec<OutputRecord>,
    /// The end of the work: the run's, not the capture's.
    pub finished: Timestamp,
}
