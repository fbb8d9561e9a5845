//! Dismissing a job that has not ended, removing one that has.

use std::sync::Arc;
use std::time::Duration;

use super::read::log_key;
use super::{Asker, Error, Jobs, parse_id, require};
use crate::core::job::Transition;
use crate::core::{EndReason, Job, JobId, JobStatus, OutputBody, Role, Timestamp};
use crate::processor::Action;

/// Attempts to stop a run, over about ten minutes.
const CANCEL_ATTEMPTS: u32 = 16;

impl Jobs {
    /// Dismisses a job that has not ended; removes one that has (its results and log go, its history stays). Answers the job with
    /// status `dismissed`, or as removed.
    pub async fn dismiss(self: &Arc<Self>, asker: Asker<'_>, id: &str) -> Result<Job, Error> {
        require(asker.principal, Role::Execute)?;
        let job = self.store.job(parse_id(id)?).await?.ok_or_else(|| Error::NoSuchJob(id.to_owned()))?;
        if job.removed.is_some() {
            self.sweep(job.id).await?;
            return Err(Error::JobRemoved(job.id));
        }
        self.ask_process(&job, asker, Action::Dismiss).await?;
        if job.status.is_final() {
            // A dismissal that was recorded and not carried out is carried out now.
            self.stop_stray(job.id).await?;
            return self.remove(job).await;
        }
        let mut message = format!("dismissed by {}", asker.principal.subject);
        if let (JobStatus::Accepted, Some(waited)) = (job.status, &job.message) {
            // Nothing else tells later why it never ran.
            message = format!("{message} ({waited})");
        }
        let change = Transition {
            job_id: job.id,
            status: JobStatus::Dismissed,
            message: Some(message),
            reason: Some(EndReason::Cancelled),
            at: Timestamp::now(),
        };
        let Some((after, changed)) = self.store.transition(change).await? else {
            return Err(Error::NoSuchJob(id.to_owned()));
        };
        if !changed && after.status != JobStatus::Dismissed {
            // It ended between the two: what the client saw was a job to be stopped, and it has stopped.
            return Ok(after);
        }
        crate::failpoint::hit("dismiss-recorded");
        // A launch that is under way may make a run behind the cancellation. One of another server is seen when its run shows itself.
        let is_launching = self.launching.has(job.id);
        let cancelled = self.runner.cancel(job.id).await;
        if let Err(cause) = &cancelled {
            tracing::warn!(job.id = %job.id, error = cause as &dyn std::error::Error, "could not stop a dismissed job's run; tried again");
        }
        if cancelled.is_err() || is_launching {
            let jobs = Arc::clone(self);
            self.tasks.spawn(async move { jobs.keep_cancelling(after.id).await });
        }
        Ok(after)
    }

    /// Stops a run whose job's row already says so. A server that stops meanwhile finds the run again and stops it then.
    async fn keep_cancelling(&self, id: JobId) {
        let mut pause = Duration::from_millis(500);
        // Launches have deadlines of their own.
        while self.launching.has(id) {
            tokio::time::sleep(pause).await;
        }
        for _ in 0..CANCEL_ATTEMPTS {
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(Duration::from_secs(60));
            match self.runner.cancel(id).await {
                Ok(()) => return,
                Err(cause) => {
                    tracing::warn!(job.id = %id, error = &cause as &dyn std::error::Error, "could not stop a dismissed job's run");
                }
            }
        }
    }

    /// Bytes first, row second: a crash in between leaves a job that can be removed again, not objects that nobody knows.
    async fn remove(&self, job: Job) -> Result<Job, Error> {
        for output in self.store.outputs(job.id).await? {
            if let OutputBody::Archived { key } = output.body {
                self.archive.remove(&key).await?;
            }
        }
        self.archive.remove(&log_key(job.id)).await?;
        self.sweep(job.id).await?;
        let removed = Timestamp::now();
        Ok(Job { removed: Some(removed), updated: job.updated.max(removed), ..job })
    }

    /// Removes every object of a removed job, also what a capture that was under way stored meanwhile. It can be repeated.
    pub(super) async fn sweep(&self, id: JobId) -> Result<(), Error> {
        for key in self.store.remove(id, Timestamp::now()).await?.unwrap_or_default() {
            self.archive.remove(&key).await?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::Principal;
    use crate::jobs::testing::{Bench, Log, SOON, well};
    use crate::jobs::{Pulse, Settings};

    #[tokio::test]
    async fn what_was_removed_is_answered_as_removed() {
        let bench = Bench::open(Settings::default()).await;
        let ann = Principal::anonymous(vec![Role::Execute]);
        let asker = Asker { principal: &ann, headers: &[] };
        let id = bench.ran(Log::Whole("PYGEOAPI_K8S_MANAGER_RESULT_START\ndone")).await;
        bench.jobs.finish(id, &well(), Pulse::default(), ()).await.unwrap();
        let removed = bench.jobs.dismiss(asker, &id.to_string()).await.unwrap();
        assert!(removed.removed.is_some_and(|at| removed.updated >= at), "{removed:?}");
        assert!(matches!(bench.jobs.dismiss(asker, &id.to_string()).await, Err(Error::JobRemoved(_))));
    }

    #[tokio::test]
    async fn what_is_launched_behind_its_dismissal_is_stopped() {
        let bench = Bench::open(Settings::default()).await;
        let ann = Principal::anonymous(vec![Role::Execute]);
        let asker = Asker { principal: &ann, headers: &[] };
        let id = bench.accepted().await.id;
        let launching = bench.jobs.launching.hold(id);
        bench.jobs.dismiss(asker, &id.to_string()).await.unwrap();
        tokio::time::sleep(Duration::from_millis(1_200)).await;
        assert_eq!(*bench.runs.cancelled.lock().unwrap(), [id]);
        drop(launching);
        bench.jobs.drain(SOON).await;
        assert_eq!(*bench.runs.cancelled.lock().unwrap(), [id, id]);
    }

    #[tokio::test]
    async fn a_dismissed_job_says_what_it_waited_for() {
        let bench = Bench::open(Settings::default()).await;
        let ann = Principal::anonymous(vec![Role::Execute]);
        let asker = Asker { principal: &ann, headers: &[] };
        let [waits, runs] = [bench.accepted().await.id, bench.accepted().await.id];
        bench.jobs.run_waits(waits, Some("waiting: no node has room".to_owned())).await.unwrap();
        bench.jobs.run_started(runs, Timestamp::now(), None).await.unwrap();
        let mut messages = Vec::new();
        for id in [waits, runs] {
            messages.extend(bench.jobs.dismiss(asker, &id.to_string()).await.unwrap().message);
        }
        assert_eq!(messages, ["dismissed by anonymous (waiting: no node has room)", "dismissed by anonymous"]);
    }
}
