//! Doing again what a crash left undone: rows without a run are launched, or end with the reason why they cannot be.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use super::{Error, Jobs};
use crate::core::job::UnfinishedJob;
use crate::core::{JobId, JobStatus, RunState, Timestamp};
use crate::runner::{Launch, RunnerError};

/// Rows that are looked at in one read.
const PAGE: u32 = 500;

/// Runs whose rows are looked at in one read.
const STRAYS: usize = 1_000;

/// A run whose record is younger may be seen as it was before its end: by a list, a note that comes late, another replica.
const SEEN_LATE: Duration = Duration::from_secs(30);

impl Jobs {
    /// Looks after every unfinished job older than `age` that is not among `runs`, the runner's list. One job's trouble is
    /// logged and does not keep the others.
    pub async fn repair(&self, runs: &HashSet<JobId>, age: Duration) -> Result<(), Error> {
        let before = Timestamp::now() - age;
        let mut after = None;
        loop {
            let page = self.store.unfinished(before, after, PAGE).await?;
            let Some(last) = page.last() else { return Ok(()) };
            after = Some(last.id);
            // What another runner's runs are among is not seen in this list.
            let ours = page.iter().filter(|job| job.runner == self.runner.scope());
            for job in ours.filter(|job| !runs.contains(&job.id)) {
                if let Err(cause) = self.repair_claimed(job, before).await {
                    tracing::warn!(job.id = %job.id, error = &cause as &dyn std::error::Error, "could not repair a job; tried again later");
                }
            }
        }
    }

    /// Stops those of `live`, runs that have not ended, whose jobs are final: a dismissal whose server died before it could stop the run,
    /// say, or a run that was given up and started all the same. It can be repeated. One run's trouble is logged and does not keep the
    /// others.
    pub async fn stop_strays(&self, live: &[JobId]) -> Result<(), Error> {
        for part in live.chunks(STRAYS) {
            for id in self.store.strays(part, Timestamp::now() - SEEN_LATE).await? {
                if let Err(cause) = self.runner.cancel(id).await {
                    tracing::warn!(job.id = %id, error = &cause as &dyn std::error::Error, "could not stop the run of a job that has ended; tried again later");
                }
            }
        }
        Ok(())
    }

    /// Stops the run of a job that is final, if it goes on. One that was captured just now has ended, whatever was seen of it before: the
    /// Job of a run that went well is not deleted. Should it go on all the same, [`Jobs::stop_strays`] sees it later.
    pub(super) async fn stop_stray(&self, id: JobId) -> Result<(), Error> {
        if self.store.strays(&[id], Timestamp::now() - SEEN_LATE).await?.is_empty() {
            return Ok(());
        }
        Ok(self.runner.cancel(id).await?)
    }

    /// The age at which a row without a run is looked after while the server runs: long enough for a launch under way.
    #[must_use]
    pub fn repair_age(&self) -> Duration {
        Duration::from_secs(u64::from(self.settings.repair_after_seconds.max(1)))
    }

    /// The same for the first list. A database that nobody shares has no launch under way but this server's own, which repair
    /// knows: every row without a run is a leftover. In a shared one it may be another replica's launch.
    #[must_use]
    pub fn first_repair_age(&self) -> Duration {
        if self.store.is_shared() { self.repair_age() } else { Duration::ZERO }
    }

    /// Replicas see the same rows at the same time: one of them repairs a job, and none while another launches or finalizes it.
    pub(super) async fn repair_claimed(&self, job: &UnfinishedJob, before: Timestamp) -> Result<(), Error> {
        if self.launching.has(job.id) {
            return Ok(());
        }
        if !self.store.is_shared() {
            return self.repair_one(job, before).await;
        }
        // Not the name under which this server finalizes: that is another's work, too.
        let owner = format!("{}/repair", self.owner);
        if self.claim(job.id, &owner).await?.is_none() {
            return Ok(());
        }
        let repaired = self.repair_one(job, before).await;
        if let Err(cause) = self.store.unclaim(job.id, &owner).await {
            tracing::debug!(job.id = %job.id, error = &cause as &dyn std::error::Error, "a claim is left to expire");
        }
        repaired
    }

    async fn repair_one(&self, job: &UnfinishedJob, before: Timestamp) -> Result<(), Error> {
        let Some(detail) = self.store.detail(job.id).await? else { return Ok(()) };
        // The page is older than this moment: somebody may have looked after the job by now.
        if detail.job.updated >= before && self.store.is_shared() {
            return Ok(());
        }
        // Behind the row: a run that the row tells of was there before it.
        if !matches!(self.runner.state(job.id).await?, None | Some(RunState::Incomplete)) {
            return Ok(());
        }
        // It may have run, been recorded and let go between the two.
        let now = self.store.job(job.id).await?;
        if now.is_none_or(|now| now.updated != detail.job.updated || now.status != detail.job.status) {
            return Ok(());
        }
        if detail.job.status == JobStatus::Running {
            tracing::warn!(job.id = %job.id, "a running job has no run any more");
            return self.fail_lost(job.id, "the run disappeared before its end was seen").await;
        }
        if detail.job.status.is_final() {
            return Ok(());
        }
        if !detail.relaunchable {
            if Timestamp::now().millis_since(detail.job.created) < 60_000 {
                return Ok(()); // a launch of the process that holds its secrets may still be under way
            }
            let why = "the server stopped before the run was launched, and secret inputs are not kept: send the request again";
            return self.refuse(job.id, why.to_owned()).await.map(drop);
        }
        let inputs = &detail.request.inputs;
        let inputs = match inputs.as_object().is_none_or(serde_json::Map::is_empty) {
            true => None,
            false => Some(Arc::from(serde_json::value::to_raw_value(inputs).map_err(Error::Json)?)),
        };
        let launch = Launch {
            job_id: job.id,
            process_id: detail.job.process_id,
            plan: Arc::new(detail.plan),
            inputs,
            nonce: detail.nonce,
            created: detail.job.created,
            masked: None,
        };
        tracing::info!(job.id = %job.id, "launching a job whose launch was lost");
        match self.runner.launch(&launch).await {
            Ok(()) => Ok(()),
            Err(RunnerError::Refused(why)) => self.refuse(job.id, why).await.map(drop),
            Err(other) => Err(other.into()),
        }
    }
}
