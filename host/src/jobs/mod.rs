//! The use cases, and the only place that combines the adapters: submit, read, dismiss, observe, finish, repair, deploy.
//!
//! The story of an execution is read in this folder: [`submit`] writes the row and launches the run, [`observe`] follows what the
//! runner sees, [`finish`] captures log and result and writes the final record, [`repair`] does again what a crash left undone.
//! Every step can be done twice.

mod error;

pub use error::Error;

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::stream::BoxStream;
use serde::Serialize;
use serde_json::Value;

pub use crate::archive::ByteRange;
use crate::core::job::StoredRequest;
use crate::core::{
    CaptureReceipt, Digest, Job, JobFilter, JobId, JobPage, JobPlan, OutputRecord, PageKey, Principal, ProcessDescription, ProcessId,
};

/// A request to execute a process, before anything of it was believed.
#[derive(Debug)]
pub struct Submission<'a> {
    /// Who asks.
    pub principal: &'a Principal,
    /// The process's id as it stood in the URL.
    pub process_id: &'a str,
    /// The body as it was sent.
    pub body: &'a [u8],
    /// All request headers with text values, names in lower case; the process gets those that its entry lets through.
    pub headers: &'a [(String, String)],
    /// `Idempotency-Key`, where one was sent.
    pub idempotency_key: Option<&'a str>,
}

/// An execution that was accepted.
#[derive(Debug)]
pub struct Accepted {
    /// The job as it stands.
    pub job: Job,
    /// What was asked, as it is kept.
    pub request: StoredRequest,
    /// Whether it is the job of an earlier request with the same `Idempotency-Key`.
    pub repeated: bool,
}

/// What an execution would do.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct DryRun {
    /// The process.
    pub process_id: ProcessId,
    /// The processor that shaped the plan.
    pub processor_digest: Digest,
    /// Who the processor takes the caller for.
    pub caller: String,
    /// The plan, with secrets masked.
    pub plan: JobPlan,
}

/// A process as the API shows it.
#[derive(Debug, Clone)]
pub struct OfferedProcess {
    /// Its description.
    pub description: Arc<ProcessDescription>,
    /// The processor behind it.
    pub digest: Digest,
}

/// The processes that are offered at one moment, sorted by id.
#[derive(Debug)]
pub struct Offered {
    /// Grows with every change; equal generations have equal processes.
    pub generation: u64,
    /// The processes.
    pub processes: Vec<OfferedProcess>,
}

/// A finished job's results.
#[derive(Debug)]
pub struct Results {
    /// The job, successful.
    pub job: Job,
    /// What was asked.
    pub request: StoredRequest,
    /// Those outputs that were asked for and have a value.
    pub outputs: Vec<OutputRecord>,
}

/// Bytes on their way to a client.
pub struct ByteBody {
    /// Bytes of the whole, where that is known: a log still grows while its job runs.
    pub size: Option<u64>,
    /// Offset of the first byte in `body`.
    pub first: u64,
    /// How many bytes `body` yields, where that is known.
    pub length: Option<u64>,
    /// The bytes.
    pub body: BoxStream<'static, Result<Bytes, Error>>,
}

/// The use cases.
pub struct Jobs {}

impl Jobs {
    /// The processes that are offered now. Cheap: one atomic load.
    #[must_use]
    pub fn offered(&self) -> Arc<Offered> { todo!() }

    /// Every configured process or file with its state and, for refused ones, the reasons; JSON objects for `/admin` and the CLI.
    pub fn reports(&self, principal: &Principal) -> Result<Value, Error> { let _ = principal; todo!() }

    /// Validates, authorizes, shapes, checks the policy, writes the row and launches the run. Answers when the row is durable
    /// and the run was launched or will be.
    pub async fn submit(&self, submission: Submission<'_>) -> Result<Accepted, Error> { let _ = submission; todo!() }

    /// All of [`Jobs::submit`] up to the plan; nothing is written.
    pub async fn dry_run(&self, submission: Submission<'_>) -> Result<DryRun, Error> { let _ = submission; todo!() }

    /// Waits until the job has ended and its record is complete, at most so long. Answers the job as it stands then.
    pub async fn wait(&self, id: JobId, at_most: Duration) -> Result<Job, Error> { let _ = (id, at_most); todo!() }

    /// One job. `id` as it stood in the URL.
    pub async fn job(&self, principal: &Principal, id: &str) -> Result<Job, Error> { let _ = (principal, id); todo!() }

    /// A page of the job list.
    pub async fn list(&self, principal: &Principal, filter: &JobFilter, after: Option<PageKey>, limit: u32) -> Result<JobPage, Error> { let _ = (principal, filter, after, limit); todo!() }

    /// The results of a successful job; an error that says why there are none otherwise.
    pub async fn results(&self, principal: &Principal, id: &str) -> Result<Results, Error> { let _ = (principal, id); todo!() }

    /// The bytes of one output of [`Results`].
    pub async fn output_body(&self, output: &OutputRecord, range: Option<ByteRange>) -> Result<ByteBody, Error> { let _ = (output, range); todo!() }

    /// The log, live or archived. With `follow` it ends when the job does; a range and `follow` exclude each other.
    pub async fn log(&self, principal: &Principal, id: &str, range: Option<ByteRange>, follow: bool) -> Result<ByteBody, Error> { let _ = (principal, id, range, follow); todo!() }

    /// The capture receipt.
    pub async fn receipt(&self, principal: &Principal, id: &str) -> Result<CaptureReceipt, Error> { let _ = (principal, id); todo!() }

    /// Dismisses a job that has not ended; removes one that has (its results and log go, its history stays). Answers the job with
    /// status `dismissed`, or as it was when it was removed.
    pub async fn dismiss(&self, principal: &Principal, id: &str) -> Result<Job, Error> { let _ = (principal, id); todo!() }

    /// Whether each part works now: its name and, for one that does not, what is wrong.
    pub async fn readiness(&self) -> Vec<(&'static str, Result<(), String>)> { todo!() }
}
