//! What an operator writes to make a process of a processor: one entry of `processes:` in the configuration, or the `.yaml`
//! beside a `.wasm` in the watched folder.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use sha2::{Digest as _, Sha256};

use crate::core::{ProcessId, Violation};

/// One process: a processor with its configuration.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct ProcessEntry {
    /// The id of the process in URLs. Absent: the one that the processor gives.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub id: Option<ProcessId>,
    /// The processor: the name of one that ships (`hello-world`), a `.wasm` file, or `sha256:…` of one that was deployed before.
    /// Absent in a `.yaml` beside a `.wasm` of the same name.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub processor: Option<String>,
    /// The configuration that the processor sees: a JSON object in its own words.
    #[serde(skip_serializing_if = "Map::is_empty")]
    pub config: Map<String, Value>,
    /// Names of request headers that the processor sees when it authorizes; others are withheld.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub headers: Vec<String>,
    /// Whether the processor is also asked who may read and dismiss this process's jobs. Otherwise the token's role decides.
    pub authorize_reads: bool,
    /// Names of inputs that are secret: masked in rows, logs and answers.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub secret_inputs: Vec<String>,
}

impl ProcessEntry {
    /// What is wrong with it beyond its form, all at once; pointers into the entry.
    #[must_use]
    pub fn violations(&self) -> Vec<Violation> {
        let mut found = Vec::new();
        for (index, name) in self.headers.iter().enumerate() {
            let pointer = format!("/headers/{index}");
            if http::HeaderName::from_bytes(name.as_bytes()).is_err() {
                found.push(Violation::new(pointer, format!("'{}' is not the name of a header", name.escape_debug())));
            } else if WITHHELD.iter().any(|withheld| name.eq_ignore_ascii_case(withheld)) {
                let reason = "is never given to a processor: it holds the credential that the host verifies";
                found.push(Violation::new(pointer, format!("'{name}' {reason}")));
            }
        }
        for (index, name) in self.secret_inputs.iter().enumerate().filter(|(_, name)| name.is_empty()) {
            found
                .push(Violation::new(format!("/secret_inputs/{index}"), format!("'{name}' is not the id of an input")));
        }
        if self.processor.as_ref().is_some_and(|name| name.trim().is_empty() || name.contains('\0')) {
            found.push(Violation::new("/processor", "is empty"));
        }
        found
    }

    /// SHA-256 of the entry, in hexadecimal: tells two configurations apart without keeping them.
    #[must_use]
    pub fn sha256(&self) -> String {
        // Serialising names and JSON values into memory does not fail; if it did, the empty text is still one digest.
        hex::encode(Sha256::digest(serde_json::to_vec(self).unwrap_or_default()))
    }
}

/// A processor never sees a token of the host, whatever the operator lets through.
const WITHHELD: [&str; 2] = ["authorization", "proxy-authorization"];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn read_and_checked() {
        let entry: ProcessEntry = serde_saphyr::from_str(
            "id: a\nprocessor: generic-image\nconfig: {image: alpine, n: 1, on: true}\nheaders: [X-Tenant]\nsecret_inputs: [key]\n",
        )
        .unwrap();
        assert_eq!(entry.config.get("n"), Some(&Value::from(1)));
        assert!(entry.violations().is_empty());
        assert!(serde_saphyr::from_str::<ProcessEntry>("ids: a\n").is_err(), "unknown keys are refused");
        assert!(serde_saphyr::from_str::<ProcessEntry>("id: a/b\n").is_err());
        let bad = ProcessEntry {
            headers: vec!["a b".into(), "Authorization".into()],
            secret_inputs: vec![String::new()],
            ..ProcessEntry::default()
        };
        assert_eq!(bad.violations().len(), 3);
        assert_ne!(bad.sha256(), entry.sha256());
    }
}
