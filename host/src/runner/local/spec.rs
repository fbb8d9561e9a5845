//! What a shim is told, and which plans it can be told: names that stay in their folders, quantities that can be read.
//!
//! Invariant: every name of a plan that becomes part of a path was checked here first.

use std::collections::BTreeSet;
use std::path::{Component, Path, PathBuf};
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use crate::core::plan::{Container, EnvValue, KeyReference, VolumeSource};
use crate::core::{JobId, JobPlan, ProcessId};

/// `spec.json`: all that a shim knows, for its owner's eyes only. A variable that is taken from a secret is in it by the secret's name,
/// not its value; literal variables, the inputs and the nonce are in it as they are, with nothing masked.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Spec {
    pub(super) job_id: JobId,
    pub(super) process_id: ProcessId,
    pub(super) plan: Arc<JobPlan>,
    /// The inputs, unless there are none or they are in `inputs.json`.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub(super) inputs: Option<Arc<RawValue>>,
    /// Whether the inputs are in `inputs.json`.
    pub(super) inputs_in_file: bool,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub(super) nonce: Option<String>,
    /// Seconds between SIGTERM and SIGKILL.
    pub(super) grace_seconds: u32,
    /// Files that a container may have open.
    pub(super) open_files: u64,
    /// Milliseconds before the first retry; doubled for each further one.
    pub(super) retry_delay_ms: u64,
}

/// Whether this plan can be run here; if not, why.
pub(super) fn check(plan: &JobPlan) -> Result<(), String> {
    if plan.containers.is_empty() {
        return Err("the plan has no container".to_owned());
    }
    let mut names = BTreeSet::new();
    for container in plan.all_containers() {
        if !is_label(&container.name) || !names.insert(container.name.as_str()) {
            return Err(format!(
                "the container name '{}' is not a DNS label that is unique in the plan",
                shown(&container.name)
            ));
        }
        check_container(container, plan)?;
    }
    if let Some(name) = &plan.results.container
        && !plan.containers.iter().any(|container| container.name == *name)
    {
        return Err(format!("the results are in container '{}', which the plan does not have", shown(name)));
    }
    let mut names = BTreeSet::new();
    for volume in &plan.volumes {
        if !is_label(&volume.name) || !names.insert(volume.name.as_str()) {
            return Err(format!(
                "the volume name '{}' is not a DNS label that is unique in the plan",
                shown(&volume.name)
            ));
        }
        match &volume.source {
            VolumeSource::Claim { claim_name: name, .. }
            | VolumeSource::ConfigMap { name, .. }
            | VolumeSource::Secret { name, .. } => check_file_name(name)?,
            VolumeSource::EmptyDir { .. } => {}
        }
    }
    Ok(())
}

fn check_container(container: &Container, plan: &JobPlan) -> Result<(), String> {
    let name = &container.name;
    if container.command.first().is_none_or(String::is_empty) {
        return Err(format!(
            "the local runner does not know the entry point of image '{}' of container '{name}': give a command",
            shown(&container.image)
        ));
    }
    if container.command.iter().chain(&container.args).any(|text| text.contains('\0')) {
        return Err(format!("container '{name}': an argument contains a null character"));
    }
    for variable in &container.env {
        if variable.name.is_empty() || variable.name.contains(['=', '\0']) {
            return Err(format!("container '{name}': '{}' is not the name of a variable", shown(&variable.name)));
        }
        match &variable.value {
            EnvValue::SecretKey(KeyReference { name, key, .. })
            | EnvValue::ConfigMapKey(KeyReference { name, key, .. }) => {
                check_file_name(name)?;
                check_file_name(key)?;
            }
            EnvValue::Literal(text) if text.contains('\0') => {
                return Err(format!(
                    "container '{name}': variable '{}' contains a null character",
                    shown(&variable.name)
                ));
            }
            EnvValue::Literal(_) | EnvValue::Inputs => {}
        }
    }
    for mount in &container.mounts {
        if !plan.volumes.iter().any(|volume| volume.name == mount.volume) {
            return Err(format!(
                "container '{name}' mounts volume '{}', which the plan does not have",
                shown(&mount.volume)
            ));
        }
        if mount_point(&mount.mount_path).is_none_or(|path| path.as_os_str().is_empty()) {
            return Err(format!(
                "container '{name}': '{}' is not a path that can be mounted at",
                shown(&mount.mount_path)
            ));
        }
        if mount.sub_path.as_deref().is_some_and(|path| relative(path).is_none()) {
            return Err(format!("container '{name}': the sub path of volume '{}' leads out of it", mount.volume));
        }
    }
    if container.working_dir.as_deref().is_some_and(|path| working_dir(path).is_none()) {
        return Err(format!("container '{name}': the working directory contains '..'"));
    }
    memory_limit(container)?;
    Ok(())
}

