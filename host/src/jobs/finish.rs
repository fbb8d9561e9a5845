//! Finalizing: capture the log, find the result, write the final record, let the run go.
//!
//! Each step can be done twice and the order is fixed: the archive has the bytes before the row says so, the row says so before
//! waiters wake, and the run is released last. A crash anywhere is repaired by doing the whole again.

use std::time::Duration;

use futures::TryStreamExt as _;

use super::capture::{CaptureRules, Captured, capture};
use super::read::{log_key, output_key};
use super::{Error, Jobs, outputs};
use crate::core::job::Transition;
use crate::core::{
    CaptureReceipt, EndReason, ExitState, FinalRecord, JobDetail, JobId, JobStatus, OutputBody, OutputRecord, Timestamp,
};
use crate::failpoint;
use crate::runner::RunnerError;

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

impl Jobs {
    /// Finalizes a job whose run has ended like this. An error is worth another attempt.
    pub async fn finish(&self, id: JobId, exit: &ExitState) -> Result<Finished, Error> {
        let now = Timestamp::now();
        let until = now + Duration::from_secs(u64::from(self.settings.claim_seconds));
        let Some(mut detail) = self.store.detail(id).await? else {
            tracing::warn!(job.id = %id, "a run that ended has no job in this database; it is left alone");
            return Ok(Finished::Foreign);
        };
        if self.released(&detail).await? {
            return Ok(Finished::Done);
        }
        if !self.store.claim(id, &self.owner, now, until).await? {
            return Ok(Finished::Claimed);
        }
        failpoint::hit("finish-claimed");
        if self.store.is_shared() {
            // Another replica may have recorded it between the two; capturing what is left of a released run would replace its log.
            detail = self.store.detail(id).await?.unwrap_or(detail);
            if self.released(&detail).await? {
                let _ = self.store.unclaim(id, &self.owner).await;
                return Ok(Finished::Done);
            }
        }
        let Some(finished) = self.holding(id, &self.owner, self.record(&detail, exit)).await else {
            return Ok(Finished::Claimed);
        };
        if finished.is_err() {
            // The next attempt, ours or another replica's, need not wait for the claim to run out.
            let _ = self.store.unclaim(id, &self.owner).await;
        }
        match finished {
            // Another replica has captured and released it, or its run was deleted: nothing is left to capture.
            Err(Error::Runner(RunnerError::NoSuchRun(_))) => self.fail_lost(id).await?,
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

    /// Renews the claim on a job while work on it goes on, however long that takes. `None` when another replica has it now: then the
    /// work is dropped.
    pub(super) async fn holding<T>(&self, id: JobId, owner: &str, work: impl Future<Output = T>) -> Option<T> {
        let span = Duration::from_secs(u64::from(self.settings.claim_seconds.max(1)));
        let lost = async {
            loop {
                tokio::time::sleep(span / 3).await;
                let now = Timestamp::now();
                match self.store.claim(id, owner, now, now + span).await {
                    Ok(true) => {}
                    Ok(false) => return,
                    Err(cause) => {
                        tracing::warn!(job.id = %id, error = &cause as &dyn std::error::Error, "could not renew a claim");
                    }
                }
            }
        };
        tokio::select! {
            done = work => Some(done),
            () = lost => None,
        }
    }

    /// Writes the record; false when the claim was lost meanwhile, and another replica does.
    async fn record(&self, detail: &JobDetail, exit: &ExitState) -> Result<bool, Error> {
        let id = detail.job.id;
        let key = log_key(id);
        let captured = self.capture_log(detail, &key).await?;
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
            // An earlier attempt may have stored outputs that no record will name.
            let declared = detail.request.declared.as_object().map_or(0, serde_json::Map::len);
            for place in 0..declared.max(1) {
                // A courtesy: nothing will name them, and a bucket may not let us delete.
                if let Err(cause) = self.archive.remove(&output_key(id, place)).await {
                    tracing::warn!(job.id = %id, error = &cause as &dyn std::error::Error, "outputs of an earlier attempt may be left");
                    break;
                }
            }
        }
        failpoint::hit("finish-outputs-archived");
        let status = if exit.is_success() { JobStatus::Successful } else { JobStatus::Failed };
        let record = FinalRecord {
            job_id: id,
            owner: Some(self.owner.clone()),
            status,
            message: Some(exit.message.clone()).filter(|message| !message.is_empty()),
            finished: exit.finished,
            exit: Some(exit),
            receipt: Some(receipt),
            outputs: records,
        };
        let job = self.store.finish(record).await?;
        failpoint::hit("finish-recorded");
        if let Some(job) = job {
            metrics::counter!("vespiary_jobs_finished_total", "status" => job.status.as_str()).increment(1);
            if job.removed.is_some() {
                self.sweep(id).await?;
            }
        }
        // Not written because it is, or because the claim is another's now: only the first lets the run go.
        if !self.store.is_shared() {
            return Ok(true);
        }
        Ok(self.store.detail(id).await?.is_none_or(|now| now.receipt.is_some()))
    }

    /// One pass over the log: into the archive and through the scanner.
    async fn capture_log(&self, detail: &JobDetail, key: &str) -> Result<Captured, Error> {
        let events = self.runner.logs(detail.job.id, false).await?;
        let writer = self.archive.create(key, "text/plain; charset=utf-8").await?;
        let rules = CaptureRules::new(&detail.plan, detail.nonce.as_deref(), &self.capture);
        Ok(capture(events, writer, &rules, &self.spool_dir).await?)
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

    /// Ends a job whose run is gone without having been seen to end.
    pub(super) async fn fail_lost(&self, id: JobId) -> Result<(), Error> {
        let change = Transition {
            job_id: id,
            status: JobStatus::Failed,
            message: Some("the run disappeared before its end was seen; its log is lost".to_owned()),
            reason: Some(EndReason::Lost),
            at: Timestamp::now(),
        };
        self.store.transition(change).await?;
        Ok(())
    }
}
