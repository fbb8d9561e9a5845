//! Between the records of `wit/v1` and the types of `core`, one function a record. What the host does not know it refuses
//! ([`Breach`]), so that nothing a processor asks for is silently left out.

use std::collections::BTreeMap;

use serde_json::Value;

use super::process::{Action, Caller, Denial, ProcessorRequest};
use super::text::{challenge, clean, pointer_segment};
use super::v1::types;
use crate::core::plan::{
    Container, EnvValue, EnvVariable, ImagePullPolicy, KeyReference, Mount, Resources, ResultRules, Security,
    Toleration, Volume, VolumeSource,
};
use crate::core::{JobPlan, ProcessId, Violation};

/// A rule of the contract that an answer breaks, in words.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub(super) struct Breach(String);

/// Longest text of a processor that a client reads, in bytes.
const REASON_BYTES: usize = 1024;
/// Violations of one rejection that are passed on.
const VIOLATIONS: usize = 100;

pub(super) fn request(
    id: &ProcessId,
    request: &ProcessorRequest,
    headers: &[String],
    inputs: String,
) -> types::Request {
    let passes = |name: &str| headers.iter().any(|allowed| allowed.eq_ignore_ascii_case(name));
    types::Request {
        action: match request.action {
            Action::Execute => types::Action::Execute,
            Action::Dismiss => types::Action::Dismiss,
            Action::Read => types::Action::Read,
        },
        process_id: id.to_string(),
        job_id: request.job_id.map(|id| id.to_string()),
        inputs,
        outputs: request.outputs.clone(),
        principal: request.principal.authenticated.then(|| types::Principal {
            subject: request.principal.subject.clone(),
            roles: request.principal.roles.iter().map(|role| role.as_str().to_owned()).collect(),
            claims: match &request.principal.claims {
                Value::Object(claims) if claims.is_empty() => "{}".to_owned(),
                Value::Null => "{}".to_owned(),
                claims => claims.to_string(),
            },
            extensions: String::new(),
        }),
        headers: request
            .headers
            .iter()
            .filter(|(name, _)| passes(name))
            .map(|(name, value)| types::Pair { name: name.to_ascii_lowercase(), value: value.clone() })
            .collect(),
        extensions: String::new(),
    }
}

pub(super) fn caller_record(caller: &Caller) -> types::Caller {
    types::Caller {
        subject: caller.subject.clone(),
        consumed_inputs: caller.consumed_inputs.clone(),
        extensions: String::new(),
    }
}

pub(super) fn caller(caller: types::Caller) -> Result<Caller, Breach> {
    known("caller", &caller.extensions)?;
    let subject = clean(&caller.subject, 256);
    if subject.is_empty() {
        return Err(Breach("caller.subject is empty".to_owned()));
    }
    Ok(Caller { subject, consumed_inputs: caller.consumed_inputs })
}

pub(super) fn denial(denial: types::Denial) -> Denial {
    match denial {
        types::Denial::Unauthenticated(text) => Denial::Unauthenticated { challenge: challenge(&text) },
        types::Denial::Forbidden(text) => {
            let reason = clean(&text, REASON_BYTES);
            let reason = if reason.is_empty() { "the processor does not allow it".to_owned() } else { reason };
            Denial::Forbidden { reason }
        }
    }
}

pub(super) fn rejection(rejection: types::Rejection) -> Result<Vec<Violation>, Breach> {
    known("rejection", &rejection.extensions)?;
    let mut found = Vec::new();
    for violation in rejection.violations.into_iter().take(VIOLATIONS) {
        known("violation", &violation.extensions)?;
        let pointer = match clean(&violation.input, 256) {
            id if id.is_empty() => String::new(),
            id => format!("/inputs/{}", pointer_segment(&id)),
        };
        let message = clean(&violation.message, REASON_BYTES);
        found.push(Violation::new(pointer, if message.is_empty() { "is not accepted".to_owned() } else { message }));
    }
    if found.is_empty() {
        found.push(Violation::new("", "the processor rejects the request and gives no reason"));
    }
    Ok(found)
}

pub(super) fn plan(plan: types::Plan) -> Result<JobPlan, Breach> {
    known("plan", &plan.extensions)?;
    if plan.containers.is_empty() {
        return Err(Breach("plan.containers is empty".to_owned()));
    }
    let types::ResultRules { container: result_container, default_media_type, nonce, extensions } = plan.results;
    known("plan.results", &extensions)?;
    let types::Security {
        run_as_user,
        run_as_group,
        fs_group,
        service_account_token,
        privilege_escalation,
        seccomp_unconfined,
        extensions,
    } = plan.security;
    known("plan.security", &extensions)?;
    Ok(JobPlan {
        containers: all(plan.containers, container)?,
        init_containers: all(plan.init_containers, container)?,
        volumes: all(plan.volumes, volume)?,
        tolerations: all(plan.tolerations, toleration)?,
        node_selector: pairs("plan.node-selector", plan.node_selector)?,
        image_pull_secrets: plan.image_pull_secrets,
        service_account: plan.service_account,
        priority_class: plan.priority_class,
        queue: plan.queue,
        deadline_seconds: plan.deadline_seconds,
        retries: plan.retries,
        labels: pairs("plan.labels", plan.labels)?,
        annotations: pairs("plan.annotations", plan.annotations)?,
        security: Security {
            run_as_user,
            run_as_group,
            fs_group,
            service_account_token,
            privilege_escalation,
            seccomp_unconfined,
        },
        results: ResultRules { container: result_container, default_media_type, nonce },
        pod_patch: plan.pod_patch.map(|text| patch(&text)).transpose()?,
        extensions: Value::Null,
    })
}

