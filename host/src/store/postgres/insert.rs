//! The write that accepts a job: the hot path. Jobs that come while others are written go to the server together: one round trip and one
//! commit for all of them.
//!
//! Invariant: a job is answered after the commit that holds its row, or after it is known what else became of it. A group that fails for
//! the fault of one is written one by one. At most [`AT_ONCE`] groups are under way: one that waits does not hold up all others.

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use futures::{StreamExt as _, stream};
use sqlx::AssertSqlSafe;
use sqlx::postgres::{PgConnection, PgRow};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot};
use tokio::time::timeout;

use super::Settings;
use super::calls::{Call, Calls, Done, timed_out};
use super::failure::classify;
use crate::core::NewJob;
use crate::core::job::Inserted;
use crate::store::StoreError;
use crate::store::rows::{self, Cells as _, JOB, NewRow, clean};

/// Groups that are written at the same time.
const AT_ONCE: usize = 4;
/// Jobs of one group that are looked at apart at the same time.
const APART: usize = 4;
/// Jobs in a group, at most.
const GROUP: usize = 64;
/// Bytes of inputs and plans from which on a group takes no further job.
const GROUP_BYTES: usize = 1024 * 1024;

/// A conflict is either the same call again or a known idempotency key; both are looked at afterwards.
const INSERT: &str = "\
with new as ( \
    insert into jobs (id, process_id, process_version, processor_digest, caller, status, created, updated, relaunchable, guarded, \
        runner, nonce, idempotency_key, request_sha256, response, requested_outputs, declared_outputs, inputs, plan) \
    select id, process_id, version, digest, caller, 'accepted', created, created, relaunchable, guarded, \
        runner, nonce, key, sha256, response, outputs, declared, inputs, plan \
    from unnest($1::text[], $2::text[], $3::text[], $4::text[], $5::text[], $6::bigint[], $7::bigint[], $8::bigint[], $9::text[], \
        $10::text[], $11::text[], $12::text[], $13::text[], $14::text[], $15::text[], $16::text[], $17::text[]) \
        as given (id, process_id, version, digest, caller, created, relaunchable, guarded, \
            runner, nonce, key, sha256, response, outputs, declared, inputs, plan) \
    on conflict do nothing returning id, created), \
events as (insert into job_events (job_id, status, message, at) select id, 'accepted', null, created from new) \
select id from new";

/// A new job with its JSON written out.
struct Insert {
    job: NewJob,
    row: NewRow,
}

impl Insert {
    fn bytes(&self) -> usize {
        self.row.inputs.len() + self.row.plan.len()
    }

    /// Two servers that wait for each other's keys would never end: all take them in this order.
    fn order(&self) -> impl Ord {
        (&self.job.caller, self.job.process_id.as_str(), self.job.idempotency.as_ref().map(|known| &known.key))
    }
}

/// One that waits for its group.
struct Waiting {
    insert: Insert,
    /// Whether a group has it, or its caller has given it up: one of the two.
    is_taken: Arc<AtomicBool>,
    reply: oneshot::Sender<Result<Inserted, StoreError>>,
}

impl Waiting {
    fn answer(self, outcome: Result<Inserted, StoreError>) {
        // Nobody listens when the caller's deadline has passed.
        drop(self.reply.send(outcome));
    }
}

/// Hands jobs to the groups.
pub(super) struct Inserts {
    queue: mpsc::Sender<Waiting>,
    calls: Arc<Calls>,
    /// Longest wait for a group.
    wait: Duration,
}

impl Inserts {
    /// Starts the task that makes the groups. It ends when this is dropped, once its queue is empty.
    pub(super) fn start(calls: Arc<Calls>, settings: &Settings) -> Self {
        let (queue, waiting) = mpsc::channel(settings.queue.max(1));
        tokio::spawn(gather(Arc::clone(&calls), waiting));
        Self { queue, calls, wait: Duration::from_millis(settings.acquire_timeout_ms) }
    }

    /// Writes a job, and answers after the commit.
    pub(super) async fn insert(&self, job: NewJob) -> Result<Inserted, StoreError> {
        let insert = Insert { row: NewRow::of(&job)?, job };
        let (reply, mut answer) = oneshot::channel();
        let is_taken = Arc::new(AtomicBool::new(false));
        let waiting = Waiting { insert, is_taken: Arc::clone(&is_taken), reply };
        self.queue.try_send(waiting).map_err(|refusal| match refusal {
            mpsc::error::TrySendError::Full(_) => StoreError::Overloaded,
            mpsc::error::TrySendError::Closed(_) => StoreError::Unavailable(sqlx::Error::PoolClosed),
        })?;
        let answered = match timeout(self.wait, &mut answer).await {
            Ok(answered) => answered,
            // Given up before anything was sent.
            Err(_) if !is_taken.swap(true, Ordering::Relaxed) => return Err(StoreError::Overloaded),
            Err(_) => match timeout(self.calls.deadline(), answer).await {
                Ok(answered) => answered,
                Err(_) => return Err(timed_out(self.calls.deadline())),
            },
        };
        // Its task died: at which step is not known.
        answered.unwrap_or(Err(StoreError::Unconfirmed(sqlx::Error::WorkerCrashed)))
    }
}

async fn gather(calls: Arc<Calls>, mut queue: mpsc::Receiver<Waiting>) {
    let places = Arc::new(Semaphore::new(AT_ONCE));
    let take = |waiting: Waiting| (!waiting.is_taken.swap(true, Ordering::Relaxed)).then_some(waiting);
    loop {
        let Ok(place) = Arc::clone(&places).acquire_owned().await else { return };
        let Some(first) = queue.recv().await else { return };
        let (mut group, mut bytes) = (Vec::from_iter(take(first)), 0);
        while group.len() < GROUP && bytes < GROUP_BYTES {
            let Ok(next) = queue.try_recv() else { break };
            group.extend(take(next));
            bytes = group.iter().map(|waiting| waiting.insert.bytes()).sum();
        }
        if !group.is_empty() {
            let calls = Arc::clone(&calls);
            tokio::spawn(async move { write(&calls, group, place).await });
        }
    }
}

