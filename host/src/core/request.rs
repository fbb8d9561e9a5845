//! An execute request: `execute.yaml` of OGC API - Processes 1.0 (7.11.2), read leniently where the standard is unclear and
//! strictly where a client could be misunderstood.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::json::{MAX_DEPTH, is_too_deep};
use super::{Violation, media_type, pointer::join};

/// The body of `POST /processes/{processID}/execution`.
#[derive(Debug, Clone, PartialEq)]
pub struct ExecuteRequest {
    /// The inputs by id, as they were sent.
    pub inputs: Map<String, Value>,
    /// The outputs that are asked for.
    pub outputs: OutputSelection,
    /// How they are to be answered.
    pub response: ResponseMode,
}

impl ExecuteRequest {
    /// Reads a body; an empty one is a request without inputs. Of a key that is there twice, the last counts. Other members than
    /// `inputs`, `outputs`, `response` and `subscriber` are ignored, unless they look like inputs in the wrong place or a misspelt member;
    /// and so is a well-formed `subscriber`.
    ///
    /// # Errors
    /// Everything that is wrong with its form. What the process says of it is checked by [`super::validation::check_request`].
    pub fn parse(body: &[u8]) -> Result<Self, Vec<Violation>> {
        let body = if body.trim_ascii().is_empty() { b"{}" } else { body };
        let mut members: Map<String, Value> = match serde_json::from_slice(body) {
            Ok(Value::Object(members)) => members,
            Ok(_) => {
                return Err(vec![Violation::new("", "must be a JSON object with 'inputs' and, if wanted, 'outputs'")]);
            }
            Err(error) => return Err(vec![Violation::new("", format!("is not JSON: {error}"))]),
        };
        if members.values().any(|member| is_too_deep(member, MAX_DEPTH - 1)) {
            return Err(vec![Violation::new("", format!("is nested more than {MAX_DEPTH} levels deep"))]);
        }
        let mut out = Vec::new();
        check_members(&members, &mut out);
        let inputs = match members.remove("inputs") {
            None => Map::new(),
            Some(Value::Object(inputs)) => inputs,
            Some(Value::Array(_)) => {
                out.push(Violation::new("/inputs", "must be an object of values by input id, not a list"));
                Map::new()
            }
            Some(_) => {
                out.push(Violation::new("/inputs", "must be an object of values by input id"));
                Map::new()
            }
        };
        let outputs = OutputSelection::read(members.get("outputs"), &mut out);
        let response = match members.get("response").map(Value::as_str) {
            None | Some(Some("raw")) => ResponseMode::Raw,
            Some(Some("document")) => ResponseMode::Document,
            Some(_) => {
                out.push(Violation::new("/response", "must be 'raw' or 'document'"));
                ResponseMode::Raw
            }
        };
        check_subscriber(members.get("subscriber"), &mut out);
        out.truncate(MOST);
        if out.is_empty() { Ok(Self { inputs, outputs, response }) } else { Err(out) }
    }
}

/// Mistakes that are told at once.
const MOST: usize = 100;

/// Members that a client must have meant otherwise: misspelt ones, and inputs that stand where `inputs` should.
fn check_members(members: &Map<String, Value>, out: &mut Vec<Violation>) {
    for (name, meant) in [("input", "inputs"), ("output", "outputs")] {
        if members.contains_key(name) {
            let message = format!("is not a member of an execute request; '{meant}' is");
            out.push(Violation::new(join("", name), message));
        }
    }
    // `process` is of version 2, `mode` of drafts of version 1. A request that has any of these may have others, too.
    const KNOWN: [&str; 8] = ["inputs", "outputs", "response", "subscriber", "process", "mode", "input", "output"];
    if KNOWN.iter().any(|name| members.contains_key(*name)) {
        return;
    }
    let message = "is not a member of an execute request: values of inputs stand in the member 'inputs'";
    out.extend(members.keys().take(MOST).map(|name| Violation::new(join("", name), message)));
}

