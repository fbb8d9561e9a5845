//! Captures a run's log: one pass over it in constant memory stores it and finds the result in it.
//!
//! ```text
//! log events -> frame -> batch of 1 MiB -+-> archive writer
//!                                        +-> SHA-256, lines
//!                                        +-> marker scanner -> spool        (the result container's section only)
//! ```
//! The three run at once, while the next batch is read. At most two batches are in memory. Nothing is readable in the archive before all of it
//! succeeded, so a capture that failed or whose process died is simply done again; the same log gives the same bytes.

pub mod framing;
mod lines;
pub mod media_type;
pub mod progress;
mod reader;
pub mod scanner;
mod source;
pub mod spool;

use std::path::Path;
use std::time::Duration;

use futures::stream::BoxStream;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use self::reader::{LogDigest, ResultReader};
use self::scanner::MarkerWarning;
use self::source::{Batch, Source};
use self::spool::{SpoolError, SpooledValue};
use crate::archive::{ArchiveError, ArchiveWriter};
use crate::core::{JobPlan, LogEvent};
use crate::runner::RunnerError;

/// A batch of so few bytes is worked on in place: a thread would cost more.
const SMALL_BATCH: usize = 32 * 1024;
/// The slowest an archive may be when it makes an object durable, in bytes a second.
const SLOWEST_FINISH: u64 = 4 * 1024 * 1024;

const MIB: u64 = 1024 * 1024;

/// How logs and results are captured.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Settings {
    /// The largest result in MiB. While it is read it takes that much disk. A larger one fails its job; the log is kept all the same.
    pub max_result_mib: u32,
    /// The most of a log that is kept, in MiB; absent: all of it. A result behind it is still found.
    pub max_log_mib: Option<u32>,
    /// How long a log may give nothing, or the archive or the disk take nothing, before the capture is given up and tried again, in
    /// milliseconds.
    pub stall_ms: u32,
}

impl Default for Settings {
    fn default() -> Self {
        Self { max_result_mib: 16 * 1024, max_log_mib: None, stall_ms: 60_000 }
    }
}

/// What one capture goes by.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CaptureRules {
    /// Containers of the run, init containers included.
    pub containers: usize,
    /// The container whose log holds the result; absent: the only one, and with several none.
    pub result_container: Option<String>,
    /// The nonce that markers must carry. Not empty.
    pub nonce: Option<String>,
    /// The largest value, in bytes.
    pub max_value_bytes: u64,
    /// The most bytes of containers that are stored; absent: all.
    pub max_log_bytes: Option<u64>,
    /// The longest wait for the next event, for one write, or for the disk that takes a large value.
    pub stall: Duration,
}

impl CaptureRules {
    /// The rules for a job of this plan. A nonce counts when the job has one.
    #[must_use]
    pub fn new(plan: &JobPlan, nonce: Option<&str>, settings: &Settings) -> Self {
        Self {
            containers: plan.all_containers().count(),
            result_container: plan.result_container().map(str::to_owned),
            nonce: nonce.map(str::to_owned),
            max_value_bytes: u64::from(settings.max_result_mib) * MIB,
            max_log_bytes: settings.max_log_mib.map(|mib| u64::from(mib) * MIB),
            stall: Duration::from_millis(settings.stall_ms.into()),
        }
    }
}

/// The value that a container printed.
#[derive(Debug, Clone)]
pub enum CapturedValue {
    /// There was no start marker.
    Absent,
    /// No value was seen, and bytes of the result container are missing that may have held it.
    Unseen {
        /// Why they are missing.
        reason: String,
    },
    /// All of it, byte for byte.
    Whole(SpooledValue),
    /// It is longer than allowed and was not kept.
    TooLarge {
        /// Bytes allowed.
        limit: u64,
    },
    /// Bytes of it are missing, so that it was not kept.
    Incomplete {
        /// Why, in one sentence.
        reason: String,
    },
}

/// A captured log. It is stored and readable.
#[derive(Debug, Clone)]
pub struct Captured {
    /// Bytes stored.
    pub bytes: u64,
    /// Line feeds in them, plus one for a last line without.
    pub lines: u64,
    /// SHA-256 of the bytes, in lower-case hexadecimal.
    pub sha256: String,
    /// What is missing of the log, where something is.
    pub missing: Option<String>,
    /// The media type that a marker named; always a valid one.
    pub media_type: Option<String>,
    /// The value.
    pub value: CapturedValue,
    /// What the author of the container should know; each kind once.
    pub warnings: Vec<MarkerWarning>,
}

