//! The write that accepts a job: the hot path. One hop to SQLite for the row and its first event.

use async_trait::async_trait;
use sqlx::sqlite::SqliteConnection;

use super::failure::classify;
use super::rows::{self, Cells as _, JOB, NewRow};
use super::writer::Work;
use crate::core::job::Inserted;
use crate::core::{JobId, NewJob};
use crate::store::StoreError;

/// A conflict is either the same call again or a known idempotency key; both are looked at afterwards.
const INSERT: &str = "\
insert into jobs (id, process_id, process_version, processor_digest, caller, status, created, updated, relaunchable, guarded, runner, nonce, \
    idempotency_key, request_sha256, response, requested_outputs, declared_outputs, inputs, plan) \
values (?1, ?2, ?3, ?4, ?5, 'accepted', ?6, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14, ?15, ?16, ?17) on conflict do nothing; \
insert into job_events (job_id, status, message, at) select ?1, 'accepted', null, ?6 where changes() = 1";

/// A new job with its JSON written out, so that the writer's task does not do it.
pub(super) struct Insert {
    job: NewJob,
    row: NewRow,
}

impl Insert {
    pub(super) fn new(job: NewJob) -> Result<Self, StoreError> {
        Ok(Self { row: NewRow::of(&job)?, job })
    }

    async fn existing(&self, connection: &mut SqliteConnection) -> Result<Inserted, StoreError> {
        let own = sqlx::query("select 1 from jobs where id = ?1").bind(&self.row.id);
        if own.fetch_optional(&mut *connection).await.map_err(classify)?.is_some() {
            return Ok(Inserted::New);
        }
        let Some(idempotency) = &self.job.idempotency else {
            return Err(StoreError::Statement(sqlx::Error::RowNotFound));
        };
        let sql = format!(
            "select {JOB}, request_sha256 from jobs where caller = ?1 and process_id = ?2 and idempotency_key = ?3"
        );
        let row = sqlx::query(sqlx::AssertSqlSafe(sql))
            .bind(&self.job.caller)
            .bind(self.job.process_id.as_str())
            .bind(&idempotency.key)
            .fetch_one(connection)
            .await
            .map_err(classify)?;
        if row.text_if_any(12, "jobs.request_sha256")? == Some(idempotency.request_sha256.as_str()) {
            return Ok(Inserted::Existing(Box::new(rows::job(&row)?)));
        }
        Ok(Inserted::KeyReused)
    }
}

#[async_trait]
impl Work for Insert {
    type Answer = Inserted;

    async fn apply(&self, connection: &mut SqliteConnection, changed: &mut Vec<JobId>) -> Result<Inserted, StoreError> {
        let job = &self.job;
        let written = sqlx::query(INSERT)
            .bind(&self.row.id)
            .bind(job.process_id.as_str())
            .bind(&job.process_version)
            .bind(&self.row.digest)
            .bind(&job.caller)
            .bind(job.created.as_millis())
            .bind(i64::from(job.relaunchable))
            .bind(i64::from(job.request.guarded))
            .bind(&job.runner)
            .bind(&job.nonce)
            .bind(job.idempotency.as_ref().map(|idempotency| &idempotency.key))
            .bind(job.idempotency.as_ref().map(|idempotency| &idempotency.request_sha256))
            .bind(&self.row.response)
            .bind(&self.row.outputs)
            .bind(&self.row.declared)
            .bind(&self.row.inputs)
            .bind(&self.row.plan)
            .execute(&mut *connection)
            .await
            .map_err(classify)?;
        if written.rows_affected() == 0 {
            return self.existing(connection).await;
        }
        changed.push(job.id);
        Ok(Inserted::New)
    }
}
