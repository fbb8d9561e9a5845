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
    /// Waits until the job has ended and its record is complete, at most so long. Answers the job as it stands then.
    pub async fn wait(&self, id: JobId, at_most: Duration) -> Result<Job, Error> {
        let until = Instant::now() + at_most;
        let waiter = self.waiters.join(id);
        loop {
            // The notice must be awaited before the row is read: one that comes in between is not lost.
            let changed = waiter.notify.notified();
            tokio::pin!(changed);
            changed.as_mut().enable();
            let job = self.store.job(id).await?.ok_or_else(|| Error::NoSuchJob(id.to_string()))?;
            let now = Instant::now();
            if job.status.is_final() || now >= until {
                return Ok(job);
            }
            // Elapsed or woken, the row tells.
            let _ = timeout_at(until.min(now + LOOK_AGAIN), changed).await;
        }
    }
}
