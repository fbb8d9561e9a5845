//! The run's Secret: what must not stand in a Job, or does not fit.

use std::collections::BTreeMap;

use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::{EnvVarSource, Secret, SecretKeySelector};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};
use serde_json::Value;

/// Key of the inputs.
pub(super) const INPUTS_KEY: &str = "inputs.json";

/// What the Secret holds, by key.
#[derive(Debug)]
pub(in super::super) struct Contents {
    name: String,
    texts: BTreeMap<String, String>,
}

impl Contents {
    /// Nothing yet, in the Secret of this name.
    pub(super) fn new(name: &str) -> Self {
        Self { name: name.to_owned(), texts: BTreeMap::new() }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.texts.is_empty()
    }

    /// Bytes of all texts.
    pub(super) fn size(&self) -> usize {
        self.texts.values().map(String::len).sum()
    }

    /// The name of the Secret.
    pub(super) fn name(&self) -> &str {
        &self.name
    }

    /// Puts a text under a key of its own and answers the key.
    pub(super) fn add(&mut self, text: &str) -> String {
        let key = format!("text-{}", self.texts.len());
        self.put(&key, text);
        key
    }

    pub(super) fn put(&mut self, key: &str, text: &str) {
        self.texts.insert(key.to_owned(), text.to_owned());
    }

    /// The source of a variable that holds what is under this key.
    pub(super) fn source(&self, key: &str) -> EnvVarSource {
        let selector = SecretKeySelector { name: self.name.clone(), key: key.to_owned(), optional: None };
        EnvVarSource { secret_key_ref: Some(selector), ..EnvVarSource::default() }
    }
}

/// The Secret as JSON, owned by the Job of this uid, with which it goes.
pub(in super::super) fn secret(name: &str, uid: &str, labels: BTreeMap<String, String>, contents: &Contents) -> Value {
    let owner = OwnerReference {
        api_version: "batch/v1".to_owned(),
        kind: "Job".to_owned(),
        name: name.to_owned(),
        uid: uid.to_owned(),
        ..OwnerReference::default()
    };
    let data = contents.texts.iter().map(|(key, text)| (key.clone(), ByteString(text.as_bytes().to_vec())));
    let secret = Secret {
        data: Some(data.collect()),
        // Nobody changes it, and the kubelet need not watch it.
        immutable: Some(true),
        metadata: ObjectMeta {
            name: Some(name.to_owned()),
            labels: Some(labels),
            owner_references: Some(vec![owner]),
            ..ObjectMeta::default()
        },
        type_: Some("Opaque".to_owned()),
        ..Secret::default()
    };
    serde_json::json!(secret)
}
