//! From the captured value to the outputs that the process declared.
//!
//! | declared outputs | the value is |
//! |---|---|
//! | none | one output called `result` |
//! | one | that output, byte for byte |
//! | several | a JSON object by output id; members that are text become that text, others stay the JSON that they are |
//!
//! A large value is in memory only while it is taken apart and checked, one at a time.

mod apart;
mod members;
#[cfg(test)]
mod tests;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use serde_json::Value;
use tokio::sync::Semaphore;

use self::apart::take_apart;
use super::capture::spool::SpooledValue;
use super::capture::{Captured, CapturedValue};
use super::{Error, Jobs};
use crate::core::validation::{self, Checked};
use crate::core::{JobDetail, ProcessDescription, Violation, media_type, pointer::join};

/// The largest value with several outputs, 64 MiB: it is taken apart in memory.
const SPLIT_BYTES: u64 = 64 * 1024 * 1024;

/// A value this small, in bytes, is checked at once; a larger one waits for its turn on a thread of its own.
const SMALL_BYTES: u64 = 256 * 1024;

const MIB: u64 = 1024 * 1024;

/// The id of the output of a process that declares none.
const UNDECLARED: &str = "result";

/// One output that is ready to be kept.
pub(super) struct Output {
    pub(super) id: String,
    pub(super) media_type: String,
    pub(super) value: SpooledValue,
}

/// How much may be checked at once, and where large parts of a value are kept.
pub(super) struct Checking {
    /// One large value at a time: a parsed one takes many times its size.
    turns: Arc<Semaphore>,
    /// The largest output, in bytes, that is checked against its schema.
    limit: u64,
    room: Room,
}

/// What the work on one value may take.
#[derive(Debug, Clone)]
struct Room {
    /// Bytes of memory, the value included.
    memory: usize,
    /// The folder of temporary files.
    folder: PathBuf,
    /// The longest wait for one piece of such a file.
    stall: Duration,
}

impl Checking {
    pub(super) fn of(jobs: &Jobs) -> Self {
        let memory = u64::from(jobs.settings.check_memory_mib) * MIB;
        Self {
            turns: Arc::clone(&jobs.parsing),
            limit: (u64::from(jobs.settings.checked_result_mib) * MIB).min(memory),
            room: Room {
                memory: usize::try_from(memory).unwrap_or(usize::MAX),
                folder: jobs.spool_dir.clone(),
                stall: Duration::from_millis(jobs.capture.stall_ms.into()),
            },
        }
    }

    /// Loads a value and works on it: on a large one when its turn comes, and off the async threads.
    async fn in_turn<T: Send + 'static>(
        &self,
        value: &SpooledValue,
        work: impl FnOnce(&[u8], &Room) -> T + Send + 'static,
    ) -> Result<T, Error> {
        if value.size <= SMALL_BYTES {
            let bytes = value.bytes(SMALL_BYTES).await?.unwrap_or_default();
            return Ok(work(&bytes, &self.room));
        }
        // It goes with the work, which goes on even if nobody waits for it any more.
        let turn = Arc::clone(&self.turns).acquire_owned().await;
        let bytes = value.bytes(u64::MAX).await?.unwrap_or_default();
        let room = self.room.clone();
        let work = move || {
            // A thread of its own each time takes over the memory that the last one gave back; those of the pool keep it, each for itself.
            let checked = std::thread::scope(|scope| scope.spawn(|| work(&bytes, &room)).join());
            drop((bytes, turn));
            checked.unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        };
        tokio::task::spawn_blocking(work).await.map_err(Error::Task)
    }
}

