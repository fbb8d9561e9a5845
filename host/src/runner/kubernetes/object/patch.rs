//! The plan's patch of the finished pod template, and what no patch may change: by whom the pod is found, held and restarted.

use std::collections::BTreeMap;

use json_patch::PatchOperation;
use k8s_openapi::api::core::v1::PodTemplateSpec;
use serde_json::{Value, json};

use super::OBJECT_LIMIT;
use crate::core::JobPlan;
use crate::runner::kubernetes::names::FINALIZER;

/// The most operations of one patch.
const OPERATIONS: usize = 200;

/// Applies the patch.
pub(super) fn apply(
    template: &mut Value,
    patch: &Value,
    plan: &JobPlan,
    own_labels: &BTreeMap<String, String>,
) -> Result<(), String> {
    let refused =
        |error: &dyn std::fmt::Display| format!("the plan's patch of the pod (pod_patch) cannot be applied: {error}");
    let operations: json_patch::Patch = serde_json::from_value(patch.clone()).map_err(|error| refused(&error))?;
    if operations.len() > OPERATIONS {
        return Err(refused(&format_args!("it has {} operations, {OPERATIONS} are possible", operations.len())));
    }
    for operation in operations.iter() {
        json_patch::patch(template, std::slice::from_ref(operation)).map_err(|error| refused(&error))?;
        // What the other operations add is part of the plan, whose size is bounded; a copy may double the whole.
        if matches!(operation, PatchOperation::Copy(_)) && template.to_string().len() > OBJECT_LIMIT {
            return Err(refused(&format_args!("its copies make the pod larger than {OBJECT_LIMIT} bytes")));
        }
    }
    restore(template, own_labels).ok_or_else(|| refused(&"no pod template is left"))?;
    // Of the API server's own checks the cheapest one, before anything is written.
    let typed: PodTemplateSpec = serde_json::from_value(template.clone()).map_err(|error| refused(&error))?;
    let spec = typed.spec.unwrap_or_default();
    let mut left = spec.containers.iter().chain(spec.init_containers.iter().flatten()).map(|container| &container.name);
    match plan.all_containers().find(|container| !left.clone().any(|name| *name == container.name)) {
        Some(gone) => Err(refused(&format_args!("container '{}' is not left", gone.name))),
        None if left.next().is_none() => Err(refused(&"no container is left")),
        None => Ok(()),
    }
}

/// `None` where the template is no template any more.
fn restore(template: &mut Value, own_labels: &BTreeMap<String, String>) -> Option<()> {
    template.pointer_mut("/spec")?.as_object_mut()?.insert("restartPolicy".to_owned(), json!("Never"));
    let metadata = template.as_object_mut()?.entry("metadata").or_insert_with(|| json!({})).as_object_mut()?;
    let labels = metadata.entry("labels").or_insert_with(|| json!({})).as_object_mut()?;
    labels.extend(own_labels.iter().map(|(key, value)| (key.clone(), json!(value))));
    let finalizers = metadata.entry("finalizers").or_insert_with(|| json!([])).as_array_mut()?;
    finalizers.retain(|finalizer| finalizer != FINALIZER);
    finalizers.insert(0, json!(FINALIZER));
    Some(())
}