/// Why a log was not captured. Nothing of it is readable then, and it can be tried again.
#[derive(Debug, thiserror::Error)]
pub enum CaptureError {
    /// The log could not be read.
    #[error("cannot read the log")]
    Log(#[source] RunnerError),
    /// The log gave nothing for too long.
    #[error("the log gave nothing for {ms} ms")]
    LogStalled {
        /// How long, in milliseconds.
        ms: u128,
    },
    /// The log could not be stored.
    #[error("cannot store the log")]
    Archive(#[source] ArchiveError),
    /// The value could not be kept.
    #[error("cannot keep the value found in the log")]
    Spool(#[source] SpoolError),
    /// The thread that read the log stopped.
    #[error("the thread that reads the log stopped")]
    Thread(#[source] tokio::task::JoinError),
}

/// Reads the log to its end, stores it through `writer` and finds the result in it. `spool_folder` takes values that are too large for memory.
///
/// # Errors
/// What failed: the log, the archive or the spool. The writer was dropped then, so that nothing is readable.
pub async fn capture(
    events: BoxStream<'static, Result<LogEvent, RunnerError>>,
    mut writer: Box<dyn ArchiveWriter>,
    rules: &CaptureRules,
    spool_folder: &Path,
) -> Result<Captured, CaptureError> {
    let mut source = Source::new(events, rules);
    let mut digest = LogDigest::default();
    let mut reader = ResultReader::new(rules, spool_folder.to_owned());
    let mut next = source.next().await?;
    while let Some(batch) = next {
        let stored = store(writer.as_mut(), &batch, rules.stall);
        // Boxed: the readers are large, and a capture is a part of larger futures.
        let read = Box::pin(read(digest, reader, &batch, rules.stall));
        ((digest, reader), next, ()) = tokio::try_join!(read, source.next(), stored)?;
    }
    let (bytes, lines, sha256) = digest.finish();
    let (media_type, value, warnings) = if reader.fits_memory(0) {
        reader.finish()
    } else {
        let finished = tokio::task::spawn_blocking(move || reader.finish());
        in_time(rules.stall, finished).await?.map_err(CaptureError::Thread)?
    }
    .map_err(CaptureError::Spool)?;
    let deadline = rules.stall + Duration::from_secs(bytes / SLOWEST_FINISH);
    within(deadline, writer.finish()).await?;
    Ok(Captured { bytes, lines, sha256, missing: source.missing(), media_type, value, warnings })
}

/// Stores a batch.
async fn store(writer: &mut dyn ArchiveWriter, batch: &Batch, stall: Duration) -> Result<(), CaptureError> {
    for piece in &batch.stored {
        within(stall, writer.write(piece.clone())).await?;
    }
    Ok(())
}

async fn within(deadline: Duration, call: impl Future<Output = Result<(), ArchiveError>>) -> Result<(), CaptureError> {
    match tokio::time::timeout(deadline, call).await {
        Ok(done) => done.map_err(CaptureError::Archive),
        Err(_) => Err(CaptureError::Archive(ArchiveError::Timeout(deadline.as_secs()))),
    }
}

/// The same for work on this machine's disk. A thread that hangs in it cannot be stopped, only left behind.
async fn in_time<T>(stall: Duration, work: impl Future<Output = T>) -> Result<T, CaptureError> {
    let late = |_| CaptureError::Spool(SpoolError::Stalled { ms: stall.as_millis() });
    tokio::time::timeout(stall, work).await.map_err(late)
}

/// Has both readers read a batch, each on a thread of the blocking pool unless that is not worth it. A thread is held for one batch
/// only: slow logs must not use the pool up.
async fn read(
    mut digest: LogDigest,
    mut reader: ResultReader,
    batch: &Batch,
    stall: Duration,
) -> Result<(LogDigest, ResultReader), CaptureError> {
    if batch.size <= SMALL_BATCH && reader.fits_memory(batch.size) {
        batch.stored.iter().for_each(|piece| digest.update(piece));
        batch.steps.iter().try_for_each(|step| reader.apply(step)).map_err(CaptureError::Spool)?;
        return Ok((digest, reader));
    }
    let (stored, steps) = (batch.stored.clone(), batch.steps.clone());
    let digest = tokio::task::spawn_blocking(move || {
        stored.iter().for_each(|piece| digest.update(piece));
        digest
    });
    let reader =
        tokio::task::spawn_blocking(move || steps.iter().try_for_each(|step| reader.apply(step)).map(|()| reader));
    let both = async { tokio::try_join!(digest, reader) };
    let (digest, reader) = in_time(stall, both).await?.map_err(CaptureError::Thread)?;
    Ok((digest, reader.map_err(CaptureError::Spool)?))
}

#[cfg(test)]
mod tests;
