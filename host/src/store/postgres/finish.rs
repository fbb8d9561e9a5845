//! The writes at the end of a job: its final record, and its removal by a client.
//!
//! Invariant: `recorded` is set by the first final record alone, so that a second one changes nothing; an archive key is
//! either in a row or in the answer to [`Remove`], which can be asked again.

use std::sync::LazyLock;

use async_trait::async_trait;
use sqlx::Connection;
use sqlx::postgres::PgConnection;

use super::calls::Call;
use super::failure::classify;
use super::status::job_by_id;
use crate::core::{CaptureReceipt, FinalRecord, Job, JobId, JobStatus, OutputBody, Timestamp};
use crate::store::StoreError;
use crate::store::rows::{self, Cells as _, JOB, clean, json_text, known_keys, sources, stored_size};

/// Row, event and outputs in one statement. If a client removed the job before its record came, nobody may read the outputs, but
/// somebody must delete them: their keys go to `removed_keys`.
fn finish_sql(next: JobStatus) -> String {
    let open = format!("status in ({})", sources(next));
    format!(
        "with was as ( \
             update jobs set \
                 status = case when {open} then $2 else status end, \
                 message = case when {open} then coalesce($3, message) else message end, \
                 reason = case when {open} then coalesce($4, reason) else coalesce(reason, $4) end, \
                 finished = case when {open} then $11 else finished end, \
                 result_media_type = case when {open} then $12 end, \
                 result_size = case when {open} then $13 end, \
                 exit_code = $5, exit_state = $6, receipt = $7, log_uri = $8, log_size = $9, \
                 started = coalesce(started, $10), recorded = $14, updated = greatest(updated, $14), \
                 claim_owner = null, claim_until = null, \
                 removed_keys = case when removed is null then removed_keys \
                     else (coalesce(removed_keys, '[]')::jsonb || $15::jsonb)::text end \
             where id = $1 and recorded is null and ($22::text is null or claim_owner = $22) returning {JOB}), \
         step as ( \
             insert into job_events (job_id, status, message, at) \
             select id, status, $3, finished from was where status = $2 on conflict do nothing), \
         kept as ( \
             insert into job_outputs (job_id, position, id, media_type, size, sha256, archive_key, body) \
             select was.id, o.position - 1, o.id, o.media_type, o.size, o.sha256, o.archive_key, o.body from was, \
                 unnest($16::text[], $17::text[], $18::bigint[], $19::text[], $20::text[], $21::bytea[]) \
                     with ordinality as o (id, media_type, size, sha256, archive_key, body, position) \
             where was.removed is null) \
         select {JOB} from was"
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
    /// Archive keys of the outputs, as a JSON array.
    keys: String,
}

impl Finish {
    pub(super) fn new(record: FinalRecord) -> Result<Self, StoreError> {
        let keys: Vec<_> = record.outputs.iter().filter_map(|output| key(&output.body)).collect();
        Ok(Self {
            exit: record.exit.as_ref().map(|exit| json_text(exit, "jobs.exit_state")).transpose()?,
            receipt: record.receipt.as_ref().map(|receipt| json_text(receipt, "jobs.receipt")).transpose()?,
            keys: json_text(&keys, "jobs.removed_keys")?,
            record,
        })
    }
}

fn key(body: &OutputBody) -> Option<&str> {
    match body {
        OutputBody::Archived { key } => Some(key),
        OutputBody::Inline(_) => None,
    }
}

fn inline(body: &OutputBody) -> Option<&[u8]> {
    match body {
        OutputBody::Archived { .. } => None,
        OutputBody::Inline(bytes) => Some(bytes.as_ref()),
    }
}

#[async_trait]
impl Call for Finish {
    /// The job, and whether this call recorded it.
    type Answer = (Option<Job>, bool);
    const WRITES: bool = true;

    async fn run(&self, connection: &mut PgConnection) -> Result<(Option<Job>, bool), StoreError> {
        let record = &self.record;
        let id = record.job_id.to_string();
        let Some((_, sql)) = FINISHES.iter().find(|(status, _)| *status == record.status) else {
            return Err(StoreError::Statement(sqlx::Error::Protocol("a final record needs a final status".to_owned())));
        };
        let outputs = &record.outputs;
        let total = outputs.iter().fold(0_u64, |sum, output| sum.saturating_add(output.size));
        let text = |of: fn(&crate::core::OutputRecord) -> &str| {
            outputs.iter().filter_map(|output| clean(Some(of(output)))).collect::<Vec<_>>()
        };
        let found = sqlx::query(sql.as_str())
            .bind(&id)
            .bind(record.status.as_str())
            .bind(clean(record.message.as_deref()))
            .bind(record.exit.as_ref().map(|exit| exit.reason.as_str()))
            .bind(record.exit.as_ref().and_then(|exit| exit.exit_code).map(i64::from))
            .bind(&self.exit)
            .bind(&self.receipt)
            .bind(record.receipt.as_ref().map(|receipt| &receipt.uri))
            .bind(record.receipt.as_ref().map(|receipt| stored_size(receipt.bytes)))
            .bind(record.exit.as_ref().and_then(|exit| exit.started).map(Timestamp::as_millis))
            .bind(record.finished.as_millis())
            .bind(clean(outputs.first().map(|output| output.media_type.as_str())))
            .bind((!outputs.is_empty()).then(|| stored_size(total)))
            .bind(Timestamp::now().as_millis())
            .bind(&self.keys)
            .bind(text(|output| &output.id))
            .bind(text(|output| &output.media_type))
            .bind(outputs.iter().map(|output| stored_size(output.size)).collect::<Vec<_>>())
            .bind(text(|output| &output.sha256))
            .bind(outputs.iter().map(|output| key(&output.body)).collect::<Vec<_>>())
            .bind(outputs.iter().map(|output| inline(&output.body)).collect::<Vec<_>>())
            .bind(&record.owner)
            .fetch_optional(&mut *connection)
            .await
            .map_err(classify)?;
        match found {
            Some(row) => Ok((Some(rows::job(&row)?), true)),
            None => Ok((job_by_id(connection, &id).await?, false)),
        }
    }
}

/// Marks a final job as removed.
pub(super) struct Remove {
    pub(super) id: JobId,
    pub(super) at: Timestamp,
}

#[async_trait]
impl Call for Remove {
    /// The keys, and whether this call removed it.
    type Answer = (Option<Vec<String>>, bool);
    const WRITES: bool = true;

    async fn run(&self, connection: &mut PgConnection) -> Result<(Option<Vec<String>>, bool), StoreError> {
        let id = self.id.to_string();
        let mut transaction = connection.begin().await.map_err(classify)?;
        // The lock first, in a statement of its own: a final record that is being written now must be seen by those behind it.
        let found = sqlx::query(
            "select removed, removed_keys, receipt from jobs where id = $1 and finished is not null for update",
        )
        .bind(&id)
        .fetch_optional(&mut *transaction)
        .await
        .map_err(classify)?;
        let Some(row) = found else {
            transaction.rollback().await.map_err(classify)?;
            return Ok((None, false));
        };
        let is_open = row.integer_if_any(0, "jobs.removed")?.is_none();
        let mut keys = known_keys(row.text_if_any(1, "jobs.removed_keys")?)?;
        let receipt = row.text_if_any(2, "jobs.receipt")?;
        let log = receipt.map(|text| rows::json::<CaptureReceipt>(text, "jobs.receipt")).transpose()?;
        if is_open {
            let deleted = "with gone as (delete from job_outputs where job_id = $1 returning position, archive_key) \
                           select archive_key from gone where archive_key is not null order by position";
            for row in sqlx::query(deleted).bind(&id).fetch_all(&mut *transaction).await.map_err(classify)? {
                keys.push(row.text(0, "job_outputs.archive_key")?.to_owned());
            }
            sqlx::query(
                "update jobs set removed_keys = $2, removed = $3, updated = greatest(updated, $3) where id = $1",
            )
            .bind(&id)
            .bind(json_text(&keys, "jobs.removed_keys")?)
            .bind(self.at.as_millis())
            .execute(&mut *transaction)
            .await
            .map_err(classify)?;
        }
        transaction.commit().await.map_err(classify)?;
        keys.extend(log.map(|receipt| receipt.key));
        Ok((Some(keys), is_open))
    }
}
