//! Following the progress markers of one running job.

use std::time::Duration;

use futures::StreamExt as _;
use tokio::time::Instant;

use crate::core::{JobId, LogEvent};
use crate::jobs::Jobs;
use crate::jobs::capture::progress::{Progress, ProgressScanner};

/// A job younger than this is not followed: most end before anyone could look.
const NOT_BEFORE: Duration = Duration::from_millis(500);

/// Progress of one job is written at most this often.
const AT_MOST_EVERY: Duration = Duration::from_secs(1);

/// Follows a job's log to its end. Progress is a courtesy: trouble ends it with a line in the log.
pub(super) async fn follow(jobs: &Jobs, id: JobId) {
    tokio::time::sleep(NOT_BEFORE).await;
    let followed = match jobs.follow(id).await {
        Ok(Some(followed)) => followed,
        Ok(None) => return,
        Err(cause) => {
            tracing::debug!(job.id = %id, error = &cause as &dyn std::error::Error, "progress is not followed");
            return;
        }
    };
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
                Some(Err(_)) | None => return,
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