/// Bytes of memory that the container may use, where it has a limit.
pub(super) fn memory_limit(container: &Container) -> Result<Option<u64>, String> {
    let Some(text) = container.resources.limits.get("memory") else { return Ok(None) };
    match quantity(text) {
        Some(bytes) if bytes > 0 => Ok(Some(bytes)),
        _ => Err(format!("container '{}': the memory limit '{}' is not a quantity", container.name, shown(text))),
    }
}

/// A quantity of Kubernetes as a whole number, rounded up: digits, a point, an exponent or one of `m k M G T P E Ki Mi Gi Ti Pi Ei`.
fn quantity(text: &str) -> Option<u64> {
    let end = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (number, unit) = text.split_at_checked(end)?;
    let number: f64 = number.parse().ok()?;
    let factor = match unit {
        "" => 1.0,
        "m" => 1e-3,
        "k" => 1e3,
        "M" => 1e6,
        "G" => 1e9,
        "T" => 1e12,
        "P" => 1e15,
        "E" => 1e18,
        "Ki" => 1024.0,
        "Mi" => 1024.0 * 1024.0,
        "Gi" => 1024f64.powi(3),
        "Ti" => 1024f64.powi(4),
        "Pi" => 1024f64.powi(5),
        "Ei" => 1024f64.powi(6),
        _ => 10f64.powi(unit.strip_prefix(['e', 'E'])?.parse().ok()?),
    };
    let value = (number * factor).ceil();
    (0.0..1.8e19).contains(&value).then_some(value as u64)
}

/// An absolute path of a container as a path below its working directory: `/data/x` is `data/x`.
pub(super) fn mount_point(path: &str) -> Option<PathBuf> {
    relative(path.strip_prefix('/')?)
}

/// A working directory of the image as a path below the run's.
pub(super) fn working_dir(path: &str) -> Option<PathBuf> {
    relative(path.trim_start_matches('/'))
}

/// A path without `..`, a root or null characters.
pub(super) fn relative(path: &str) -> Option<PathBuf> {
    let clean = !path.contains('\0')
        && path.len() <= 1024
        && Path::new(path).components().all(|part| matches!(part, Component::Normal(_) | Component::CurDir));
    clean.then(|| Path::new(path).components().filter(|part| matches!(part, Component::Normal(_))).collect())
}

/// The name of a secret, config map or claim, or a key in one: a file name of letters, digits, `.`, `_` and `-`.
fn check_file_name(name: &str) -> Result<(), String> {
    let good = !matches!(name, "" | "." | "..")
        && name.len() <= 253
        && name.bytes().all(|c| c.is_ascii_alphanumeric() || matches!(c, b'.' | b'_' | b'-'));
    if good { Ok(()) } else { Err(format!("'{}' is not the name of a secret, config map, claim or key", shown(name))) }
}

fn is_label(name: &str) -> bool {
    let inner = |c: u8| c.is_ascii_lowercase() || c.is_ascii_digit() || c == b'-';
    (1..=63).contains(&name.len()) && name.bytes().all(inner) && !name.starts_with('-') && !name.ends_with('-')
}

