//! The structural truth of a plan, whatever the policy and the runner: what is wrong here is the processor's fault.

mod names;
mod size;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

use super::plan::{Container, EnvValue, Mount, Volume, VolumeSource};
use super::quantity::Quantity;
use super::{JobPlan, Violation, media_type, pointer::join};

/// How many violations are told at most.
const MOST: usize = 100;

/// Variables that the host sets. All names that begin with `VESPIARY_` are the host's too.
const RESERVED: [&str; 4] =
    ["PYGEOAPI_JOB_ID", "PYGEOAPI_PROCESS_ID", "PYGEOAPI_K8S_MANAGER_INPUTS", "PYGEOAPI_K8S_MANAGER_INPUTS_FILE"];

/// Everything that makes a plan impossible to run anywhere, at most 100 violations. Pointers are into the plan's JSON form.
#[must_use]
pub fn violations(plan: &JobPlan) -> Vec<Violation> {
    let mut check = Check { out: Vec::new() };
    check.plan(plan);
    if let Ok(document) = serde_json::to_value(plan) {
        check.no_nul(&document, "");
    }
    check.out.truncate(MOST);
    check.out
}

struct Check {
    out: Vec<Violation>,
}

impl Check {
    fn add(&mut self, at: impl Into<String>, message: impl Into<String>) {
        self.out.push(Violation::new(at, message));
    }

    fn rule(&mut self, is_right: bool, at: impl FnOnce() -> String, message: &str) {
        if !is_right {
            self.add(at(), message);
        }
    }

    fn plan(&mut self, plan: &JobPlan) {
        self.rule(!plan.containers.is_empty(), || "/containers".to_owned(), "must have at least one container");
        let mut names_seen = BTreeSet::new();
        let volumes: BTreeSet<&str> = plan.volumes.iter().map(|volume| volume.name.as_str()).collect();
        for (group, containers) in [("/initContainers", &plan.init_containers), ("/containers", &plan.containers)] {
            for (index, container) in containers.iter().enumerate() {
                let at = join(group, &index.to_string());
                self.rule(names_seen.insert(&container.name), || join(&at, "name"), "is the name of another container");
                self.container(container, &volumes, &at);
            }
        }
        let mut volumes_seen = BTreeSet::new();
        for (index, volume) in plan.volumes.iter().enumerate() {
            let at = join("/volumes", &index.to_string());
            self.rule(volumes_seen.insert(&volume.name), || join(&at, "name"), "is the name of another volume");
            self.volume(volume, &at);
        }
        self.pod(plan);
        for (key, pairs) in [("/labels", &plan.labels), ("/annotations", &plan.annotations)] {
            for (name, value) in pairs {
                let at = join(key, name);
                self.rule(names::is_qualified(name), || at.clone(), "is not a name as Kubernetes wants it");
                self.rule(!names::is_ours(name), || at.clone(), "is kept for the host");
                self.rule(key == "/annotations" || names::is_label_value(value), || at, names::LABEL_VALUE);
            }
        }
        if let Some(container) = &plan.results.container {
            let is_there = plan.containers.iter().any(|one| one.name == *container);
            self.rule(
                is_there,
                || "/results/container".to_owned(),
                "names no container of the plan (init containers do not count)",
            );
        }
        if let Some(kind) = &plan.results.default_media_type {
            self.rule(media_type::is_valid(kind), || "/results/defaultMediaType".to_owned(), "must be a media type");
        }
        if let Some(patch) = &plan.pod_patch {
            self.pod_patch(patch);
        }
        self.extensions(&plan.extensions, "");
    }

