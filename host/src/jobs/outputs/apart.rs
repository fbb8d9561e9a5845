//! Takes a result with several outputs apart: a JSON object by output id, whose members may be qualified values.

use std::borrow::Cow;

use serde::Deserialize;
use serde_json::value::RawValue;

use super::members::members;
use super::{Output, Room, undeclared};
use crate::core::description::OutputDescription;
use crate::core::validation::{self, Checked};
use crate::core::value_schema::from_base64;
use crate::core::{ProcessDescription, Violation, media_type, pointer::join};
use crate::jobs::capture::media_type::is_media_type;
use crate::jobs::capture::spool::{Spool, SpoolError};

/// The outputs of a value, and the ids of those whose content was not checked.
pub(super) type Apart = (Vec<Output>, Vec<String>);

/// Takes a JSON object apart without building a tree of it: each member is checked, and kept on disk unless it is small, in the order of
/// the declaration. Blocks.
pub(super) fn take_apart(
    declared: &ProcessDescription,
    bytes: &[u8],
    limit: u64,
    room: &Room,
) -> Result<Result<Apart, String>, SpoolError> {
    let parts = match split(declared, bytes) {
        Ok(parts) => parts,
        Err(wrong) => return Ok(Err(wrong)),
    };
    let (mut outputs, mut unchecked) = (Vec::new(), Vec::new());
    for (output, member) in parts {
        let (media_type, part) = match part(output, member) {
            Ok(part) => part,
            Err(wrong) => return Ok(Err(undeclared(wrong))),
        };
        let id = output.id.clone();
        let checked = if part.len() as u64 > limit {
            validation::check_media_type(declared, &id, &media_type).map(|()| Checked::Form)
        } else {
            let own = if matches!(part, Cow::Owned(_)) { part.len() } else { 0 };
            let memory = room.memory.saturating_sub(bytes.len()).saturating_sub(own);
            validation::check_output(declared, &id, &media_type, &part, memory)
        };
        match checked {
            Ok(Checked::Content) => {}
            Ok(Checked::Form) => unchecked.push(id.clone()),
            Err(wrong) => return Ok(Err(undeclared(wrong))),
        }
        let mut spool = Spool::new(&room.folder, u64::MAX, room.stall);
        spool.write(&part)?;
        if let Some(value) = spool.finish()? {
            outputs.push(Output { id, media_type, value });
        }
    }
    Ok(Ok((outputs, unchecked)))
}

/// A declared output with its member of the result.
type Part<'d, 'b> = (&'d OutputDescription, &'b RawValue);

/// The members of the result by output, in the order of the declaration.
fn split<'d, 'b>(declared: &'d ProcessDescription, bytes: &'b [u8]) -> Result<Vec<Part<'d, 'b>>, String> {
    let several = "a process with several outputs prints them as one JSON object by output id";
    let names: Vec<&str> = declared.outputs.iter().map(|output| output.id.as_str()).collect();
    let found =
        members(bytes, &names).map_err(|wrong| format!("the result is not a JSON object ({wrong}); {several}"))?;
    match found.unknown {
        Some(unknown) => {
            let unknown: String = unknown.chars().take(80).collect();
            let at = join("", &unknown);
            Err(format!("the result has an output '{unknown}' that the process does not declare, at {at}"))
        }
        None => {
            let both = declared.outputs.iter().zip(found.values);
            Ok(both.filter_map(|(output, member)| Some((output, member?))).collect())
        }
    }
}

/// JSON text; its own where it has no escapes.
#[derive(Deserialize)]
pub(super) struct Text<'b>(#[serde(borrow)] pub(super) Cow<'b, str>);

/// Media type and bytes of one member.
fn part<'b>(output: &OutputDescription, member: &'b RawValue) -> Result<(String, Cow<'b, [u8]>), Violation> {
    let place = join("", &output.id);
    let qualified = qualified(member);
    let (inner, at) = match &qualified {
        Some(qualified) => (qualified.value, join(&place, "value")),
        None => (member, place.clone()),
    };
    let named = match qualified.as_ref().and_then(|qualified| qualified.media_type) {
        None => None,
        Some(named) => {
            let text = serde_json::from_str::<Text<'_>>(named.get()).ok();
            let Some(Text(text)) = text.filter(|Text(text)| is_media_type(text)) else {
                return Err(Violation::new(join(&place, "mediaType"), "is not a media type"));
            };
            Some(text.into_owned())
        }
    };
    let is_base64 = match qualified.as_ref().and_then(|qualified| qualified.encoding) {
        None => false,
        Some(encoding) => {
            let text = serde_json::from_str::<Text<'_>>(encoding.get()).ok();
            match text.map(|Text(text)| text.to_ascii_lowercase()).as_deref() {
                Some("base64") => true,
                Some("binary" | "utf-8" | "utf8" | "7bit" | "8bit") => false,
                _ => return Err(Violation::new(join(&place, "encoding"), "must be 'base64', 'binary' or 'utf-8'")),
            }
        }
    };
    let is_text = inner.get().starts_with('"');
    let usual = match (is_base64, is_text) {
        (true, _) => "application/octet-stream",
        (false, true) => "text/plain",
        (false, false) => "application/json",
    };
    let kind = named.or_else(|| output.media_type().map(str::to_owned)).unwrap_or_else(|| usual.to_owned());
    let text = || match serde_json::from_str::<Text<'_>>(inner.get()) {
        Ok(Text(text)) => Ok(text),
        Err(wrong) => Err(Violation::new(&at, format!("is no text: {wrong}"))),
    };
    let bytes = if is_base64 {
        let bytes = from_base64(&text()?);
        Cow::Owned(bytes.ok_or_else(|| Violation::new(&at, "is not the base64 text that 'encoding' says"))?)
    } else if is_text && !media_type::is_json(&kind) {
        match text()? {
            Cow::Borrowed(text) => Cow::Borrowed(text.as_bytes()),
            Cow::Owned(text) => Cow::Owned(text.into_bytes()),
        }
    } else {
        Cow::Borrowed(inner.get().as_bytes())
    };
    Ok((kind, bytes))
}

/// A qualified value: `{"value": …, "mediaType": …, "encoding": …}`. A member that is `null` counts as left out.
struct Qualified<'b> {
    value: &'b RawValue,
    media_type: Option<&'b RawValue>,
    encoding: Option<&'b RawValue>,
}

fn qualified(member: &RawValue) -> Option<Qualified<'_>> {
    if !member.get().starts_with('{') {
        return None;
    }
    let found = members(member.get().as_bytes(), &["value", "mediaType", "encoding", "schema"]).ok()?;
    if found.unknown.is_some() {
        return None;
    }
    let mut values = found.values.into_iter();
    let value = values.next().flatten()?;
    let mut beside = || values.next().flatten().filter(|value| value.get() != "null");
    Some(Qualified { value, media_type: beside(), encoding: beside() })
}
