//! Waking those who wait for a job: one task reads the store's change notices and wakes the waiters of each job that changed.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::sync::broadcast::{self, error::RecvError};
use tokio::time::{Instant, timeout_at};

use super::{Error, Jobs};
use crate::core::{Job, JobId};

/// Notices can be missed (another replica's, a lagging receiver): a waiter looks by itself that often.
const LOOK_AGAIN: Duration = Duration::from_secs(2);

/// The same when the row could not be read.
const AFTER_TROUBLE: Duration = Duration::from_millis(500);

/// How long the last look may take that begins when the wait is over.
const LAST_LOOK: Duration = Duration::from_secs(1);

type Waiting = Mutex<HashMap<JobId, (Arc<Notify>, usize)>>;

/// Who waits for which job.
pub(super) struct Waiters {
    waiting: Arc<Waiting>,
}

/// One who waits; leaves when dropped.
struct Waiter {
    waiting: Arc<Waiting>,
    id: JobId,
    notify: Arc<Notify>,
}

impl Waiters {
    /// Starts the task that wakes; it ends when the store is gone.
    pub(super) fn start(mut changes: broadcast::Receiver<JobId>) -> Self {
        let waiting = Arc::new(Waiting::default());
        let wake = Arc::clone(&waiting);
        tokio::spawn(async move {
            loop {
                match changes.recv().await {
                    Ok(id) => {
                        if let Some((notify, _)) = wake.lock().unwrap_or_else(PoisonError::into_inner).get(&id) {
                            notify.notify_waiters();
                        }
                    }
                    Err(RecvError::Lagged(_)) => {
                        for (notify, _) in wake.lock().unwrap_or_else(PoisonError::into_inner).values() {
                            notify.notify_waiters();
                        }
                    }
                    Err(RecvError::Closed) => return,
                }
            }
        });
        Self { waiting }
    }

    fn join(&self, id: JobId) -> Waiter {
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        let (notify, count) = waiting.entry(id).or_default();
        *count += 1;
        Waiter { waiting: Arc::clone(&self.waiting), id, notify: Arc::clone(notify) }
    }
}

impl Drop for Waiter {
    fn drop(&mut self) {
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, count)) = waiting.get_mut(&self.id) {
            *count -= 1;
            if *count == 0 {
                waiting.remove(&self.id);
            }
        }
    }
}

impl Jobs {
    /// Waits until the job has ended and its record is complete, at most so long. Answers the job as it stands then, or as it was last
    /// seen: a database that is away for a while does not end the wait, for the job goes on.
    pub async fn wait(&self, mut job: Job, at_most: Duration) -> Result<Job, Error> {
        let until = Instant::now() + at_most;
        let waiter = self.waiters.join(job.id);
        loop {
            // The notice must be awaited before the row is read: one that comes in between is not lost.
            let changed = waiter.notify.notified();
            tokio::pin!(changed);
            changed.as_mut().enable();
            let mut pause = LOOK_AGAIN;
            match timeout_at(until + LAST_LOOK, self.store.job(job.id)).await {
                Ok(Ok(found)) => job = found.ok_or_else(|| Error::NoSuchJob(job.id.to_string()))?,
                Ok(Err(cause)) => {
                    let cause = Error::from(cause);
                    if !cause.is_passing() {
                        return Err(cause);
                    }
                    tracing::debug!(job.id = %job.id, error = &cause as &dyn std::error::Error, "a job that is waited for could not be read");
                    pause = AFTER_TROUBLE;
                }
                Err(_) => return Ok(job),
            }
            let now = Instant::now();
            if job.status.is_final() || now >= until {
                return Ok(job);
            }
            // Elapsed or woken, the row tells.
            let _ = timeout_at(until.min(now + pause), changed).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::JobStatus;
    use crate::jobs::Settings;
    use crate::jobs::testing::{Bench, SOON};

    #[tokio::test]
    async fn a_database_that_is_away_does_not_end_the_wait() {
        let bench = Bench::open(Settings::default()).await;
        let job = bench.accepted().await;
        bench.store.goes_away();
        let (id, jobs) = (job.id, Arc::clone(&bench.jobs));
        let waited = tokio::spawn(async move { jobs.wait(job, SOON).await });
        bench.store.refused(1).await;
        bench.fail(id).await;
        bench.store.comes_back();
        assert_eq!(waited.await.unwrap().unwrap().status, JobStatus::Failed);
    }

    #[tokio::test]
    async fn at_the_deadline_the_job_is_answered_as_it_was_last_seen() {
        let bench = Bench::open(Settings::default()).await;
        let job = bench.accepted().await;
        bench.store.goes_away();
        let seen = bench.jobs.wait(job.clone(), Duration::from_millis(50)).await.unwrap();
        assert_eq!(seen, job);
    }
}
