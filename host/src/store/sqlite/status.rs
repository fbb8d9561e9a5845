//! Writes that move a job on: transition, report, wait, claim. Each is one conditional update; the database decides races.

use std::sync::LazyLock;
use std::time::Duration;

use async_trait::async_trait;
use sqlx::sqlite::{SqliteConnection, SqliteRow};

use super::failure::classify;
use super::rows::{self, JOB, clean, sources};
use super::writer::Work;
use crate::core::job::Transition;
use crate::core::{Job, JobId, JobStatus, Timestamp};
use crate::store::StoreError;

static JOB_BY_ID: LazyLock<String> = LazyLock::new(|| format!("select {JOB} from jobs where id = ?1"));

/// The job as it stands in this transaction.
pub(super) async fn job_by_id(connection: &mut SqliteConnection, id: &str) -> Result<Option<Job>, StoreError> {
    let row = sqlx::query(JOB_BY_ID.as_str()).bind(id).fetch_optional(connection).await.map_err(classify)?;
    row.as_ref().map(rows::job).transpose()
}

/// The update of a transition to a status, and its event.
fn transition_sql(next: JobStatus) -> String {
    let time = match next {
        JobStatus::Running => ", started = coalesce(started, ?5)",
        final_status if final_status.is_final() => ", finished = ?5",
        _ => "",
    };
    // What a job waited for is over when it runs.
    let message = if next == JobStatus::Running { "?3" } else { "coalesce(?3, message)" };
    format!(
        "update jobs set status = ?2, message = {message}, reason = coalesce(?4, reason), \
             updated = max(updated, ?5){time} where id = ?1 and status in ({}) returning {JOB}; \
         insert into job_events (job_id, status, message, at) select ?1, ?2, ?3, ?5 where changes() = 1",
        sources(next)
    )
}

static TRANSITIONS: LazyLock<Vec<(JobStatus, String)>> =
    LazyLock::new(|| JobStatus::ALL.into_iter().map(|next| (next, transition_sql(next))).collect());

pub(super) struct Shift {
    pub(super) change: Transition,
}

#[async_trait]
impl Work for Shift {
    type Answer = Option<(Job, bool)>;

    async fn apply(
        &self,
        connection: &mut SqliteConnection,
        changed: &mut Vec<JobId>,
    ) -> Result<Option<(Job, bool)>, StoreError> {
        let change = &self.change;
        let id = change.job_id.to_string();
        let sql = TRANSITIONS.iter().find(|(next, _)| *next == change.status).map(|(_, sql)| sql.as_str());
        let found: Vec<SqliteRow> = sqlx::query(sql.unwrap_or_default())
            .bind(&id)
            .bind(change.status.as_str())
            .bind(clean(change.message.as_deref()))
            .bind(change.reason.map(|reason| reason.as_str()))
            .bind(change.at.as_millis())
            .fetch_all(&mut *connection)
            .await
            .map_err(classify)?;
        match found.first() {
            Some(row) => {
                changed.push(change.job_id);
                Ok(Some((rows::job(row)?, true)))
            }
            None => Ok(job_by_id(connection, &id).await?.map(|job| (job, false))),
        }
    }
}

/// Progress and message of a job that has not ended.
pub(super) struct Report {
    pub(super) id: JobId,
    pub(super) progress: Option<u8>,
    pub(super) message: Option<String>,
    pub(super) at: Timestamp,
}

#[async_trait]
impl Work for Report {
    type Answer = ();

    async fn apply(&self, connection: &mut SqliteConnection, changed: &mut Vec<JobId>) -> Result<(), StoreError> {
        let written = sqlx::query(
            "update jobs set progress = coalesce(?2, progress), message = nullif(coalesce(?3, message), ''), updated = max(updated, ?4) \
             where id = ?1 and finished is null",
        )
        .bind(self.id.to_string())
        .bind(self.progress.map(|percent| i64::from(percent.min(100))))
        .bind(clean(self.message.as_deref()))
        .bind(self.at.as_millis())
        .execute(connection)
        .await
        .map_err(classify)?;
        if written.rows_affected() > 0 {
            changed.push(self.id);
        }
        Ok(())
    }
}

/// What an accepted job waits for. One that runs has other things to say, however late this comes.
pub(super) struct Wait {
    pub(super) id: JobId,
    pub(super) message: Option<String>,
    pub(super) at: Timestamp,
}

static WAIT: LazyLock<String> = LazyLock::new(|| {
    format!(
        "update jobs set message = ?2, updated = max(updated, ?3) \
         where id = ?1 and status = 'accepted' and message is not ?2 returning {JOB}"
    )
});

#[async_trait]
impl Work for Wait {
    type Answer = Option<Job>;

    async fn apply(
        &self,
        connection: &mut SqliteConnection,
        changed: &mut Vec<JobId>,
    ) -> Result<Option<Job>, StoreError> {
        let id = self.id.to_string();
        let found = sqlx::query(WAIT.as_str())
            .bind(&id)
            .bind(clean(self.message.as_deref()))
            .bind(self.at.as_millis())
            .fetch_optional(&mut *connection)
            .await
            .map_err(classify)?;
        match found {
            Some(row) => {
                changed.push(self.id);
                Ok(Some(rows::job(&row)?))
            }
            None => job_by_id(connection, &id).await,
        }
    }
}

/// Takes the work on a job for a time. The file has one server, and its clock is the database's.
pub(super) struct Claim {
    pub(super) id: JobId,
    pub(super) owner: String,
    pub(super) span: Duration,
}

#[async_trait]
impl Work for Claim {
    type Answer = bool;

    async fn apply(&self, connection: &mut SqliteConnection, _changed: &mut Vec<JobId>) -> Result<bool, StoreError> {
        let now = Timestamp::now();
        let written = sqlx::query(
            "update jobs set claim_owner = ?2, claim_until = ?4 \
             where id = ?1 and (claim_owner is null or claim_owner = ?2 or claim_until <= ?3)",
        )
        .bind(self.id.to_string())
        .bind(&self.owner)
        .bind(now.as_millis())
        .bind((now + self.span).as_millis())
        .execute(connection)
        .await
        .map_err(classify)?;
        Ok(written.rows_affected() > 0)
    }
}

/// Gives a claim up.
pub(super) struct Unclaim {
    pub(super) id: JobId,
    pub(super) owner: String,
}

#[async_trait]
impl Work for Unclaim {
    type Answer = ();

    async fn apply(&self, connection: &mut SqliteConnection, _changed: &mut Vec<JobId>) -> Result<(), StoreError> {
        sqlx::query("update jobs set claim_owner = null, claim_until = null where id = ?1 and claim_owner = ?2")
            .bind(self.id.to_string())
            .bind(&self.owner)
            .execute(connection)
            .await
            .map_err(classify)?;
        Ok(())
    }
}
