//! The database that replicas share: a PostgreSQL server.
//!
//! Invariant: a write that was answered is committed; every write is one conditional statement or one short transaction, so
//! that any number of replicas may do the same at once. A server that is restarted is answered with
//! [`StoreError::Unavailable`] and used again when it is back.

mod calls;
mod deployed;
mod failure;
mod finish;
mod insert;
mod notices;
mod pool;
mod reads;
mod status;
#[cfg(test)]
pub(super) mod tests;

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use serde::{Deserialize, Serialize};
use sqlx::Connection;
use tokio::sync::broadcast;
use tokio::time::timeout;
use tokio_util::sync::{CancellationToken, DropGuard};

use self::calls::Calls;
use self::failure::{classify, classify_migration};
use self::insert::Inserts;
use self::notices::Notices;
use self::pool::{Door, Pool};
use super::{JobStore, OpenProcess, ProcessRow, StoreError};
use crate::core::job::{Inserted, Transition, UnfinishedJob};
use crate::core::{
    Digest, FinalRecord, Job, JobDetail, JobFilter, JobId, JobPage, NewJob, OutputRecord, PageKey, Timestamp,
};

/// How the connections to the server are used. Two more than `connections` are open: they carry change notices.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Settings {
    /// Connections for calls, at most. All replicas together must stay below the server's `max_connections`.
    pub connections: u32,
    /// Calls that may wait for a connection, and new jobs for a group; one more is refused as overloaded.
    pub queue: usize,
    /// Longest wait for a connection, or for a group, in milliseconds; then the call is refused as overloaded.
    pub acquire_timeout_ms: u64,
    /// Longest time to open a connection, in milliseconds.
    pub connect_timeout_ms: u64,
    /// Longest time of one statement or wait for a lock on the server, in milliseconds.
    pub statement_timeout_ms: u64,
    /// Longest time of one call, in milliseconds.
    pub deadline_ms: u64,
    /// A connection that nobody needs is closed after this time, in milliseconds.
    pub idle_timeout_ms: u64,
    /// Longest time to bring the schema up to date, in milliseconds, the wait for another replica that does it included.
    pub migration_timeout_ms: u64,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            connections: 16,
            queue: 1_024,
            acquire_timeout_ms: 5_000,
            connect_timeout_ms: 5_000,
            statement_timeout_ms: 8_000,
            deadline_ms: 10_000,
            idle_timeout_ms: 60_000,
            migration_timeout_ms: 300_000,
        }
    }
}

/// Readiness writes itself only if no job was written for this long.
const RECENT: Duration = Duration::from_secs(1);

/// Jobs in a PostgreSQL database.
pub struct PostgresStore {
    calls: Arc<Calls>,
    inserts: Inserts,
    notices: Notices,
    // Ends the tasks, too, when the store is dropped.
    _stop: DropGuard,
    stop: CancellationToken,
}

impl PostgresStore {
    /// Connects to `postgres://user:password@host:port/database?sslmode=…` and brings the schema up to date. Of many replicas that
    /// start together one does so, the others wait for it. The connections must last for a session: a pooler in between that
    /// hands out connections by transaction does not carry `LISTEN`.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`] if the URL is wrong or the server cannot be reached or refuses the user, [`StoreError::Timeout`] if
    /// the schema takes too long, [`StoreError::Migration`] if it is newer than this program or was changed by others.
    pub async fn open(url: &str, settings: &Settings) -> Result<Arc<Self>, StoreError> {
        let door = Door::new(url, settings)?;
        migrate(&door, Duration::from_millis(settings.migration_timeout_ms.max(1))).await?;
        Self::connect(door, settings).await
    }

    /// The same for a database that is there: its schema is left as it is.
    ///
    /// # Errors
    /// As [`Self::open`], but for those of the schema.
    pub async fn attach(url: &str, settings: &Settings) -> Result<Arc<Self>, StoreError> {
        Self::connect(Door::new(url, settings)?, settings).await
    }

    async fn connect(door: Door, settings: &Settings) -> Result<Arc<Self>, StoreError> {
        let calls = Arc::new(Calls::new(
            Pool::new(door.clone(), settings),
            Duration::from_millis(settings.deadline_ms.max(1)),
            Duration::from_millis(settings.statement_timeout_ms),
        ));
        let stop = CancellationToken::new();
        let pruned = Arc::downgrade(&calls);
        let prune = move || {
            if let Some(calls) = pruned.upgrade() {
                calls.pool.prune();
            }
        };
        let notices = Notices::start(door, stop.clone(), prune).await?;
        let inserts = Inserts::start(Arc::clone(&calls), settings);
        Ok(Arc::new(Self { calls, inserts, notices, _stop: stop.clone().drop_guard(), stop }))
    }

    /// Refuses new calls and closes the connections. Calls under way end by themselves. Doing it again does nothing.
    pub async fn shutdown(&self) {
        self.stop.cancel();
        if timeout(self.calls.deadline(), self.calls.pool.close()).await.is_err() {
            tracing::warn!("the connections to the database are not closed yet; the server closes what is left");
        }
    }

    fn tell(&self, id: JobId, is_changed: bool) {
        if is_changed {
            self.notices.tell(id);
        }
    }
}

