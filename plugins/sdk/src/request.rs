//! The request as a processor sees it: parsed, with accessors that look through the standard's ways to wrap a value.

use std::sync::OnceLock;

use serde::de::{DeserializeOwned, Deserializer, MapAccess, Visitor};
use serde_json::{Map, Value};

use crate::bindings::vespiary::processor::types;
use crate::{Action, Violations, host};

/// What is asked.
#[derive(Debug, Clone, PartialEq)]
pub struct Request {
    /// Execute, dismiss or read.
    pub action: Action,
    /// The process's id as it stands in the URL; it may differ from the one in the description when the operator renamed it.
    pub process_id: String,
    /// The job that is read or dismissed; none for an execution.
    pub job_id: Option<String>,
    /// The inputs by id; empty for `read` and `dismiss`.
    pub inputs: Inputs,
    /// The ids of the outputs that are asked for.
    pub outputs: Vec<String>,
    /// Who asks, as the host verified it. None when the request carried no credential.
    pub principal: Option<Principal>,
    /// The request headers that the operator lets through to this process, names in lower case.
    pub headers: Vec<(String, String)>,
    /// What later minor versions of the contract add: an object, or null for nothing.
    pub extensions: Value,
}

impl Request {
    /// A request to execute, with these inputs (an object; anything else counts as no inputs), no principal and no output named.
    /// For tests.
    #[must_use]
    pub fn execute(inputs: Value) -> Self {
        Self {
            action: Action::Execute,
            process_id: String::new(),
            job_id: None,
            inputs: Inputs::from(if let Value::Object(inputs) = inputs { inputs } else { Map::new() }),
            outputs: Vec::new(),
            principal: None,
            headers: Vec::new(),
            extensions: Value::Null,
        }
    }

    /// The same request from this principal.
    #[must_use]
    pub fn from_principal(mut self, subject: &str, roles: &[&str]) -> Self {
        let roles = roles.iter().copied().map(str::to_owned).collect();
        self.principal = Some(Principal { subject: subject.to_owned(), roles, claims: Value::Null });
        self
    }

    /// The value of a header that the operator lets through; `name` in lower case.
    #[must_use]
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
    }
}

impl TryFrom<types::Request> for Request {
    type Error = String;

    /// Fails if the host gave something that is not the text of a JSON object where the contract has one.
    fn try_from(request: types::Request) -> Result<Self, String> {
        let principal = match request.principal {
            Some(principal) => Some(Principal {
                subject: principal.subject,
                roles: principal.roles,
                claims: object("claims", &principal.claims)?,
            }),
            None => None,
        };
        Ok(Self {
            action: request.action,
            process_id: request.process_id,
            job_id: request.job_id,
            inputs: Inputs::unread(request.inputs)?,
            outputs: request.outputs,
            principal,
            headers: request.headers.into_iter().map(|header| (header.name, header.value)).collect(),
            extensions: object("extensions", &request.extensions)?,
        })
    }
}

/// Null for nothing: an empty map would ask the host for random numbers, in every call.
fn object(what: &str, text: &str) -> Result<Value, String> {
    if matches!(text, "" | "{}") {
        return Ok(Value::Null);
    }
    let members: serde_json::Result<Map<String, Value>> = serde_json::from_str(text);
    members.map(Value::Object).map_err(|cause| format!("the host's {what} are not a JSON object: {cause}"))
}

/// Who asks.
#[derive(Debug, Clone, PartialEq)]
pub struct Principal {
    /// The token's name, or the subject that the identity provider gave.
    pub subject: String,
    /// Any of `read`, `execute`, `deploy`, `admin`.
    pub roles: Vec<String>,
    /// What the identity provider says of the subject: an object, or null for tokens from the configuration.
    pub claims: Value,
}

impl Principal {
    /// Whether it may do what this role allows: it has the role, or `admin`.
    #[must_use]
    pub fn has(&self, role: &str) -> bool {
        self.roles.iter().any(|held| held == role || held == "admin")
    }
}

