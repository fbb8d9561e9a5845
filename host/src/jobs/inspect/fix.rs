//! The repairs. Each looks again before it touches anything, and can be done twice.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::{Done, Finding, Limits, Remedy, chain, within};
use crate::archive::ArchiveError;
use crate::core::job::UnfinishedJob;
use crate::core::{ExitState, JobId, RunState, Timestamp};
use crate::jobs::capture::{CaptureRules, capture};
use crate::jobs::read::{id_in_key, log_key};
use crate::jobs::{Error, Finished, Jobs, Pulse};
use crate::runner::RunnerError;
use crate::runner::inspection::{FoundObject, Inspector, ObjectKind};

/// How often a runner that has just been opened is asked whether it sees its runs.
const ASK_EVERY: Duration = Duration::from_millis(100);

/// Repairs what can be repaired and notes on each finding what became of it.
pub async fn fix(findings: &mut [Finding], jobs: &Arc<Jobs>, inspector: &dyn Inspector, limits: &Limits) {
    let seeing = sees_its_runs(jobs, limits.deadline).await;
    for finding in findings {
        let needs_runs = matches!(finding.remedy, Remedy::Orphan(..) | Remedy::Finish(..) | Remedy::Row(_));
        let done = match (&seeing, &finding.remedy) {
            (Err(why), _) if needs_runs => left(format!("the runner does not see its runs: {why}")),
            (_, Remedy::Nothing) => continue,
            (_, Remedy::Orphan(id, patience)) => jobs.let_orphan_go(*id, *patience).await.unwrap_or_else(failed),
            (_, Remedy::Finish(id, patience)) => jobs.finish_left(*id, *patience).await.unwrap_or_else(failed),
            (_, Remedy::Row(row)) => jobs.repair_left(row, limits).await.unwrap_or_else(failed),
            (_, Remedy::Secret(secret)) => remove_secret(inspector, secret, limits).await.unwrap_or_else(left),
            (_, Remedy::Objects(keys)) => jobs.remove_objects(keys).await.unwrap_or_else(failed),
        };
        finding.done = Some(done);
    }
}

fn repaired(text: impl Into<String>) -> Done {
    Done { repaired: true, text: text.into() }
}

fn left(text: impl Into<String>) -> Done {
    Done { repaired: false, text: text.into() }
}

fn failed(error: Error) -> Done {
    left(format!("it failed: {}", chain(&error)))
}

async fn sees_its_runs(jobs: &Jobs, deadline: Duration) -> Result<(), String> {
    let mut last = String::from("it was not asked");
    let asking = async {
        loop {
            match jobs.runner.ready().await {
                Ok(()) => return,
                Err(error) => last = chain(&error),
            }
            tokio::time::sleep(ASK_EVERY).await;
        }
    };
    let in_time = tokio::time::timeout(deadline, asking).await.is_ok();
    if in_time { Ok(()) } else { Err(last) }
}

async fn remove_secret(inspector: &dyn Inspector, secret: &FoundObject, limits: &Limits) -> Result<Done, String> {
    let seen = within(limits.deadline, inspector.look()).await?;
    let is_job = |object: &FoundObject| object.kind == ObjectKind::Job && object.job_id == secret.job_id;
    if seen.objects.iter().any(is_job) {
        return Ok(left("it has a Job by now"));
    }
    within(limits.deadline, inspector.let_go(secret)).await?;
    Ok(repaired("deleted"))
}

