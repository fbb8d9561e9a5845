//! From a plan to the objects of the cluster. Pure: the same launch always makes the same objects, and whatever can be refused without
//! asking the cluster is refused here.
//!
//! Invariant: no secret is in a Job. What of plan or inputs is masked for others travels in the run's Secret, or is left out.

mod container;
mod patch;
mod pod;
mod secret;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;

use k8s_openapi::api::batch::v1::{Job, JobSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use serde_json::Value;

pub(super) use self::secret::{Contents, secret};
use super::names::{FINALIZER, INCOMPLETE, Names, QUEUE};
use super::settings::{PodSecurity, Settings};
use crate::core::JobPlan;
use crate::core::plan::{EnvValue, VolumeSource};
use crate::runner::{Launch, RunnerError, environment};

/// The most that one object may hold, in bytes: what the cluster's database takes is a megabyte and a half, with what the cluster adds.
const OBJECT_LIMIT: usize = 900 * 1024;

/// Masked inputs up to this size stand in the annotation `pygeoapi.io/parameters`.
const PARAMETERS_LIMIT: usize = 16 * 1024;

/// What a run is made of.
#[derive(Debug)]
pub(super) struct Objects {
    /// The Job.
    pub(super) job: Value,
    /// What the run's Secret holds, where one is needed; then the Job is held back.
    pub(super) secret: Option<Contents>,
}

/// The objects of a launch.
pub(super) fn build(names: &Names, settings: &Settings, launch: &Launch) -> Result<Objects, RunnerError> {
    let plan = &*launch.plan;
    check(names, settings, launch).map_err(RunnerError::Refused)?;
    let name = names.job(launch.job_id);
    let own_labels = names.labels(launch.job_id, &launch.process_id);
    let labels = labels(launch, &own_labels);
    let plan_annotations = launch.masked.as_ref().map_or(&plan.annotations, |masked| &masked.plan.annotations);

    let mut contents = Contents::new(&name);
    let spec = pod::spec(settings, launch, &mut contents);
    let template = k8s_openapi::api::core::v1::PodTemplateSpec {
        metadata: Some(ObjectMeta {
            labels: Some(labels.clone()),
            annotations: (!plan_annotations.is_empty()).then(|| plan_annotations.clone()),
            finalizers: Some(vec![FINALIZER.to_owned()]),
            ..ObjectMeta::default()
        }),
        spec: Some(spec),
    };
    let needs_secret = !contents.is_empty();
    fits("what travels with the job (inputs and secrets)", contents.size())?;

    let mut job_labels = labels;
    let mut annotations = plan_annotations.clone();
    annotations.extend(own_annotations(launch, &name));
    if needs_secret {
        // The queue must not see it before its Secret is there.
        annotations.insert(INCOMPLETE.to_owned(), "secret".to_owned());
    } else if let Some(queue) = &plan.queue {
        job_labels.insert(QUEUE.to_owned(), queue.clone());
    }
    let job = Job {
        metadata: ObjectMeta {
            name: Some(name),
            labels: Some(job_labels),
            annotations: Some(annotations),
            finalizers: Some(vec![FINALIZER.to_owned()]),
            ..ObjectMeta::default()
        },
        spec: Some(JobSpec {
            active_deadline_seconds: plan.deadline_seconds.map(i64::from),
            backoff_limit: Some(i32::try_from(plan.retries).unwrap_or(i32::MAX)),
            suspend: (needs_secret || plan.queue.is_some()).then_some(true),
            template,
            ttl_seconds_after_finished: Some(i32::try_from(settings.ttl_seconds_after_finished).unwrap_or(i32::MAX)),
            ..JobSpec::default()
        }),
        status: None,
    };
    let mut job = serde_json::to_value(job)
        .map_err(|error| RunnerError::Refused(format!("the Job cannot be written as JSON: {error}")))?;
    if let (Some(patch), Some(template)) = (&plan.pod_patch, job.pointer_mut("/spec/template")) {
        patch::apply(template, patch, plan, &own_labels).map_err(RunnerError::Refused)?;
    }
    fits("the Job", job.to_string().len())?;
    Ok(Objects { job, secret: needs_secret.then_some(contents) })
}

fn fits(what: &'static str, bytes: usize) -> Result<(), RunnerError> {
    if bytes <= OBJECT_LIMIT { Ok(()) } else { Err(RunnerError::TooLarge { what, bytes, limit: OBJECT_LIMIT }) }
}

/// The plan without those parts whose secrets do not come into the Job.
fn without_hidden(plan: &JobPlan) -> JobPlan {
    let mut plan = plan.clone();
    plan.labels.clear();
    plan.annotations.clear();
    for container in plan.containers.iter_mut().chain(&mut plan.init_containers) {
        container.command.clear();
        container.args.clear();
        container.env.clear();
    }
    plan
}

/// The names of all Secrets that the plan asks for.
fn secrets(plan: &JobPlan) -> impl Iterator<Item = &str> {
    let variables =
        plan.all_containers().flat_map(|container| &container.env).filter_map(|variable| match &variable.value {
            EnvValue::SecretKey(key) => Some(&key.name),
            EnvValue::Literal(_) | EnvValue::ConfigMapKey(_) | EnvValue::Inputs => None,
        });
    let volumes = plan.volumes.iter().filter_map(|volume| match &volume.source {
        VolumeSource::Secret { name, .. } => Some(name),
        VolumeSource::Claim { .. } | VolumeSource::EmptyDir { .. } | VolumeSource::ConfigMap { .. } => None,
    });
    variables.chain(volumes).chain(&plan.image_pull_secrets).map(String::as_str)
}

/// What cannot be said, or must not be, in a Job.
fn check(names: &Names, settings: &Settings, launch: &Launch) -> Result<(), String> {
    let plan = &*launch.plan;
    if plan.containers.is_empty() {
        return Err("the plan has no container".to_owned());
    }
    environment::check_inputs(launch)?;
    if launch.masked.as_ref().is_some_and(|masked| without_hidden(plan) != without_hidden(&masked.plan)) {
        return Err("a secret input stands in a part of the plan that everybody sees: only variables, commands, arguments, labels and \
                    annotations may have it; one of very few characters may stand there by chance"
            .to_owned());
    }
    if let Some(secret) = secrets(plan).find(|name| names.id_in(name).is_some()) {
        return Err(format!(
            "the secret '{secret}' is not for plans: by its name it holds the inputs of a job, for that job alone"
        ));
    }
    if plan.labels.contains_key(QUEUE) {
        return Err(format!("the label '{QUEUE}' is set by the plan's queue"));
    }
    if environment::inputs_in_file(launch) {
        let mounts = || plan.all_containers().flat_map(|container| &container.mounts);
        if plan.volumes.iter().any(|volume| volume.name == pod::INPUTS_VOLUME) {
            return Err(format!("the volume name '{}' is kept for large inputs", pod::INPUTS_VOLUME));
        }
        if mounts().any(|mount| mount.mount_path.trim_end_matches('/') == pod::INPUTS_FOLDER) {
            return Err(format!("the path '{}' is kept for large inputs", pod::INPUTS_FOLDER));
        }
    }
    if settings.pod_security == PodSecurity::Restricted {
        for (is_asked, what) in [
            (plan.security.privilege_escalation, "privilege escalation"),
            (plan.security.seccomp_unconfined, "running without a seccomp profile"),
            (plan.security.run_as_user == Some(0), "running as root"),
        ] {
            if is_asked {
                return Err(format!("{what} is not possible where pods are restricted (kubernetes.pod_security)"));
            }
        }
    }
    Ok(())
}

/// The plan's labels and ours, which win. A label with a secret in it is left out: there is no masked text that a label may have.
fn labels(launch: &Launch, own: &BTreeMap<String, String>) -> BTreeMap<String, String> {
    let is_shown = |plan: &JobPlan, key: &String, value: &String| plan.labels.get(key) == Some(value);
    let mut labels = launch.plan.labels.clone();
    if let Some(masked) = &launch.masked {
        labels.retain(|key, value| is_shown(&masked.plan, key, value));
    }
    labels.extend(own.clone());
    labels
}

/// The annotations of the original. Nothing secret is in them.
fn own_annotations(launch: &Launch, name: &str) -> impl Iterator<Item = (String, String)> {
    let created = launch.created.to_string();
    let inputs = match &launch.masked {
        Some(masked) => Some(masked.inputs.get()),
        None => launch.inputs.as_ref().map(|inputs| inputs.get()),
    };
    let media_type = launch.plan.results.default_media_type.clone();
    [
        ("identifier", Some(launch.job_id.to_string())),
        ("process_id", Some(launch.process_id.to_string())),
        ("job-name", Some(name.to_owned())),
        ("started", Some(created.clone())),
        ("updated", Some(created)),
        ("parameters", inputs.filter(|inputs| inputs.len() <= PARAMETERS_LIMIT).map(str::to_owned)),
        ("mimetype", media_type.clone()),
        ("result-mimetype", media_type),
    ]
    .into_iter()
    .filter_map(|(key, value)| Some((format!("pygeoapi.io/{key}"), value?)))
}
