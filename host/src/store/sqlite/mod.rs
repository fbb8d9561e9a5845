//! The embedded database: one SQLite file in WAL mode, one writer that groups commits, a few readers.
//!
//! Invariant: a write that was answered survives power loss (with [`Synchronous::Full`]), and nothing but the writer's task
//! writes. Two servers must not share a file: the application locks its folder.

mod deployed;
mod failure;
mod finish;
mod insert;
mod pages;
mod status;
#[cfg(test)]
mod tests;
mod writer;

use std::future::Future;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use serde::{Deserialize, Serialize};
use sqlx::pool::PoolConnection;
use sqlx::sqlite::{SqliteConnectOptions, SqliteJournalMode, SqlitePool, SqlitePoolOptions, SqliteSynchronous};
use sqlx::{AssertSqlSafe, ConnectOptions, Sqlite};
use tokio::sync::broadcast;
use tokio::task::JoinHandle;

use self::failure::{classify, classify_migration};
use self::writer::{Equipment, Work, Writer};
use super::rows::{self, Cells as _};
use super::{JobStore, OpenProcess, ProcessRow, StoreError, list};
use crate::core::job::{Inserted, Transition, UnfinishedJob};
use crate::core::{
    Digest, FinalRecord, Job, JobDetail, JobFilter, JobId, JobPage, JobStatus, NewJob, OutputRecord, PageKey, Timestamp,
};

/// How the embedded database is run.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Settings {
    /// What a write waits for before it is answered.
    pub synchronous: Synchronous,
    /// Connections that read at once.
    pub readers: u32,
    /// Writes that may wait; one more is refused as overloaded.
    pub queue: usize,
    /// Writes in one commit, at most.
    pub batch: usize,
    /// Longest time of one call, in milliseconds.
    pub deadline_ms: u64,
    /// Longest wait for another program that has locked the file, in milliseconds.
    pub busy_timeout_ms: u64,
    /// Page cache of the writer, in KiB.
    pub writer_cache_kib: u32,
    /// Page cache of each reader, in KiB.
    pub reader_cache_kib: u32,
    /// Beginning of the file, in MiB, that readers map into memory; 0: none of it. Long lists are faster with it. But what is otherwise one
    /// failed request ends the server then: a page that the disk cannot read, a file that another program cuts. Not for network volumes.
    pub mapped_mib: u32,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            synchronous: Synchronous::Full,
            readers: 4,
            queue: 1_024,
            batch: 128,
            deadline_ms: 10_000,
            busy_timeout_ms: 3_000,
            writer_cache_kib: 8_192,
            reader_cache_kib: 2_048,
            mapped_mib: 0,
        }
    }
}

/// SQLite's `synchronous`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Synchronous {
    /// A write that was answered survives power loss.
    #[default]
    Full,
    /// The last writes may be lost with the power, not with the process. The file stays sound.
    Normal,
}

/// The name of the thread of each connection.
const THREAD: &str = "store-sqlite";
/// Readiness writes itself only if no job was written for this long.
const RECENT: Duration = Duration::from_secs(1);
/// Bytes that must be writable after a write has failed, before the database counts as ready again.
const PROBED_ROOM: u32 = 65_536;

/// Jobs in an SQLite file.
pub struct SqliteStore {
    writer: Writer,
    readers: SqlitePool,
    changes: broadcast::Sender<JobId>,
    deadline: Duration,
    task: Mutex<Option<JoinHandle<()>>>,
}

impl SqliteStore {
    /// Opens the file, creates it if need be (readable by its owner alone) and brings its schema up to date.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`] if the file cannot be opened or written, [`StoreError::Migration`] if its schema is newer than
    /// this program or was changed by others.
    pub async fn open(path: &Path, settings: &Settings) -> Result<Arc<Self>, StoreError> {
        create_private(path).await.map_err(|error| StoreError::Unavailable(sqlx::Error::Io(error)))?;
        Self::start(path, settings, false).await
    }

    /// Opens a file that is there, beside a server that may use it: nothing is created or brought up to date, and every write fails.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`] if there is no such file or it cannot be opened.
    pub async fn open_reading(path: &Path, settings: &Settings) -> Result<Arc<Self>, StoreError> {
        Self::start(path, settings, true).await
    }

