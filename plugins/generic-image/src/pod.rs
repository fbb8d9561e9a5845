//! The plan out of the rest of a definition.

use serde_json::Value;
use vespiary_processor::{
    Container, EnvValue, ImagePullPolicy, KeyReference, Mount, Plan, Security, Toleration, Volume, is_reserved_variable,
};

use crate::section::{Errors, Section};
use crate::text;

/// Name of the container that runs the image.
const MAIN: &str = "main";

/// The plan. It is the same for all requests: inputs reach the container in the variable that the host sets.
pub(crate) fn read(definition: &mut Section, media_type: Option<String>, errors: &mut Errors) -> Plan {
    let (volumes, mounts) = storage(definition, errors);
    let mut main = Container::new(MAIN, definition.required_text("default_image", errors));
    main.image_pull_policy = pull_policy(definition, "image_pull_policy", errors);
    main.command = definition.texts("command", errors);
    main.args = definition.texts("args", errors);
    main.mounts = mounts;
    let main = resources(environment(main, definition, errors), definition, errors);

    let mut plan = Plan::new(main);
    plan.init_containers = init_containers(definition, &volumes, errors);
    plan.volumes = volumes;
    plan.tolerations = tolerations(definition, errors);
    for (name, value) in definition.pairs("node_selector", errors) {
        plan = plan.node_label(name, value);
    }
    plan.image_pull_secrets = pull_secrets(definition, errors);
    plan.service_account = definition.text("service_account", errors);
    plan.priority_class = definition.text("priority_class", errors);
    plan.queue = definition.text("queue", errors);
    plan.deadline_seconds = definition.count("deadline_seconds", errors);
    if plan.deadline_seconds == Some(0) {
        errors.add("deadline_seconds", "must be at least 1");
    }
    plan.retries = definition.count("retries", errors).unwrap_or_default();
    plan.security = security(definition, errors);
    plan.results.default_media_type = media_type;
    plan.results.nonce = definition.flag("nonce", errors).unwrap_or_default();
    plan.pod_patch = pod_patch(definition, errors);
    plan
}

/// Volumes, and where the main container mounts each.
fn storage(definition: &mut Section, errors: &mut Errors) -> (Vec<Volume>, Vec<Mount>) {
    let (mut volumes, mut mounts) = (Vec::<Volume>::new(), Vec::new());
    for mut entry in definition.sections("storage", errors) {
        let name = entry.required_label("name", errors);
        if volumes.iter().any(|volume| volume.name == name) && !name.is_empty() {
            entry.wrong("name", "is the name of another entry", errors);
        }
        let mut mount = Mount::new(&name, entry.required_path("mount_path", errors));
        mount.sub_path = entry.text("sub_path", errors);
        mount.read_only = entry.flag("read_only", errors).unwrap_or_default();
        if mounts.iter().any(|other: &Mount| other.mount_path == mount.mount_path) && !mount.mount_path.is_empty() {
            entry.wrong("mount_path", "is the path of another entry", errors);
        }
        let claim = entry.text("persistent_volume_claim_name", errors);
        // `empty_dir:` with nothing after it is null, and means what `{}` means.
        let is_empty_dir = entry.has("empty_dir");
        let (mut medium, mut size_limit) = (None, None);
        if let Some(mut empty_dir) = entry.section("empty_dir", errors) {
            medium = empty_dir.text("medium", errors);
            if medium.as_deref().is_some_and(|medium| medium != "Memory") {
                empty_dir.wrong("medium", "must be Memory, or left out for the node's disk", errors);
            }
            size_limit = empty_dir.quantity("size_limit", errors);
            empty_dir.end(errors);
        }
        match (claim, is_empty_dir) {
            (Some(claim), false) => volumes.push(Volume::claim(&name, claim, mount.read_only)),
            (None, true) => volumes.push(Volume::empty_dir(&name, medium, size_limit)),
            _ => entry.wrong("name", "needs either 'persistent_volume_claim_name' or 'empty_dir' beside it", errors),
        }
        mounts.push(mount);
        entry.end(errors);
    }
    (volumes, mounts)
}

