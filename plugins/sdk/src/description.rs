//! Writes a process description (`process.yaml` of OGC API - Processes 1.0).

use serde_json::{Map, Value, json};

use crate::{TOKEN_INPUT, token_input};

/// How a process can be executed, and whether its jobs can be stopped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum JobControl {
    /// The client waits for the result.
    Sync,
    /// The client gets a job.
    Async,
    /// Jobs can be dismissed.
    Dismiss,
}

impl JobControl {
    const fn as_str(self) -> &'static str {
        match self {
            Self::Sync => "sync-execute",
            Self::Async => "async-execute",
            Self::Dismiss => "dismiss",
        }
    }
}

/// A process description. Inputs and outputs keep the order in which they are added.
#[derive(Debug, Clone)]
pub struct Description {
    members: Map<String, Value>,
    inputs: Map<String, Value>,
    outputs: Map<String, Value>,
}

impl Description {
    /// A description with this id (letters, digits, `.`, `_` and `-`) and version, executed synchronously and asynchronously, jobs dismissible.
    #[must_use]
    pub fn new(id: &str, version: &str) -> Self {
        let mut members = Map::new();
        members.insert("id".to_owned(), json!(id));
        members.insert("version".to_owned(), json!(version));
        let description = Self { members, inputs: Map::new(), outputs: Map::new() };
        description.job_control(&[JobControl::Sync, JobControl::Async, JobControl::Dismiss])
    }

    /// A name for people.
    #[must_use]
    pub fn title(self, title: &str) -> Self {
        self.member("title", json!(title))
    }

    /// What the process does, a sentence or more.
    #[must_use]
    pub fn description(self, description: &str) -> Self {
        self.member("description", json!(description))
    }

    /// Words to find it by.
    #[must_use]
    pub fn keywords(self, keywords: &[&str]) -> Self {
        self.member("keywords", json!(keywords))
    }

    /// Which ways of execution it offers, in place of all three.
    #[must_use]
    pub fn job_control(self, options: &[JobControl]) -> Self {
        let options: Vec<_> = options.iter().map(|option| option.as_str()).collect();
        self.member("jobControlOptions", json!(options))
    }

    /// Sets any other member of the description: `links`, `metadata`.
    #[must_use]
    pub fn member(mut self, name: &str, value: Value) -> Self {
        self.members.insert(name.to_owned(), value);
        self
    }

    /// Adds an input.
    #[must_use]
    pub fn input(mut self, id: &str, input: Input) -> Self {
        self.inputs.insert(id.to_owned(), Value::Object(input.0));
        self
    }

    /// Adds an output.
    #[must_use]
    pub fn output(mut self, id: &str, output: Output) -> Self {
        self.outputs.insert(id.to_owned(), Value::Object(output.0));
        self
    }

    /// Adds the input `token` if the default rule of [`crate::Processor::authorize`] asks for a credential: pass
    /// [`crate::Processor::check_auth`].
    #[must_use]
    pub fn token_input(self, check_auth: bool) -> Self {
        if check_auth { self.input(TOKEN_INPUT, token_input()) } else { self }
    }
}

impl From<Description> for Value {
    fn from(mut description: Description) -> Self {
        description.members.insert("inputs".to_owned(), Self::Object(description.inputs));
        description.members.insert("outputs".to_owned(), Self::Object(description.outputs));
        Self::Object(description.members)
    }
}

/// An input of a description: required and given once unless said otherwise.
#[derive(Debug, Clone)]
pub struct Input(Map<String, Value>);

impl Input {
    /// An input with this schema (the dialect of OpenAPI 3.0).
    #[must_use]
    pub fn new(schema: Value) -> Self {
        let mut members = Map::new();
        members.insert("schema".to_owned(), schema);
        members.insert("minOccurs".to_owned(), json!(1));
        members.insert("maxOccurs".to_owned(), json!(1));
        Self(members)
    }

    /// It may be left out.
    #[must_use]
    pub fn optional(self) -> Self {
        self.member("minOccurs", json!(0))
    }

    /// It may be given several times, as an array: at least `min` times, at most `max` times or without bound.
    #[must_use]
    pub fn repeated(self, min: u32, max: Option<u32>) -> Self {
        self.member("minOccurs", json!(min)).member("maxOccurs", max.map_or(json!("unbounded"), |max| json!(max)))
    }

    /// A name for people.
    #[must_use]
    pub fn title(self, title: &str) -> Self {
        self.member("title", json!(title))
    }

    /// What it is, a sentence or more.
    #[must_use]
    pub fn description(self, description: &str) -> Self {
        self.member("description", json!(description))
    }

    /// Sets any other member.
    #[must_use]
    pub fn member(mut self, name: &str, value: Value) -> Self {
        self.0.insert(name.to_owned(), value);
        self
    }
}

impl From<Input> for Value {
    fn from(input: Input) -> Self {
        Self::Object(input.0)
    }
}

/// An output of a description.
#[derive(Debug, Clone)]
pub struct Output(Map<String, Value>);

impl Output {
    /// An output with this schema. Its `contentMediaType` is the media type of the result where neither plan nor log names one.
    #[must_use]
    pub fn new(schema: Value) -> Self {
        let mut members = Map::new();
        members.insert("schema".to_owned(), schema);
        Self(members)
    }

    /// A name for people.
    #[must_use]
    pub fn title(self, title: &str) -> Self {
        self.member("title", json!(title))
    }

    /// What it is, a sentence or more.
    #[must_use]
    pub fn description(self, description: &str) -> Self {
        self.member("description", json!(description))
    }

    /// Sets any other member.
    #[must_use]
    pub fn member(mut self, name: &str, value: Value) -> Self {
        self.0.insert(name.to_owned(), value);
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_description_is_complete_and_in_order() {
        let written: Value = Description::new("p", "1.0.0")
            .title("P")
            .description("Does p.")
            .keywords(&["a", "b"])
            .input("z", Input::new(json!({"type": "string"})).title("Z").description("The z."))
            .input("a", Input::new(json!({"type": "integer"})).optional())
            .input("m", Input::new(json!({"type": "integer"})).repeated(2, None))
            .output("o", Output::new(json!({"type": "string"})).title("O").description("The o."))
            .token_input(true)
            .into();
        assert_eq!(written["jobControlOptions"], json!(["sync-execute", "async-execute", "dismiss"]));
        assert_eq!(written["inputs"]["z"]["minOccurs"], 1);
        assert_eq!(written["inputs"]["a"]["minOccurs"], 0);
        assert_eq!(written["inputs"]["m"]["maxOccurs"], "unbounded");
        let ids: Vec<_> = written["inputs"].as_object().unwrap().keys().collect();
        assert_eq!(ids, ["z", "a", "m", "token"]);
        let token = json!({"type": "string", "format": "password", "writeOnly": true});
        assert_eq!(
            (&written["inputs"]["token"]["schema"], &written["inputs"]["token"]["minOccurs"]),
            (&token, &json!(0))
        );
        assert_eq!(written["outputs"]["o"]["title"], "O");
    }

    #[test]
    fn without_inputs_the_maps_are_still_there() {
        let written: Value = Description::new("p", "1").job_control(&[JobControl::Async]).token_input(false).into();
        assert_eq!((&written["inputs"], &written["outputs"]), (&json!({}), &json!({})));
        assert_eq!(written["jobControlOptions"], json!(["async-execute"]));
    }
}
