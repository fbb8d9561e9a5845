//! The one writer: a bounded queue of writes and a task that commits what waits together.
//!
//! Invariant: a write is answered after the commit that holds it, or after it is sure that it was not committed. A write that
//! fails is undone alone: the others of its group are then committed one by one.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use sqlx::sqlite::{SqliteConnectOptions, SqliteConnection, SqlitePool};
use sqlx::{ConnectOptions, Connection};
use tokio::sync::{broadcast, mpsc, oneshot};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::failure::{classify, is_busy};
use crate::core::JobId;
use crate::store::StoreError;

/// One write, as a value: it may be applied more than once, each time in a fresh transaction.
#[async_trait]
pub(super) trait Work: Send + Sync + 'static {
    /// What it answers.
    type Answer: Send + 'static;

    /// Applies it in the open transaction and adds the jobs that it changed to `changed`.
    async fn apply(
        &self,
        connection: &mut SqliteConnection,
        changed: &mut Vec<JobId>,
    ) -> Result<Self::Answer, StoreError>;
}

/// A write in the queue, whatever it answers.
#[async_trait]
trait Pending: Send {
    async fn run(&mut self, connection: &mut SqliteConnection, changed: &mut Vec<JobId>) -> Result<(), StoreError>;
    fn settle(self: Box<Self>, outcome: Result<(), StoreError>);
    fn is_abandoned(&self) -> bool;
}

struct Entry<W: Work> {
    work: W,
    answer: Option<W::Answer>,
    reply: oneshot::Sender<Result<W::Answer, StoreError>>,
}

#[async_trait]
impl<W: Work> Pending for Entry<W> {
    async fn run(&mut self, connection: &mut SqliteConnection, changed: &mut Vec<JobId>) -> Result<(), StoreError> {
        self.answer = Some(self.work.apply(connection, changed).await?);
        Ok(())
    }

    fn settle(self: Box<Self>, outcome: Result<(), StoreError>) {
        let Self { answer, reply, .. } = *self;
        let answer = outcome.and_then(|()| answer.ok_or(StoreError::Unavailable(sqlx::Error::WorkerCrashed)));
        // Nobody listens when the caller's deadline has passed.
        drop(reply.send(answer));
    }

    fn is_abandoned(&self) -> bool {
        self.reply.is_closed()
    }
}

/// Hands writes to the task.
pub(super) struct Writer {
    queue: mpsc::Sender<Box<dyn Pending>>,
    stop: CancellationToken,
    health: Arc<Health>,
}

/// When a commit last succeeded, so that readiness need not write what a job has just written.
struct Health {
    began: Instant,
    /// Milliseconds after `began`; 0: never, or the last commit failed.
    committed: AtomicU64,
}

impl Health {
    fn note(&self, committed: bool) {
        let millis = u64::try_from(self.began.elapsed().as_millis()).unwrap_or(u64::MAX).max(1);
        self.committed.store(if committed { millis } else { 0 }, Ordering::Relaxed);
    }
}

/// What the task needs beside its queue.
pub(super) struct Equipment {
    /// How it opens its connection again after a failure.
    pub(super) options: SqliteConnectOptions,
    /// The connection that it starts with.
    pub(super) connection: SqliteConnection,
    /// Closed before the last checkpoint.
    pub(super) readers: SqlitePool,
    /// Told after each commit.
    pub(super) changes: broadcast::Sender<JobId>,
    /// Writes that may wait.
    pub(super) queue: usize,
    /// Writes in one commit.
    pub(super) batch: usize,
}

impl Writer {
    /// Starts the task. It ends after [`Writer::stop`], or when the writer is dropped, once its queue is empty.
    pub(super) fn start(equipment: Equipment) -> (Self, tokio::task::JoinHandle<()>) {
        let (queue, waiting) = mpsc::channel(equipment.queue.max(1));
        let stop = CancellationToken::new();
        let health = Arc::new(Health { began: Instant::now(), committed: AtomicU64::new(0) });
        let task = Task {
            options: equipment.options,
            connection: Some(equipment.connection),
            batch: equipment.batch.max(1),
            changes: equipment.changes,
            health: Arc::clone(&health),
            failing: false,
        };
        let handle = tokio::spawn(task.run(waiting, stop.clone(), equipment.readers));
        (Self { queue, stop, health }, handle)
    }

    /// Queues a write and waits for its commit.
    pub(super) async fn submit<W: Work>(&self, work: W) -> Result<W::Answer, StoreError> {
        let (reply, answer) = oneshot::channel();
        self.queue.try_send(Box::new(Entry { work, answer: None, reply })).map_err(|refusal| match refusal {
            mpsc::error::TrySendError::Full(_) => StoreError::Overloaded,
            mpsc::error::TrySendError::Closed(_) => StoreError::Unavailable(sqlx::Error::PoolClosed),
        })?;
        answer.await.unwrap_or(Err(StoreError::Unavailable(sqlx::Error::WorkerCrashed)))
    }

    /// Whether a commit succeeded within this span and none failed since.
    pub(super) fn committed_within(&self, span: Duration) -> bool {
        let committed = self.health.committed.load(Ordering::Relaxed);
        committed != 0 && self.health.began.elapsed().saturating_sub(Duration::from_millis(committed)) <= span
    }

    /// Whether the last transaction was committed. False too if there was none.
    pub(super) fn committed_last(&self) -> bool {
        self.health.committed.load(Ordering::Relaxed) != 0
    }

    /// Refuses new writes, does those that wait, checkpoints and closes.
    pub(super) fn stop(&self) {
        self.stop.cancel();
    }
}

struct Task {
    options: SqliteConnectOptions,
    connection: Option<SqliteConnection>,
    batch: usize,
    changes: broadcast::Sender<JobId>,
    health: Arc<Health>,
    failing: bool,
}

