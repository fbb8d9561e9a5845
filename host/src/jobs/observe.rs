//! What a runner's observation of a run that has not ended means for its job. Conditional writes only: a late one changes nothing.

use super::capture::progress::Progress;
use super::{Error, Jobs};
use crate::core::LogEvent;
use crate::core::job::Transition;
use crate::core::{JobId, JobStatus, Timestamp};
use crate::failpoint;
use crate::runner::RunnerError;
use futures::stream::BoxStream;

impl Jobs {
    /// A run has started; `message` says what it waits for where it does not go on. If its job was dismissed before the run was there to
    /// be stopped, it is stopped now.
    pub async fn run_started(&self, id: JobId, started: Timestamp, message: Option<String>) -> Result<(), Error> {
        let change = Transition { job_id: id, status: JobStatus::Running, message: None, reason: None, at: started };
        match self.store.transition(change).await? {
            None => tracing::warn!(job.id = %id, "a run has no job in this database; it is left alone"),
            Some((job, _)) if job.status.is_final() => self.runner.cancel(id).await?,
            Some((_, true)) => failpoint::hit("observe-started"),
            Some((_, false)) => {}
        }
        if message.is_some() {
            self.store.report(id, None, message, Timestamp::now()).await?;
        }
        Ok(())
    }

    /// A run waits; `message` says what for.
    pub async fn run_waits(&self, id: JobId, message: Option<String>) -> Result<(), Error> {
        let Some(job) = self.store.job(id).await? else {
            tracing::warn!(job.id = %id, "a run has no job in this database; it is left alone");
            return Ok(());
        };
        if job.status.is_final() {
            self.runner.cancel(id).await?;
        } else if job.status == JobStatus::Accepted && message.is_some() && message != job.message {
            self.store.report(id, None, message, Timestamp::now()).await?;
        }
        Ok(())
    }

    /// A container said how far it is.
    pub async fn run_progressed(&self, id: JobId, progress: Progress) -> Result<(), Error> {
        Ok(self.store.report(id, Some(progress.percent), progress.message, Timestamp::now()).await?)
    }

    /// The log of a run as it is written, and the nonce that its markers must carry; `None` when its job has ended.
    pub async fn follow(&self, id: JobId) -> Result<Option<Followed>, Error> {
        match self.store.detail(id).await? {
            Some(detail) if !detail.job.status.is_final() => {
                Ok(Some(Followed { events: self.runner.logs(id, true).await?, nonce: detail.nonce }))
            }
            _ => Ok(None),
        }
    }

    /// Whether progress markers are followed.
    #[must_use]
    pub fn follows_progress(&self) -> bool {
        self.settings.progress
    }
}

/// A log that is being followed.
pub struct Followed {
    /// Its events, to the end of the run.
    pub events: BoxStream<'static, Result<LogEvent, RunnerError>>,
    /// The nonce of the job's markers.
    pub nonce: Option<String>,
}
