//! The job list on SQLite: binds what the shared plan needs.

use async_trait::async_trait;
use serde::Deserialize;
use sqlx::AssertSqlSafe;
use sqlx::sqlite::{SqliteConnection, SqliteRow};

use super::failure::classify;
use crate::core::{Job, JobId, JobStatus, ProcessId, Timestamp};
use crate::store::StoreError;
use crate::store::list::{Bounds, Dialect, KEPT_BRANCHES, Plan, Source};
use crate::store::rows::{self, Cells as _};

#[async_trait]
impl Source for SqliteConnection {
    type Row = SqliteRow;
    const DIALECT: Dialect = Dialect::Sqlite;

    async fn fetch(
        &mut self,
        plan: &Plan,
        sql: String,
        bounds: &Bounds,
        limit: u32,
    ) -> Result<Vec<SqliteRow>, StoreError> {
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

    fn jobs(rows: &[SqliteRow]) -> Result<Vec<Job>, StoreError> {
        let Some(row) = rows.first() else { return Ok(Vec::new()) };
        let listed: Vec<Listed> = rows::json(row.text(0, "a page of jobs")?, "a page of jobs")?;
        Ok(listed.into_iter().map(Job::from).collect())
    }
}

/// A job in the JSON array that SQLite makes of a page: the columns of [`rows::JOB`].
#[derive(Deserialize)]
struct Listed(
    JobId,
    ProcessId,
    JobStatus,
    Option<String>,
    Option<u8>,
    String,
    i64,
    Option<i64>,
    Option<i64>,
    i64,
    Option<i64>,
    i64,
);

impl From<Listed> for Job {
    fn from(listed: Listed) -> Self {
        let Listed(
            id,
            process_id,
            status,
            message,
            progress,
            caller,
            created,
            started,
            finished,
            updated,
            removed,
            guarded,
        ) = listed;
        Self {
            id,
            process_id,
            status,
            message,
            progress,
            caller,
            created: Timestamp::from_millis(created),
            started: started.map(Timestamp::from_millis),
            finished: finished.map(Timestamp::from_millis),
            updated: Timestamp::from_millis(updated),
            removed: removed.map(Timestamp::from_millis),
            guarded: guarded != 0,
        }
    }
}