fn init_containers(definition: &mut Section, volumes: &[Volume], errors: &mut Errors) -> Vec<Container> {
    let mut containers = Vec::<Container>::new();
    for mut entry in definition.sections("init_containers", errors) {
        let name = entry.required_label("name", errors);
        if name == MAIN || (!name.is_empty() && containers.iter().any(|other| other.name == name)) {
            entry.wrong("name", "is the name of another container", errors);
        }
        let mut container = Container::new(name, entry.required_text("image", errors));
        container.image_pull_policy = pull_policy(&mut entry, "imagePullPolicy", errors);
        container.command = entry.texts("command", errors);
        container.args = entry.texts("args", errors);
        container.working_dir = entry.text("workingDir", errors);
        for mut mount in entry.sections("volumeMounts", errors) {
            let volume = mount.required_text("name", errors);
            if !volume.is_empty() && !volumes.iter().any(|known| known.name == volume) {
                mount.wrong("name", "is not the name of an entry of 'storage'", errors);
            }
            let mut read = Mount::new(volume, mount.required_path("mountPath", errors));
            read.sub_path = mount.text("subPath", errors);
            read.read_only = mount.flag("readOnly", errors).unwrap_or_default();
            mount.end(errors);
            container = container.mount(read);
        }
        container = resources(environment(container, &mut entry, errors), &mut entry, errors);
        entry.end(errors);
        containers.push(container);
    }
    containers
}

fn pull_policy(section: &mut Section, key: &str, errors: &mut Errors) -> Option<ImagePullPolicy> {
    match section.text(key, errors)?.as_str() {
        "Always" => Some(ImagePullPolicy::Always),
        "IfNotPresent" => Some(ImagePullPolicy::IfNotPresent),
        "Never" => Some(ImagePullPolicy::Never),
        _ => {
            section.wrong(key, "must be Always, IfNotPresent or Never", errors);
            None
        }
    }
}

/// `env`: a list whose entries have a `name` and a `value`, or `secret_name` and `secret_key`, or a `valueFrom` as in Kubernetes.
fn environment(mut container: Container, section: &mut Section, errors: &mut Errors) -> Container {
    for mut entry in section.sections("env", errors) {
        let name = entry.required_text("name", errors);
        if is_reserved_variable(&name) {
            entry.wrong("name", "is a variable that the server sets", errors);
        } else if !name.is_empty() && !text::is_variable_name(&name) {
            entry.wrong("name", "must be letters, digits and '_', the first not a digit", errors);
        } else if !name.is_empty() && container.env.iter().any(|other| other.name == name) {
            entry.wrong("name", "is the name of another variable", errors);
        }
        let mut values = Vec::new();
        if entry.has("value") {
            values.push(EnvValue::Literal(literal(&mut entry, errors)));
        }
        if entry.has("secret_name") || entry.has("secret_key") {
            values.push(EnvValue::SecretKey(reference(&mut entry, "secret_name", "secret_key", errors)));
        }
        if let Some(mut from) = entry.section("valueFrom", errors) {
            if let Some(mut key) = from.section("secretKeyRef", errors) {
                values.push(EnvValue::SecretKey(reference(&mut key, "name", "key", errors)));
                key.end(errors);
            }
            if let Some(mut key) = from.section("configMapKeyRef", errors) {
                values.push(EnvValue::ConfigMapKey(reference(&mut key, "name", "key", errors)));
                key.end(errors);
            }
            from.end(errors);
        }
        match (values.pop(), values.pop()) {
            (Some(value), None) => container = container.env_value(name, value),
            _ => entry.wrong(
                "name",
                "needs one of 'value', 'secret_name' with 'secret_key', and 'valueFrom' beside it",
                errors,
            ),
        }
        entry.end(errors);
    }
    container
}

/// `value` as text; null is `None`, as in Python.
fn literal(entry: &mut Section, errors: &mut Errors) -> String {
    match entry.take("value") {
        None => "None".to_owned(),
        Some(value) => text::of_scalar(&value).unwrap_or_else(|| {
            entry.wrong("value", "must be text, a number, a truth value or null (a list or map needs quotes)", errors);
            String::new()
        }),
    }
}

