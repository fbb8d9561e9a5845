//! A job as the store keeps it: the row that is written on acceptance, the view that the API answers, the page of a list.

use std::ops::RangeInclusive;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::request::{OutputSelection, ResponseMode};
use super::{CaptureReceipt, Digest, EndReason, JobId, JobPlan, JobStatus, ProcessId, Timestamp};

/// What a client sees of a job: the columns behind `statusInfo.yaml`.
#[derive(Debug, Clone, PartialEq)]
pub struct Job {
    /// Its id.
    pub id: JobId,
    /// The process that it runs.
    pub process_id: ProcessId,
    /// Its status.
    pub status: JobStatus,
    /// One sentence on what it waits for or how it ended.
    pub message: Option<String>,
    /// 0 to 100, where the container said so.
    pub progress: Option<u8>,
    /// Who asked for it.
    pub caller: String,
    /// When it was accepted.
    pub created: Timestamp,
    /// When its first container started.
    pub started: Option<Timestamp>,
    /// When it ended.
    pub finished: Option<Timestamp>,
    /// When anything above last changed.
    pub updated: Timestamp,
    /// When it was removed by a client: its results and log are gone, its history stays.
    pub removed: Option<Timestamp>,
    /// As in [`StoredRequest::guarded`].
    pub guarded: bool,
}

/// What is written on acceptance, before anything runs.
#[derive(Debug, Clone)]
pub struct NewJob {
    /// Its id.
    pub id: JobId,
    /// The process.
    pub process_id: ProcessId,
    /// The process's version in the words of its description.
    pub process_version: String,
    /// The processor that shaped the plan.
    pub processor_digest: Digest,
    /// Who asked.
    pub caller: String,
    /// The caller's `Idempotency-Key` with a digest of the request, where one was sent.
    pub idempotency: Option<Idempotency>,
    /// What was asked.
    pub request: StoredRequest,
    /// What will run, with secrets masked.
    pub plan: JobPlan,
    /// The nonce that markers must carry, where the plan asks for one.
    pub nonce: Option<String>,
    /// Whether plan and inputs as stored are what was asked, so that a launch lost in a crash can be done again. False
    /// when a secret was masked in them.
    pub relaunchable: bool,
    /// Whose runs its run will be among: the scope of the runner that launches it.
    pub runner: String,
    /// When it was accepted.
    pub created: Timestamp,
}

/// An `Idempotency-Key` and what it was sent with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Idempotency {
    /// The header's value, unique per caller and process.
    pub key: String,
    /// SHA-256 of the request, in hexadecimal: another request with the same key is refused.
    pub request_sha256: String,
}

/// What the client asked for, as it is kept.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct StoredRequest {
    /// The inputs, with secrets masked; an object.
    pub inputs: Value,
    /// The outputs that were asked for.
    pub outputs: OutputSelection,
    /// `response` of the request.
    pub response: ResponseMode,
    /// The outputs that the process declared then, as in its description: a result is checked against these, whatever
    /// became of the process since.
    #[serde(default)]
    pub declared: Value,
    /// Whether the process was to be asked who may read and dismiss its jobs. Once it is gone, or no longer to be asked, only
    /// administrators get through.
    #[serde(default)]
    pub guarded: bool,
}

/// The answer to [`NewJob`]'s insertion.
#[derive(Debug, Clone, PartialEq)]
pub enum Inserted {
    /// The row was written.
    New,
    /// The same request came before with this key: this is its job.
    Existing(Box<Job>),
    /// Another request came before with this key.
    KeyReused,
}

/// All that is kept of one job beside its events and output bytes.
#[derive(Debug, Clone)]
pub struct JobDetail {
    /// What clients see.
    pub job: Job,
    /// Version of the process that it ran.
    pub process_version: String,
    /// The processor that shaped it.
    pub processor_digest: Digest,
    /// What was asked, masked.
    pub request: StoredRequest,
    /// What runs or ran, masked.
    pub plan: JobPlan,
    /// The nonce of its markers.
    pub nonce: Option<String>,
    /// As in [`NewJob::relaunchable`].
    pub relaunchable: bool,
    /// Why it ended, once it did.
    pub reason: Option<EndReason>,
    /// Exit code of the container that decided it.
    pub exit_code: Option<i32>,
    /// What was captured, once it was.
    pub receipt: Option<CaptureReceipt>,
}

/// A conditional change of status: it takes place only from the states that [`JobStatus::sources_of`] names.
#[derive(Debug, Clone)]
pub struct Transition {
    /// Which job.
    pub job_id: JobId,
    /// The new status: `Running`, `Failed` (without a run) or `Dismissed`.
    pub status: JobStatus,
    /// The job's message from now on; absent: unchanged.
    pub message: Option<String>,
    /// Why it ended, for a final status.
    pub reason: Option<EndReason>,
    /// When it happened: `started` of a running job, `finished` of one that ended.
    pub at: Timestamp,
}

/// What a list is narrowed to. Empty lists and absent bounds do not narrow; different members are combined with AND, the
/// values of one with OR (OGC API - Processes 1.0, 11.1).
#[derive(Debug, Clone, Default, PartialEq)]
pub struct JobFilter {
    /// Any of these processes.
    pub process_ids: Vec<ProcessId>,
    /// Any of these states.
    pub statuses: Vec<JobStatus>,
    /// Created in this range, both ends included.
    pub created: Option<RangeInclusive<Timestamp>>,
    /// Lasted at least this many seconds; a running job counts until now.
    pub min_duration_seconds: Option<u64>,
    /// Lasted at most this many seconds.
    pub max_duration_seconds: Option<u64>,
    /// Only this caller's.
    pub caller: Option<String>,
}

/// The place of a row in the list's order, `created desc, id desc`: a page starts behind it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PageKey {
    /// The row's `created`.
    pub created: Timestamp,
    /// The row's id.
    pub id: JobId,
}

/// One page of the job list.
#[derive(Debug, Clone)]
pub struct JobPage {
    /// At most as many as asked for. Fewer, even none, does not mean that it is the last page: `next` does.
    pub jobs: Vec<Job>,
    /// Where the next page starts, if there may be one.
    pub next: Option<PageKey>,
}

/// A job that has not ended, as repair sees it.
#[derive(Debug, Clone, PartialEq)]
pub struct UnfinishedJob {
    /// Its id.
    pub id: JobId,
    /// `Accepted` or `Running`.
    pub status: JobStatus,
    /// When it was accepted.
    pub created: Timestamp,
    /// When it last changed.
    pub updated: Timestamp,
    /// As in [`NewJob::runner`].
    pub runner: String,
}
