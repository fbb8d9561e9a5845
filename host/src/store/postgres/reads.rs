//! What is read, each in one statement.

use async_trait::async_trait;
use bytes::Bytes;
use sqlx::AssertSqlSafe;
use sqlx::postgres::{PgConnection, PgRow};

use super::calls::Call;
use super::failure::classify;
use super::status::job_by_id;
use crate::core::job::UnfinishedJob;
use crate::core::{Digest, Job, JobDetail, JobFilter, JobId, JobPage, OutputRecord, PageKey, Timestamp};
use crate::store::list::{self, Bounds, Dialect, KEPT_BRANCHES, Plan, Source};
use crate::store::rows::{self, Cells as _};
use crate::store::{OpenProcess, StoreError};

pub(super) struct OneJob(pub(super) JobId);

#[async_trait]
impl Call for OneJob {
    type Answer = Option<Job>;

    async fn run(&self, connection: &mut PgConnection) -> Result<Option<Job>, StoreError> {
        job_by_id(connection, &self.0.to_string()).await
    }
}

pub(super) struct Detail(pub(super) JobId);

#[async_trait]
impl Call for Detail {
    type Answer = Option<JobDetail>;

    async fn run(&self, connection: &mut PgConnection) -> Result<Option<JobDetail>, StoreError> {
        let sql = format!("select {}, {} from jobs where id = $1", rows::JOB, rows::DETAIL);
        let query = sqlx::query(AssertSqlSafe(sql)).bind(self.0.to_string());
        let row = query.fetch_optional(connection).await.map_err(classify)?;
        row.as_ref().map(rows::detail).transpose()
    }
}

pub(super) struct Outputs(pub(super) JobId);

#[async_trait]
impl Call for Outputs {
    type Answer = Vec<OutputRecord>;

    async fn run(&self, connection: &mut PgConnection) -> Result<Vec<OutputRecord>, StoreError> {
        let sql = "select id, media_type, size, sha256, archive_key, body from job_outputs where job_id = $1 order by position";
        let found = sqlx::query(sql).bind(self.0.to_string()).fetch_all(connection).await;
        found.map_err(classify)?.iter().map(rows::output).collect()
    }
}

pub(super) struct Page<'f> {
    pub(super) filter: &'f JobFilter,
    pub(super) after: Option<PageKey>,
    pub(super) limit: u32,
}

#[async_trait]
impl Call for Page<'_> {
    type Answer = JobPage;

    async fn run(&self, connection: &mut PgConnection) -> Result<JobPage, StoreError> {
        list::page(connection, self.filter, self.after, self.limit).await
    }
}

#[async_trait]
impl Source for PgConnection {
    type Row = PgRow;
    const DIALECT: Dialect = Dialect::Postgres;

    async fn fetch(&mut self, plan: &Plan, sql: String, bounds: &Bounds, limit: u32) -> Result<Vec<PgRow>, StoreError> {
        let (min, max) = plan.durations.unwrap_or((0, i64::MAX));
        let mut query = sqlx::query(AssertSqlSafe(sql))
            .bind(bounds.below.0)
            .bind(&bounds.below.1)
            .bind(bounds.from.0)
            .bind(&bounds.from.1)
            .bind(i64::from(limit))
            .bind(min)
            .bind(max)
            .bind(Timestamp::now().as_millis());
        for value in &plan.values {
            query = query.bind(value);
        }
        query.persistent(plan.branches.len() <= KEPT_BRANCHES).fetch_all(self).await.map_err(classify)
    }

    fn jobs(rows: &[PgRow]) -> Result<Vec<Job>, StoreError> {
        rows.iter().map(rows::job).collect()
    }
}

pub(super) struct Unfinished {
    pub(super) before: Timestamp,
    pub(super) after: Option<JobId>,
    pub(super) limit: u32,
}

#[async_trait]
impl Call for Unfinished {
    type Answer = Vec<UnfinishedJob>;

    async fn run(&self, connection: &mut PgConnection) -> Result<Vec<UnfinishedJob>, StoreError> {
        let found = sqlx::query(
            "select id, status, created, updated, runner from jobs \
             where finished is null and id > $1 and updated < $2 order by id limit $3",
        )
        .bind(self.after.map(|id| id.to_string()).unwrap_or_default())
        .bind(self.before.as_millis())
        .bind(i64::from(self.limit))
        .fetch_all(connection)
        .await;
        found.map_err(classify)?.iter().map(rows::unfinished).collect()
    }
}

pub(super) struct Finalized<'i>(pub(super) &'i [JobId]);

#[async_trait]
impl Call for Finalized<'_> {
    type Answer = Vec<JobId>;

    async fn run(&self, connection: &mut PgConnection) -> Result<Vec<JobId>, StoreError> {
        let ids: Vec<_> = self.0.iter().map(JobId::to_string).collect();
        let found =
            sqlx::query("select id from jobs where id = any($1) and finished is not null and receipt is not null")
                .bind(ids)
                .fetch_all(connection)
                .await;
        found.map_err(classify)?.iter().map(rows::id).collect()
    }
}

pub(super) struct Strays<'i> {
    pub(super) ids: &'i [JobId],
    pub(super) before: Timestamp,
}

#[async_trait]
impl Call for Strays<'_> {
    type Answer = Vec<JobId>;

    async fn run(&self, connection: &mut PgConnection) -> Result<Vec<JobId>, StoreError> {
        let ids: Vec<_> = self.ids.iter().map(JobId::to_string).collect();
        let found = sqlx::query(
            "select id from jobs where id = any($1) and finished is not null and (receipt is null or recorded < $2)",
        )
        .bind(ids)
        .bind(self.before.as_millis())
        .fetch_all(connection)
        .await;
        found.map_err(classify)?.iter().map(rows::id).collect()
    }
}

pub(super) struct Known<'i>(pub(super) &'i [JobId]);

#[async_trait]
impl Call for Known<'_> {
    type Answer = Vec<JobId>;

    async fn run(&self, connection: &mut PgConnection) -> Result<Vec<JobId>, StoreError> {
        let ids: Vec<_> = self.0.iter().map(JobId::to_string).collect();
        let found = sqlx::query("select id from jobs where id = any($1)").bind(ids).fetch_all(connection).await;
        found.map_err(classify)?.iter().map(rows::id).collect()
    }
}

pub(super) struct Processor(pub(super) Digest);

#[async_trait]
impl Call for Processor {
    type Answer = Option<Bytes>;

    async fn run(&self, connection: &mut PgConnection) -> Result<Option<Bytes>, StoreError> {
        let query = sqlx::query("select bytes from processors where digest = $1").bind(self.0.to_string());
        let row = query.fetch_optional(connection).await.map_err(classify)?;
        row.map(|row| row.bytes(0, "processors.bytes").map(Bytes::from)).transpose()
    }
}

pub(super) struct OpenProcesses;

#[async_trait]
impl Call for OpenProcesses {
    type Answer = Vec<OpenProcess>;

    async fn run(&self, connection: &mut PgConnection) -> Result<Vec<OpenProcess>, StoreError> {
        let found = sqlx::query(rows::OPEN_PROCESSES).fetch_all(connection).await;
        found.map_err(classify)?.iter().map(rows::open_process).collect()
    }
}
