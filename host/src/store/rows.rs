//! Rows to values and back, for both databases. A column that does not hold what it must is [`StoreError::Corrupt`], never a guess.

use serde::de::DeserializeOwned;
use serde_json::Value;
use sqlx::Row;
use sqlx::postgres::PgRow;
use sqlx::sqlite::SqliteRow;

use crate::core::job::{StoredRequest, UnfinishedJob};
use crate::core::request::{OutputSelection, ResponseMode};
use crate::core::{EndReason, Job, JobDetail, JobId, JobStatus, NewJob, OutputBody, OutputRecord, Timestamp};
use crate::store::{OpenProcess, StoreError};

/// The columns of [`job`], in its order.
pub(super) const JOB: &str =
    "id, process_id, status, message, progress, caller, created, started, finished, updated, removed, guarded";

/// How many they are.
pub(super) const JOB_COLUMNS: usize = 12;

/// The columns of [`detail`] behind those of [`JOB`].
pub(super) const DETAIL: &str = "process_version, processor_digest, inputs, requested_outputs, response, plan, nonce, \
     relaunchable, reason, exit_code, receipt, declared_outputs";

pub(super) fn corrupt(what: &'static str, source: impl std::error::Error + Send + Sync + 'static) -> StoreError {
    StoreError::Corrupt { what, source: Box::new(source) }
}

#[derive(Debug, thiserror::Error)]
#[error("the value is outside its range")]
struct OutOfRange;

