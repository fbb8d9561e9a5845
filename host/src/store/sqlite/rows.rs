//! Rows to values and back. A column that does not hold what it must is [`StoreError::Corrupt`], never a guess.

use serde::de::DeserializeOwned;
use serde_json::Value;
use sqlx::Row;
use sqlx::sqlite::SqliteRow;

use crate::core::job::{StoredRequest, UnfinishedJob};
use crate::core::request::{OutputSelection, ResponseMode};
use crate::core::{EndReason, Job, JobDetail, JobId, JobStatus, OutputBody, OutputRecord, Timestamp};
use crate::store::StoreError;

/// The columns of [`job`], in its order.
pub(super) const JOB: &str =
    "id, process_id, status, message, progress, caller, created, started, finished, updated, removed";

/// The columns of [`detail`] behind those of [`JOB`].
pub(super) const DETAIL: &str = "process_version, processor_digest, inputs, requested_outputs, response, plan, nonce, \
     relaunchable, reason, exit_code, receipt, declared_outputs, guarded";

pub(super) fn corrupt(what: &'static str, source: impl std::error::Error + Send + Sync + 'static) -> StoreError {
    StoreError::Corrupt { what, source: Box::new(source) }
}

#[derive(Debug, thiserror::Error)]
#[error("the value is outside its range")]
struct OutOfRange;

/// One column's value.
pub(super) fn column<'r, T>(row: &'r SqliteRow, index: usize, what: &'static str) -> Result<T, StoreError>
where
    T: sqlx::Decode<'r, sqlx::Sqlite> + sqlx::Type<sqlx::Sqlite>,
{
    row.try_get::<T, _>(index).map_err(|source| corrupt(what, source))
}

/// A column whose text is a value's own text form.
pub(super) fn parsed<T>(row: &SqliteRow, index: usize, what: &'static str) -> Result<T, StoreError>
where
    T: std::str::FromStr<Err: std::error::Error + Send + Sync + 'static>,
{
    column::<&str>(row, index, what)?.parse().map_err(|source| corrupt(what, source))
}

fn time(row: &SqliteRow, index: usize, what: &'static str) -> Result<Timestamp, StoreError> {
    column(row, index, what).map(Timestamp::from_millis)
}

fn optional_time(row: &SqliteRow, index: usize, what: &'static str) -> Result<Option<Timestamp>, StoreError> {
    Ok(column::<Option<i64>>(row, index, what)?.map(Timestamp::from_millis))
}

fn status(row: &SqliteRow, index: usize) -> Result<JobStatus, StoreError> {
    JobStatus::parse(column(row, index, "jobs.status")?).ok_or_else(|| corrupt("jobs.status", OutOfRange))
}

pub(super) fn json<T: DeserializeOwned>(text: &str, what: &'static str) -> Result<T, StoreError> {
    serde_json::from_str(text).map_err(|source| corrupt(what, source))
}

/// The text of a value that is stored as JSON.
pub(super) fn json_text<T: serde::Serialize>(value: &T, what: &'static str) -> Result<String, StoreError> {
    serde_json::to_string(value).map_err(|source| corrupt(what, source))
}

/// A row of [`JOB`].
pub(super) fn job(row: &SqliteRow) -> Result<Job, StoreError> {
    let progress = column::<Option<i64>>(row, 4, "jobs.progress")?
        .map(|value| u8::try_from(value).map_err(|source| corrupt("jobs.progress", source)))
        .transpose()?;
    Ok(Job {
        id: parsed(row, 0, "jobs.id")?,
        process_id: parsed(row, 1, "jobs.process_id")?,
        status: status(row, 2)?,
        message: column(row, 3, "jobs.message")?,
        progress,
        caller: column(row, 5, "jobs.caller")?,
        created: time(row, 6, "jobs.created")?,
        started: optional_time(row, 7, "jobs.started")?,
        finished: optional_time(row, 8, "jobs.finished")?,
        updated: time(row, 9, "jobs.updated")?,
        removed: optional_time(row, 10, "jobs.removed")?,
    })
}

/// A row of [`JOB`] and [`DETAIL`].
pub(super) fn detail(row: &SqliteRow) -> Result<JobDetail, StoreError> {
    let response = Value::from(column::<&str>(row, 15, "jobs.response")?);
    let reason = column::<Option<&str>>(row, 19, "jobs.reason")?
        .map(|word| serde_json::from_value::<EndReason>(Value::from(word)).map_err(|e| corrupt("jobs.reason", e)))
        .transpose()?;
    let receipt = column::<Option<&str>>(row, 21, "jobs.receipt")?;
    Ok(JobDetail {
        job: job(row)?,
        process_version: column(row, 11, "jobs.process_version")?,
        processor_digest: parsed(row, 12, "jobs.processor_digest")?,
        request: StoredRequest {
            inputs: json(column(row, 13, "jobs.inputs")?, "jobs.inputs")?,
            outputs: json::<OutputSelection>(column(row, 14, "jobs.requested_outputs")?, "jobs.requested_outputs")?,
            response: serde_json::from_value::<ResponseMode>(response).map_err(|e| corrupt("jobs.response", e))?,
            declared: json(column(row, 22, "jobs.declared_outputs")?, "jobs.declared_outputs")?,
            guarded: column::<i64>(row, 23, "jobs.guarded")? != 0,
        },
        plan: json(column(row, 16, "jobs.plan")?, "jobs.plan")?,
        nonce: column(row, 17, "jobs.nonce")?,
        relaunchable: column::<i64>(row, 18, "jobs.relaunchable")? != 0,
        reason,
        exit_code: column(row, 20, "jobs.exit_code")?,
        receipt: receipt.map(|text| json(text, "jobs.receipt")).transpose()?,
    })
}

/// A row of `id, media_type, size, sha256, archive_key, body`.
pub(super) fn output(row: &SqliteRow) -> Result<OutputRecord, StoreError> {
    let size = column::<i64>(row, 2, "job_outputs.size")?;
    let body = match column::<Option<String>>(row, 4, "job_outputs.archive_key")? {
        Some(key) => OutputBody::Archived { key },
        None => OutputBody::Inline(column::<Vec<u8>>(row, 5, "job_outputs.body")?.into()),
    };
    Ok(OutputRecord {
        id: column(row, 0, "job_outputs.id")?,
        media_type: column(row, 1, "job_outputs.media_type")?,
        size: u64::try_from(size).map_err(|source| corrupt("job_outputs.size", source))?,
        sha256: column(row, 3, "job_outputs.sha256")?,
        body,
    })
}

/// A row of `id, status, created, updated`.
pub(super) fn unfinished(row: &SqliteRow) -> Result<UnfinishedJob, StoreError> {
    Ok(UnfinishedJob {
        id: parsed(row, 0, "jobs.id")?,
        status: status(row, 1)?,
        created: time(row, 2, "jobs.created")?,
        updated: time(row, 3, "jobs.updated")?,
    })
}

/// A row whose first column is a job's id.
pub(super) fn id(row: &SqliteRow) -> Result<JobId, StoreError> {
    parsed(row, 0, "jobs.id")
}

/// Ids as a JSON array, for `json_each`.
pub(super) fn ids_json(ids: &[JobId]) -> Result<String, StoreError> {
    json_text(&ids, "jobs.id")
}
