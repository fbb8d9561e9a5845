//! The database: every job, its events and outputs, every process and the processors' bytes.
//!
//! [`JobStore`] is what the use cases see; [`sqlite`] is the embedded implementation, [`postgres`] the one that replicas share. A write is durable when its call
//! returns, conditional writes decide races, and nothing here knows what a runner, an archive or a processor is.

mod list;
pub mod postgres;
mod rows;
pub mod sql;
pub mod sqlite;

#[cfg(test)]
mod contract;

use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use tokio::sync::broadcast;

use crate::core::job::{Inserted, Transition, UnfinishedJob};
use crate::core::{
    Digest, FinalRecord, Job, JobDetail, JobFilter, JobId, JobPage, NewJob, OutputRecord, PageKey, ProcessId, Timestamp,
};

/// Why the database did not do as asked.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// Too many writes wait already; nothing was written.
    #[error("too many writes wait for the database")]
    Overloaded,
    /// The database cannot be reached, is full or read-only; nothing was written. It may work again.
    #[error("the database is not available")]
    Unavailable(#[source] sqlx::Error),
    /// The call took longer than its deadline. Whether it took place is not known; every call can be repeated.
    #[error("the database did not answer within {0} s")]
    Timeout(u64),
    /// The connection broke in the middle of a write. Whether it took place is not known; every call can be repeated.
    #[error("the database did not confirm a write")]
    Unconfirmed(#[source] sqlx::Error),
    /// A row does not hold what it must.
    #[error("{what} in the database is not readable")]
    Corrupt {
        /// Which column of which table.
        what: &'static str,
        /// Why.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The schema could not be brought up to date.
    #[error("the database's schema could not be brought up to date")]
    Migration(#[source] sqlx::migrate::MigrateError),
    /// A statement failed for a reason that is a fault of ours.
    #[error("a statement failed")]
    Statement(#[source] sqlx::Error),
}

impl StoreError {
    /// The failure of a whole group, told once more: sqlx's errors cannot be cloned.
    fn again(&self) -> Self {
        let told = || {
            let causes = std::iter::successors(std::error::Error::source(self), |cause| cause.source());
            let texts: Vec<String> = causes.map(ToString::to_string).collect();
            sqlx::Error::Io(std::io::Error::other(texts.join(": ")))
        };
        match self {
            Self::Overloaded => Self::Overloaded,
            Self::Timeout(seconds) => Self::Timeout(*seconds),
            // What cannot be read was written.
            Self::Unconfirmed(_) | Self::Corrupt { .. } => Self::Unconfirmed(told()),
            Self::Unavailable(_) | Self::Migration(_) | Self::Statement(_) => Self::Unavailable(told()),
        }
    }
}

/// A process that is or was offered, for `process_history`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProcessRow {
    /// The process's id.
    pub id: ProcessId,
    /// Its version.
    pub version: String,
    /// The processor behind it.
    pub digest: Digest,
    /// `config`, `folder` or `http`.
    pub source: &'static str,
    /// SHA-256 of its configuration, in hexadecimal; the configuration itself may hold secrets.
    pub config_sha256: String,
}

/// The form in which a process is offered, by this server or another one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OpenProcess {
    /// The process's id.
    pub id: ProcessId,
    /// The processor behind it.
    pub digest: Digest,
    /// As in [`ProcessRow`].
    pub config_sha256: String,
}

/// The trait of both databases. Every method has a deadline of its own.
#[async_trait]
pub trait JobStore: Send + Sync {
    /// Writes a job as accepted, with its first event. One transaction.
    async fn insert(&self, job: NewJob) -> Result<Inserted, StoreError>;

    /// What clients see of a job. Removed ones are answered too.
    async fn job(&self, id: JobId) -> Result<Option<Job>, StoreError>;

    /// All that is kept of a job.
    async fn detail(&self, id: JobId) -> Result<Option<JobDetail>, StoreError>;

    /// A page of at most `limit` jobs behind `after`, newest first, removed ones left out. It reads a bounded number of rows
    /// whatever the filter: a page may be short and still have a `next`.
    async fn list(&self, filter: &JobFilter, after: Option<PageKey>, limit: u32) -> Result<JobPage, StoreError>;

    /// The outputs of a job in the order they were stored.
    async fn outputs(&self, id: JobId) -> Result<Vec<OutputRecord>, StoreError>;

    /// A conditional change of status with its event. Answers the job as it stands afterwards and whether this call changed it;
    /// `None` for an unknown job.
    async fn transition(&self, change: Transition) -> Result<Option<(Job, bool)>, StoreError>;

    /// Sets progress (0 to 100) and message of a job that has not ended; otherwise does nothing. Absent values are kept, an empty
    /// message takes the one away that is there.
    async fn report(
        &self,
        id: JobId,
        progress: Option<u8>,
        message: Option<String>,
        at: Timestamp,
    ) -> Result<(), StoreError>;

    /// Sets what a job waits for that is accepted, or that it waits for nothing special; otherwise does nothing. Answers the job as it
    /// stands afterwards; `None` for an unknown job.
    async fn wait(&self, id: JobId, message: Option<String>, at: Timestamp) -> Result<Option<Job>, StoreError>;

    /// Writes the final record: status (unless already final), exit, receipt, outputs and event, in one transaction. Doing it again
    /// changes nothing. Answers the job as it stands afterwards; `None` for an unknown job.
    async fn finish(&self, record: FinalRecord) -> Result<Option<Job>, StoreError>;

    /// Marks a final job as removed and deletes its outputs' rows. Answers the archive keys that nobody needs any more (log and
    /// archived outputs); `None` for an unknown job or one that has not ended.
    async fn remove(&self, id: JobId, at: Timestamp) -> Result<Option<Vec<String>>, StoreError>;

    /// Claims the work on a job for so long from now. False when another owner's claim has not run out. The same owner may claim
    /// again. The clock is that of the database: those of its servers need not agree.
    async fn claim(&self, id: JobId, owner: &str, span: Duration) -> Result<bool, StoreError>;

    /// Gives up a claim of this owner, if it still has it.
    async fn unclaim(&self, id: JobId, owner: &str) -> Result<(), StoreError>;

    /// Jobs that have not ended and last changed before `before`, in the order of their ids, behind `after`.
    async fn unfinished(
        &self,
        before: Timestamp,
        after: Option<JobId>,
        limit: u32,
    ) -> Result<Vec<UnfinishedJob>, StoreError>;

    /// Those of `ids` that have a receipt and a final status: their runs can be released.
    async fn finalized(&self, ids: &[JobId]) -> Result<Vec<JobId>, StoreError>;

    /// Those of `ids` whose status is final and that have no receipt, or one that was recorded before `before`: a run of theirs that goes
    /// on is to be stopped.
    async fn strays(&self, ids: &[JobId], before: Timestamp) -> Result<Vec<JobId>, StoreError>;

    /// Those of `ids` that have a row, removed ones too.
    async fn known(&self, ids: &[JobId]) -> Result<Vec<JobId>, StoreError>;

    /// Keeps a processor's bytes by digest; known ones are left as they are.
    async fn put_processor(&self, digest: Digest, bytes: Bytes) -> Result<(), StoreError>;

    /// A processor's bytes.
    async fn processor(&self, digest: Digest) -> Result<Option<Bytes>, StoreError>;

    /// Brings `process_history` up to date: opens a row for each process that was not offered in this form, closes those that are no
    /// longer offered.
    async fn record_processes(&self, offered: &[ProcessRow], at: Timestamp) -> Result<(), StoreError>;

    /// What was offered last: the open rows of `process_history`, by id.
    async fn open_processes(&self) -> Result<Vec<OpenProcess>, StoreError>;

    /// Ids of jobs whose row changed, after each commit. A receiver that lags must read what it waits for.
    fn changes(&self) -> broadcast::Receiver<JobId>;

    /// Whether other servers may use it at the same time.
    fn is_shared(&self) -> bool;

    /// Refuses new calls, ends what is under way and closes it. Doing it again does nothing.
    async fn shutdown(&self);

    /// Whether a write would succeed now; for readiness.
    async fn ready(&self) -> Result<(), StoreError>;
}
