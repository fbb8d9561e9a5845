//! The process description: `process.yaml` of OGC API - Processes 1.0, as a processor gives it and as the API answers it.

use serde_json::Value;

use super::{ProcessId, Violation};

/// A process description that was checked.
#[derive(Debug)]
pub struct ProcessDescription {
    /// Its id; the operator's name for the process where there is one.
    pub id: ProcessId,
    /// Its version.
    pub version: String,
}

impl ProcessDescription {
    /// Reads and checks what `describe` answered. `id` replaces the one in the text. All violations at once.
    pub fn parse(_text: &str, _id: Option<&ProcessId>) -> Result<Self, Vec<Violation>> {
        Err(Vec::new())
    }

    /// The document without inputs and outputs (`processSummary.yaml`), links left out.
    #[must_use]
    pub fn summary(&self) -> Value {
        Value::Null
    }
}