/// The inputs of a request, by id and in the order in which they were sent.
///
/// The standard lets a client send a value bare (`"text"`) or qualified (`{"value": "text", "mediaType": "text/plain"}`). All
/// accessors but [`Inputs::raw`] give the value itself in both cases.
///
/// They are parsed when the first of them is looked at: a call that does not ask for any does not pay for them.
#[derive(Debug, Clone, Default)]
pub struct Inputs {
    text: String,
    parsed: OnceLock<Vec<(String, Value)>>,
}

impl From<Map<String, Value>> for Inputs {
    fn from(inputs: Map<String, Value>) -> Self {
        Self { text: String::new(), parsed: OnceLock::from(inputs.into_iter().collect::<Vec<_>>()) }
    }
}

/// The members of a JSON object, in order. Not a map: a map seeds its hash with random numbers of the host, which costs more than the
/// search in a few inputs.
struct Members;

impl<'de> Visitor<'de> for Members {
    type Value = Vec<(String, Value)>;

    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut members = Vec::with_capacity(map.size_hint().unwrap_or(4));
        while let Some(member) = map.next_entry()? {
            members.push(member);
        }
        Ok(members)
    }
}

fn members(text: &str) -> serde_json::Result<Vec<(String, Value)>> {
    if text.is_empty() {
        return Ok(Vec::new());
    }
    let mut json = serde_json::Deserializer::from_str(text);
    let members = json.deserialize_map(Members)?;
    json.end()?;
    Ok(members)
}

impl PartialEq for Inputs {
    fn eq(&self, other: &Self) -> bool {
        self.all() == other.all()
    }
}

impl Inputs {
    /// The inputs as the host wrote them. What is no object is refused here, the rest is looked at later.
    fn unread(text: String) -> Result<Self, String> {
        match text.trim_start().starts_with('{') || text.is_empty() {
            true => Ok(Self { text, parsed: OnceLock::new() }),
            false => Err("the host's inputs are not a JSON object".to_owned()),
        }
    }

    fn all(&self) -> &[(String, Value)] {
        self.parsed.get_or_init(|| {
            let give_up = |cause| host::give_up(&format!("the host's inputs are not a JSON object: {cause}"));
            members(&self.text).unwrap_or_else(give_up)
        })
    }

    #[cfg(test)]
    pub(crate) fn are_read(&self) -> bool {
        self.parsed.get().is_some()
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.all().is_empty()
    }

    /// The input as it was sent.
    #[must_use]
    pub fn raw(&self, id: &str) -> Option<&Value> {
        self.all().iter().find(|(known, _)| known == id).map(|(_, value)| value)
    }

    /// The value of an input.
    #[must_use]
    pub fn get(&self, id: &str) -> Option<&Value> {
        self.raw(id).map(inner_value)
    }

    /// The values of an input that may be given several times: the elements of the array, or the one value; none if it was not given.
    #[must_use]
    pub fn list(&self, id: &str) -> Vec<&Value> {
        match self.get(id) {
            Some(Value::Array(values)) => values.iter().map(inner_value).collect(),
            Some(value) => vec![value],
            None => Vec::new(),
        }
    }

    /// Whether the input was given as a link (`{"href": …}`) in place of a value. Nobody has fetched it.
    #[must_use]
    pub fn is_link(&self, id: &str) -> bool {
        self.raw(id).is_some_and(|input| input.get("href").is_some())
    }

    /// The media type that a qualified value states.
    #[must_use]
    pub fn media_type(&self, id: &str) -> Option<&str> {
        let input = self.raw(id)?;
        let format = input.get("format").filter(|format| format.is_object()).unwrap_or(input);
        format.get("mediaType").and_then(Value::as_str)
    }

    /// All inputs with their values, in the order in which they were sent.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &Value)> {
        self.all().iter().map(|(id, value)| (id.as_str(), inner_value(value)))
    }

    /// Reads the value of an input that may be left out. None if it was; a value of another type is noted in `wrong`.
    pub fn read<T: DeserializeOwned>(&self, id: &str, wrong: &mut Violations) -> Option<T> {
        match T::deserialize(self.get(id)?) {
            Ok(value) => Some(value),
            Err(cause) => {
                wrong.add(id, cause.to_string());
                None
            }
        }
    }

    /// Reads the value of an input that must be given. If it was not, or has another type, that is noted in `wrong` and the answer is a
    /// default: call [`Violations::check`] before it is used.
    pub fn require<T: DeserializeOwned + Default>(&self, id: &str, wrong: &mut Violations) -> T {
        if self.raw(id).is_none() {
            wrong.add(id, "is required");
        }
        self.read(id, wrong).unwrap_or_default()
    }
}

