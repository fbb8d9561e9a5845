//! Reading: what is offered, jobs, results, logs, receipts. Nothing in here asks the runner but the log of a job that runs.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use futures::future::join_all;
use futures::stream::{self, BoxStream, StreamExt as _, TryStreamExt as _};

use super::capture::framing::framed;
use super::{
    Asker, ByteBody, ByteRange, Error, Jobs, Offered, OfferedProcess, ProcessReport, Results, parse_id, require,
};
use crate::archive::{ArchiveError, ArchiveObject};
use crate::core::{
    CaptureReceipt, Job, JobDetail, JobFilter, JobId, JobPage, JobStatus, OutputBody, OutputRecord, PageKey, Principal,
    Role,
};
use crate::processor::Action;
use crate::runner::RunnerError;

/// A range of a log that still grows is answered from memory; more than this is cut short, which a range answer may be.
const LIVE_RANGE_BYTES: u64 = 8 * 1024 * 1024;

/// How long a part may take to say that it works.
const READY_WITHIN: Duration = Duration::from_secs(3);

/// The list of what is offered, made anew when the registry changed.
#[derive(Default)]
pub(super) struct OfferedCache(Mutex<Arc<Offered>>);

impl Jobs {
    /// The processes that are offered now. Cheap: the list is made once for each change.
    #[must_use]
    pub fn offered(&self) -> Arc<Offered> {
        let generation = self.registry.generation();
        let mut cached = self.offered.0.lock().unwrap_or_else(PoisonError::into_inner);
        if cached.generation != generation {
            let processes = self.registry.all();
            *cached = Arc::new(Offered {
                generation,
                processes: processes
                    .iter()
                    .map(|process| OfferedProcess {
                        description: Arc::clone(&process.description),
                        digest: process.digest,
                    })
                    .collect(),
            });
        }
        Arc::clone(&cached)
    }

    /// Every configured process and every file with its state and, for refused ones, the reasons.
    pub fn reports(&self, principal: &Principal) -> Result<Arc<[ProcessReport]>, Error> {
        require(principal, Role::Deploy)?;
        Ok(self.registry.reports())
    }

    /// One job. `id` as it stood in the URL.
    pub async fn job(&self, asker: Asker<'_>, id: &str) -> Result<Job, Error> {
        require(asker.principal, Role::Read)?;
        let job = self.store.job(parse_id(id)?).await?.ok_or_else(|| Error::NoSuchJob(id.to_owned()))?;
        if job.removed.is_some() {
            return Err(Error::NoSuchJob(id.to_owned()));
        }
        self.ask_process(&job, asker, Action::Read).await?;
        Ok(job)
    }

    /// A page of the job list, without the guarded jobs of others: it may be short for them and still have a `next`.
    pub async fn list(
        &self,
        principal: &Principal,
        filter: &JobFilter,
        after: Option<PageKey>,
        limit: u32,
    ) -> Result<JobPage, Error> {
        require(principal, Role::Read)?;
        let mut page = self.store.list(filter, after, limit).await?;
        page.jobs.retain(|job| self.is_listed(job, principal));
        Ok(page)
    }

    /// The results of a successful job; an error that says why there are none otherwise.
    pub async fn results(&self, asker: Asker<'_>, id: &str) -> Result<Results, Error> {
        self.results_of(self.detail(asker, id).await?).await
    }

    /// The same for the one who has just executed the job. Nobody is asked again: who may execute gets the answer, without the role to read
    /// jobs, and with a credential that stood in the inputs.
    pub async fn own_results(&self, id: JobId) -> Result<Results, Error> {
        self.results_of(self.kept(id).await?).await
    }

    async fn results_of(&self, detail: JobDetail) -> Result<Results, Error> {
        let job = detail.job;
        match job.status {
            JobStatus::Accepted | JobStatus::Running => Err(Error::ResultNotReady { id: job.id, status: job.status }),
            JobStatus::Dismissed => Err(Error::ResultNotAvailable { id: job.id, why: "it was dismissed" }),
            JobStatus::Failed => Err(Error::JobFailed {
                id: job.id,
                message: job.message.unwrap_or_else(|| "no reason is known".to_owned()),
                reason: detail.reason,
                exit_code: detail.exit_code,
            }),
            JobStatus::Successful => {
                let mut outputs = self.store.outputs(job.id).await?;
                if outputs.is_empty() {
                    // None, or removed since the row was read.
                    self.kept(job.id).await?;
                }
                outputs.retain(|output| detail.request.outputs.includes(&output.id));
                Ok(Results { job, request: detail.request, outputs })
            }
        }
    }

    /// The bytes of one output of [`Results`].
    pub async fn output_body(&self, output: &OutputRecord, range: Option<ByteRange>) -> Result<ByteBody, Error> {
        match &output.body {
            OutputBody::Archived { key } => {
                Ok(archived(self.archive.read(key, range).await.map_err(|failed| unread(failed, "this output"))?))
            }
            OutputBody::Inline(bytes) => inline(bytes.clone(), range),
        }
    }

