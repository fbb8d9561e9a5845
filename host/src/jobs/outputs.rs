//! From the captured value to the outputs that the process declared.
//!
//! | declared outputs | the value is |
//! |---|---|
//! | none | one output called `result` |
//! | one | that output, byte for byte |
//! | several | a JSON object by output id; members that are text become that text, others stay the JSON that they are |

use std::collections::HashMap;
use std::sync::Arc;

use bytes::Bytes;
use serde_json::Value;
use serde_json::value::RawValue;
use tokio::sync::Semaphore;

use super::Error;
use super::capture::spool::SpooledValue;
use super::capture::{Captured, CapturedValue};
use crate::core::{JobDetail, ProcessDescription, Violation, media_type, validation};

/// The largest value with several outputs, 64 MiB: it is taken apart in memory.
const SPLIT_BYTES: u64 = 64 * 1024 * 1024;

/// A value this small, in bytes, is checked at once; a larger one waits for its turn on a thread of its own.
const SMALL_BYTES: usize = 256 * 1024;

/// The id of the output of a process that declares none.
const UNDECLARED: &str = "result";

/// One output that is ready to be kept.
pub(super) struct Output {
    pub(super) id: String,
    pub(super) media_type: String,
    pub(super) value: SpooledValue,
}

/// How much may be checked at once.
pub(super) struct Checking<'a> {
    /// One large value at a time: a parsed one takes many times its size.
    pub(super) parsing: &'a Semaphore,
    /// The largest output, in bytes, that is checked against its schema.
    pub(super) limit: u64,
}

/// The outputs in the captured value, or one sentence on why it is not what the process declared, with a JSON pointer.
pub(super) async fn assemble(
    detail: &JobDetail,
    captured: Captured,
    checking: &Checking<'_>,
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
        Ok(declared) => Arc::new(declared),
        Err(wrong) => return Ok(Err(wrong)),
    };
    let marked = captured.media_type.or_else(|| detail.plan.results.default_media_type.clone());
    let text = || "text/plain".to_owned();
    match declared.outputs.as_slice() {
        [] => Ok(Ok(vec![Output { id: UNDECLARED.to_owned(), media_type: marked.unwrap_or_else(text), value }])),
        [only] => {
            let id = only.id.clone();
            let media_type = marked.or_else(|| only.media_type().map(str::to_owned)).unwrap_or_else(text);
            let bytes = value.bytes(checking.limit).await?;
            let checked = check(Arc::clone(&declared), vec![(id.clone(), media_type.clone(), bytes)], checking).await?;
            Ok(checked.map(|()| vec![Output { id, media_type, value }]))
        }
        _ => {
            let Some(bytes) = value.bytes(SPLIT_BYTES).await? else {
                return Ok(Err("a result with several outputs must be at most 64 MiB".to_owned()));
            };
            let parts = match split(&declared, &bytes) {
                Ok(parts) => parts,
                Err(wrong) => return Ok(Err(wrong)),
            };
            let small = |bytes: &Bytes| Some(bytes.clone()).filter(|bytes| bytes.len() as u64 <= checking.limit);
            let to_check = parts.iter().map(|(id, kind, bytes)| (id.clone(), kind.clone(), small(bytes))).collect();
            let checked = check(Arc::clone(&declared), to_check, checking).await?;
            let outputs = parts.into_iter().map(|(id, media_type, bytes)| Output {
                id,
                media_type,
                value: SpooledValue::from_bytes(bytes),
            });
            Ok(checked.map(|()| outputs.collect()))
        }
    }
}

/// Id, media type and bytes of an output; no bytes for one that is too large to be checked.
type ToCheck = Vec<(String, String, Option<Bytes>)>;

