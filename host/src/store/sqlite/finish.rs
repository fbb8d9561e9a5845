//! The writes at the end of a job: its final record, and its removal by a client.
//!
//! Invariant: `recorded` is set by the first final record alone, so that a second one changes nothing; an archive key is
//! either in a row or in the answer to [`Remove`], which can be asked again.

use std::sync::LazyLock;

use async_trait::async_trait;
use sqlx::sqlite::SqliteConnection;

use super::failure::classify;
use super::rows::{self, Cells as _, JOB, clean, json_text, known_keys, sources, stored_size};
use super::status::job_by_id;
use super::writer::Work;
use crate::core::{CaptureReceipt, FinalRecord, Job, JobId, JobStatus, OutputBody, Timestamp};
use crate::store::StoreError;

fn finish_sql(next: JobStatus) -> String {
    let open = format!("status in ({})", sources(next));
    format!(
        "update jobs set \
             status = case when {open} then ?2 else status end, \
             message = case when {open} then coalesce(?3, message) else message end, \
             reason = case when {open} then coalesce(?4, reason) else coalesce(reason, ?4) end, \
             finished = case when {open} then ?11 else finished end, \
             result_media_type = case when {open} then ?12 end, \
             result_size = case when {open} then ?13 end, \
             exit_code = ?5, exit_state = ?6, receipt = ?7, log_uri = ?8, log_size = ?9, \
             started = coalesce(started, ?10), recorded = ?14, updated = max(updated, ?14), \
             claim_owner = null, claim_until = null \
         where id = ?1 and recorded is null and (?15 is null or claim_owner = ?15) returning {JOB}, removed_keys; \
         insert into job_events (job_id, status, message, at) \
             select id, status, ?3, finished from jobs where id = ?1 and status = ?2 and changes() = 1 on conflict do nothing"
    )
}

static FINISHES: LazyLock<Vec<(JobStatus, String)>> = LazyLock::new(|| {
    JobStatus::ALL.into_iter().filter(|next| next.is_final()).map(|next| (next, finish_sql(next))).collect()
});

/// Writes the final record.
pub(super) struct Finish {
    record: FinalRecord,
    exit: Option<String>,
    receipt: Option<String>,
}

impl Finish {
    pub(super) fn new(record: FinalRecord) -> Result<Self, StoreError> {
        Ok(Self {
            exit: record.exit.as_ref().map(|exit| json_text(exit, "jobs.exit_state")).transpose()?,
            receipt: record.receipt.as_ref().map(|receipt| json_text(receipt, "jobs.receipt")).transpose()?,
            record,
        })
    }

    async fn write_outputs(&self, connection: &mut SqliteConnection, id: &str) -> Result<(), StoreError> {
        for (position, output) in (0_i64..).zip(&self.record.outputs) {
            let (key, body) = match &output.body {
                OutputBody::Archived { key } => (Some(key), None),
                OutputBody::Inline(bytes) => (None, Some(bytes.as_ref())),
            };
            sqlx::query(
                "insert into job_outputs (job_id, position, id, media_type, size, sha256, archive_key, body) \
                 values (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)",
            )
            .bind(id)
            .bind(position)
            .bind(&output.id)
            .bind(&output.media_type)
            .bind(stored_size(output.size))
            .bind(&output.sha256)
            .bind(key)
            .bind(body)
            .execute(&mut *connection)
            .await
            .map_err(classify)?;
        }
        Ok(())
    }
}

#[async_trait]
impl Work for Finish {
    type Answer = Option<Job>;

