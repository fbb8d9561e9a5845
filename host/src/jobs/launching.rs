//! The jobs that this server writes and launches at this moment, and how long their answers wait for that.

use std::collections::HashSet;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::{Instant, sleep};

use crate::core::JobId;

/// Longest time that an answer waits for its launch. A runner that takes longer is in trouble, and the job is safe.
const PATIENCE: Duration = Duration::from_secs(3);
/// Jobs under way from which on no answer waits: the runner has enough to do, and the answer would only be late.
const AT_EASE: usize = 8;
/// Jobs under way from which on each answer waits, however long: clients go no faster than the runner.
const BEHIND: usize = 128;
/// How often an answer that waits looks whether it still should.
const GLANCE: Duration = Duration::from_millis(50);

/// The jobs: those of which this server has the launch in its hands, and how many are on their way for the first time.
#[derive(Default, Clone)]
pub(super) struct Launching {
    jobs: Arc<Mutex<HashSet<JobId>>>,
    under_way: Arc<AtomicUsize>,
}

/// Says that this server has the launch of a job in its hands, until it is dropped: repair leaves it alone.
pub(super) struct Held(Launching, JobId);

/// Says that a job is written and launched for the first time, until it is dropped.
pub(super) struct UnderWay(Launching);

impl Launching {
    pub(super) fn hold(&self, id: JobId) -> Held {
        self.lock().insert(id);
        Held(self.clone(), id)
    }

    /// Whether this server has the launch of this job in its hands.
    pub(super) fn has(&self, id: JobId) -> bool {
        self.lock().contains(&id)
    }

    pub(super) fn under_way(&self) -> UnderWay {
        self.under_way.fetch_add(1, Ordering::Relaxed);
        UnderWay(self.clone())
    }

    /// How many jobs are written and launched for the first time at this moment.
    pub(super) fn count(&self) -> usize {
        self.under_way.load(Ordering::Relaxed)
    }

    /// Waits as long as an answer should wait for its launch.
    pub(super) async fn patience(&self) {
        let began = Instant::now();
        loop {
            match self.count() {
                AT_EASE..BEHIND => return,
                ..AT_EASE if began.elapsed() >= PATIENCE => return,
                _ => sleep(GLANCE).await,
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, HashSet<JobId>> {
        self.jobs.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.0.lock().remove(&self.1);
    }
}

impl Drop for UnderWay {
    fn drop(&mut self) {
        self.0.under_way.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt as _;

    use super::*;

    #[tokio::test]
    async fn only_those_in_between_do_not_wait() {
        let launching = Launching::default();
        let mut under_way = Vec::new();
        for jobs in 1..=BEHIND {
            under_way.push(launching.under_way());
            let waits = !(AT_EASE..BEHIND).contains(&jobs);
            assert_eq!(launching.patience().now_or_never().is_none(), waits, "{jobs}");
        }
        // Too many ahead are waited for, however long that takes; then nobody waits.
        let mut patience = Box::pin(launching.patience());
        assert!(tokio::time::timeout(PATIENCE + GLANCE * 2, &mut patience).await.is_err());
        drop(under_way.pop());
        tokio::time::timeout(PATIENCE, patience).await.unwrap();
        under_way.clear();
        assert_eq!(launching.count(), 0);
    }
}