/// Writes a group in its place, and answers those that were written; then looks at the others one by one.
async fn write(calls: &Calls, mut group: Vec<Waiting>, place: OwnedSemaphorePermit) {
    group.sort_by(|one, other| one.insert.order().cmp(&other.insert.order()));
    let outcome = calls.run(&Group(&group)).await;
    drop(place);
    match outcome {
        Ok(Done { answer: written, is_repeated }) => {
            let written: HashSet<String> = written.into_iter().collect();
            let (new, known): (Vec<_>, Vec<_>) =
                group.into_iter().partition(|waiting| written.contains(&waiting.insert.row.id));
            new.into_iter().for_each(|waiting| waiting.answer(Ok(Inserted::New)));
            let look = async |waiting: Waiting| {
                let outcome = existing(calls, &waiting.insert, is_repeated).await;
                waiting.answer(outcome);
            };
            stream::iter(known).for_each_concurrent(APART, look).await;
        }
        // The fault of one of them, and not known of which.
        Err(StoreError::Statement(_)) if group.len() > 1 => {
            let write = async |waiting: Waiting| {
                let outcome = match calls.run(&Group(std::slice::from_ref(&waiting))).await {
                    Ok(Done { answer, .. }) if !answer.is_empty() => Ok(Inserted::New),
                    Ok(Done { is_repeated, .. }) => existing(calls, &waiting.insert, is_repeated).await,
                    Err(error) => Err(error),
                };
                waiting.answer(outcome);
            };
            stream::iter(group).for_each_concurrent(APART, write).await;
        }
        Err(error) => {
            let mut group = group.into_iter();
            let first = group.next();
            group.for_each(|waiting| waiting.answer(Err(error.again())));
            if let Some(first) = first {
                first.answer(Err(error));
            }
        }
    }
}

/// What became of a job that was not written just now.
async fn existing(calls: &Calls, insert: &Insert, is_repeated: bool) -> Result<Inserted, StoreError> {
    match calls.answer(&Existing(insert)).await {
        // The attempt before may have written it.
        Err(StoreError::Unavailable(cause)) if is_repeated => Err(StoreError::Unconfirmed(cause)),
        Err(StoreError::Overloaded) if is_repeated => Err(StoreError::Unconfirmed(sqlx::Error::PoolTimedOut)),
        outcome => outcome,
    }
}

/// Writes a group, and answers the ids of the rows that it wrote.
struct Group<'g>(&'g [Waiting]);

#[async_trait]
impl Call for Group<'_> {
    type Answer = Vec<String>;
    const WRITES: bool = true;

    async fn run(&self, connection: &mut PgConnection) -> Result<Vec<String>, StoreError> {
        fn column<'g, T>(group: &'g [Waiting], cell: impl Fn(&'g Insert) -> T) -> Vec<T> {
            group.iter().map(|waiting| cell(&waiting.insert)).collect()
        }
        let group = self.0;
        let rows: Vec<PgRow> = sqlx::query(INSERT)
            .bind(column(group, |insert| insert.row.id.as_str()))
            .bind(column(group, |insert| insert.job.process_id.as_str()))
            .bind(column(group, |insert| clean(Some(&insert.job.process_version))))
            .bind(column(group, |insert| insert.row.digest.as_str()))
            .bind(column(group, |insert| insert.job.caller.as_str()))
            .bind(column(group, |insert| insert.job.created.as_millis()))
            .bind(column(group, |insert| i64::from(insert.job.relaunchable)))
            .bind(column(group, |insert| i64::from(insert.job.request.guarded)))
            .bind(column(group, |insert| insert.job.runner.as_str()))
            .bind(column(group, |insert| insert.job.nonce.as_deref()))
            .bind(column(group, |insert| insert.job.idempotency.as_ref().map(|known| known.key.as_str())))
            .bind(column(group, |insert| insert.job.idempotency.as_ref().map(|known| known.request_sha256.as_str())))
            .bind(column(group, |insert| insert.row.response.as_str()))
            .bind(column(group, |insert| insert.row.outputs.as_str()))
            .bind(column(group, |insert| insert.row.declared.as_str()))
            .bind(column(group, |insert| insert.row.inputs.as_str()))
            .bind(column(group, |insert| insert.row.plan.as_str()))
            .fetch_all(connection)
            .await
            .map_err(classify)?;
        rows.iter().map(|row| Ok(row.text(0, "jobs.id")?.to_owned())).collect()
    }
}

/// What a row is there already for.
struct Existing<'i>(&'i Insert);

#[async_trait]
impl Call for Existing<'_> {
    type Answer = Inserted;

    async fn run(&self, connection: &mut PgConnection) -> Result<Inserted, StoreError> {
        let Insert { job, row } = self.0;
        let own = sqlx::query("select 1 from jobs where id = $1").bind(&row.id);
        if own.fetch_optional(&mut *connection).await.map_err(classify)?.is_some() {
            return Ok(Inserted::New);
        }
        let Some(idempotency) = &job.idempotency else {
            return Err(StoreError::Statement(sqlx::Error::RowNotFound));
        };
        let sql = format!(
            "select {JOB}, request_sha256 from jobs where caller = $1 and process_id = $2 and idempotency_key = $3"
        );
        let row = sqlx::query(AssertSqlSafe(sql))
            .bind(&job.caller)
            .bind(job.process_id.as_str())
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