fn container(container: types::Container) -> Result<Container, Breach> {
    let at = format!("container '{}'", clean(&container.name, 80));
    known(&at, &container.extensions)?;
    known(&format!("{at}, resources"), &container.resources.extensions)?;
    Ok(Container {
        image: container.image,
        image_pull_policy: container.image_pull_policy.map(|policy| match policy {
            types::ImagePullPolicy::Always => ImagePullPolicy::Always,
            types::ImagePullPolicy::IfNotPresent => ImagePullPolicy::IfNotPresent,
            types::ImagePullPolicy::Never => ImagePullPolicy::Never,
        }),
        command: container.command,
        args: container.args,
        working_dir: container.working_dir,
        env: all(container.env, variable)?,
        resources: Resources {
            requests: pairs(&format!("{at}, resources.requests"), container.resources.requests)?,
            limits: pairs(&format!("{at}, resources.limits"), container.resources.limits)?,
        },
        mounts: all(container.mounts, mount)?,
        name: container.name,
        extensions: Value::Null,
    })
}

fn variable(variable: types::EnvVariable) -> Result<EnvVariable, Breach> {
    known(&format!("variable '{}'", clean(&variable.name, 80)), &variable.extensions)?;
    let value = match variable.value {
        types::EnvValue::Literal(text) => EnvValue::Literal(text),
        types::EnvValue::SecretKey(key) => EnvValue::SecretKey(reference(key)?),
        types::EnvValue::ConfigMapKey(key) => EnvValue::ConfigMapKey(reference(key)?),
        types::EnvValue::Inputs => EnvValue::Inputs,
    };
    Ok(EnvVariable { name: variable.name, value })
}

fn reference(reference: types::KeyReference) -> Result<KeyReference, Breach> {
    known(&format!("reference to '{}'", clean(&reference.name, 80)), &reference.extensions)?;
    Ok(KeyReference { name: reference.name, key: reference.key, optional: reference.optional })
}

fn volume(volume: types::Volume) -> Result<Volume, Breach> {
    let at = format!("volume '{}'", clean(&volume.name, 80));
    known(&at, &volume.extensions)?;
    let known = |extensions: &str| known(&format!("{at}, source"), extensions);
    let source = match volume.source {
        types::VolumeSource::Claim(types::ClaimSource { claim_name, read_only, extensions }) => {
            known(&extensions)?;
            VolumeSource::Claim { claim_name, read_only }
        }
        types::VolumeSource::EmptyDir(types::EmptyDirSource { medium, size_limit, extensions }) => {
            known(&extensions)?;
            VolumeSource::EmptyDir { medium, size_limit }
        }
        types::VolumeSource::ConfigMap(types::ObjectSource { name, optional, extensions }) => {
            known(&extensions)?;
            VolumeSource::ConfigMap { name, optional }
        }
        types::VolumeSource::Secret(types::ObjectSource { name, optional, extensions }) => {
            known(&extensions)?;
            VolumeSource::Secret { name, optional }
        }
    };
    Ok(Volume { name: volume.name, source })
}

fn mount(mount: types::Mount) -> Result<Mount, Breach> {
    known(&format!("mount of '{}'", clean(&mount.volume, 80)), &mount.extensions)?;
    Ok(Mount {
        volume: mount.volume,
        mount_path: mount.mount_path,
        sub_path: mount.sub_path,
        read_only: mount.read_only,
    })
}

fn toleration(toleration: types::Toleration) -> Result<Toleration, Breach> {
    known("toleration", &toleration.extensions)?;
    Ok(Toleration {
        key: toleration.key,
        operator: toleration.operator,
        value: toleration.value,
        effect: toleration.effect,
        toleration_seconds: toleration.toleration_seconds,
    })
}

fn patch(text: &str) -> Result<Value, Breach> {
    match serde_json::from_str(text) {
        Ok(patch @ Value::Array(_)) => Ok(patch),
        Ok(_) => Err(Breach("plan.pod-patch is not a list of operations".to_owned())),
        Err(error) => Err(Breach(format!("plan.pod-patch is not JSON: {error}"))),
    }
}

fn all<A, B>(items: Vec<A>, one: impl FnMut(A) -> Result<B, Breach>) -> Result<Vec<B>, Breach> {
    items.into_iter().map(one).collect()
}

fn pairs(at: &str, pairs: Vec<types::Pair>) -> Result<BTreeMap<String, String>, Breach> {
    let mut map = BTreeMap::new();
    for types::Pair { name, value } in pairs {
        if map.contains_key(&name) {
            return Err(Breach(format!("{at} has '{}' twice", clean(&name, 80))));
        }
        map.insert(name, value);
    }
    Ok(map)
}

/// Version 1.0 knows no extension: only an empty text or an empty object passes.
fn known(at: &str, extensions: &str) -> Result<(), Breach> {
    if matches!(extensions, "" | "{}") {
        return Ok(());
    }
    match serde_json::from_str(extensions) {
        Ok(Value::Object(object)) => match object.keys().next() {
            None => Ok(()),
            Some(key) => {
                Err(Breach(format!("{at} has the extension '{}', which this server does not know", clean(key, 80))))
            }
        },
        _ => Err(Breach(format!("the extensions of {at} are not a JSON object"))),
    }
}

#[cfg(test)]
#[path = "convert_tests.rs"]
mod tests;