/// A foreign text as it may stand in a message.
fn shown(text: &str) -> String {
    text.chars().take(80).collect::<String>().escape_debug().to_string()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn quantities() {
        for (text, bytes) in
            [("64Mi", 64 << 20), ("1Gi", 1 << 30), ("1.5k", 1500), ("1e3", 1000), ("2E3", 2000), ("7", 7), ("1500m", 2)]
        {
            assert_eq!(quantity(text), Some(bytes), "{text}");
        }
        for text in ["", "Mi", "-1", "1 Gi", "1gi", "1e", "nan", "1e400", "1..2", "ä"] {
            assert_eq!(quantity(text), None, "{text}");
        }
    }

    fn plan(json: &str) -> JobPlan {
        serde_json::from_str(json).unwrap()
    }

    #[test]
    fn a_plan_without_a_command_is_refused() {
        for containers in
            [r#"[{"name":"main","image":"busybox:1"}]"#, r#"[{"name":"main","image":"busybox:1","args":["x"]}]"#]
        {
            let refusal = check(&plan(&format!(r#"{{"containers":{containers}}}"#))).unwrap_err();
            assert!(
                refusal.contains("entry point") && refusal.contains("busybox:1") && refusal.contains("command"),
                "{refusal}"
            );
        }
    }

    #[test]
    fn names_that_lead_elsewhere_are_refused() {
        let with = |member: &str| {
            check(&plan(&format!(
                r#"{{"containers":[{{"name":"main","command":["true"]{member}}}],
                "volumes":[{{"name":"v","source":{{"emptyDir":{{}}}}}}]}}"#
            )))
        };
        with("").unwrap();
        with(r#","mounts":[{"volume":"v","mountPath":"/data/x","subPath":"a/b"}],"workingDir":"/app""#).unwrap();
        for member in [
            r#","mounts":[{"volume":"v","mountPath":"/data/../../x"}]"#,
            r#","mounts":[{"volume":"v","mountPath":"data"}]"#,
            r#","mounts":[{"volume":"v","mountPath":"/"}]"#,
            r#","mounts":[{"volume":"w","mountPath":"/data"}]"#,
            r#","mounts":[{"volume":"v","mountPath":"/data","subPath":"../x"}]"#,
            r#","mounts":[{"volume":"v","mountPath":"/data","subPath":"/x"}]"#,
            r#","workingDir":"/../x""#,
            r#","env":[{"name":"A","value":{"secretKey":{"name":"..","key":"k"}}}]"#,
            r#","env":[{"name":"A","value":{"secretKey":{"name":"s","key":"../k"}}}]"#,
            r#","env":[{"name":"A=B","value":{"literal":""}}]"#,
            r#","resources":{"limits":{"memory":"much"}}"#,
        ] {
            assert!(with(member).is_err(), "{member}");
        }
        for plan_text in [
            r#"{"containers":[]}"#,
            r#"{"containers":[{"name":"../x","command":["true"]}]}"#,
            r#"{"containers":[{"name":"a","command":["true"]},{"name":"a","command":["true"]}]}"#,
            r#"{"containers":[{"name":"a","command":["true"]}],"results":{"container":"b"}}"#,
            r#"{"containers":[{"name":"a","command":["true"]}],"volumes":[{"name":"v","source":{"claim":{"claimName":"../.."}}}]}"#,
        ] {
            assert!(check(&plan(plan_text)).is_err(), "{plan_text}");
        }
    }

    proptest! {
        #[test]
        fn paths_stay_below(path in "[a-c./\\x00]{0,16}") {
            for found in [mount_point(&path), working_dir(&path), relative(&path)].into_iter().flatten() {
                prop_assert!(found.components().all(|part| matches!(part, Component::Normal(_))));
            }
        }

        #[test]
        fn any_text_is_a_quantity_or_not(text in "\\PC{0,12}") {
            let _ = quantity(&text);
        }
    }
}
