//! Who may finalize at this moment. A first attempt has one of the quick places, and for a moment only: what takes longer goes on in one
//! of the long places, and what has failed is tried again in places of its own. So neither a hundred runs on a node that hangs nor a
//! few logs of many GiB keep a small job waiting, and what is captured at once stays bounded.

use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// How long an attempt may have a quick place.
const QUICK: Duration = Duration::from_secs(2);

/// Which attempt of a job it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Attempt {
    /// The first one.
    First,
    /// One that took longer than a quick place is for.
    Long,
    /// One after a failure.
    Again,
}

/// The places of all attempts.
pub(super) struct Places {
    quick: Arc<Semaphore>,
    long: Arc<Semaphore>,
    again: Arc<Semaphore>,
    patience: Duration,
}

/// A place; free again when dropped.
pub(super) struct Place {
    _permit: Arc<Mutex<OwnedSemaphorePermit>>,
}

impl Places {
    /// So many quick places, and half as many of both others.
    pub(super) fn new(quick: usize) -> Self {
        Self::patient(quick, QUICK)
    }

    /// The same with another time in a quick place.
    pub(super) fn patient(quick: usize, patience: Duration) -> Self {
        let half = Arc::new(Semaphore::new((quick / 2).max(1)));
        Self {
            quick: Arc::new(Semaphore::new(quick.max(1))),
            again: Arc::new(Semaphore::new(half.available_permits())),
            long: half,
            patience,
        }
    }

    /// Waits for a place and does the work, which drops the place when it needs none any more. The inner `None`: it took too long for
    /// a quick place, and no other was free; it was dropped, and is worth another attempt as [`Attempt::Long`]. The outer one: there
    /// are no places any more.
    pub(super) async fn run<T, W>(&self, attempt: Attempt, work: impl FnOnce(Place) -> W) -> Option<Option<T>>
    where
        W: Future<Output = T>,
    {
        let pool = match attempt {
            Attempt::First => &self.quick,
            Attempt::Long => &self.long,
            Attempt::Again => &self.again,
        };
        let permit = Arc::clone(pool).acquire_owned().await.ok()?;
        let place = Arc::new(Mutex::new(permit));
        let held = Arc::downgrade(&place);
        let mut work = std::pin::pin!(work(Place { _permit: place }));
        if attempt == Attempt::First {
            tokio::select! {
                done = &mut work => return Some(Some(done)),
                () = tokio::time::sleep(self.patience) => {}
            }
            if !self.goes_on(&held) {
                return Some(None);
            }
        }
        Some(Some(work.await))
    }

    /// Whether work that has this quick place may go on: in a long place, or because it has given its own back by itself.
    fn goes_on(&self, held: &Weak<Mutex<OwnedSemaphorePermit>>) -> bool {
        let Some(place) = held.upgrade() else { return true };
        let Ok(long) = Arc::clone(&self.long).try_acquire_owned() else { return false };
        *place.lock().unwrap_or_else(PoisonError::into_inner) = long;
        true
    }
}
