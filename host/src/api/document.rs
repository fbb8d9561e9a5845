//! The results document (`results.yaml`): a map from output id to its value, or to a link to it.

use bytes::{Bytes, BytesMut};
use futures::TryStreamExt as _;
use serde_json::value::RawValue;
use serde_json::{Map, Value, json};

use super::ApiState;
use super::links::Base;
use super::problem::Problem;
use crate::core::job::StoredRequest;
use crate::core::request::TransmissionMode;
use crate::core::{JobId, OutputBody, OutputRecord};

/// A document whose values stand in it as they were printed.
pub(super) type Document = indexed::Members;

/// Writes the document. Values beyond the configured size of a document are answered as links, as are those asked for so.
pub(super) async fn write(
    state: &ApiState,
    id: JobId,
    request: &StoredRequest,
    outputs: &[OutputRecord],
    base: &Base,
) -> Result<Document, Problem> {
    let mut left = state.settings().max_document_bytes();
    let mut document = Document::default();
    for output in outputs {
        let fits = output.size <= left;
        if !fits || request.outputs.mode(&output.id) == TransmissionMode::Reference {
            let link = json!({ "href": base.output(id, &output.id), "type": output.media_type });
            document.push(&output.id, raw(&link)?);
            continue;
        }
        left = left.saturating_sub(output.size);
        let bytes = match &output.body {
            OutputBody::Inline(bytes) => bytes.clone(),
            OutputBody::Archived { .. } => read(state, output).await?,
        };
        document.push(&output.id, value(&output.media_type, &bytes)?);
    }
    Ok(document)
}

async fn read(state: &ApiState, output: &OutputRecord) -> Result<Bytes, Problem> {
    let mut body = state.jobs().output_body(output, None).await?.body;
    let mut whole = BytesMut::with_capacity(usize::try_from(output.size).unwrap_or_default());
    while let Some(bytes) = body.try_next().await? {
        whole.extend_from_slice(&bytes);
    }
    Ok(whole.freeze())
}

/// A value as `results.yaml` has it: scalars, arrays and bounding boxes bare, everything else qualified.
fn value(media_type: &str, bytes: &[u8]) -> Result<Box<RawValue>, Problem> {
    let essence = media_type.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    let is_json = essence == "application/json" || essence.ends_with("+json");
    if let Some(json) = is_json.then(|| serde_json::from_slice::<&RawValue>(bytes).ok()).flatten() {
        let is_object = json.get().starts_with('{');
        if essence == "application/json" && (!is_object || is_bounding_box(json)) {
            return Ok(json.to_owned());
        }
        let mut qualified = Document::default();
        qualified.push("value", json.to_owned());
        if essence != "application/json" {
            qualified.push("mediaType", raw(&json!(media_type))?);
        }
        return raw(&qualified);
    }
    match std::str::from_utf8(bytes) {
        Ok(text) if essence == "text/plain" => raw(&text),
        Ok(text) => raw(&json!({ "value": text, "mediaType": media_type })),
        Err(_) => {
            use base64::Engine as _;
            let text = base64::engine::general_purpose::STANDARD.encode(bytes);
            raw(&json!({ "value": text, "encoding": "base64", "mediaType": media_type }))
        }
    }
}

/// `bbox.yaml`: a `bbox` of numbers and perhaps a `crs`, nothing else.
fn is_bounding_box(json: &RawValue) -> bool {
    // One is short; a large object need not be read for it.
    if json.get().len() > 1024 {
        return false;
    }
    let Ok(members) = serde_json::from_str::<Map<String, Value>>(json.get()) else { return false };
    let numbers = members.get("bbox").and_then(Value::as_array).is_some_and(|list| list.iter().all(Value::is_number));
    numbers && members.keys().all(|name| matches!(name.as_str(), "bbox" | "crs"))
}

fn raw(value: &impl serde::Serialize) -> Result<Box<RawValue>, Problem> {
    serde_json::value::to_raw_value(value).map_err(|error| {
        Problem::new(super::problem::INTERNAL, "the answer could not be written as JSON").caused_by(error)
    })
}

mod indexed {
    //! An object in the order of its members, whose values are written already.

    use serde::ser::{Serialize, SerializeMap as _, Serializer};
    use serde_json::value::RawValue;

    /// The members.
    #[derive(Debug, Default)]
    pub(in crate::api) struct Members(Vec<(String, Box<RawValue>)>);

    impl Members {
        pub(super) fn push(&mut self, name: &str, value: Box<RawValue>) {
            self.0.push((name.to_owned(), value));
        }
    }

    impl Serialize for Members {
        fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
            let mut map = serializer.serialize_map(Some(self.0.len()))?;
            for (name, value) in &self.0 {
                map.serialize_entry(name, value)?;
            }
            map.end()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(media_type: &str, bytes: &[u8]) -> String {
        value(media_type, bytes).unwrap().get().to_owned()
    }

    #[test]
    fn values_are_bare_or_qualified() {
        assert_eq!(of("text/plain", "hé\"".as_bytes()), r#""hé\"""#);
        assert_eq!(of("application/json", b" 12345678901234567890123 "), "12345678901234567890123");
        assert_eq!(of("application/json; charset=utf-8", b"[1, 2]"), "[1, 2]");
        assert_eq!(of("application/json", b"{\"a\": 1.10}\n"), r#"{"value":{"a": 1.10}}"#);
        assert_eq!(of("application/json", br#"{"bbox":[1,2,3,4],"crs":"x"}"#), r#"{"bbox":[1,2,3,4],"crs":"x"}"#);
        assert_eq!(of("application/json", br#"{"bbox":["a"]}"#), r#"{"value":{"bbox":["a"]}}"#);
        assert_eq!(of("application/geo+json", b"{}"), r#"{"value":{},"mediaType":"application/geo+json"}"#);
        assert_eq!(of("application/json", b"{broken"), r#"{"value":"{broken","mediaType":"application/json"}"#);
        assert_eq!(of("text/csv", b"a,b\n1,2\n"), r#"{"value":"a,b\n1,2\n","mediaType":"text/csv"}"#);
        assert_eq!(of("image/png", &[0xff, 0]), r#"{"value":"/wA=","encoding":"base64","mediaType":"image/png"}"#);
    }
}
