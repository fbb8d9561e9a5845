//! What the API reads of a process description beyond id, version and summary.
//!
//! STAND-IN: `core::ProcessDescription` gets the field `modes` and the method `document` of its own; the two functions then
//! return `description.modes` and `description.document()`, and `Modes` becomes that of `core`.

use serde_json::Value;

use crate::core::ProcessDescription;

/// How a process can be executed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Modes {
    /// `sync-execute`.
    pub(super) sync: bool,
    /// `async-execute`.
    pub(super) asynchronous: bool,
}

/// How this process can be executed.
pub(super) fn modes(_description: &ProcessDescription) -> Modes {
    Modes { sync: true, asynchronous: true }
}

/// The whole description, with the processor's own links if it has any.
pub(super) fn document(description: &ProcessDescription) -> Value {
    description.summary()
}
