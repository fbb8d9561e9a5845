//! The variables of the system that Vespiary replaces: where they are set, they mean what they meant there.

use serde_json::{Map, Value, json};

/// The token that the input `token` must match.
const API_TOKEN: &str = "PYGEOAPI_K8S_MANAGER_API_TOKEN";

/// Those that concern a cluster or a bucket: without effect on the local runner and the log folder.
const ELSEWHERE: [&str; 7] = [
    "PYGEOAPI_K8S_MANAGER_NAMESPACE",
    "PYGEOAPI_K8S_MANAGER_JOB_NAME_PREFIX",
    "PYGEOAPI_K8S_MANAGER_FINALIZER_BUCKET_ENDPOINT",
    "PYGEOAPI_K8S_MANAGER_FINALIZER_BUCKET_KEY",
    "PYGEOAPI_K8S_MANAGER_FINALIZER_BUCKET_SECRET",
    "PYGEOAPI_K8S_MANAGER_FINALIZER_BUCKET_NAME",
    "PYGEOAPI_K8S_MANAGER_FINALIZER_BUCKET_PATH_PREFIX",
];

/// Puts them into the document, under the file's own keys, which win. Answers what is wrong and what has no effect.
pub(super) fn apply(
    document: &mut Map<String, Value>,
    env: &[(String, String)],
    wrong: &mut Vec<String>,
    notes: &mut Vec<String>,
) {
    for (name, value) in env {
        if name == API_TOKEN {
            if value.trim().is_empty() {
                wrong.push(format!("{API_TOKEN} is empty: set it to the token that callers must send, or unset it"));
                continue;
            }
            let access = document.entry("access").or_insert_with(|| json!({}));
            if let Some(access) = access.as_object_mut() {
                access.entry("api_token").or_insert_with(|| Value::from(value.as_str()));
            }
        } else if ELSEWHERE.contains(&name.as_str()) {
            notes.push(format!(
                "{name} is set and has no effect: jobs run on this machine and logs are kept in the data folder"
            ));
        }
    }
}