/// Checks outputs against their schemas, off the async threads when they are large.
async fn check(
    declared: Arc<ProcessDescription>,
    outputs: ToCheck,
    checking: &Checking<'_>,
) -> Result<Result<(), String>, Error> {
    let size: usize = outputs.iter().filter_map(|(_, _, bytes)| bytes.as_ref()).map(Bytes::len).sum();
    let work = move || -> Result<(), Violation> {
        outputs.iter().try_for_each(|(id, kind, bytes)| match bytes {
            Some(bytes) => validation::check_output(&declared, id, kind, bytes),
            // Too large to be parsed: its media type still has to be one that was declared.
            None => match declared.output(id) {
                Some(output) if !output.schema.offers(kind) => {
                    let message = format!("the media type '{kind}' is not declared");
                    Err(Violation::new(format!("/outputs/{id}"), message))
                }
                _ => Ok(()),
            },
        })
    };
    let checked = if size <= SMALL_BYTES {
        work()
    } else {
        let turn = checking.parsing.acquire().await;
        let checked = tokio::task::spawn_blocking(work).await.map_err(Error::Task)?;
        drop(turn);
        checked
    };
    Ok(checked.map_err(|wrong| {
        format!("the result is not what the process declares: {} at {}", wrong.message, wrong.pointer)
    }))
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

type Members<'a> = HashMap<String, &'a RawValue>;

/// Takes a JSON object apart without building a tree of it: id, media type and bytes by output, in the order of the declaration.
fn split(declared: &ProcessDescription, bytes: &[u8]) -> Result<Vec<(String, String, Bytes)>, String> {
    let several = "a process with several outputs prints them as one JSON object by output id";
    let mut members: Members<'_> = serde_json::from_slice(bytes)
        .map_err(|wrong| format!("the result is not a JSON object ({wrong}); {several}"))?;
    let mut parts = Vec::with_capacity(members.len());
    for output in &declared.outputs {
        let Some(member) = members.remove(&output.id) else { continue };
        let (inner, named) = qualified(member);
        let is_text = inner.get().starts_with('"');
        let kind = named
            .or_else(|| output.media_type().map(str::to_owned))
            .unwrap_or_else(|| if is_text { "text/plain" } else { "application/json" }.to_owned());
        let bytes = if is_text && !media_type::is_json(&kind) {
            let text: String =
                serde_json::from_str(inner.get()).map_err(|wrong| format!("{wrong} at /{}", output.id))?;
            text.into()
        } else {
            Bytes::copy_from_slice(inner.get().as_bytes())
        };
        parts.push((output.id.clone(), kind, bytes));
    }
    match members.keys().min() {
        Some(unknown) => {
            Err(format!("the result has an output '{unknown}' that the process does not declare, at /{unknown}"))
        }
        None => Ok(parts),
    }
}

/// A qualified value (`{"value": …, "mediaType": …}`) is what it holds.
fn qualified(member: &RawValue) -> (&RawValue, Option<String>) {
    if !member.get().starts_with('{') {
        return (member, None);
    }
    let Ok(members) = serde_json::from_str::<Members<'_>>(member.get()) else { return (member, None) };
    let known = |key: &String| matches!(key.as_str(), "value" | "mediaType" | "encoding" | "schema");
    match members.get("value") {
        Some(inner) if members.keys().all(known) => {
            let named = members.get("mediaType").and_then(|kind| serde_json::from_str(kind.get()).ok());
            (*inner, named)
        }
        _ => (member, None),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn process() -> ProcessDescription {
        let text = r#"{"id":"p","version":"1","outputs":{
            "text":{"schema":{"type":"string"}},
            "csv":{"schema":{"type":"string","contentMediaType":"text/csv"}},
            "numbers":{"schema":{"type":"array","items":{"type":"integer"}}}}}"#;
        ProcessDescription::parse(text, None).unwrap()
    }

    #[test]
    fn several_outputs_are_taken_apart_as_they_are() {
        let value =
            br#"{"numbers": [1,  2], "csv": {"value": "a,b\n1,2\n", "mediaType": "text/csv"}, "text": "x\u00e4"}"#;
        let parts = split(&process(), value).unwrap();
        let shown: Vec<_> = parts
            .iter()
            .map(|(id, kind, bytes)| (id.as_str(), kind.as_str(), std::str::from_utf8(bytes).unwrap()))
            .collect();
        assert_eq!(
            shown,
            [
                ("text", "text/plain", "x\u{e4}"),
                ("csv", "text/csv", "a,b\n1,2\n"),
                ("numbers", "application/json", "[1,  2]")
            ]
        );
    }

    #[test]
    fn what_cannot_be_taken_apart_is_told() {
        for (value, word) in
            [("[]", "JSON object"), ("{", "JSON object"), ("", "JSON object"), (r#"{"more": 1}"#, "'more'")]
        {
            let wrong = split(&process(), value.as_bytes()).unwrap_err();
            assert!(wrong.contains(word), "{value}: {wrong}");
        }
    }

    #[tokio::test]
    async fn outputs_are_checked_up_to_the_limit() {
        let parsing = Semaphore::new(1);
        let part = |bytes: &'static str| {
            vec![("numbers".to_owned(), "application/json".to_owned(), Some(Bytes::from_static(bytes.as_bytes())))]
        };
        let checking = Checking { parsing: &parsing, limit: 1 };
        let wrong = check(Arc::new(process()), part("[1, \"x\"]"), &checking).await.unwrap().unwrap_err();
        assert!(wrong.contains("/outputs/numbers/1"), "{wrong}");
        assert!(check(Arc::new(process()), part("[1]"), &checking).await.unwrap().is_ok());
        let large = Bytes::from(format!("[{}1]", "1,".repeat(SMALL_BYTES)));
        let part = vec![("numbers".to_owned(), "application/json".to_owned(), Some(large))];
        assert!(check(Arc::new(process()), part, &checking).await.unwrap().is_ok());
    }
}