fn reference(section: &mut Section, name: &str, key: &str, errors: &mut Errors) -> KeyReference {
    let mut reference = KeyReference::new(section.required_text(name, errors), section.required_text(key, errors));
    reference.optional = section.flag("optional", errors).unwrap_or_default();
    reference
}

fn resources(mut container: Container, section: &mut Section, errors: &mut Errors) -> Container {
    let Some(mut resources) = section.section("resources", errors) else { return container };
    for (name, quantity) in resources.quantities("requests", errors) {
        container = container.request(name, quantity);
    }
    for (name, quantity) in resources.quantities("limits", errors) {
        container = container.limit(name, quantity);
    }
    resources.end(errors);
    container
}

fn tolerations(definition: &mut Section, errors: &mut Errors) -> Vec<Toleration> {
    let entries = definition.sections("tolerations", errors).into_iter();
    let tolerations = entries.map(|mut entry| {
        let toleration = Toleration {
            key: entry.text("key", errors),
            operator: entry.text("operator", errors),
            value: entry.text("value", errors),
            effect: entry.text("effect", errors),
            toleration_seconds: entry
                .count("tolerationSeconds", errors)
                .or_else(|| entry.count("toleration_seconds", errors)),
            ..Toleration::default()
        };
        if toleration.operator.as_deref().is_some_and(|operator| !["Exists", "Equal"].contains(&operator)) {
            entry.wrong("operator", "must be Exists or Equal", errors);
        }
        let effects = ["NoSchedule", "PreferNoSchedule", "NoExecute"];
        if toleration.effect.as_deref().is_some_and(|effect| !effects.contains(&effect)) {
            entry.wrong("effect", "must be NoSchedule, PreferNoSchedule or NoExecute", errors);
        }
        if toleration.key.is_none() && toleration.operator.as_deref() != Some("Exists") {
            entry.wrong("key", "is required unless the operator is Exists", errors);
        }
        entry.end(errors);
        toleration
    });
    tolerations.collect()
}

/// `image_pull_secrets`: a name, a list of names, or a list of maps with a `name` as in Kubernetes.
fn pull_secrets(definition: &mut Section, errors: &mut Errors) -> Vec<String> {
    let key = "image_pull_secrets";
    let entries = match definition.take(key) {
        None => Vec::new(),
        Some(Value::Array(entries)) => entries,
        Some(entry) => vec![entry],
    };
    let named =
        |entry: &Value| entry.get("name").unwrap_or(entry).as_str().filter(|name| !name.is_empty()).map(str::to_owned);
    let names: Option<Vec<_>> = entries.iter().map(named).collect();
    names.unwrap_or_else(|| {
        definition.wrong(key, "must be the name of a secret or a list of such names", errors);
        Vec::new()
    })
}

fn security(definition: &mut Section, errors: &mut Errors) -> Security {
    let Some(mut section) = definition.section("security", errors) else { return Security::default() };
    let security = Security {
        run_as_user: section.count("run_as_user", errors),
        run_as_group: section.count("run_as_group", errors),
        fs_group: section.count("fs_group", errors),
        service_account_token: section.flag("service_account_token", errors).unwrap_or_default(),
        privilege_escalation: section.flag("privilege_escalation", errors).unwrap_or_default(),
        seccomp_unconfined: section.flag("seccomp_unconfined", errors).unwrap_or_default(),
        ..Security::default()
    };
    section.end(errors);
    security
}

fn pod_patch(definition: &mut Section, errors: &mut Errors) -> Option<String> {
    let patch = definition.take("pod_patch")?;
    let is_operation = |step: &Value| ["op", "path"].iter().all(|&key| step.get(key).is_some_and(Value::is_string));
    if patch.as_array().is_some_and(|steps| steps.iter().all(is_operation)) {
        return Some(patch.to_string());
    }
    definition.wrong("pod_patch", "must be a JSON patch: a list of maps with 'op' and 'path'", errors);
    None
}