/// The outputs in the captured value, or one sentence on why it is not what the process declared, with a JSON pointer.
pub(super) async fn assemble(
    detail: &JobDetail,
    captured: Captured,
    checking: &Checking,
) -> Result<Result<Vec<Output>, String>, Error> {
    let value = match captured.value {
        CapturedValue::Absent => return Ok(Ok(Vec::new())),
        // Who declares outputs is taken to have printed them; who declares none may write as much of a log as he likes.
        CapturedValue::Unseen { reason } => {
            let declares = detail.request.declared.as_object().is_some_and(|outputs| !outputs.is_empty());
            let why = format!("no result was found, and the log is not complete: {reason}");
            return Ok(if declares { Err(why) } else { Ok(Vec::new()) });
        }
        CapturedValue::Whole(value) => value,
        CapturedValue::TooLarge { limit } => {
            return Ok(Err(format!(
                "the result is larger than the {limit} bytes that this server takes (capture.max_result_mib)"
            )));
        }
        CapturedValue::Incomplete { reason } => return Ok(Err(format!("the result is not complete: {reason}"))),
    };
    let declared = match declared(detail) {
        Ok(declared) => declared,
        Err(wrong) => return Ok(Err(wrong)),
    };
    let marked = captured.media_type.or_else(|| detail.plan.results.default_media_type.clone());
    let text = || "text/plain".to_owned();
    let (outputs, unchecked) = match declared.outputs.as_slice() {
        [] => {
            let media_type = marked.unwrap_or_else(text);
            return Ok(Ok(vec![Output { id: UNDECLARED.to_owned(), media_type, value }]));
        }
        [only] => {
            let id = only.id.clone();
            let media_type = marked.or_else(|| only.media_type().map(str::to_owned)).unwrap_or_else(text);
            let checked = if value.size > checking.limit {
                validation::check_media_type(&declared, &id, &media_type).map(|()| Checked::Form)
            } else {
                let (id, kind) = (id.clone(), media_type.clone());
                let work = move |bytes: &[u8], room: &Room| {
                    validation::check_output(&declared, &id, &kind, bytes, room.memory.saturating_sub(bytes.len()))
                };
                checking.in_turn(&value, work).await?
            };
            match checked.map_err(undeclared) {
                Ok(Checked::Content) => (vec![Output { id, media_type, value }], Vec::new()),
                Ok(Checked::Form) => (vec![Output { id: id.clone(), media_type, value }], vec![id]),
                Err(wrong) => return Ok(Err(wrong)),
            }
        }
        _ => {
            if value.size > SPLIT_BYTES {
                return Ok(Err("a result with several outputs must be at most 64 MiB".to_owned()));
            }
            let limit = checking.limit;
            let work = move |bytes: &[u8], room: &Room| take_apart(&declared, bytes, limit, room);
            match checking.in_turn(&value, work).await?? {
                Ok(found) => found,
                Err(wrong) => return Ok(Err(wrong)),
            }
        }
    };
    if !unchecked.is_empty() {
        tracing::warn!(
            job.id = %detail.job.id, outputs = ?unchecked,
            "kept without a check of their content: too large (jobs.checked_result_mib, jobs.check_memory_mib)"
        );
    }
    Ok(as_asked(detail, &outputs).map(|()| outputs))
}

fn undeclared(wrong: Violation) -> String {
    format!("the result is not what the process declares: {} at {}", wrong.message, wrong.pointer)
}

/// Whether each output has the media type that the request asks for, where it asks for one.
fn as_asked(detail: &JobDetail, outputs: &[Output]) -> Result<(), String> {
    let asked = |id: &str| detail.request.outputs.0.as_ref()?.get(id)?.media_type.as_deref();
    outputs.iter().try_for_each(|output| match asked(&output.id) {
        Some(asked) if !media_type::same(asked, &output.media_type) => Err(format!(
            "the result is not what was asked for: is '{}', and '{asked}' was asked for, at {}",
            output.media_type,
            join("/outputs", &output.id)
        )),
        _ => Ok(()),
    })
}

/// The outputs as they were declared when the job was accepted.
fn declared(detail: &JobDetail) -> Result<ProcessDescription, String> {
    let document = serde_json::json!({
        "id": detail.job.process_id.as_str(),
        "version": detail.process_version,
        "outputs": match &detail.request.declared { Value::Object(outputs) => outputs.clone(), _ => serde_json::Map::new() },
    });
    ProcessDescription::parse(&document.to_string(), None).map_err(|violations| {
        let first = violations.first().map(|violation| violation.message.clone()).unwrap_or_default();
        format!("the outputs that were declared for this job cannot be read: {first}")
    })
}
