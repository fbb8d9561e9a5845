//! Who may finalize at this moment. A first attempt has one of the quick places, and for a moment only: a log that moves goes on in one
//! of the long places, and what stands still or has failed is tried again in places of its own. So neither a hundred runs on a node that
//! hangs nor a few logs of many GiB keep a small job waiting, nor the first the second, and what is captured at once stays bounded.

use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::jobs::Pulse;

/// How long an attempt may have a quick place.
const QUICK: Duration = Duration::from_secs(2);

/// Which attempt of a job it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Attempt {
    /// The first one.
    First,
    /// One whose log moved, and took longer than a quick place is for.
    Long,
    /// One after a failure, or after a log that stood still for as long as that.
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

    /// Waits for a place and does the work, which drops the place when it needs none any more. The inner error: it took too long for
    /// a quick place, and no other was free; it was dropped, and is worth another attempt of this kind. The outer `None`: there are no
    /// places any more.
    pub(super) async fn run<T, W>(
        &self,
        attempt: Attempt,
        work: impl FnOnce(Place, Pulse) -> W,
    ) -> Option<Result<T, Attempt>>
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
        let pulse = Pulse::default();
        let mut work = std::pin::pin!(work(Place { _permit: place }, pulse.clone()));
        if attempt == Attempt::First {
            tokio::select! {
                done = &mut work => return Some(Ok(done)),
                () = tokio::time::sleep(self.patience) => {}
            }
            let (next, pool) =
                if pulse.has_moved() { (Attempt::Long, &self.long) } else { (Attempt::Again, &self.again) };
            if !goes_on(&held, pool) {
                return Some(Err(next));
            }
        }
        Some(Ok(work.await))
    }
}

/// Whether work that has this quick place may go on: in a place of that pool, or because it has given its own back by itself.
fn goes_on(held: &Weak<Mutex<OwnedSemaphorePermit>>, pool: &Arc<Semaphore>) -> bool {
    let Some(place) = held.upgrade() else { return true };
    let Ok(other) = Arc::clone(pool).try_acquire_owned() else { return false };
    *place.lock().unwrap_or_else(PoisonError::into_inner) = other;
    true
}
