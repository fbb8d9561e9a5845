//! Finalizing: capture the log, find the result, write the final record, let the run go.
//!
//! Each step can be done twice and the order is fixed: the archive has the bytes before the row says so, the row says so before
//! waiters wake, and the run is released last. A crash anywhere is repaired by doing the whole again.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use futures::{StreamExt as _, TryStreamExt as _};
use tokio::time::{Instant, sleep, sleep_until, timeout_at};

use super::capture::{CaptureRules, Captured, capture};
use super::earlier::Keeping;
use super::read::{log_key, output_key};
use super::{Error, Jobs, outputs};
use crate::archive::ArchiveError;
use crate::core::job::Transition;
use crate::core::{
    CaptureReceipt, EndReason, ExitState, FinalRecord, Job, JobDetail, JobId, JobStatus, LogEvent, OutputBody,
    OutputRecord, Timestamp,
};
use crate::failpoint;
use crate::runner::RunnerError;

/// How long a record of what was captured is tried to be written while the database is away.
const RECORD_WITHIN: Duration = Duration::from_secs(120);
/// The first pause between two of these attempts; doubled each time.
const FIRST_PAUSE: Duration = Duration::from_millis(250);
/// The longest of them.
const LONGEST_PAUSE: Duration = Duration::from_secs(2);

/// What became of an attempt to finalize.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Finished {
    /// The record is complete and the run is released.
    Done,
    /// Another replica works on it.
    Claimed,
    /// The run has no job in this database.
    Foreign,
}

/// Tells whoever gave an attempt its place whether the log moves.
#[derive(Debug, Clone, Default)]
pub struct Pulse(Arc<AtomicBool>);

impl Pulse {
    fn beat(&self) {
        self.0.store(true, Ordering::Relaxed);
    }

    /// Whether any of the log has come.
    #[must_use]
    pub fn has_moved(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}

impl Jobs {
    /// Finalizes a job whose run has ended like this. An error is worth another attempt. `pulse` beats as the log moves, and `place` is
    /// dropped when log and outputs are stored: what then may take long costs next to nothing.
    pub async fn finish(&self, id: JobId, exit: &ExitState, pulse: Pulse, place: impl Send) -> Result<Finished, Error> {
        let Some(mut detail) = self.store.detail(id).await? else {
            tracing::warn!(job.id = %id, "a run that ended has no job in this database; it is left alone");
            return Ok(Finished::Foreign);
        };
        if self.released(&detail).await? {
            return Ok(Finished::Done);
        }
        let Some(until) = self.claim(id, &self.owner).await? else { return Ok(Finished::Claimed) };
        failpoint::hit("finish-claimed");
        if self.store.is_shared() {
            // Another replica may have recorded it between the two; capturing what is left of a released run would replace its log.
            detail = self.store.detail(id).await?.unwrap_or(detail);
            if self.released(&detail).await? {
                let _ = self.store.unclaim(id, &self.owner).await;
                return Ok(Finished::Done);
            }
        }
        let captured = self.holding(id, &self.owner, Some(until), self.capture(&detail, exit, pulse)).await;
        drop(place);
        let recorded = match captured {
            None => return Ok(Finished::Claimed),
            // Nothing is stored any more, and the row itself tells whether the claim is still ours.
            Some(Ok(record)) => self.record(record).await,
            Some(Err(cause)) => Err(cause),
        };
        if recorded.is_err() {
            // The next attempt, ours or another replica's, need not wait for the claim to run out.
            let _ = self.store.unclaim(id, &self.owner).await;
        }
        match recorded {
            // It was deleted, and no earlier attempt has stored anything.
            Err(Error::Runner(RunnerError::NoSuchRun(_))) => {
                self.fail_lost(id, "the run disappeared before its log was captured").await?;
            }
            Ok(false) => return Ok(Finished::Claimed),
            other => drop(other?),
        }
        self.runner.release(id).await?;
        failpoint::hit("finish-released");
        Ok(Finished::Done)
    }

    /// Lets the run of a job go whose record is complete; false when it is not.
    async fn released(&self, detail: &JobDetail) -> Result<bool, Error> {
        let id = detail.job.id;
        if !detail.job.status.is_final() || detail.receipt.is_none() {
            return Ok(false);
        }
        if detail.job.removed.is_some() {
            self.sweep(id).await?;
        }
        self.runner.release(id).await?;
        Ok(true)
    }

    /// How long a replica may work on a job before another may take it over.
    fn claim_span(&self) -> Duration {
        Duration::from_secs(u64::from(self.settings.claim_seconds.max(1)))
    }

