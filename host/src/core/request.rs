//! An execute request: `execute.yaml` of OGC API - Processes 1.0 (7.11.2), read leniently where the standard is unclear and
//! strictly where a client could be misunderstood.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

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
