//! Following the progress markers of one running job.

use std::time::Duration;

use futures::StreamExt as _;
use tokio::sync::Semaphore;
use tokio::time::Instant;

use crate::core::{JobId, LogEvent};
use crate::jobs::capture::progress::{Progress, ProgressScanner};
use crate::jobs::{Error, Followed, Jobs};

/// A job younger than this is not followed: most end before anyone could look.
const NOT_BEFORE: Duration = Duration::from_millis(500);

/// Progress of one job is written at most this often.
const AT_MOST_EVERY: Duration = Duration::from_secs(1);

/// Pauses before a log that cannot be followed is tried again.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
const LONGEST_PAUSE: Duration = Duration::from_secs(60);

/// Follows a job's log to its end, as soon as there is a place. Progress is a courtesy: trouble is a line in the log and another attempt.
pub(super) async fn follow(jobs: &Jobs, places: &Semaphore, id: JobId) {
    tokio::time::sleep(NOT_BEFORE).await;
    let mut pause = FIRST_PAUSE;
    loop {
        let cause = {
            let Ok(_place) = places.acquire().await else { return };
            match jobs.follow(id).await {
                Ok(None) => return,
                Ok(Some(followed)) => match follow_once(jobs, followed, id).await {
                    Ok(()) => return,
                    Err(cause) => cause,
                },
                Err(cause) => cause,
            }
        };
        tracing::debug!(job.id = %id, error = &cause as &dyn std::error::Error, ?pause, "progress is not followed; tried again");
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(LONGEST_PAUSE);
    }
}

async fn follow_once(jobs: &Jobs, followed: Followed, id: JobId) -> Result<(), Error> {
    let mut scanner = ProgressScanner::new(followed.nonce.as_deref());
    let mut events = followed.events;
    let mut waiting: Option<Progress> = None;
    let mut written = Instant::now() - AT_MOST_EVERY;
    loop {
        let due = written + AT_MOST_EVERY;
        tokio::select! {
            event = events.next() => match event {
                Some(Ok(LogEvent::Bytes(bytes))) => {
                    if let Some(found) = scanner.push(&bytes) {
                        waiting = Some(found);
                    }
                }
                Some(Ok(LogEvent::Container { .. } | LogEvent::Missing { .. })) => {}
                Some(Err(cause)) => return Err(cause.into()),
                None => return Ok(()),
            },
            () = tokio::time::sleep_until(due), if waiting.is_some() => {
                if let Some(progress) = waiting.take() {
                    if let Err(cause) = jobs.run_progressed(id, progress).await {
                        tracing::debug!(job.id = %id, error = &cause as &dyn std::error::Error, "progress was not written");
                    }
                    written = Instant::now();
                }
            }
        }
    }
}