impl Jobs {
    /// Stores the log of a run that has no row, unless an earlier server did, and lets it go.
    async fn let_orphan_go(&self, id: JobId, patience: Duration) -> Result<Done, Error> {
        if self.store.job(id).await?.is_some() {
            return Ok(left("its row is there by now; look again"));
        }
        match self.state_after(id, patience).await? {
            None => return Ok(repaired("it is gone")),
            Some(RunState::Ended(_)) => {}
            Some(_) => return Ok(left("it still runs")),
        }
        let key = log_key(id);
        let kept = match self.archive.read(&key, None).await {
            // What was stored first is the whole log: now a part of the run may be gone.
            Ok(_) => format!("its log was stored before: {}", self.archive.uri(&key)),
            Err(ArchiveError::NotFound(_)) => match self.capture_orphan(id, &key).await {
                Ok(None) => format!("its log is {}", self.archive.uri(&key)),
                Ok(Some(missing)) => format!("its log is {}, not whole: {missing}", self.archive.uri(&key)),
                Err(Error::Runner(RunnerError::NoSuchRun(_))) => "nothing was left of its log".to_owned(),
                Err(other) => return Err(other),
            },
            Err(other) => return Err(other.into()),
        };
        self.runner.release(id).await?;
        Ok(repaired(format!("let go; {kept}")))
    }

    /// Answers what is missing of the log, if anything is.
    async fn capture_orphan(&self, id: JobId, key: &str) -> Result<Option<String>, Error> {
        let events = self.runner.logs(id, false).await?;
        let writer = self.archive.create(key, "text/plain; charset=utf-8").await?;
        // Its plan is lost: without one every container gets its heading, and nothing is taken for a result.
        let rules = CaptureRules {
            containers: usize::MAX,
            result_container: None,
            nonce: None,
            max_value_bytes: 0,
            max_log_bytes: self.capture.max_log_mib.map(|mib| u64::from(mib) * 1024 * 1024),
            stall: Duration::from_millis(self.capture.stall_ms.into()),
        };
        let spool: &Path = &self.spool_dir;
        Ok(capture(events, writer, &rules, spool).await?.missing)
    }

    /// The run's state once it has ended, or else after so long: a runner that has just been opened must itself have waited for a node that
    /// is silent.
    async fn state_after(&self, id: JobId, patience: Duration) -> Result<Option<RunState>, Error> {
        let until = Instant::now() + patience;
        loop {
            let state = self.runner.state(id).await?;
            if matches!(state, None | Some(RunState::Ended(_))) || Instant::now() >= until {
                return Ok(state);
            }
            tokio::time::sleep(ASK_EVERY).await;
        }
    }

    /// What the finalizer of a server would have done.
    async fn finish_left(&self, id: JobId, patience: Duration) -> Result<Done, Error> {
        let exit: ExitState = match self.state_after(id, patience).await? {
            None => return Ok(repaired("it is gone")),
            Some(RunState::Ended(exit)) => exit,
            Some(_) => return Ok(left("it still runs")),
        };
        Ok(match self.finish(id, &exit, Pulse::default(), ()).await? {
            Finished::Done => repaired("recorded and let go"),
            Finished::Claimed => left("a server works on it"),
            Finished::Foreign => left("its row is gone by now; look again"),
        })
    }

    /// What the repair of a server would have done.
    async fn repair_left(&self, row: &UnfinishedJob, limits: &Limits) -> Result<Done, Error> {
        self.repair_claimed(row, Timestamp::now() - limits.settle).await?;
        let Some(job) = self.store.job(row.id).await? else { return Ok(repaired("its row is gone")) };
        if job.status.is_final() {
            return Ok(repaired(format!("recorded as {}: {}", job.status, job.message.unwrap_or_default())));
        }
        Ok(match self.runner.state(row.id).await? {
            Some(RunState::Incomplete) | None => left("a server works on it, or its request is less than a minute old"),
            Some(_) => repaired("started; a server records its end"),
        })
    }

    /// Removes the objects of those jobs that have no row now.
    async fn remove_objects(&self, keys: &[String]) -> Result<Done, Error> {
        let (mut removed, mut kept) = (0_usize, 0_usize);
        for key in keys {
            let Some(id) = id_in_key(key) else { continue };
            if self.store.known(&[id]).await?.is_empty() {
                self.archive.remove(key).await?;
                removed += 1;
            } else {
                kept += 1;
            }
        }
        Ok(match kept {
            0 => repaired(format!("{removed} deleted")),
            _ => left(format!("{removed} deleted; {kept} have a row by now")),
        })
    }
}
