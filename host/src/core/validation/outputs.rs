//! One output of a job: whether its media type and content are what the description says.

use serde_json::Value;

use super::{is_result_of_undeclared, names, shown, unknown_output};
use crate::core::description::OutputDescription;
use crate::core::json::tree_size;
use crate::core::value_schema::{Alternative, ValueSchema};
use crate::core::{ProcessDescription, Violation, media_type, pointer::join};

/// How much of an output was checked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Checked {
    /// All of it.
    Content,
    /// Its media type, and that it is the JSON or text which that says: the memory was not enough for more.
    Form,
}

/// The content in the form that a schema can see.
enum Content<'a> {
    Json {
        value: Value,
        text: &'a str,
        /// Memory that the value takes.
        size: usize,
    },
    Text(&'a str),
    Bytes,
    /// JSON or text that would take more memory than there is.
    TooLarge,
}

/// Checks an output's media type alone.
///
/// # Errors
/// It is not one that the description says. The pointer is `/outputs/ID`.
pub fn check_media_type(process: &ProcessDescription, output_id: &str, media_type: &str) -> Result<(), Violation> {
    declared(process, output_id, media_type).map(drop)
}

/// Checks an output byte for byte as the container gave it, in so many bytes of memory beside its own.
///
/// JSON media types are parsed and checked. Other texts are checked as a string; a schema that is not for a string checks what the text is as
/// JSON (`42`). One line feed at the end of a text does not count. Binary content is checked by its media type alone, and so is what would take
/// more memory, once it was seen to be JSON or text.
///
/// # Errors
/// The first thing that is wrong. Its pointer begins with `/outputs/ID` and goes on inside a JSON value. Values are not quoted: they may hold
/// what the caller keeps secret.
pub fn check_output(
    process: &ProcessDescription,
    output_id: &str,
    media_type: &str,
    bytes: &[u8],
    memory: usize,
) -> Result<Checked, Violation> {
    let at = join("/outputs", output_id);
    let Some(output) = declared(process, output_id, media_type)? else { return Ok(Checked::Content) };
    let schema = &output.schema;
    let content = read(media_type, bytes, memory).map_err(|message| Violation::new(&at, message))?;
    if matches!(content, Content::TooLarge) {
        return Ok(Checked::Form);
    }
    let mut first = None;
    for alternative in schema.fitting(Some(media_type)) {
        match check(schema, alternative, &content, &at, memory) {
            Ok(checked) => return Ok(checked),
            Err(violation) => first = first.or(Some(violation)),
        }
    }
    first.map_or(Ok(Checked::Content), Err)
}

/// The output's description, whose media types this is one of; `None` for the one output of a process that declares none.
fn declared<'p>(
    process: &'p ProcessDescription,
    output_id: &str,
    media_type: &str,
) -> Result<Option<&'p OutputDescription>, Violation> {
    let wrong = |message: String| Err(Violation::new(join("/outputs", output_id), message));
    match process.output(output_id) {
        None if is_result_of_undeclared(process, output_id) => Ok(None),
        None => wrong(unknown_output(process)),
        Some(output) if output.schema.offers(media_type) => Ok(Some(output)),
        Some(output) => {
            let said = names(output.schema.media_types());
            wrong(format!("is '{}'; the description says {said}", shown(media_type)))
        }
    }
}

fn read<'a>(media_type: &str, bytes: &'a [u8], memory: usize) -> Result<Content<'a>, String> {
    let text = str::from_utf8(bytes);
    if media_type::is_json(media_type) {
        let text = text.map_err(|_| "is not UTF-8".to_owned())?;
        let not_json = |error| format!("is not JSON: {error}");
        // The text once more: a schema may want it as a string.
        let size = tree_size(text).map_err(not_json)?.saturating_add(text.len());
        if size > memory {
            return Ok(Content::TooLarge);
        }
        let value = serde_json::from_str(text).map_err(not_json)?;
        return Ok(Content::Json { value, text, size });
    }
    match text {
        Ok(text) if text.len() > memory => Ok(Content::TooLarge),
        Ok(text) => Ok(Content::Text(text)),
        Err(_) if media_type::is_text(media_type) => Err("is not UTF-8 text".to_owned()),
        Err(_) => Ok(Content::Bytes),
    }
}

/// The first violation of one alternative.
fn check(
    schema: &ValueSchema,
    alternative: &Alternative,
    content: &Content<'_>,
    at: &str,
    memory: usize,
) -> Result<Checked, Violation> {
    let declared = alternative.media_type.is_some();
    let kind = alternative.kind.as_deref();
    let of_size = |value: &Value, size: usize| {
        if schema.takes_null(value) {
            return Ok(Checked::Content);
        }
        let found = schema.first_of_base(value, at, size).or_else(|| alternative.first_violation(value, at, size));
        found.map_or(Ok(Checked::Content), Err)
    };
    let text_as_string = |text: &str| of_size(&Value::String(text.to_owned()), text.len());
    match content {
        Content::Json { .. } | Content::Text(_) if alternative.binary && declared => Ok(Checked::Content),
        // `type: string` with a JSON media type: the string is the document's text.
        Content::Json { text, .. } if kind == Some("string") && declared => text_as_string(text),
        Content::Json { value, size, .. } => of_size(value, *size),
        Content::Text(_) if alternative.binary => Ok(Checked::Content),
        Content::Text(text) => {
            let Err(found) = text_as_string(text) else { return Ok(Checked::Content) };
            let line = text.strip_suffix('\n').unwrap_or(text);
            if text_as_string(line).is_ok() {
                return Ok(Checked::Content);
            }
            match tree_size(line) {
                Ok(size) if kind != Some("string") => {
                    if size > memory {
                        return Ok(Checked::Form);
                    }
                    let value = serde_json::from_str(line);
                    value.map_or(Err(found.clone()), |value: Value| of_size(&value, size).map_err(|_| found))
                }
                _ => Err(found),
            }
        }
        Content::Bytes if alternative.binary || declared || kind.is_none() => Ok(Checked::Content),
        Content::Bytes => Err(Violation::new(at, "is not UTF-8 text, and its schema is not for bytes")),
        Content::TooLarge => Ok(Checked::Form),
    }
}