    async fn apply(
        &self,
        connection: &mut SqliteConnection,
        changed: &mut Vec<JobId>,
    ) -> Result<Option<Job>, StoreError> {
        let record = &self.record;
        let id = record.job_id.to_string();
        let Some((_, sql)) = FINISHES.iter().find(|(status, _)| *status == record.status) else {
            return Err(StoreError::Statement(sqlx::Error::Protocol("a final record needs a final status".to_owned())));
        };
        let total = record.outputs.iter().fold(0_u64, |sum, output| sum.saturating_add(output.size));
        let found = sqlx::query(sql.as_str())
            .bind(&id)
            .bind(record.status.as_str())
            .bind(clean(record.message.as_deref()))
            .bind(record.exit.as_ref().map(|exit| exit.reason.as_str()))
            .bind(record.exit.as_ref().and_then(|exit| exit.exit_code))
            .bind(&self.exit)
            .bind(&self.receipt)
            .bind(record.receipt.as_ref().map(|receipt| &receipt.uri))
            .bind(record.receipt.as_ref().map(|receipt| stored_size(receipt.bytes)))
            .bind(record.exit.as_ref().and_then(|exit| exit.started).map(Timestamp::as_millis))
            .bind(record.finished.as_millis())
            .bind(record.outputs.first().map(|output| &output.media_type))
            .bind((!record.outputs.is_empty()).then(|| stored_size(total)))
            .bind(Timestamp::now().as_millis())
            .bind(&record.owner)
            .fetch_all(&mut *connection)
            .await
            .map_err(classify)?;
        let Some(row) = found.first() else {
            return job_by_id(connection, &id).await;
        };
        let job = rows::job(row)?;
        if job.removed.is_none() {
            self.write_outputs(connection, &id).await?;
        } else {
            // The client removed the job before its record came: nobody may read the outputs, but somebody must delete them.
            let mut keys = known_keys(row.text_if_any(12, "jobs.removed_keys")?)?;
            keys.extend(record.outputs.iter().filter_map(|output| match &output.body {
                OutputBody::Archived { key } => Some(key.clone()),
                OutputBody::Inline(_) => None,
            }));
            keep_keys(connection, &id, &keys).await?;
        }
        changed.push(job.id);
        Ok(Some(job))
    }
}

async fn keep_keys(connection: &mut SqliteConnection, id: &str, keys: &[String]) -> Result<(), StoreError> {
    sqlx::query("update jobs set removed_keys = ?2 where id = ?1")
        .bind(id)
        .bind(json_text(&keys, "jobs.removed_keys")?)
        .execute(connection)
        .await
        .map_err(classify)?;
    Ok(())
}

/// Marks a final job as removed.
pub(super) struct Remove {
    pub(super) id: JobId,
    pub(super) at: Timestamp,
}

#[async_trait]
impl Work for Remove {
    type Answer = Option<Vec<String>>;

    async fn apply(
        &self,
        connection: &mut SqliteConnection,
        changed: &mut Vec<JobId>,
    ) -> Result<Option<Vec<String>>, StoreError> {
        let id = self.id.to_string();
        let found =
            sqlx::query("select removed, removed_keys, receipt from jobs where id = ?1 and finished is not null")
                .bind(&id)
                .fetch_optional(&mut *connection)
                .await
                .map_err(classify)?;
        let Some(row) = found else { return Ok(None) };
        let removed = row.integer_if_any(0, "jobs.removed")?;
        let mut keys = known_keys(row.text_if_any(1, "jobs.removed_keys")?)?;
        let receipt = row.text_if_any(2, "jobs.receipt")?;
        let log = receipt.map(|text| rows::json::<CaptureReceipt>(text, "jobs.receipt")).transpose()?;
        if removed.is_none() {
            let archived =
                "select archive_key from job_outputs where job_id = ?1 and archive_key is not null order by position";
            for row in sqlx::query(archived).bind(&id).fetch_all(&mut *connection).await.map_err(classify)? {
                keys.push(row.text(0, "job_outputs.archive_key")?.to_owned());
            }
            keep_keys(connection, &id, &keys).await?;
            sqlx::query(
                "update jobs set removed = ?2, updated = max(updated, ?2) where id = ?1; \
                 delete from job_outputs where job_id = ?1",
            )
            .bind(&id)
            .bind(self.at.as_millis())
            .execute(&mut *connection)
            .await
            .map_err(classify)?;
            changed.push(self.id);
        }
        keys.extend(log.map(|receipt| receipt.key));
        Ok(Some(keys))
    }
}