    /// Where a client gets the bytes of a large output without this server, if it is to be sent there.
    pub async fn output_address(&self, output: &OutputRecord, filename: &str) -> Result<Option<String>, Error> {
        match &output.body {
            OutputBody::Archived { key } => Ok(self.archive.address(key, filename, &output.media_type).await?),
            OutputBody::Inline(_) => Ok(None),
        }
    }

    /// The log, live or archived. With `follow` it ends when the job does; a range wins over `follow`.
    pub async fn log(
        &self,
        asker: Asker<'_>,
        id: &str,
        range: Option<ByteRange>,
        follow: bool,
    ) -> Result<ByteBody, Error> {
        let mut detail = self.detail(asker, id).await?;
        // The run may be captured and released between the two looks: then the second one finds the receipt.
        for _ in 0..2 {
            if let Some(receipt) = &detail.receipt {
                let object =
                    self.archive.read(&receipt.key, range).await.map_err(|failed| unread(failed, "the log"))?;
                return Ok(archived(object));
            }
            let id = detail.job.id;
            match self.runner.logs(id, follow && range.is_none()).await {
                Ok(events) => {
                    let body = framed(events, detail.plan.all_containers().count()).map_err(Error::Runner).boxed();
                    return match range {
                        Some(range) => live_range(body, range).await,
                        None => Ok(ByteBody { size: None, first: 0, length: None, body }),
                    };
                }
                Err(RunnerError::NoSuchRun(_)) => {
                    detail = self.store.detail(id).await?.ok_or_else(|| Error::NoSuchJob(id.to_string()))?;
                }
                Err(other) => return Err(Error::Runner(other)),
            }
        }
        let why = if detail.job.status.is_final() { "it never ran" } else { "nothing of it has started yet" };
        Err(Error::LogNotAvailable { id: detail.job.id, what: "log", why })
    }

    /// The capture receipt.
    pub async fn receipt(&self, asker: Asker<'_>, id: &str) -> Result<CaptureReceipt, Error> {
        let detail = self.detail(asker, id).await?;
        let ended = detail.job.status.is_final();
        let why = if ended { "no log of it was captured" } else { "its log is captured when it ends" };
        detail.receipt.ok_or(Error::LogNotAvailable { id: detail.job.id, what: "receipt", why })
    }

    /// The names of the parts that [`Jobs::readiness`] tells of.
    pub const PARTS: [&'static str; 3] = ["store", "archive", "runner"];

    /// Whether each part works now: its name and, for one that does not, what is wrong. Parts that are left out are not asked.
    pub async fn readiness(&self, left_out: &[&str]) -> Vec<(&'static str, Result<(), String>)> {
        async fn within<E: std::error::Error>(check: impl Future<Output = Result<(), E>>) -> Result<(), String> {
            match tokio::time::timeout(READY_WITHIN, check).await {
                Ok(Ok(())) => Ok(()),
                Ok(Err(failed)) => Err(failed.to_string()),
                Err(_) => Err(format!("did not answer within {} s", READY_WITHIN.as_secs())),
            }
        }
        let asked = Self::PARTS.into_iter().filter(|part| !left_out.contains(part));
        join_all(asked.map(async |part| {
            let state = match part {
                "store" => within(self.store.ready()).await,
                "archive" => within(self.archive.ready()).await,
                _ => within(self.runner.ready()).await,
            };
            (part, state)
        }))
        .await
    }

    /// What is kept of a job that the asker may see.
    async fn detail(&self, asker: Asker<'_>, id: &str) -> Result<JobDetail, Error> {
        require(asker.principal, Role::Read)?;
        let detail = self.kept(parse_id(id)?).await?;
        self.ask_process(&detail.job, asker, Action::Read).await?;
        Ok(detail)
    }

    /// What is kept of a job that was not removed.
    async fn kept(&self, id: JobId) -> Result<JobDetail, Error> {
        let detail = self.store.detail(id).await?.filter(|detail| detail.job.removed.is_none());
        detail.ok_or_else(|| Error::NoSuchJob(id.to_string()))
    }
}

/// The key of a job's log in the archive: made from the job id alone, so that a repeat writes the same object.
pub(super) fn log_key(id: JobId) -> String {
    format!("{LOGS}{id}.log")
}

/// How the keys of logs begin.
pub(super) const LOGS: &str = "logs/";

/// How the keys of outputs begin.
pub(super) const RESULTS: &str = "results/";

/// The job whose object has this key; `None` for any other key.
pub(super) fn id_in_key(key: &str) -> Option<JobId> {
    if let Some(log) = key.strip_prefix(LOGS) {
        return log.strip_suffix(".log")?.parse().ok();
    }
    let (id, place) = key.strip_prefix(RESULTS)?.split_once('/')?;
    place.parse::<usize>().ok()?;
    id.parse().ok()
}

/// The key of one of a job's outputs in the archive, by its place in the record.
pub(super) fn output_key(id: JobId, place: usize) -> String {
    format!("{RESULTS}{id}/{place}")
}

fn unread(failed: ArchiveError, what: &'static str) -> Error {
    match failed {
        ArchiveError::NotFound(_) => Error::Removed { what },
        ArchiveError::RangeNotSatisfiable { size } => Error::RangeNotSatisfiable { size },
        other => Error::Archive(other),
    }
}

fn archived(object: ArchiveObject) -> ByteBody {
    ByteBody {
        size: Some(object.size),
        first: object.first,
        length: Some(object.length),
        body: object.body.map_err(Error::Archive).boxed(),
    }
}

fn one(bytes: Bytes) -> BoxStream<'static, Result<Bytes, Error>> {
    stream::once(async move { Ok(bytes) }).boxed()
}

