//! A real database that says that replicas share it, unless a test says otherwise, and that is away while a test says so.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use tokio::sync::{broadcast, watch};

use super::SOON;
use crate::core::job::{Inserted, Transition, UnfinishedJob};
use crate::core::{
    Digest, FinalRecord, Job, JobDetail, JobFilter, JobId, JobPage, NewJob, OutputRecord, PageKey, Timestamp,
};
use crate::store::sqlite::SqliteStore;
use crate::store::{JobStore, OpenProcess, ProcessRow, StoreError};

pub(crate) struct SharedStore {
    inner: Arc<SqliteStore>,
    is_away: AtomicBool,
    is_alone: AtomicBool,
    refused: watch::Sender<usize>,
    claims: watch::Sender<usize>,
}

impl SharedStore {
    pub(crate) fn over(inner: Arc<SqliteStore>) -> Self {
        Self {
            inner,
            is_away: AtomicBool::new(false),
            is_alone: AtomicBool::new(false),
            refused: watch::Sender::new(0),
            claims: watch::Sender::new(0),
        }
    }

    /// The database behind it, which is never away.
    pub(crate) fn inner(&self) -> Arc<SqliteStore> {
        Arc::clone(&self.inner)
    }

    pub(crate) fn goes_away(&self) {
        self.is_away.store(true, Ordering::Relaxed);
    }

    /// From now on nobody shares it.
    pub(crate) fn is_left_alone(&self) {
        self.is_alone.store(true, Ordering::Relaxed);
    }

    pub(crate) fn comes_back(&self) {
        self.is_away.store(false, Ordering::Relaxed);
    }

    /// Waits until it was asked so often while it was away.
    pub(crate) async fn refused(&self, times: usize) {
        reached(&self.refused, times).await;
    }

    /// Waits until so many claims were made.
    pub(crate) async fn claimed(&self, times: usize) {
        reached(&self.claims, times).await;
    }

    fn answers(&self) -> Result<(), StoreError> {
        if self.is_away.load(Ordering::Relaxed) {
            self.refused.send_modify(|times| *times += 1);
            return Err(StoreError::Timeout(1));
        }
        Ok(())
    }
}

async fn reached(count: &watch::Sender<usize>, times: usize) {
    let mut count = count.subscribe();
    tokio::time::timeout(SOON, count.wait_for(|count| *count >= times)).await.unwrap().unwrap();
}

macro_rules! through {
    ($($name:ident($($argument:ident: $kind:ty),*) -> $answer:ty;)+) => {
        #[async_trait]
        impl JobStore for SharedStore {
            $(async fn $name(&self, $($argument: $kind),*) -> Result<$answer, StoreError> {
                self.answers()?;
                self.inner.$name($($argument),*).await
            })+

            async fn claim(&self, id: JobId, owner: &str, span: Duration) -> Result<bool, StoreError> {
                self.answers()?;
                let claimed = self.inner.claim(id, owner, span).await;
                self.claims.send_modify(|times| *times += 1);
                claimed
            }

            fn changes(&self) -> broadcast::Receiver<JobId> {
                self.inner.changes()
            }

            fn is_shared(&self) -> bool {
                !self.is_alone.load(Ordering::Relaxed)
            }

            async fn shutdown(&self) {
                self.inner.shutdown().await;
            }
        }
    };
}

through! {
    insert(job: NewJob) -> Inserted;
    job(id: JobId) -> Option<Job>;
    detail(id: JobId) -> Option<JobDetail>;
    list(filter: &JobFilter, after: Option<PageKey>, limit: u32) -> JobPage;
    outputs(id: JobId) -> Vec<OutputRecord>;
    transition(change: Transition) -> Option<(Job, bool)>;
    wait(id: JobId, message: Option<String>, at: Timestamp) -> Option<Job>;
    report(id: JobId, progress: Option<u8>, message: Option<String>, at: Timestamp) -> ();
    finish(record: FinalRecord) -> Option<Job>;
    remove(id: JobId, at: Timestamp) -> Option<Vec<String>>;
    unclaim(id: JobId, owner: &str) -> ();
    unfinished(before: Timestamp, after: Option<JobId>, limit: u32) -> Vec<UnfinishedJob>;
    finalized(ids: &[JobId]) -> Vec<JobId>;
    strays(ids: &[JobId], before: Timestamp) -> Vec<JobId>;
    known(ids: &[JobId]) -> Vec<JobId>;
    put_processor(digest: Digest, bytes: Bytes) -> ();
    processor(digest: Digest) -> Option<Bytes>;
    record_processes(offered: &[ProcessRow], at: Timestamp) -> ();
    open_processes() -> Vec<OpenProcess>;
    ready() -> ();
}