    async fn start(path: &Path, settings: &Settings, only_reads: bool) -> Result<Arc<Self>, StoreError> {
        let cache = |kib: u32| format!("-{kib}");
        let options = SqliteConnectOptions::new()
            .filename(path)
            .busy_timeout(Duration::from_millis(settings.busy_timeout_ms.min(i32::MAX.unsigned_abs().into())))
            .foreign_keys(true)
            .synchronous(match settings.synchronous {
                Synchronous::Full => SqliteSynchronous::Full,
                Synchronous::Normal => SqliteSynchronous::Normal,
            })
            .pragma("temp_store", "memory")
            .pragma("journal_size_limit", "67108864")
            .pragma("trusted_schema", "off")
            .statement_cache_capacity(48)
            .thread_name(|number| format!("{THREAD}-{number}"))
            .disable_statement_logging();
        let options = options.read_only(only_reads);
        let writer_options = options.clone().pragma("cache_size", cache(settings.writer_cache_kib));
        let writer_options =
            if only_reads { writer_options } else { writer_options.journal_mode(SqliteJournalMode::Wal) };
        let mut connection = writer_options.connect().await.map_err(classify)?;
        if !only_reads {
            sqlx::migrate!("../migrations/sqlite").run(&mut connection).await.map_err(classify_migration)?;
            // The file has one server at a time: a claim that is still there is that of one which died.
            sqlx::query("update jobs set claim_owner = null, claim_until = null where claim_owner is not null")
                .execute(&mut connection)
                .await
                .map_err(classify)?;
        }

        let deadline = Duration::from_millis(settings.deadline_ms.max(1));
        let readers = SqlitePoolOptions::new()
            .max_connections(settings.readers.max(1))
            .acquire_timeout(deadline)
            .idle_timeout(Duration::from_secs(60))
            .max_lifetime(None)
            .test_before_acquire(false)
            .connect_lazy_with(
                options
                    .pragma("query_only", "on")
                    .pragma("cache_size", cache(settings.reader_cache_kib))
                    // A page of the list has its rows all over the file: no call and no copy for each of them.
                    .pragma("mmap_size", (u64::from(settings.mapped_mib) << 20).to_string())
                    // A page crosses from SQLite's thread in a few steps, not row by row.
                    .row_buffer_size(512),
            );
        let (changes, _) = broadcast::channel(4_096);
        let (writer, task) = Writer::start(Equipment {
            options: writer_options,
            connection,
            readers: readers.clone(),
            changes: changes.clone(),
            queue: settings.queue,
            batch: settings.batch,
        });
        Ok(Arc::new(Self { writer, readers, changes, deadline, task: Mutex::new(Some(task)) }))
    }

    /// Refuses new writes, does those that wait, lets readers end, checkpoints and closes the file. It waits for that no longer
    /// than a call's deadline; whatever is answered is safe at any time. Doing it again does nothing.
    pub async fn shutdown(&self) {
        self.writer.stop();
        let task = self.task.lock().unwrap_or_else(std::sync::PoisonError::into_inner).take();
        let Some(task) = task else { return };
        match tokio::time::timeout(self.deadline, task).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::error!(%error, "the database's writer ended as it should not"),
            Err(_) => tracing::warn!("the database is not closed yet; the next start does what is left"),
        }
    }

    async fn within<T>(&self, call: impl Future<Output = Result<T, StoreError>> + Send) -> Result<T, StoreError> {
        match tokio::time::timeout(self.deadline, call).await {
            Ok(outcome) => outcome,
            Err(_) => {
                Err(StoreError::Timeout(self.deadline.as_millis().div_ceil(1_000).try_into().unwrap_or(u64::MAX)))
            }
        }
    }

    async fn write<W: Work>(&self, work: W) -> Result<W::Answer, StoreError> {
        self.within(self.writer.submit(work)).await
    }

    async fn reader(&self) -> Result<PoolConnection<Sqlite>, StoreError> {
        self.readers.acquire().await.map_err(classify)
    }
}

/// SQLite gives its journal the rights of the file: created here, so that inputs and results are the owner's alone.
async fn create_private(path: &Path) -> std::io::Result<()> {
    let mut options = tokio::fs::OpenOptions::new();
    options.append(true).create(true);
    #[cfg(unix)]
    options.mode(0o600);
    options.open(path).await.map(drop)
}

#[async_trait]
impl JobStore for SqliteStore {
    async fn insert(&self, job: NewJob) -> Result<Inserted, StoreError> {
        self.write(insert::Insert::new(job)?).await
    }

    async fn job(&self, id: JobId) -> Result<Option<Job>, StoreError> {
        self.within(async { status::job_by_id(&mut *self.reader().await?, &id.to_string()).await }).await
    }

    async fn detail(&self, id: JobId) -> Result<Option<JobDetail>, StoreError> {
        self.within(async {
            let sql = format!("select {}, {} from jobs where id = ?1", rows::JOB, rows::DETAIL);
            let query = sqlx::query(AssertSqlSafe(sql)).bind(id.to_string());
            let row = query.fetch_optional(&mut *self.reader().await?).await.map_err(classify)?;
            row.as_ref().map(rows::detail).transpose()
        })
        .await
    }

    async fn list(&self, filter: &JobFilter, after: Option<PageKey>, limit: u32) -> Result<JobPage, StoreError> {
        self.within(async { list::page(&mut *self.reader().await?, filter, after, limit).await }).await
    }

    async fn outputs(&self, id: JobId) -> Result<Vec<OutputRecord>, StoreError> {
        self.within(async {
            let sql = "select id, media_type, size, sha256, archive_key, body from job_outputs where job_id = ?1 order by position";
            let found = sqlx::query(sql).bind(id.to_string()).fetch_all(&mut *self.reader().await?).await;
            found.map_err(classify)?.iter().map(rows::output).collect()
        })
        .await
    }

