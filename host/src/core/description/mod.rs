//! The process description: `process.yaml` of OGC API - Processes 1.0, as a processor gives it and as the API answers it.

mod parse;
#[cfg(test)]
mod tests;

use serde_json::{Map, Value, json};

use super::value_schema::ValueSchema;
use super::{ProcessId, Violation};

/// The longest text of a description, in bytes.
pub const MAX_BYTES: usize = 1024 * 1024;
/// The most inputs, and the most outputs, of one process.
pub const MAX_ENTRIES: usize = 256;

/// The members of `processSummary.yaml`, and `mutable` of Part 2.
const SUMMARY: [&str; 10] = [
    "id",
    "version",
    "title",
    "description",
    "keywords",
    "metadata",
    "additionalParameters",
    "jobControlOptions",
    "outputTransmission",
    "mutable",
];

/// A process description that was checked.
#[derive(Debug)]
pub struct ProcessDescription {
    /// Its id; the operator's name for the process where there is one.
    pub id: ProcessId,
    /// Its version.
    pub version: String,
    /// Its title, where it has one.
    pub title: Option<String>,
    /// How it can be executed.
    pub modes: Modes,
    /// Its inputs, in the order of the text.
    pub inputs: Vec<InputDescription>,
    /// Its outputs, in the order of the text.
    pub outputs: Vec<OutputDescription>,
    /// The links that the processor gave: objects with `href`. Neither [`Self::summary`] nor [`Self::document`] has them.
    pub links: Vec<Value>,
    document: Map<String, Value>,
}

/// How a process can be executed; at least one of the two.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Modes {
    /// `sync-execute`.
    pub sync: bool,
    /// `async-execute`.
    pub asynchronous: bool,
}

/// One input.
#[derive(Debug)]
pub struct InputDescription {
    /// Its id.
    pub id: String,
    /// The schema of one value.
    pub schema: ValueSchema,
    /// How many values there must be; 0: it may be left out.
    pub min_occurs: u32,
    /// How many there may be; `None`: any number. More than one are given as an array.
    pub max_occurs: Option<u32>,
    /// Whether the schema marks it as a secret (`format: password` or `writeOnly: true`).
    pub is_secret: bool,
}

/// One output.
#[derive(Debug)]
pub struct OutputDescription {
    /// Its id.
    pub id: String,
    /// Its schema.
    pub schema: ValueSchema,
}

impl OutputDescription {
    /// Its default media type: `contentMediaType` of the schema, or of the first alternative.
    #[must_use]
    pub fn media_type(&self) -> Option<&str> {
        self.schema.media_type()
    }
}

impl ProcessDescription {
    /// Reads and checks what `describe` answered. `id` replaces the one in the text, which then may be anything.
    ///
    /// # Errors
    /// Everything that is wrong with it, with pointers into the text.
    pub fn parse(text: &str, id: Option<&ProcessId>) -> Result<Self, Vec<Violation>> {
        parse::parse(text, id)
    }

    /// The input of this id.
    #[must_use]
    pub fn input(&self, id: &str) -> Option<&InputDescription> {
        self.inputs.iter().find(|input| input.id == id)
    }

    /// The output of this id.
    #[must_use]
    pub fn output(&self, id: &str) -> Option<&OutputDescription> {
        self.outputs.iter().find(|output| output.id == id)
    }

    /// The description without inputs and outputs (`processSummary.yaml`), links left out.
    #[must_use]
    pub fn summary(&self) -> Value {
        self.document
            .iter()
            .filter(|(key, _)| SUMMARY.contains(&key.as_str()))
            .map(|(key, value)| (key.clone(), value.clone()))
            .collect()
    }

    /// The whole description (`process.yaml`), links left out: the processor's text with what the host decides (id, how it is executed and
    /// answered, that it cannot be changed over HTTP).
    #[must_use]
    pub fn document(&self) -> Value {
        Value::Object(self.document.clone())
    }
}

impl Modes {
    /// `jobControlOptions`. `dismiss` is always there: the host can stop every job.
    #[must_use]
    pub fn job_control_options(self) -> Value {
        let mut options = Vec::new();
        if self.sync {
            options.push("sync-execute");
        }
        if self.asynchronous {
            options.push("async-execute");
        }
        options.push("dismiss");
        json!(options)
    }
}
