//! The variables of the system that Vespiary replaces: where they are set, they mean what they meant there.

use serde_json::{Map, Value, json};

/// The token that the input `token` must match.
const API_TOKEN: &str = "PYGEOAPI_K8S_MANAGER_API_TOKEN";

/// Those of the cluster, with the keys of `kubernetes` that they set.
const CLUSTER: [(&str, &str); 2] =
    [("PYGEOAPI_K8S_MANAGER_NAMESPACE", "namespace"), ("PYGEOAPI_K8S_MANAGER_JOB_NAME_PREFIX", "job_name_prefix")];

const PREFIX: &str = "PYGEOAPI_K8S_MANAGER_FINALIZER_BUCKET_PATH_PREFIX";

/// Those of the log bucket, with the keys of `s3` that they set. All of them or none.
const BUCKET: [(&str, &str); 5] = [
    ("PYGEOAPI_K8S_MANAGER_FINALIZER_BUCKET_ENDPOINT", "endpoint"),
    ("PYGEOAPI_K8S_MANAGER_FINALIZER_BUCKET_KEY", "access_key"),
    ("PYGEOAPI_K8S_MANAGER_FINALIZER_BUCKET_SECRET", "secret_key"),
    ("PYGEOAPI_K8S_MANAGER_FINALIZER_BUCKET_NAME", "bucket"),
    (PREFIX, "prefix"),
];

/// The names of the five, for a message.
pub(super) fn bucket_variables() -> String {
    let [first @ .., (last, _)] = BUCKET;
    format!("{} and {last}", first.map(|(name, _)| name).join(", "))
}

/// Every container in a pod has it.
const IN_POD: &str = "KUBERNETES_SERVICE_HOST";

type Env<'e> = &'e [(String, String)];

/// What is set and not blank; an empty prefix is one, too.
fn value<'e>(env: Env<'e>, name: &str) -> Option<&'e str> {
    let (_, text) = env.iter().find(|(known, _)| known == name)?;
    Some(text.as_str()).filter(|text| !text.trim().is_empty() || (name == PREFIX && text.is_empty()))
}

fn set(document: &mut Map<String, Value>, section: &str, key: &str, text: &str) {
    if let Some(section) = document.entry(section).or_insert_with(|| json!({})).as_object_mut() {
        section.entry(key).or_insert_with(|| Value::from(text));
    }
}

/// Puts them into the document, under the file's own keys, which win. Answers what is wrong and what is worth a line in the log.
pub(super) fn apply(document: &mut Map<String, Value>, env: Env<'_>, wrong: &mut Vec<String>, notes: &mut Vec<String>) {
    if env.iter().any(|(name, _)| name == API_TOKEN) {
        match value(env, API_TOKEN) {
            Some(token) => set(document, "access", "api_token", token),
            None => {
                wrong.push(format!("{API_TOKEN} is empty: set it to the token that callers must send, or unset it"));
            }
        }
    }
    for (name, key) in CLUSTER {
        if let Some(text) = value(env, name) {
            set(document, "kubernetes", key, text);
        }
    }
    for (name, key) in BUCKET {
        match value(env, name) {
            Some(text) if name == PREFIX && !text.is_empty() && !text.ends_with('/') => {
                notes.push(format!("{PREFIX} does not end in '/': it is used as '{text}/'"));
                set(document, "s3", key, &format!("{text}/"));
            }
            Some(text) => set(document, "s3", key, text),
            None => {}
        }
    }
}

/// What can be judged only when the other variables are in the document, too.
pub(super) fn complete(
    document: &mut Map<String, Value>,
    env: Env<'_>,
    wrong: &mut Vec<String>,
    notes: &mut Vec<String>,
) {
    let has = |document: &Map<String, Value>, section: &str, key: &str| {
        document.get(section).and_then(|section| section.get(key)).is_some_and(|value| !value.is_null())
    };
    if BUCKET.iter().any(|(name, _)| value(env, name).is_some()) {
        let missing: Vec<_> =
            BUCKET.iter().filter(|(_, key)| !has(document, "s3", key)).map(|(name, _)| *name).collect();
        if !missing.is_empty() {
            wrong.push(format!(
                "{} not set, though others of the five variables of the log bucket are: no log could be archived; set all five or none",
                match missing.as_slice() {
                    [one] => format!("{one} is"),
                    many => format!("{} are", many.join(", ")),
                }
            ));
        }
    }
    if !has(document, "runner", "kind") && value(env, IN_POD).is_some() {
        set(document, "runner", "kind", "kubernetes");
        notes.push(format!(
            "jobs run as Jobs of this cluster, since {IN_POD} is set and runner.kind is not; 'local' would run them in this pod"
        ));
    }
    let is_cluster =
        document.get("runner").and_then(|runner| runner.get("kind")).is_some_and(|kind| kind == "kubernetes");
    if !is_cluster {
        for (name, _) in CLUSTER.iter().filter(|(name, _)| value(env, name).is_some()) {
            notes.push(format!("{name} is set and has no effect: jobs run on this machine (runner.kind)"));
        }
    }
}