    /// Claims the work on a job: the moment until which it is certainly claimed, or `None` when another replica has it.
    pub(super) async fn claim(&self, id: JobId, owner: &str) -> Result<Option<Instant>, Error> {
        // Before the call: the claim must not end later here than in the database.
        let until = Instant::now() + self.claim_span();
        Ok(self.store.claim(id, owner, self.claim_span()).await?.then_some(until))
    }

    /// Renews the claim on a job while work on it goes on, however long that takes. `None` when another replica has it now, or may
    /// have it since the claim ran out at `until`: then the work is dropped. Without `until`, a database that is away does not end it.
    pub(super) async fn holding<T>(
        &self,
        id: JobId,
        owner: &str,
        mut until: Option<Instant>,
        work: impl Future<Output = T>,
    ) -> Option<T> {
        if !self.store.is_shared() {
            return Some(work.await);
        }
        let lost = async {
            loop {
                let now = Instant::now();
                if until.is_some_and(|until| until <= now) {
                    tracing::warn!(job.id = %id, "a claim could not be renewed in time: another replica may have the job now");
                    return;
                }
                let next = now + self.claim_span() / 3;
                sleep_until(until.map_or(next, |until| until.min(next))).await;
                let renewing = self.claim(id, owner);
                let renewed = match until {
                    Some(until) => timeout_at(until, renewing).await,
                    None => Ok(renewing.await),
                };
                match renewed {
                    Ok(Ok(Some(renewed))) => until = until.map(|_| renewed),
                    Ok(Ok(None)) => return,
                    Ok(Err(cause)) => {
                        tracing::warn!(job.id = %id, error = &cause as &dyn std::error::Error, "could not renew a claim");
                    }
                    Err(_) => {}
                }
            }
        };
        tokio::select! {
            biased;
            () = lost => None,
            done = work => Some(done),
        }
    }

    /// Stores log and outputs, and answers the record of them.
    async fn capture(&self, detail: &JobDetail, exit: &ExitState, pulse: Pulse) -> Result<FinalRecord, Error> {
        let id = detail.job.id;
        let key = log_key(id);
        let captured = self.capture_log(detail, &key, pulse).await?;
        failpoint::hit("finish-log-archived");
        let receipt = CaptureReceipt {
            uri: self.archive.uri(&key),
            key,
            bytes: captured.bytes,
            lines: captured.lines,
            sha256: captured.sha256.clone(),
            complete: captured.missing.is_none(),
            missing: captured.missing.clone(),
            captured: Timestamp::now(),
        };
        for warning in &captured.warnings {
            tracing::warn!(job.id = %id, "the log's markers: {warning}");
        }
        let mut exit = exit.clone();
        let mut records = Vec::new();
        if exit.is_success() && !detail.job.status.is_final() {
            match outputs::assemble(detail, captured, &outputs::Checking::of(self)).await? {
                Ok(found) => records = self.keep_outputs(id, found).await?,
                Err(wrong) => {
                    exit.reason = EndReason::InvalidResult;
                    exit.message = wrong;
                }
            }
        }
        if records.is_empty() {
            self.remove_outputs(detail).await;
        }
        failpoint::hit("finish-outputs-archived");
        let status = if exit.is_success() { JobStatus::Successful } else { JobStatus::Failed };
        Ok(FinalRecord {
            job_id: id,
            owner: Some(self.owner.clone()),
            status,
            message: Some(exit.message.clone()).filter(|message| !message.is_empty()),
            finished: exit.finished,
            exit: Some(exit),
            receipt: Some(receipt),
            outputs: records,
        })
    }

    /// Removes what an earlier attempt may have stored as outputs and no record will name. A courtesy: a bucket may not let us delete.
    async fn remove_outputs(&self, detail: &JobDetail) {
        let id = detail.job.id;
        // A process that was stopped for long may have lost its claim, and these may be the outputs of another replica's record.
        if self.store.is_shared() && !matches!(self.claim(id, &self.owner).await, Ok(Some(_))) {
            return;
        }
        let declared = detail.request.declared.as_object().map_or(0, serde_json::Map::len);
        for place in 0..declared.max(1) {
            if let Err(cause) = self.archive.remove(&output_key(id, place)).await {
                tracing::warn!(job.id = %id, error = &cause as &dyn std::error::Error, "outputs of an earlier attempt may be left");
                return;
            }
        }
    }