/// The first byte and the length that a range means of `size` bytes; `None` when it starts behind them.
fn resolve(range: ByteRange, size: u64) -> Option<(u64, u64)> {
    match range {
        ByteRange::From { first, last } if first < size => {
            let last = last.map_or(size - 1, |last| last.min(size - 1));
            (last >= first).then(|| (first, last - first + 1))
        }
        ByteRange::Last(count) if count > 0 && size > 0 => Some((size - count.min(size), count.min(size))),
        ByteRange::From { .. } | ByteRange::Last(_) => None,
    }
}

fn inline(bytes: Bytes, range: Option<ByteRange>) -> Result<ByteBody, Error> {
    let size = bytes.len() as u64;
    let (first, length) = match range {
        None => (0, size),
        Some(range) => resolve(range, size).ok_or(Error::RangeNotSatisfiable { size })?,
    };
    let cut = |offset: u64| usize::try_from(offset).unwrap_or(usize::MAX).min(bytes.len());
    let body = one(bytes.slice(cut(first)..cut(first + length)));
    Ok(ByteBody { size: Some(size), first, length: Some(length), body })
}

/// A range of what a live log holds at this moment. Its whole size is not known to anyone yet, so the answer says `*`.
async fn live_range(mut body: BoxStream<'static, Result<Bytes, Error>>, range: ByteRange) -> Result<ByteBody, Error> {
    let mut held = BytesMut::new();
    let mut seen = 0u64;
    let (skip, keep, tail) = match range {
        ByteRange::From { first, last } => {
            let wanted = last.map_or(u64::MAX, |last| last.saturating_sub(first).saturating_add(1));
            (first, wanted.min(LIVE_RANGE_BYTES), false)
        }
        ByteRange::Last(count) => (0, count.min(LIVE_RANGE_BYTES), true),
    };
    let keep = usize::try_from(keep).unwrap_or(usize::MAX);
    while let Some(mut piece) = body.try_next().await? {
        let length = piece.len() as u64;
        if tail {
            held.extend_from_slice(&piece);
            if held.len() > keep {
                let _ = held.split_to(held.len() - keep);
            }
        } else if seen + length > skip && held.len() < keep {
            let offset = usize::try_from(skip.saturating_sub(seen)).unwrap_or(usize::MAX).min(piece.len());
            let _ = piece.split_to(offset);
            piece.truncate(keep - held.len());
            held.extend_from_slice(&piece);
        }
        seen += length;
        if !tail && held.len() >= keep {
            break;
        }
    }
    if held.is_empty() {
        return Err(Error::RangeNotSatisfiable { size: seen });
    }
    let length = held.len() as u64;
    let first = if tail { seen - length } else { skip };
    Ok(ByteBody { size: None, first, length: Some(length), body: one(held.freeze()) })
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn bytes(body: ByteBody) -> (u64, Vec<u8>) {
        let pieces: Vec<Bytes> = body.body.map(Result::unwrap).collect().await;
        (body.first, pieces.concat())
    }

    fn live() -> BoxStream<'static, Result<Bytes, Error>> {
        stream::iter(["abc", "", "def", "gh"].map(|piece| Ok(Bytes::from_static(piece.as_bytes())))).boxed()
    }

    #[tokio::test]
    async fn a_live_range_is_the_range_of_the_whole() {
        let whole = b"abcdefgh";
        for first in 0..8u64 {
            for last in first..10 {
                let range = ByteRange::From { first, last: Some(last) };
                let (start, got) = bytes(live_range(live(), range).await.unwrap()).await;
                let end = (last as usize + 1).min(8);
                assert_eq!((start, got.as_slice()), (first, &whole[first as usize..end]));
                let (start, same) = bytes(inline(Bytes::from_static(whole), Some(range)).unwrap()).await;
                assert_eq!((start, same), (first, got));
            }
        }
        for count in 1..10u64 {
            let (start, got) = bytes(live_range(live(), ByteRange::Last(count)).await.unwrap()).await;
            let from = 8usize.saturating_sub(count as usize);
            assert_eq!((start as usize, got.as_slice()), (from, &whole[from..]));
        }
        let behind = ByteRange::From { first: 8, last: None };
        assert!(matches!(live_range(live(), behind).await, Err(Error::RangeNotSatisfiable { size: 8 })));
        assert!(matches!(inline(Bytes::from_static(whole), Some(behind)), Err(Error::RangeNotSatisfiable { size: 8 })));
    }
}