    fn pod(&mut self, plan: &JobPlan) {
        for (index, secret) in plan.image_pull_secrets.iter().enumerate() {
            self.rule(names::is_object(secret), || join("/imagePullSecrets", &index.to_string()), names::OBJECT);
        }
        for (at, name) in [
            ("/serviceAccount", &plan.service_account),
            ("/priorityClass", &plan.priority_class),
            ("/queue", &plan.queue),
        ] {
            self.rule(name.as_deref().is_none_or(names::is_object), || at.to_owned(), names::OBJECT);
        }
        self.rule(plan.deadline_seconds != Some(0), || "/deadlineSeconds".to_owned(), "must be 1 or more");
        for (name, value) in &plan.node_selector {
            let at = join("/nodeSelector", name);
            self.rule(names::is_qualified(name), || at.clone(), "is not a name as Kubernetes wants it");
            self.rule(names::is_label_value(value), || at, names::LABEL_VALUE);
        }
        for (index, toleration) in plan.tolerations.iter().enumerate() {
            let at = join("/tolerations", &index.to_string());
            let operator = toleration.operator.as_deref();
            self.rule(
                matches!(operator, None | Some("Exists" | "Equal")),
                || join(&at, "operator"),
                "must be 'Exists' or 'Equal'",
            );
            self.rule(
                matches!(toleration.effect.as_deref(), None | Some("NoSchedule" | "PreferNoSchedule" | "NoExecute")),
                || join(&at, "effect"),
                "must be 'NoSchedule', 'PreferNoSchedule' or 'NoExecute'",
            );
            self.rule(
                toleration.key.is_some() || operator == Some("Exists"),
                || at,
                "needs 'Exists' when it has no key",
            );
        }
    }

    fn container(&mut self, container: &Container, volumes: &BTreeSet<&str>, at: &str) {
        self.rule(names::is_label(&container.name), || join(at, "name"), names::LABEL);
        let is_image = !container.image.is_empty()
            && container.image.len() <= 1024
            && !container.image.contains(|c: char| c.is_whitespace() || c.is_control());
        self.rule(is_image, || join(at, "image"), "must be an image reference: not empty and without blanks");
        let mut seen = BTreeSet::new();
        for (index, variable) in container.env.iter().enumerate() {
            let at = join(&join(at, "env"), &index.to_string());
            let name = variable.name.as_str();
            self.rule(
                names::is_variable(name),
                || join(&at, "name"),
                "must be letters, digits and '_', the first not a digit",
            );
            let is_ours = RESERVED.contains(&name) || name.starts_with("VESPIARY_");
            self.rule(!is_ours, || join(&at, "name"), "is a variable that the host sets");
            self.rule(seen.insert(name), || join(&at, "name"), "is there twice");
            let (kind, reference) = match &variable.value {
                EnvValue::SecretKey(reference) => ("secretKey", reference),
                EnvValue::ConfigMapKey(reference) => ("configMapKey", reference),
                EnvValue::Literal(_) | EnvValue::Inputs => continue,
            };
            let at = join(&join(&at, "value"), kind);
            self.rule(names::is_object(&reference.name), || join(&at, "name"), names::OBJECT);
            self.rule(names::is_key(&reference.key), || join(&at, "key"), "must be letters, digits, '-', '_' and '.'");
        }
        self.out.extend(size::violations(container, at));
        self.resources(&container.resources.requests, &container.resources.limits, &join(at, "resources"));
        let mut paths = BTreeSet::new();
        for (index, mount) in container.mounts.iter().enumerate() {
            let at = join(&join(at, "mounts"), &index.to_string());
            self.rule(volumes.contains(mount.volume.as_str()), || join(&at, "volume"), "names no volume of the plan");
            self.rule(paths.insert(&mount.mount_path), || join(&at, "mountPath"), "is the path of another mount");
            self.mount(mount, &at);
        }
        self.extensions(&container.extensions, at);
    }