    /// Writes the record; false when the claim was lost meanwhile, and another replica does.
    async fn record(&self, record: FinalRecord) -> Result<bool, Error> {
        let id = record.job_id;
        let job = self.write(record).await?;
        failpoint::hit("finish-recorded");
        if let Some(job) = job {
            metrics::counter!("vespiary_jobs_finished_total", "status" => job.status.as_str()).increment(1);
            if job.removed.is_some() {
                self.sweep(id).await?;
            }
        }
        // Not written because it is, or because the claim is another's now: only the first lets the run go.
        Ok(self.store.detail(id).await?.is_none_or(|now| now.receipt.is_some()))
    }

    /// Writes the record as soon as the database is there. What was captured is not captured again for its sake: the run may be
    /// unreadable by then. A record whose claim another replica has taken meanwhile is not written.
    async fn write(&self, record: FinalRecord) -> Result<Option<Job>, Error> {
        let until = Instant::now() + RECORD_WITHIN;
        let mut pause = FIRST_PAUSE;
        loop {
            let cause = match self.store.finish(record.clone()).await {
                Ok(job) => return Ok(job),
                Err(cause) => Error::from(cause),
            };
            if !cause.is_passing() || Instant::now() + pause > until {
                return Err(cause);
            }
            tracing::warn!(job.id = %record.job_id, error = &cause as &dyn std::error::Error, "could not write a final record; tried again");
            sleep(pause).await;
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
    }

    /// One pass over the log: into the archive and through the scanner.
    async fn capture_log(&self, detail: &JobDetail, key: &str, pulse: Pulse) -> Result<Captured, Error> {
        let rules = CaptureRules::new(&detail.plan, detail.nonce.as_deref(), &self.capture);
        let events = match self.runner.logs(detail.job.id, false).await {
            Ok(events) => events,
            Err(gone @ RunnerError::NoSuchRun(_)) => {
                return self.stored_log(key, &rules).await?.ok_or(Error::Runner(gone));
            }
            Err(other) => return Err(other.into()),
        };
        let writer = self.archive.create(key, "text/plain; charset=utf-8").await?;
        let keeping = Keeping::new(Arc::clone(&self.archive), key);
        let (events, writer) = (keeping.watch(events), keeping.guard(writer));
        let beat = move |event: &LogEvent| {
            if matches!(event, LogEvent::Bytes(_)) {
                pulse.beat();
            }
        };
        let events = events.inspect_ok(beat).boxed();
        let captured = capture(events, writer, &rules, &self.spool_dir).await?;
        if keeping.has_kept()
            && let Some(stored) = self.stored_log(key, &rules).await?
        {
            return Ok(stored);
        }
        Ok(captured)
    }

    /// Small outputs go into the row, large ones into the archive under keys made from the job id.
    async fn keep_outputs(&self, id: JobId, found: Vec<outputs::Output>) -> Result<Vec<OutputRecord>, Error> {
        let inline = u64::from(self.settings.inline_result_kib) * 1024;
        let mut records = Vec::with_capacity(found.len());
        for (place, output) in found.into_iter().enumerate() {
            let value = output.value;
            let body = match value.bytes(inline).await? {
                Some(bytes) => OutputBody::Inline(bytes),
                None => {
                    let key = output_key(id, place);
                    let mut writer = self.archive.create(&key, &output.media_type).await?;
                    let mut pieces = value.chunks();
                    while let Some(piece) = pieces.try_next().await? {
                        writer.write(piece).await?;
                    }
                    writer.finish().await?;
                    OutputBody::Archived { key }
                }
            };
            let (size, sha256) = (value.size, value.sha256);
            records.push(OutputRecord { id: output.id, media_type: output.media_type, size, sha256, body });
        }
        Ok(records)
    }

    /// Ends a job whose run is gone, with the reason and what became of its log.
    pub(super) async fn fail_lost(&self, id: JobId, why: &str) -> Result<(), Error> {
        let key = log_key(id);
        let message = match self.archive.read(&key, None).await {
            Ok(_) => format!("{why}; what was stored of its log is {}", self.archive.uri(&key)),
            Err(ArchiveError::NotFound(_)) => format!("{why}; its log is lost"),
            Err(other) => return Err(other.into()),
        };
        let change = Transition {
            job_id: id,
            status: JobStatus::Failed,
            message: Some(message),
            reason: Some(EndReason::Lost),
            at: Timestamp::now(),
        };
        self.store.transition(change).await?;
        Ok(())
    }
}

#[cfg(test)]
mod tests;