    async fn transition(&self, change: Transition) -> Result<Option<(Job, bool)>, StoreError> {
        self.write(status::Shift { change }).await
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
        self.write(status::Report { id, progress, message, at }).await
    }

    async fn wait(&self, id: JobId, message: Option<String>, at: Timestamp) -> Result<Option<Job>, StoreError> {
        // A read costs the one writer nothing, and mostly there is nothing new to say.
        let job = self.job(id).await?;
        if job.as_ref().is_some_and(|job| job.status == JobStatus::Accepted && job.message != message) {
            return self.write(status::Wait { id, message, at }).await;
        }
        Ok(job)
    }

    async fn finish(&self, record: FinalRecord) -> Result<Option<Job>, StoreError> {
        self.write(finish::Finish::new(record)?).await
    }

    async fn remove(&self, id: JobId, at: Timestamp) -> Result<Option<Vec<String>>, StoreError> {
        self.write(finish::Remove { id, at }).await
    }

    async fn claim(&self, id: JobId, owner: &str, span: Duration) -> Result<bool, StoreError> {
        self.write(status::Claim { id, owner: owner.to_owned(), span }).await
    }

    async fn unclaim(&self, id: JobId, owner: &str) -> Result<(), StoreError> {
        self.write(status::Unclaim { id, owner: owner.to_owned() }).await
    }

    async fn unfinished(
        &self,
        before: Timestamp,
        after: Option<JobId>,
        limit: u32,
    ) -> Result<Vec<UnfinishedJob>, StoreError> {
        self.within(async {
            let found = sqlx::query(
                "select id, status, created, updated, runner from jobs indexed by jobs_unfinished \
                 where finished is null and id > ?1 and updated < ?2 order by id limit ?3",
            )
            .bind(after.map(|id| id.to_string()).unwrap_or_default())
            .bind(before.as_millis())
            .bind(i64::from(limit))
            .fetch_all(&mut *self.reader().await?)
            .await;
            found.map_err(classify)?.iter().map(rows::unfinished).collect()
        })
        .await
    }

    async fn finalized(&self, ids: &[JobId]) -> Result<Vec<JobId>, StoreError> {
        self.within(async {
            let found = sqlx::query(
                "select id from jobs where id in (select value from json_each(?1)) \
                 and finished is not null and receipt is not null",
            )
            .bind(rows::ids_json(ids)?)
            .fetch_all(&mut *self.reader().await?)
            .await;
            found.map_err(classify)?.iter().map(rows::id).collect()
        })
        .await
    }

    async fn strays(&self, ids: &[JobId], before: Timestamp) -> Result<Vec<JobId>, StoreError> {
        self.within(async {
            let found = sqlx::query(
                "select id from jobs where id in (select value from json_each(?1)) \
                 and finished is not null and (receipt is null or recorded < ?2)",
            )
            .bind(rows::ids_json(ids)?)
            .bind(before.as_millis())
            .fetch_all(&mut *self.reader().await?)
            .await;
            found.map_err(classify)?.iter().map(rows::id).collect()
        })
        .await
    }

    async fn known(&self, ids: &[JobId]) -> Result<Vec<JobId>, StoreError> {
        self.within(async {
            let found = sqlx::query("select id from jobs where id in (select value from json_each(?1))")
                .bind(rows::ids_json(ids)?)
                .fetch_all(&mut *self.reader().await?)
                .await;
            found.map_err(classify)?.iter().map(rows::id).collect()
        })
        .await
    }

    async fn put_processor(&self, digest: Digest, bytes: Bytes) -> Result<(), StoreError> {
        self.write(deployed::PutProcessor { digest, bytes }).await
    }

    async fn processor(&self, digest: Digest) -> Result<Option<Bytes>, StoreError> {
        self.within(async {
            let query = sqlx::query("select bytes from processors where digest = ?1").bind(digest.to_string());
            let row = query.fetch_optional(&mut *self.reader().await?).await.map_err(classify)?;
            row.map(|row| row.bytes(0, "processors.bytes").map(Bytes::from)).transpose()
        })
        .await
    }

    async fn record_processes(&self, offered: &[ProcessRow], at: Timestamp) -> Result<(), StoreError> {
        self.write(deployed::RecordProcesses::new(offered, at)?).await
    }

    async fn open_processes(&self) -> Result<Vec<OpenProcess>, StoreError> {
        self.within(async {
            let found = sqlx::query(rows::OPEN_PROCESSES).fetch_all(&mut *self.reader().await?).await;
            found.map_err(classify)?.iter().map(rows::open_process).collect()
        })
        .await
    }

    fn changes(&self) -> broadcast::Receiver<JobId> {
        self.changes.subscribe()
    }

    fn is_shared(&self) -> bool {
        false
    }

    async fn shutdown(&self) {
        Self::shutdown(self).await;
    }

    async fn ready(&self) -> Result<(), StoreError> {
        if self.writer.committed_within(RECENT) {
            return Ok(());
        }
        let room = if self.writer.committed_last() { 0 } else { PROBED_ROOM };
        self.write(deployed::Probe { room }).await
    }
}