/// Why a group was not committed.
enum Refused {
    /// The transaction itself failed: all of them did.
    Transaction(StoreError),
    /// One write failed; nothing was committed.
    Write(StoreError),
}

impl Task {
    async fn run(mut self, mut queue: mpsc::Receiver<Box<dyn Pending>>, stop: CancellationToken, readers: SqlitePool) {
        let mut group = Vec::with_capacity(self.batch);
        loop {
            tokio::select! {
                biased;
                () = stop.cancelled(), if !queue.is_closed() => queue.close(),
                taken = queue.recv_many(&mut group, self.batch) => {
                    if taken == 0 {
                        break;
                    }
                    group.retain(|entry| !entry.is_abandoned());
                    self.write(std::mem::take(&mut group)).await;
                }
            }
        }
        readers.close().await;
        if let Some(mut connection) = self.connection.take() {
            let end = async {
                sqlx::query("pragma wal_checkpoint(truncate)").execute(&mut connection).await?;
                connection.close().await
            };
            if let Err(error) = end.await {
                tracing::warn!(%error, "the database was closed without a checkpoint; the next start does it");
            }
        }
    }

    async fn write(&mut self, mut group: Vec<Box<dyn Pending>>) {
        match self.attempt(&mut group).await {
            Ok(()) => group.into_iter().for_each(|entry| entry.settle(Ok(()))),
            Err(Refused::Write(_)) if group.len() > 1 => self.one_by_one(group).await,
            Err(Refused::Transaction(error) | Refused::Write(error)) => settle_all(group, error),
        }
    }

    async fn one_by_one(&mut self, group: Vec<Box<dyn Pending>>) {
        let mut rest = group.into_iter();
        while let Some(mut entry) = rest.next() {
            match self.attempt(std::slice::from_mut(&mut entry)).await {
                Ok(()) => entry.settle(Ok(())),
                Err(Refused::Write(error)) => entry.settle(Err(error)),
                Err(Refused::Transaction(error)) => {
                    // The others would only wait for the same failure.
                    settle_all(rest.collect(), error.again());
                    entry.settle(Err(error));
                    return;
                }
            }
        }
    }

    /// One transaction with all of these writes, or nothing.
    async fn attempt(&mut self, group: &mut [Box<dyn Pending>]) -> Result<(), Refused> {
        if group.is_empty() {
            return Ok(());
        }
        let mut changed = Vec::with_capacity(group.len());
        let outcome = self.transaction(group, &mut changed).await;
        let failed = match &outcome {
            Ok(()) => None,
            Err(Refused::Transaction(error) | Refused::Write(error)) => Some(error),
        };
        self.health.note(failed.is_none());
        match failed {
            // A fault of one write says nothing about the disk.
            Some(error @ StoreError::Unavailable(cause)) if !self.failing => {
                self.failing = true;
                tracing::error!(%error, %cause, "writes fail");
            }
            Some(_) => {}
            None if self.failing => {
                self.failing = false;
                tracing::info!("writes succeed again");
            }
            None => {}
        }
        if outcome.is_ok() {
            for id in changed {
                // Nobody may be listening.
                let _ = self.changes.send(id);
            }
        }
        outcome
    }

    async fn transaction(&mut self, group: &mut [Box<dyn Pending>], changed: &mut Vec<JobId>) -> Result<(), Refused> {
        let connection = self.begin().await.map_err(|error| Refused::Transaction(classify(error)))?;
        let mut outcome = Ok(());
        for entry in group.iter_mut() {
            outcome = entry.run(connection, changed).await.map_err(Refused::Write);
            if outcome.is_err() {
                break;
            }
        }
        if outcome.is_ok() {
            crate::failpoint::hit("store-before-commit");
            outcome = match sqlx::query("commit").execute(&mut *connection).await {
                Ok(_) => Ok(()),
                Err(error) => Err(Refused::Transaction(classify(error))),
            };
            crate::failpoint::hit("store-after-commit");
        }
        if outcome.is_err() {
            // SQLite may have undone the transaction by itself, then this says that there is none: no harm. If it stays open,
            // `begin` opens another connection.
            if let Err(error) = sqlx::query("rollback").execute(&mut *connection).await {
                tracing::debug!(%error, "rollback");
            }
            if let Err(Refused::Transaction(StoreError::Unavailable(_)) | Refused::Write(StoreError::Unavailable(_))) =
                outcome
            {
                // On a full disk the journal cannot grow: once its pages are in the file, it is written again from its start.
                drop(sqlx::query("pragma wal_checkpoint(passive)").fetch_all(&mut *connection).await);
            }
        }
        outcome
    }

    /// Begins a transaction, on another connection if this one is spoilt.
    async fn begin(&mut self) -> Result<&mut SqliteConnection, sqlx::Error> {
        const BEGIN: &str = "begin immediate";
        if let Some(mut connection) = self.connection.take() {
            match sqlx::query(BEGIN).execute(&mut connection).await {
                Ok(_) => return Ok(self.connection.insert(connection)),
                Err(error) if is_busy(&error) => {
                    self.connection = Some(connection);
                    return Err(error);
                }
                Err(error) => {
                    tracing::debug!(%error, "the database is opened again");
                    drop(connection.close().await);
                }
            }
        }
        let mut connection = self.options.connect().await?;
        sqlx::query(BEGIN).execute(&mut connection).await?;
        Ok(self.connection.insert(connection))
    }
}

fn settle_all(group: Vec<Box<dyn Pending>>, error: StoreError) {
    let mut group = group.into_iter();
    let first = group.next();
    for entry in group {
        entry.settle(Err(error.again()));
    }
    if let Some(first) = first {
        first.settle(Err(error));
    }
}