    fn mount(&mut self, mount: &Mount, at: &str) {
        let climbs = |path: &str| path.split('/').any(|step| step == "..");
        let path = mount.mount_path.as_str();
        let is_absolute = path.starts_with('/') && !climbs(path) && !path.contains(':');
        self.rule(is_absolute, || join(at, "mountPath"), "must be an absolute path without '..' and ':'");
        if let Some(path) = mount.sub_path.as_deref() {
            let is_inside = !path.starts_with('/') && !climbs(path);
            self.rule(is_inside, || join(at, "subPath"), "must be a relative path without '..'");
        }
    }

    fn resources(&mut self, requests: &BTreeMap<String, String>, limits: &BTreeMap<String, String>, at: &str) {
        for (kind, amounts) in [("requests", requests), ("limits", limits)] {
            for (name, amount) in amounts {
                let at = join(&join(at, kind), name);
                self.rule(names::is_qualified(name), || at.clone(), "is not the name of a resource");
                if let Err(error) = amount.parse::<Quantity>() {
                    self.add(at, error.to_string());
                }
            }
        }
        for (name, request) in requests {
            let limit = limits.get(name).and_then(|limit| limit.parse::<Quantity>().ok());
            if let (Ok(request), Some(limit)) = (request.parse::<Quantity>(), limit) {
                self.rule(request <= limit, || join(&join(at, "requests"), name), "is more than its limit");
            }
        }
    }

    fn volume(&mut self, volume: &Volume, at: &str) {
        self.rule(names::is_label(&volume.name), || join(at, "name"), names::LABEL);
        let at = join(at, "source");
        match &volume.source {
            VolumeSource::Claim { claim_name, .. } => {
                self.rule(names::is_object(claim_name), || join(&join(&at, "claim"), "claimName"), names::OBJECT);
            }
            VolumeSource::ConfigMap { name, .. } => {
                self.rule(names::is_object(name), || join(&join(&at, "configMap"), "name"), names::OBJECT);
            }
            VolumeSource::Secret { name, .. } => {
                self.rule(names::is_object(name), || join(&join(&at, "secret"), "name"), names::OBJECT);
            }
            VolumeSource::EmptyDir { medium, size_limit } => {
                let at = join(&at, "emptyDir");
                let is_medium = matches!(medium.as_deref(), None | Some("" | "Memory"));
                self.rule(is_medium, || join(&at, "medium"), "must be 'Memory' or left out");
                if let Some(Err(error)) = size_limit.as_deref().map(str::parse::<Quantity>) {
                    self.add(join(&at, "sizeLimit"), error.to_string());
                }
            }
        }
    }

    fn pod_patch(&mut self, patch: &Value) {
        let at = "/podPatch";
        let Some(operations) = patch.as_array() else {
            self.add(at, "must be a list of operations (RFC 6902)");
            return;
        };
        for (index, operation) in operations.iter().enumerate() {
            let is_operation = serde_json::from_value::<json_patch::PatchOperation>(operation.clone()).is_ok();
            self.rule(is_operation, || join(at, &index.to_string()), "is not an operation of RFC 6902");
        }
    }

    /// What this version does not know it refuses, so that nothing asked for is silently left out.
    fn extensions(&mut self, extensions: &Value, at: &str) {
        let at = join(at, "extensions");
        match extensions {
            Value::Null => {}
            Value::Object(members) => {
                for name in members.keys() {
                    self.add(join(&at, name), "is an extension that this host does not know");
                }
            }
            _ => self.add(at, "must be an object"),
        }
    }

    fn no_nul(&mut self, value: &Value, at: &str) {
        match value {
            Value::String(text) => self.rule(!text.contains('\0'), || at.to_owned(), "must not have a NUL byte"),
            Value::Array(elements) => {
                for (index, element) in elements.iter().enumerate() {
                    self.no_nul(element, &join(at, &index.to_string()));
                }
            }
            Value::Object(members) => {
                for (name, member) in members {
                    let at = join(at, name);
                    self.rule(!name.contains('\0'), || at.clone(), "must not have a NUL byte in its name");
                    self.no_nul(member, &at);
                }
            }
            _ => {}
        }
    }
}