/// `subscriber.yaml`: an object of absolute URIs.
fn check_subscriber(subscriber: Option<&Value>, out: &mut Vec<Violation>) {
    let Some(subscriber) = subscriber else { return };
    let Some(members) = subscriber.as_object() else {
        out.push(Violation::new("/subscriber", "must be an object with 'successUri'"));
        return;
    };
    for name in ["successUri", "inProgressUri", "failedUri"] {
        if members.get(name).is_some_and(|uri| uri.as_str().is_none_or(|uri| url::Url::parse(uri).is_err())) {
            out.push(Violation::new(join("/subscriber", name), "must be an absolute URI"));
        }
    }
}

/// `response` of the request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ResponseMode {
    /// The bare value, or `multipart/related` for several (the standard's default).
    #[default]
    Raw,
    /// One JSON document (`results.yaml`).
    Document,
}

/// `transmissionMode` of one output.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum TransmissionMode {
    /// In the answer itself.
    #[default]
    Value,
    /// As a link.
    Reference,
}

/// Which outputs a request asks for: all of them, or these.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct OutputSelection(pub Option<BTreeMap<String, OutputRequest>>);

/// How one output is asked for.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct OutputRequest {
    /// By value or by reference.
    pub transmission_mode: TransmissionMode,
    /// The media type that is asked for, where one is.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub media_type: Option<String>,
}

impl OutputSelection {
    /// Reads `outputs`. Left out and empty both mean all: the standard leaves `{}` undefined.
    fn read(outputs: Option<&Value>, out: &mut Vec<Violation>) -> Self {
        let at = "/outputs";
        let members = match outputs {
            None => return Self(None),
            Some(Value::Object(members)) if members.is_empty() => return Self(None),
            Some(Value::Object(members)) => members,
            Some(_) => {
                out.push(Violation::new(at, "must be an object by output id"));
                return Self(None);
            }
        };
        // Behind a hundred mistakes there is no request any more.
        let mut chosen = BTreeMap::new();
        for (id, wish) in members {
            if out.len() >= MOST {
                break;
            }
            chosen.insert(id.clone(), OutputRequest::read(wish, &join(at, id), out));
        }
        Self(Some(chosen))
    }

    /// Whether this output is asked for.
    #[must_use]
    pub fn includes(&self, output: &str) -> bool {
        self.0.as_ref().is_none_or(|chosen| chosen.contains_key(output))
    }

    /// How this output is asked for.
    #[must_use]
    pub fn mode(&self, output: &str) -> TransmissionMode {
        self.0.as_ref().and_then(|chosen| chosen.get(output)).map(|wish| wish.transmission_mode).unwrap_or_default()
    }
}

impl OutputRequest {
    fn read(wish: &Value, at: &str, out: &mut Vec<Violation>) -> Self {
        let Some(members) = wish.as_object() else {
            out.push(Violation::new(at, "must be an object; {} takes the defaults"));
            return Self::default();
        };
        let transmission_mode = match members.get("transmissionMode").map(Value::as_str) {
            None | Some(Some("value")) => TransmissionMode::Value,
            Some(Some("reference")) => TransmissionMode::Reference,
            Some(_) => {
                out.push(Violation::new(join(at, "transmissionMode"), "must be 'value' or 'reference'"));
                TransmissionMode::Value
            }
        };
        let at = join(at, "format");
        let media_type = match members.get("format") {
            None => None,
            Some(Value::Object(format)) => match format.get("mediaType") {
                None => None,
                Some(Value::String(text)) if media_type::is_valid(text) => Some(text.clone()),
                Some(_) => {
                    out.push(Violation::new(join(&at, "mediaType"), "must be a media type, 'application/json' say"));
                    None
                }
            },
            Some(_) => {
                out.push(Violation::new(at, "must be an object with 'mediaType'"));
                None
            }
        };
        Self { transmission_mode, media_type }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn pointers(body: &str) -> Vec<String> {
        ExecuteRequest::parse(body.as_bytes()).unwrap_err().into_iter().map(|violation| violation.pointer).collect()
    }

    #[test]
    fn defaults_are_those_of_the_standard() {
        for body in ["", " \n", "{}", r#"{"inputs": {}, "outputs": {}, "mode": "async"}"#] {
            let request = ExecuteRequest::parse(body.as_bytes()).unwrap();
            assert!(request.inputs.is_empty() && request.outputs.includes("any"), "{body}");
            assert_eq!(request.response, ResponseMode::Raw);
        }
    }

    #[test]
    fn everything_is_read() {
        let body = r#"{"inputs": {"b": 1, "a": [2]}, "response": "document", "subscriber": {"successUri": "http://x/y"},
            "outputs": {"o": {"transmissionMode": "reference", "format": {"mediaType": "text/csv"}}, "p": {}}}"#;
        let request = ExecuteRequest::parse(body.as_bytes()).unwrap();
        assert_eq!(request.inputs.keys().collect::<Vec<_>>(), ["b", "a"]);
        assert_eq!(request.response, ResponseMode::Document);
        assert_eq!(request.outputs.mode("o"), TransmissionMode::Reference);
        assert_eq!(request.outputs.mode("p"), TransmissionMode::Value);
        assert!(!request.outputs.includes("q"));
        assert_eq!(request.outputs.0.unwrap()["o"].media_type.as_deref(), Some("text/csv"));
    }

