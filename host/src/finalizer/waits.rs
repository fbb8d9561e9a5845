//! Runs that wait, kept back for a moment before their jobs say so: most are on their way already, and a busy cluster changes its words of
//! one many times. So a run that starts soon costs no write, and one that does not costs one a moment.

use std::collections::{HashSet, VecDeque};
use std::time::Duration;

use tokio::time::{Instant, sleep_until};

use crate::core::JobId;

/// How long a run is kept back.
const MOMENT: Duration = Duration::from_secs(1);

/// The runs that are kept back, the oldest first.
#[derive(Default)]
pub(super) struct Waits {
    due: VecDeque<(Instant, JobId)>,
    kept: HashSet<JobId>,
}

impl Waits {
    /// Keeps a run back from now on; one that is kept back already comes no later for it.
    pub(super) fn keep(&mut self, id: JobId) {
        if self.kept.insert(id) {
            self.due.push_back((Instant::now() + MOMENT, id));
        }
    }

    /// The next run whose moment is over. Dropped before it answers, it has taken nothing.
    pub(super) async fn next(&mut self) -> JobId {
        let Some((due, id)) = self.due.front().copied() else { return std::future::pending().await };
        sleep_until(due).await;
        self.due.pop_front();
        self.kept.remove(&id);
        id
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn each_comes_once_after_its_moment() {
        let mut waits = Waits::default();
        let (first, second) = (JobId::new(), JobId::new());
        let begun = Instant::now();
        waits.keep(first);
        waits.keep(second);
        tokio::time::sleep(MOMENT / 10).await;
        waits.keep(first);
        assert!(futures::poll!(Box::pin(waits.next())).is_pending());
        assert_eq!(waits.next().await, first);
        assert!(begun.elapsed() >= MOMENT);
        // Kept back again, it comes behind the others.
        waits.keep(first);
        assert_eq!(waits.next().await, second);
        assert_eq!(waits.next().await, first);
        assert!(begun.elapsed() >= MOMENT * 2);
        assert!(futures::poll!(Box::pin(waits.next())).is_pending());
    }
}
