//! Dismissing a job that has not ended, removing one that has.

use super::read::{log_key, output_key};
use super::{Error, Jobs, parse_id, require};
use crate::core::job::Transition;
use crate::core::{EndReason, Job, JobId, JobStatus, OutputBody, Principal, Role, Timestamp};
use crate::processor::Action;

impl Jobs {
    /// Dismisses a job that has not ended; removes one that has (its results and log go, its history stays). Answers the job with
    /// status `dismissed`, or as it was when it was removed.
    pub async fn dismiss(&self, principal: &Principal, id: &str) -> Result<Job, Error> {
        require(principal, Role::Execute)?;
        let job = self.store.job(parse_id(id)?).await?.ok_or_else(|| Error::NoSuchJob(id.to_owned()))?;
        if job.removed.is_some() {
            return Err(Error::JobRemoved(job.id));
        }
        self.ask_process(&job, principal, Action::Dismiss).await?;
        if job.status.is_final() {
            return self.remove(job).await;
        }
        let change = Transition {
            job_id: job.id,
            status: JobStatus::Dismissed,
            message: Some(format!("dismissed by {}", principal.subject)),
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
        self.cancel(job.id).await;
        Ok(after)
    }

    /// Stops a run. The row already says so; when the runner cannot be reached, the next observation of the run cancels it.
    pub(super) async fn cancel(&self, id: JobId) {
        if let Err(cause) = self.runner.cancel(id).await {
            tracing::warn!(job.id = %id, error = &cause as &dyn std::error::Error, "could not stop a dismissed job's run; tried again when it is seen");
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
        let leftover = self.store.remove(job.id, Timestamp::now()).await?.unwrap_or_default();
        for key in leftover {
            self.archive.remove(&key).await?;
        }
        Ok(job)
    }

    /// Removes what a capture that was under way stored for a job that was removed meanwhile.
    pub(super) async fn discard(&self, id: JobId, outputs: usize) -> Result<(), Error> {
        self.archive.remove(&log_key(id)).await?;
        for place in 0..outputs {
            self.archive.remove(&output_key(id, place)).await?;
        }
        Ok(())
    }
}
