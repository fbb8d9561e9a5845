//! One output of a job: whether its media type and content are what the description says.

use serde_json::Value;

use super::{is_result_of_undeclared, names, shown, unknown_output};
use crate::core::value_schema::{Alternative, Shown, ValueSchema};
use crate::core::{ProcessDescription, Violation, media_type, pointer::join};

/// The content in the form that a schema can see.
enum Content<'a> {
    Json { value: Value, text: &'a str },
    Text(&'a str),
    Bytes,
}

/// Checks an output byte for byte as the container gave it.
///
/// JSON media types are parsed and checked. Other texts are checked as a string; a schema that is not for a string checks what the text is as
/// JSON (`42`). One line feed at the end of a text does not count. Binary content is checked by its media type alone.
///
/// # Errors
/// The first thing that is wrong. Its pointer begins with `/outputs/ID` and goes on inside a JSON value. Values are not quoted: they may hold
/// what the caller keeps secret.
pub fn check_output(
    process: &ProcessDescription,
    output_id: &str,
    media_type: &str,
    bytes: &[u8],
) -> Result<(), Violation> {
    let at = join("/outputs", output_id);
    let Some(output) = process.output(output_id) else {
        if is_result_of_undeclared(process, output_id) {
            return Ok(());
        }
        return Err(Violation::new(at, unknown_output(process)));
    };
    let schema = &output.schema;
    if !schema.offers(media_type) {
        let said = names(schema.media_types());
        return Err(Violation::new(at, format!("is '{}'; the description says {said}", shown(media_type))));
    }
    let content = read(media_type, bytes).map_err(|message| Violation::new(&at, message))?;
    let mut first = None;
    for alternative in schema.fitting(Some(media_type)) {
        match check(schema, alternative, &content, &at) {
            None => return Ok(()),
            Some(violation) => first = first.or(Some(violation)),
        }
    }
    first.map_or(Ok(()), Err)
}

fn read<'a>(media_type: &str, bytes: &'a [u8]) -> Result<Content<'a>, String> {
    let text = str::from_utf8(bytes);
    if media_type::is_json(media_type) {
        let text = text.map_err(|_| "is not UTF-8".to_owned())?;
        let value = serde_json::from_str(text).map_err(|error| format!("is not JSON: {error}"))?;
        return Ok(Content::Json { value, text });
    }
    match text {
        Ok(text) => Ok(Content::Text(text)),
        Err(_) if media_type::is_text(media_type) => Err("is not UTF-8 text".to_owned()),
        Err(_) => Ok(Content::Bytes),
    }
}

/// The first violation of one alternative.
fn check(schema: &ValueSchema, alternative: &Alternative, content: &Content<'_>, at: &str) -> Option<Violation> {
    let declared = alternative.media_type.is_some();
    let kind = alternative.kind.as_deref();
    let violation = |value: &Value| {
        let mut out = Vec::new();
        schema.check_base(value, at, Shown::Names, &mut out);
        if schema.takes_null(value) {
            return None;
        }
        out.extend(alternative.violations(value, at, Shown::Names));
        out.into_iter().next()
    };
    match content {
        Content::Json { .. } | Content::Text(_) if alternative.binary && declared => None,
        // `type: string` with a JSON media type: the string is the document's text.
        Content::Json { text, .. } if kind == Some("string") && declared => {
            violation(&Value::String((*text).to_owned()))
        }
        Content::Json { value, .. } => violation(value),
        Content::Text(_) if alternative.binary => None,
        Content::Text(text) => {
            let found = violation(&Value::String((*text).to_owned()))?;
            let line = text.strip_suffix('\n').unwrap_or(text);
            let is_right = |value: Value| violation(&value).is_none();
            let right = is_right(Value::String(line.to_owned()))
                || (kind != Some("string") && serde_json::from_str(line).is_ok_and(is_right));
            (!right).then_some(found)
        }
        Content::Bytes if alternative.binary || declared || kind.is_none() => None,
        Content::Bytes => Some(Violation::new(at, "is not UTF-8 text, and its schema is not for bytes")),
    }
}