/// A row, by the kinds of values that both databases have.
pub(super) trait Cells {
    fn text(&self, index: usize, what: &'static str) -> Result<&str, StoreError>;
    fn text_if_any(&self, index: usize, what: &'static str) -> Result<Option<&str>, StoreError>;
    fn integer(&self, index: usize, what: &'static str) -> Result<i64, StoreError>;
    fn integer_if_any(&self, index: usize, what: &'static str) -> Result<Option<i64>, StoreError>;
    fn bytes(&self, index: usize, what: &'static str) -> Result<Vec<u8>, StoreError>;
}

macro_rules! cells {
    ($($row:ty),+) => {
        $(impl Cells for $row {
            fn text(&self, index: usize, what: &'static str) -> Result<&str, StoreError> {
                self.try_get(index).map_err(|source| corrupt(what, source))
            }

            fn text_if_any(&self, index: usize, what: &'static str) -> Result<Option<&str>, StoreError> {
                self.try_get(index).map_err(|source| corrupt(what, source))
            }

            fn integer(&self, index: usize, what: &'static str) -> Result<i64, StoreError> {
                self.try_get(index).map_err(|source| corrupt(what, source))
            }

            fn integer_if_any(&self, index: usize, what: &'static str) -> Result<Option<i64>, StoreError> {
                self.try_get(index).map_err(|source| corrupt(what, source))
            }

            fn bytes(&self, index: usize, what: &'static str) -> Result<Vec<u8>, StoreError> {
                self.try_get(index).map_err(|source| corrupt(what, source))
            }
        })+
    };
}
cells!(SqliteRow, PgRow);

/// A column whose text is a value's own text form.
pub(super) fn parsed<T>(row: &impl Cells, index: usize, what: &'static str) -> Result<T, StoreError>
where
    T: std::str::FromStr<Err: std::error::Error + Send + Sync + 'static>,
{
    row.text(index, what)?.parse().map_err(|source| corrupt(what, source))
}

fn time(row: &impl Cells, index: usize, what: &'static str) -> Result<Timestamp, StoreError> {
    row.integer(index, what).map(Timestamp::from_millis)
}

fn optional_time(row: &impl Cells, index: usize, what: &'static str) -> Result<Option<Timestamp>, StoreError> {
    Ok(row.integer_if_any(index, what)?.map(Timestamp::from_millis))
}

fn status(row: &impl Cells, index: usize) -> Result<JobStatus, StoreError> {
    JobStatus::parse(row.text(index, "jobs.status")?).ok_or_else(|| corrupt("jobs.status", OutOfRange))
}

pub(super) fn json<T: DeserializeOwned>(text: &str, what: &'static str) -> Result<T, StoreError> {
    serde_json::from_str(text).map_err(|source| corrupt(what, source))
}

/// The text of a value that is stored as JSON.
pub(super) fn json_text<T: serde::Serialize>(value: &T, what: &'static str) -> Result<String, StoreError> {
    serde_json::to_string(value).map_err(|source| corrupt(what, source))
}

/// A row of [`JOB`].
pub(super) fn job(row: &impl Cells) -> Result<Job, StoreError> {
    let progress = row
        .integer_if_any(4, "jobs.progress")?
        .map(|value| u8::try_from(value).map_err(|source| corrupt("jobs.progress", source)))
        .transpose()?;
    Ok(Job {
        id: parsed(row, 0, "jobs.id")?,
        process_id: parsed(row, 1, "jobs.process_id")?,
        status: status(row, 2)?,
        message: row.text_if_any(3, "jobs.message")?.map(str::to_owned),
        progress,
        caller: row.text(5, "jobs.caller")?.to_owned(),
        created: time(row, 6, "jobs.created")?,
        started: optional_time(row, 7, "jobs.started")?,
        finished: optional_time(row, 8, "jobs.finished")?,
        updated: time(row, 9, "jobs.updated")?,
        removed: optional_time(row, 10, "jobs.removed")?,
        guarded: row.integer(11, "jobs.guarded")? != 0,
    })
}

/// A row of [`JOB`] and [`DETAIL`].
pub(super) fn detail(row: &impl Cells) -> Result<JobDetail, StoreError> {
    let job = job(row)?;
    let response = Value::from(row.text(16, "jobs.response")?);
    let reason = row
        .text_if_any(20, "jobs.reason")?
        .map(|word| serde_json::from_value::<EndReason>(Value::from(word)).map_err(|e| corrupt("jobs.reason", e)))
        .transpose()?;
    let receipt = row.text_if_any(22, "jobs.receipt")?;
    Ok(JobDetail {
        process_version: row.text(12, "jobs.process_version")?.to_owned(),
        processor_digest: parsed(row, 13, "jobs.processor_digest")?,
        request: StoredRequest {
            inputs: json(row.text(14, "jobs.inputs")?, "jobs.inputs")?,
            outputs: json::<OutputSelection>(row.text(15, "jobs.requested_outputs")?, "jobs.requested_outputs")?,
            response: serde_json::from_value::<ResponseMode>(response).map_err(|e| corrupt("jobs.response", e))?,
            declared: json(row.text(23, "jobs.declared_outputs")?, "jobs.declared_outputs")?,
            guarded: job.guarded,
        },
        job,
        plan: json(row.text(17, "jobs.plan")?, "jobs.plan")?,
        nonce: row.text_if_any(18, "jobs.nonce")?.map(str::to_owned),
        relaunchable: row.integer(19, "jobs.relaunchable")? != 0,
        reason,
        exit_code: row
            .integer_if_any(21, "jobs.exit_code")?
            .map(|code| i32::try_from(code).map_err(|source| corrupt("jobs.exit_code", source)))
            .transpose()?,
        receipt: receipt.map(|text| json(text, "jobs.receipt")).transpose()?,
    })
}

/// A row of `id, media_type, size, sha256, archive_key, body`.
/// What [`open_process`] reads.
pub(super) const OPEN_PROCESSES: &str =
    "select id, digest, config_sha256 from processes where offered_until is null order by id";

pub(super) fn open_process(row: &impl Cells) -> Result<OpenProcess, StoreError> {
    Ok(OpenProcess {
        id: parsed(row, 0, "processes.id")?,
        digest: parsed(row, 1, "processes.digest")?,
        config_sha256: row.text(2, "processes.config_sha256")?.to_owned(),
    })
}

pub(super) fn output(row: &impl Cells) -> Result<OutputRecord, StoreError> {
    let size = row.integer(2, "job_outputs.size")?;
    let body = match row.text_if_any(4, "job_outputs.archive_key")? {
        Some(key) => OutputBody::Archived { key: key.to_owned() },
        None => OutputBody::Inline(row.bytes(5, "job_outputs.body")?.into()),
    };
    Ok(OutputRecord {
        id: row.text(0, "job_outputs.id")?.to_owned(),
        media_type: row.text(1, "job_outputs.media_type")?.to_owned(),
        size: u64::try_from(size).map_err(|source| corrupt("job_outputs.size", source))?,
        sha256: row.text(3, "job_outputs.sha256")?.to_owned(),
        body,
    })
}

/// A row of `id, status, created, updated, runner`.
pub(super) fn unfinished(row: &impl Cells) -> Result<UnfinishedJob, StoreError> {
    Ok(UnfinishedJob {
        id: parsed(row, 0, "jobs.id")?,
        status: status(row, 1)?,
        created: time(row, 2, "jobs.created")?,
        updated: time(row, 3, "jobs.updated")?,
        runner: row.text(4, "jobs.runner")?.to_owned(),
    })
}

/// A row whose first column is a job's id.
pub(super) fn id(row: &impl Cells) -> Result<JobId, StoreError> {
    parsed(row, 0, "jobs.id")
}

/// Ids as a JSON array, for `json_each`.
pub(super) fn ids_json(ids: &[JobId]) -> Result<String, StoreError> {
    json_text(&ids, "jobs.id")
}

/// The words of a status list in SQL, those from which a job may become `next`: `'accepted', 'running'`.
pub(super) fn sources(next: JobStatus) -> String {
    let words: Vec<_> = JobStatus::sources_of(next).iter().map(|status| format!("'{status}'")).collect();
    // Nothing is equal to null: no source, no change.
    if words.is_empty() { "null".to_owned() } else { words.join(", ") }
}

/// A text that every database takes: PostgreSQL has no NUL in text.
pub(super) fn clean(text: Option<&str>) -> Option<String> {
    text.map(|text| text.replace('\0', "\u{fffd}"))
}

/// A size as both databases hold it.
pub(super) fn stored_size(bytes: u64) -> i64 {
    i64::try_from(bytes).unwrap_or(i64::MAX)
}

/// The archive keys in `jobs.removed_keys`.
pub(super) fn known_keys(text: Option<&str>) -> Result<Vec<String>, StoreError> {
    text.map_or_else(|| Ok(Vec::new()), |text| json(text, "jobs.removed_keys"))
}

/// The columns of a new job that are written out, so that this is not done while the database waits.
pub(super) struct NewRow {
    pub(super) id: String,
    pub(super) digest: String,
    pub(super) response: String,
    pub(super) outputs: String,
    pub(super) declared: String,
    pub(super) inputs: String,
    pub(super) plan: String,
}

impl NewRow {
    pub(super) fn of(job: &NewJob) -> Result<Self, StoreError> {
        let response = serde_json::to_value(job.request.response).map_err(|e| corrupt("jobs.response", e))?;
        Ok(Self {
            id: job.id.to_string(),
            digest: job.processor_digest.to_string(),
            response: response.as_str().unwrap_or_default().to_owned(),
            outputs: json_text(&job.request.outputs, "jobs.requested_outputs")?,
            declared: json_text(&job.request.declared, "jobs.declared_outputs")?,
            inputs: json_text(&job.request.inputs, "jobs.inputs")?,
            plan: json_text(&job.plan, "jobs.plan")?,
        })
    }
}