/// The value inside a qualified value (an object with `value` and without `href`); any other value is itself.
#[must_use]
pub fn inner_value(input: &Value) -> &Value {
    match input {
        Value::Object(members) if !members.contains_key("href") => members.get("value").unwrap_or(input),
        _ => input,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn values_are_seen_through_their_wrapping() {
        let request = Request::execute(json!({
            "bare": "a",
            "qualified": {"value": "b", "mediaType": "text/plain"},
            "nested": {"value": "c", "format": {"mediaType": "text/csv"}},
            "box": {"bbox": [1, 2, 3, 4]},
            "link": {"href": "http://example.org/x", "value": 1},
            "many": [1, {"value": 2}],
        }));
        let inputs = &request.inputs;
        assert_eq!(inputs.get("bare"), Some(&json!("a")));
        assert_eq!((inputs.get("qualified"), inputs.media_type("qualified")), (Some(&json!("b")), Some("text/plain")));
        assert_eq!((inputs.get("nested"), inputs.media_type("nested")), (Some(&json!("c")), Some("text/csv")));
        assert_eq!(inputs.get("box"), Some(&json!({"bbox": [1, 2, 3, 4]})));
        assert_eq!(inputs.get("link"), inputs.raw("link"));
        assert!(inputs.is_link("link") && !inputs.is_link("qualified") && !inputs.is_link("none"));
        assert_eq!(inputs.list("many"), [&json!(1), &json!(2)]);
        assert_eq!((inputs.list("bare").len(), inputs.list("none").len()), (1, 0));
        assert_eq!(inputs.iter().count(), 6);
    }

    #[test]
    fn everything_wrong_is_noted() {
        let request = Request::execute(json!({"count": "three", "scale": {"value": 2.5}}));
        let mut wrong = Violations::new();
        assert_eq!(request.inputs.require::<String>("name", &mut wrong), "");
        assert_eq!(request.inputs.read::<u32>("count", &mut wrong), None);
        assert_eq!(request.inputs.read::<f64>("scale", &mut wrong), Some(2.5));
        assert_eq!(request.inputs.read::<f64>("absent", &mut wrong), None);
        let violations = wrong.check().unwrap_err().violations;
        let named: Vec<_> = violations.iter().map(|violation| violation.input.as_str()).collect();
        assert_eq!(named, ["name", "count"]);
    }

    #[test]
    fn what_the_host_sends_is_parsed() {
        let sent = |inputs: &str| types::Request {
            action: Action::Execute,
            process_id: "p".to_owned(),
            job_id: None,
            inputs: inputs.to_owned(),
            outputs: vec!["o".to_owned()],
            principal: Some(types::Principal {
                subject: "ann".to_owned(),
                roles: vec!["execute".to_owned()],
                claims: r#"{"group": "lab"}"#.to_owned(),
                extensions: String::new(),
            }),
            headers: vec![types::Pair { name: "x-lab".to_owned(), value: "7".to_owned() }],
            extensions: String::new(),
        };
        let request = Request::try_from(sent(r#"{"b": 1, "a": 2}"#)).unwrap();
        assert!(crate::authorize(false, &request).is_ok() && !request.inputs.are_read(), "nobody asked for them");
        assert!(crate::authorize(true, &request).is_ok() && request.inputs.are_read(), "a token may be among them");
        assert_eq!(request.inputs.iter().map(|(id, _)| id).collect::<Vec<_>>(), ["b", "a"]);
        assert_eq!(request.header("x-lab"), Some("7"));
        let principal = request.principal.unwrap();
        assert_eq!(principal.claims.get("group"), Some(&json!("lab")));
        assert!(principal.has("execute") && !principal.has("deploy"));
        assert!(Request::try_from(sent("")).unwrap().inputs.is_empty());
        assert!(Request::try_from(sent("[]")).unwrap_err().contains("inputs"));
    }
}
