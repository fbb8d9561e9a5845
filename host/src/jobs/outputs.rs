//! From the captured value to the outputs that the process declared.
//!
//! | declared outputs | the value is |
//! |---|---|
//! | none | one output called `result` |
//! | one | that output, byte for byte |
//! | several | a JSON object by output id; members that are text become that text, others JSON |

use serde_json::Value;

use super::Error;
use super::capture::spool::SpooledValue;
use super::capture::{Captured, CapturedValue};
use crate::core::{JobDetail, ProcessDescription, media_type, validation};

/// The largest value that is parsed, 64 MiB: larger ones are kept as they are and not checked against a schema.
const PARSED_BYTES: u64 = 64 * 1024 * 1024;

/// The id of the output of a process that declares none.
const UNDECLARED: &str = "result";

/// One output that is ready to be kept.
pub(super) struct Output {
    pub(super) id: String,
    pub(super) media_type: String,
    pub(super) value: SpooledValue,
}

/// The outputs in the captured value, or one sentence on why it is not what the process declared, with a JSON pointer.
pub(super) async fn assemble(detail: &JobDetail, captured: Captured) -> Result<Result<Vec<Output>, String>, Error> {
    let value = match captured.value {
        CapturedValue::Absent => return Ok(Ok(Vec::new())),
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
    match declared.outputs.as_slice() {
        [] => {
            let media_type = marked.unwrap_or_else(|| "text/plain".to_owned());
            Ok(Ok(vec![Output { id: UNDECLARED.to_owned(), media_type, value }]))
        }
        [only] => {
            let media_type =
                marked.or_else(|| only.media_type().map(str::to_owned)).unwrap_or_else(|| "text/plain".to_owned());
            if let Some(bytes) = value.bytes(PARSED_BYTES).await? {
                if let Err(wrong) = validation::check_output(&declared, &only.id, &media_type, &bytes) {
                    return Ok(Err(mismatch(&wrong)));
                }
            }
            Ok(Ok(vec![Output { id: only.id.clone(), media_type, value }]))
        }
        _ => {
            let Some(bytes) = value.bytes(PARSED_BYTES).await? else {
                return Ok(Err("a result with several outputs must be at most 64 MiB".to_owned()));
            };
            Ok(split(&declared, &bytes))
        }
    }
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

/// Takes a JSON object apart.
fn split(declared: &ProcessDescription, bytes: &[u8]) -> Result<Vec<Output>, String> {
    let several = "a process with several outputs prints them as one JSON object by output id";
    let members = match serde_json::from_slice::<Value>(bytes) {
        Ok(Value::Object(members)) => members,
        Ok(_) => return Err(format!("the result is not a JSON object; {several}")),
        Err(wrong) => return Err(format!("the result is not JSON ({wrong}); {several}")),
    };
    let mut outputs = Vec::with_capacity(members.len());
    for (id, member) in members {
        let Some(output) = declared.outputs.iter().find(|output| output.id == id) else {
            return Err(format!("the result has an output '{id}' that the process does not declare, at /{id}"));
        };
        let (inner, named) = qualified(&member);
        let media_type = named
            .or_else(|| output.media_type().map(str::to_owned))
            .unwrap_or_else(|| if inner.is_string() { "text/plain" } else { "application/json" }.to_owned());
        let text = match inner {
            Value::String(text) if !media_type::is_json(&media_type) => text.clone().into_bytes(),
            other => other.to_string().into_bytes(),
        };
        validation::check_output(declared, &id, &media_type, &text).map_err(|wrong| mismatch(&wrong))?;
        outputs.push(Output { id, media_type, value: SpooledValue::from_bytes(text.into()) });
    }
    Ok(outputs)
}

/// A qualified value (`{"value": …, "mediaType": …}`) is what it holds.
fn qualified(member: &Value) -> (&Value, Option<String>) {
    match member {
        Value::Object(object)
            if object.keys().all(|key| matches!(key.as_str(), "value" | "mediaType" | "encoding" | "schema")) =>
        {
            match object.get("value") {
                Some(inner) => (inner, object.get("mediaType").and_then(Value::as_str).map(str::to_owned)),
                None => (member, None),
            }
        }
        _ => (member, None),
    }
}

fn mismatch(wrong: &crate::core::Violation) -> String {
    format!("the result is not what the process declares: {} at {}", wrong.message, wrong.pointer)
}
