//! What a runner's observation of a run that has not ended means for its job. Conditional writes only: a late one changes nothing.

use super::capture::progress::Progress;
use super::{Error, Jobs};
use crate::core::LogEvent;
use crate::core::job::Transition;
use crate::core::{Job, JobId, JobStatus, Timestamp};
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
            Some((job, _)) if job.status.is_final() => self.stop_stray(id).await?,
            Some((_, true)) => failpoint::hit("observe-started"),
            Some((_, false)) => {}
        }
        if message.is_some() {
            self.store.report(id, None, message, Timestamp::now()).await?;
        }
        Ok(())
    }

    /// A run waits; `message` says what for. Without one it waits for nothing special, whatever it waited for before.
    pub async fn run_waits(&self, id: JobId, message: Option<String>) -> Result<(), Error> {
        let job = self.store.wait(id, message, Timestamp::now()).await?;
        self.is_waiting(id, job).await
    }

    /// A run's launch was begun and not finished. What its job waits for is not known to the run.
    pub async fn run_is_incomplete(&self, id: JobId) -> Result<(), Error> {
        let job = self.store.job(id).await?;
        self.is_waiting(id, job).await
    }

    /// A run has not started. If its job has ended meanwhile it needs no run: it is stopped.
    async fn is_waiting(&self, id: JobId, job: Option<Job>) -> Result<(), Error> {
        match job {
            None => tracing::warn!(job.id = %id, "a run has no job in this database; it is left alone"),
            Some(job) if job.status.is_final() => self.stop_stray(id).await?,
            Some(_) => {}
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

#[cfg(test)]
mod tests {
    use crate::core::Timestamp;
    use crate::jobs::testing::{Bench, Log, well};
    use crate::jobs::{Pulse, Settings};
    use crate::store::JobStore as _;

    /// A note may be kept back, by a database that is away, say, until all is over.
    #[tokio::test]
    async fn a_late_note_does_not_stop_a_run_that_was_captured() {
        let bench = Bench::open(Settings::default()).await;
        let done = bench.ran(Log::Whole("PYGEOAPI_K8S_MANAGER_RESULT_START\ndone")).await;
        bench.jobs.finish(done, &well(), Pulse::default(), ()).await.unwrap();
        let failed = bench.accepted().await.id;
        bench.fail(failed).await;
        for id in [done, failed] {
            bench.jobs.run_is_incomplete(id).await.unwrap();
            bench.jobs.run_waits(id, None).await.unwrap();
            bench.jobs.run_started(id, Timestamp::now(), None).await.unwrap();
        }
        bench.jobs.stop_strays(&[done, failed]).await.unwrap();
        assert_eq!(*bench.runs.cancelled.lock().unwrap(), [failed; 4]);
        // Given up before it started, say, and started all the same.
        bench.store.inner().recorded_long_ago(done).await;
        bench.jobs.stop_strays(&[done]).await.unwrap();
        assert_eq!(bench.runs.cancelled.lock().unwrap().last(), Some(&done));
    }

    #[tokio::test]
    async fn what_a_run_waited_for_is_over_when_it_says_so() {
        let bench = Bench::open(Settings::default()).await;
        let id = bench.accepted().await.id;
        let message = || async { bench.store.job(id).await.unwrap().unwrap().message };
        bench.jobs.run_waits(id, Some("waiting: no node has room".to_owned())).await.unwrap();
        bench.jobs.run_is_incomplete(id).await.unwrap();
        assert_eq!(message().await.as_deref(), Some("waiting: no node has room"), "its launch is still to come");
        bench.jobs.run_waits(id, None).await.unwrap();
        assert_eq!(message().await, None);
    }
}
