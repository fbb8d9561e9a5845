//! Writes that move a job on: transition, report, wait, claim. Each is one conditional update; row locks decide races.

use std::sync::LazyLock;
use std::time::Duration;

use async_trait::async_trait;
use sqlx::Row as _;
use sqlx::postgres::PgConnection;

use super::calls::Call;
use super::failure::classify;
use crate::core::job::Transition;
use crate::core::{Job, JobId, JobStatus, Timestamp};
use crate::store::StoreError;
use crate::store::rows::{self, JOB, clean, sources};

static JOB_BY_ID: LazyLock<String> = LazyLock::new(|| format!("select {JOB} from jobs where id = $1"));

/// The job as it stands now. A statement of its own: one that waited for another's lock still sees the rows from before.
pub(super) async fn job_by_id(connection: &mut PgConnection, id: &str) -> Result<Option<Job>, StoreError> {
    let row = sqlx::query(JOB_BY_ID.as_str()).bind(id).fetch_optional(connection).await.map_err(classify)?;
    row.as_ref().map(rows::job).transpose()
}

/// The update of a transition to a status, and its event.
fn transition_sql(next: JobStatus) -> String {
    let time = match next {
        JobStatus::Running => ", started = coalesce(started, $5)",
        final_status if final_status.is_final() => ", finished = $5",
        _ => "",
    };
    // What a job waited for is over when it runs.
    let message = if next == JobStatus::Running { "$3" } else { "coalesce($3, message)" };
    format!(
        "with was as ( \
             update jobs set status = $2, message = {message}, reason = coalesce($4, reason), \
                 updated = greatest(updated, $5){time} where id = $1 and status in ({}) returning {JOB}), \
         step as (insert into job_events (job_id, status, message, at) select id, $2, $3, $5 from was) \
         select {JOB} from was",
        sources(next)
    )
}

static TRANSITIONS: LazyLock<Vec<(JobStatus, String)>> =
    LazyLock::new(|| JobStatus::ALL.into_iter().map(|next| (next, transition_sql(next))).collect());

pub(super) struct Shift {
    pub(super) change: Transition,
}

#[async_trait]
impl Call for Shift {
    type Answer = Option<(Job, bool)>;
    const WRITES: bool = true;
    // Whether this call changed it could not be told a second time.
    const REPEATABLE: bool = false;

    async fn run(&self, connection: &mut PgConnection) -> Result<Option<(Job, bool)>, StoreError> {
        let change = &self.change;
        let id = change.job_id.to_string();
        let sql = TRANSITIONS.iter().find(|(next, _)| *next == change.status).map(|(_, sql)| sql.as_str());
        let found = sqlx::query(sql.unwrap_or_default())
            .bind(&id)
            .bind(change.status.as_str())
            .bind(clean(change.message.as_deref()))
            .bind(change.reason.map(|reason| reason.as_str()))
            .bind(change.at.as_millis())
            .fetch_optional(&mut *connection)
            .await
            .map_err(classify)?;
        match found {
            Some(row) => Ok(Some((rows::job(&row)?, true))),
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
impl Call for Report {
    type Answer = bool;
    const WRITES: bool = true;

    async fn run(&self, connection: &mut PgConnection) -> Result<bool, StoreError> {
        let written = sqlx::query(
            "update jobs set progress = coalesce($2, progress), message = nullif(coalesce($3, message), ''), \
                 updated = greatest(updated, $4) where id = $1 and finished is null",
        )
        .bind(self.id.to_string())
        .bind(self.progress.map(|percent| i64::from(percent.min(100))))
        .bind(clean(self.message.as_deref()))
        .bind(self.at.as_millis())
        .execute(connection)
        .await
        .map_err(classify)?;
        Ok(written.rows_affected() > 0)
    }
}

/// What an accepted job waits for. One that runs has other things to say, however late this comes.
pub(super) struct Wait {
    pub(super) id: JobId,
    pub(super) message: Option<String>,
    pub(super) at: Timestamp,
}

/// The job, whether it changed or not: behind its columns stands which.
static WAIT: LazyLock<String> = LazyLock::new(|| {
    format!(
        "with changed as ( \
             update jobs set message = $2, updated = greatest(updated, $3) \
             where id = $1 and status = 'accepted' and message is distinct from $2 returning {JOB}) \
         select {JOB}, true from changed \
         union all select {JOB}, false from jobs where id = $1 and not exists (select from changed)"
    )
});

#[async_trait]
impl Call for Wait {
    type Answer = (Option<Job>, bool);
    const WRITES: bool = true;

    async fn run(&self, connection: &mut PgConnection) -> Result<(Option<Job>, bool), StoreError> {
        let (id, message) = (self.id.to_string(), clean(self.message.as_deref()));
        let found = sqlx::query(WAIT.as_str())
            .bind(&id)
            .bind(&message)
            .bind(self.at.as_millis())
            .fetch_optional(&mut *connection)
            .await
            .map_err(classify)?;
        let Some(row) = found else { return Ok((None, false)) };
        let (job, is_changed): (Job, bool) = (rows::job(&row)?, row.try_get(rows::JOB_COLUMNS).map_err(classify)?);
        if !is_changed && job.status == JobStatus::Accepted && job.message.as_deref() != message.as_deref() {
            // Not changed although it should have been: the update waited for another's, and the row is the one from before that.
            return Ok((job_by_id(connection, &id).await?, false));
        }
        Ok((Some(job), is_changed))
    }
}

/// Takes the work on a job for a time.
pub(super) struct Claim<'o> {
    pub(super) id: JobId,
    pub(super) owner: &'o str,
    pub(super) span: Duration,
}

/// The server's clock, which is one for all replicas, in milliseconds: at this moment, not when a wait for a lock began.
const CLOCK: &str = "(extract(epoch from clock_timestamp()) * 1000)::bigint";

static CLAIM: LazyLock<String> = LazyLock::new(|| {
    format!(
        "update jobs set claim_owner = $2, claim_until = {CLOCK} + $3 \
         where id = $1 and (claim_owner is null or claim_owner = $2 or claim_until <= {CLOCK})"
    )
});

#[async_trait]
impl Call for Claim<'_> {
    type Answer = bool;
    const WRITES: bool = true;

    async fn run(&self, connection: &mut PgConnection) -> Result<bool, StoreError> {
        let written = sqlx::query(CLAIM.as_str())
            .bind(self.id.to_string())
            .bind(self.owner)
            .bind(i64::try_from(self.span.as_millis()).unwrap_or(i64::MAX))
            .execute(connection)
            .await
            .map_err(classify)?;
        Ok(written.rows_affected() > 0)
    }
}

/// Gives a claim up.
pub(super) struct Unclaim<'o> {
    pub(super) id: JobId,
    pub(super) owner: &'o str,
}

#[async_trait]
impl Call for Unclaim<'_> {
    type Answer = ();
    const WRITES: bool = true;

    async fn run(&self, connection: &mut PgConnection) -> Result<(), StoreError> {
        sqlx::query("update jobs set claim_owner = null, claim_until = null where id = $1 and claim_owner = $2")
            .bind(self.id.to_string())
            .bind(self.owner)
            .execute(connection)
            .await
            .map_err(classify)?;
        Ok(())
    }
}