async fn migrate(door: &Door, at_most: Duration) -> Result<(), StoreError> {
    let mut connection = door.connect().await?;
    // The wait for another replica, and a change to a large table, take longer than a call may.
    sqlx::raw_sql("set statement_timeout = 0; set lock_timeout = 0; set idle_in_transaction_session_timeout = 0")
        .execute(&mut connection)
        .await
        .map_err(classify)?;
    let migrator = sqlx::migrate!("../migrations/postgres");
    match timeout(at_most, migrator.run(&mut connection)).await {
        Ok(outcome) => outcome.map_err(classify_migration)?,
        Err(_) => {
            return Err(StoreError::Timeout(at_most.as_millis().div_ceil(1_000).try_into().unwrap_or(u64::MAX)));
        }
    }
    // Nothing is lost if the server does not hear the goodbye.
    drop(timeout(door.connect_timeout(), connection.close()).await);
    Ok(())
}

#[async_trait]
impl JobStore for PostgresStore {
    async fn insert(&self, job: NewJob) -> Result<Inserted, StoreError> {
        let id = job.id;
        let inserted = self.inserts.insert(job).await?;
        self.tell(id, inserted == Inserted::New);
        Ok(inserted)
    }

    async fn job(&self, id: JobId) -> Result<Option<Job>, StoreError> {
        self.calls.answer(&reads::OneJob(id)).await
    }

    async fn detail(&self, id: JobId) -> Result<Option<JobDetail>, StoreError> {
        self.calls.answer(&reads::Detail(id)).await
    }

    async fn list(&self, filter: &JobFilter, after: Option<PageKey>, limit: u32) -> Result<JobPage, StoreError> {
        self.calls.answer(&reads::Page { filter, after, limit }).await
    }

    async fn outputs(&self, id: JobId) -> Result<Vec<OutputRecord>, StoreError> {
        self.calls.answer(&reads::Outputs(id)).await
    }

    async fn transition(&self, change: Transition) -> Result<Option<(Job, bool)>, StoreError> {
        let answer = self.calls.answer(&status::Shift { change }).await?;
        if let Some((job, is_changed)) = &answer {
            self.tell(job.id, *is_changed);
        }
        Ok(answer)
    }

    async fn report(
        &self,
        id: JobId,
        progress: Option<u8>,
        message: Option<String>,
        at: Timestamp,
    ) -> Result<(), StoreError> {
        if progress.is_none() && message.is_none() {
            return Ok(());
        }
        let is_changed = self.calls.answer(&status::Report { id, progress, message, at }).await?;
        self.tell(id, is_changed);
        Ok(())
    }

    async fn wait(&self, id: JobId, message: Option<String>, at: Timestamp) -> Result<Option<Job>, StoreError> {
        let done = self.calls.run(&status::Wait { id, message, at }).await?;
        let (job, is_changed) = done.answer;
        self.tell(id, is_changed || done.is_repeated);
        Ok(job)
    }

    async fn finish(&self, record: FinalRecord) -> Result<Option<Job>, StoreError> {
        let done = self.calls.run(&finish::Finish::new(record)?).await?;
        let (job, is_recorded) = done.answer;
        if let Some(job) = &job {
            self.tell(job.id, is_recorded || done.is_repeated);
        }
        Ok(job)
    }

    async fn remove(&self, id: JobId, at: Timestamp) -> Result<Option<Vec<String>>, StoreError> {
        let done = self.calls.run(&finish::Remove { id, at }).await?;
        let (keys, is_removed) = done.answer;
        self.tell(id, is_removed || (done.is_repeated && keys.is_some()));
        Ok(keys)
    }

    async fn claim(&self, id: JobId, owner: &str, span: Duration) -> Result<bool, StoreError> {
        self.calls.answer(&status::Claim { id, owner, span }).await
    }

    async fn unclaim(&self, id: JobId, owner: &str) -> Result<(), StoreError> {
        self.calls.answer(&status::Unclaim { id, owner }).await
    }

    async fn unfinished(
        &self,
        before: Timestamp,
        after: Option<JobId>,
        limit: u32,
    ) -> Result<Vec<UnfinishedJob>, StoreError> {
        self.calls.answer(&reads::Unfinished { before, after, limit }).await
    }

    async fn finalized(&self, ids: &[JobId]) -> Result<Vec<JobId>, StoreError> {
        self.calls.answer(&reads::Finalized(ids)).await
    }

    async fn strays(&self, ids: &[JobId], before: Timestamp) -> Result<Vec<JobId>, StoreError> {
        self.calls.answer(&reads::Strays { ids, before }).await
    }

    async fn known(&self, ids: &[JobId]) -> Result<Vec<JobId>, StoreError> {
        self.calls.answer(&reads::Known(ids)).await
    }

    async fn put_processor(&self, digest: Digest, bytes: Bytes) -> Result<(), StoreError> {
        self.calls.answer(&deployed::PutProcessor { digest, bytes }).await
    }

    async fn processor(&self, digest: Digest) -> Result<Option<Bytes>, StoreError> {
        self.calls.answer(&reads::Processor(digest)).await
    }

    async fn record_processes(&self, offered: &[ProcessRow], at: Timestamp) -> Result<(), StoreError> {
        self.calls.answer(&deployed::RecordProcesses { offered, at }).await
    }

    async fn open_processes(&self) -> Result<Vec<OpenProcess>, StoreError> {
        self.calls.answer(&reads::OpenProcesses).await
    }

    fn changes(&self) -> broadcast::Receiver<JobId> {
        self.notices.subscribe()
    }

    fn is_shared(&self) -> bool {
        true
    }

    async fn shutdown(&self) {
        Self::shutdown(self).await;
    }

    async fn ready(&self) -> Result<(), StoreError> {
        if self.calls.wrote_within(RECENT) {
            return Ok(());
        }
        self.calls.answer(&deployed::Probe).await
    }
}