    #[test]
    fn members_that_were_meant_otherwise_are_told() {
        assert_eq!(pointers(r#"{"name": "Ada"}"#), ["/name"]);
        assert_eq!(pointers(r#"{"inputs": {}, "output": {}}"#), ["/output"]);
        assert_eq!(pointers(r#"{"input": {"a": 1}}"#), ["/input"]);
        // Of another version, or beside what is known.
        for body in [
            r#"{"inputs": {}, "id": "x", "process": "y", "mode": "async"}"#,
            r#"{"process": "y"}"#,
            r#"{"outputs": {}, "title": "z"}"#,
        ] {
            assert!(ExecuteRequest::parse(body.as_bytes()).is_ok(), "{body}");
        }
    }

    #[test]
    fn no_more_is_told_than_anybody_reads() {
        let members = (0..1000).map(|number| format!("\"m{number}\": 0")).collect::<Vec<_>>().join(", ");
        for body in [format!("{{{members}}}"), format!(r#"{{"outputs": {{{members}}}, "response": 1}}"#)] {
            assert_eq!(pointers(&body).len(), MOST);
        }
    }

    #[test]
    fn all_mistakes_are_told_at_once() {
        assert_eq!(pointers("nonsense"), [""]);
        assert_eq!(pointers("[]"), [""]);
        assert_eq!(pointers(&format!(r#"{{"inputs": {}1{}}}"#, "[".repeat(70), "]".repeat(70))), [""]);
        assert_eq!(
            pointers(
                r#"{"inputs": [], "response": "xml", "subscriber": {"successUri": "no uri", "failedUri": 1},
                    "outputs": {"a": 1, "b": {"transmissionMode": "mail"}, "c": {"format": {"mediaType": "x"}}, "d": {"format": []}}}"#
            ),
            [
                "/inputs",
                "/outputs/a",
                "/outputs/b/transmissionMode",
                "/outputs/c/format/mediaType",
                "/outputs/d/format",
                "/response",
                "/subscriber/successUri",
                "/subscriber/failedUri"
            ]
        );
        assert_eq!(
            pointers(r#"{"inputs": 1, "outputs": "a", "subscriber": 1}"#),
            ["/inputs", "/outputs", "/subscriber"]
        );
        // A key with which the JSON parser hides text inside text: its depth counts too.
        let hidden =
            serde_json::json!({"$serde_json::private::RawValue": format!("{}{}", "[".repeat(100), "]".repeat(100))});
        assert_eq!(pointers(&format!(r#"{{"inputs": {{"a": {hidden}}}}}"#)), [""]);
    }

    proptest! {
        #[test]
        fn any_bytes_are_answered(body in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = ExecuteRequest::parse(&body);
        }

        #[test]
        fn almost_requests_are_answered(body in r#"[{}\[\]":, ]{0,20}|\{"(inputs|outputs|response)": ?[{}\[\]"a1:,]{0,8}\}"#) {
            let _ = ExecuteRequest::parse(body.as_bytes());
        }
    }
}
