//! One container: its environment, as every runner gives it, and its texts, which the cluster must not expand.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{
    Capabilities, ConfigMapKeySelector, Container, EnvVar, EnvVarSource, ResourceRequirements, SecretKeySelector,
    SecurityContext, VolumeMount,
};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;

use super::pod::{INPUTS_FOLDER, INPUTS_VOLUME};
use super::secret::{Contents, INPUTS_KEY};
use crate::core::plan::{self, EnvValue, ImagePullPolicy};
use crate::runner::kubernetes::settings::{PodSecurity, Settings};
use crate::runner::{Launch, environment};

/// Makes the containers of one pod.
pub(super) struct Builder<'a> {
    settings: &'a Settings,
    launch: &'a Launch,
    contents: &'a mut Contents,
}

impl<'a> Builder<'a> {
    pub(super) fn new(settings: &'a Settings, launch: &'a Launch, contents: &'a mut Contents) -> Self {
        if let Some(inputs) = &launch.inputs
            && (launch.has_secret_inputs() || environment::inputs_in_file(launch))
        {
            contents.put(INPUTS_KEY, inputs.get());
        }
        Self { settings, launch, contents }
    }

    /// A container of the plan; `masked` is the same one as others may see it.
    pub(super) fn container(
        &mut self,
        container: &plan::Container,
        masked: Option<&plan::Container>,
        is_init: bool,
    ) -> Container {
        let mut env: Vec<EnvVar> = container
            .env
            .iter()
            .enumerate()
            .map(|(index, variable)| {
                let masked = masked.and_then(|masked| masked.env.get(index));
                self.variable(variable, masked.is_some_and(|masked| masked.value != variable.value))
            })
            .collect();
        let command = self.texts(&container.command, masked.map(|masked| &*masked.command), &mut env);
        let args = self.texts(&container.args, masked.map(|masked| &*masked.args), &mut env);
        // Of two variables of one name the later wins: what the host promises comes last.
        self.promised(is_init, &mut env);
        let mut mounts: Vec<_> = container.mounts.iter().map(mount).collect();
        if !is_init && environment::inputs_in_file(self.launch) {
            mounts.push(VolumeMount {
                name: INPUTS_VOLUME.to_owned(),
                mount_path: INPUTS_FOLDER.to_owned(),
                read_only: Some(true),
                ..VolumeMount::default()
            });
        }
        Container {
            args: some(args),
            command: some(command),
            env: some(env),
            image: Some(container.image.clone()),
            image_pull_policy: container.image_pull_policy.map(|policy| pull_policy(policy).to_owned()),
            name: container.name.clone(),
            resources: resources(&container.resources),
            security_context: Some(self.security_context()),
            volume_mounts: some(mounts),
            working_dir: container.working_dir.clone(),
            ..Container::default()
        }
    }

    fn variable(&mut self, variable: &plan::EnvVariable, is_secret: bool) -> EnvVar {
        let name = &variable.name;
        match &variable.value {
            EnvValue::Literal(text) if is_secret => {
                let key = self.contents.add(text);
                from(name, self.contents.source(&key))
            }
            EnvValue::Literal(text) => literal(name, text),
            EnvValue::SecretKey(reference) => {
                let selector = SecretKeySelector {
                    name: reference.name.clone(),
                    key: reference.key.clone(),
                    optional: reference.optional.then_some(true),
                };
                from(name, EnvVarSource { secret_key_ref: Some(selector), ..EnvVarSource::default() })
            }
            EnvValue::ConfigMapKey(reference) => {
                let selector = ConfigMapKeySelector {
                    name: reference.name.clone(),
                    key: reference.key.clone(),
                    optional: reference.optional.then_some(true),
                };
                from(name, EnvVarSource { config_map_key_ref: Some(selector), ..EnvVarSource::default() })
            }
            EnvValue::Inputs => self.inputs(name),
        }
    }

    /// A variable with the inputs, which fit into one.
    fn inputs(&self, name: &str) -> EnvVar {
        match &self.launch.inputs {
            Some(_) if self.launch.has_secret_inputs() => from(name, self.contents.source(INPUTS_KEY)),
            Some(inputs) => literal(name, inputs.get()),
            None => literal(name, environment::NO_INPUTS),
        }
    }

    /// What the host promises every container, or every one but init containers.
    fn promised(&self, is_init: bool, env: &mut Vec<EnvVar>) {
        env.push(literal(environment::JOB_ID, &self.launch.job_id.to_string()));
        env.push(literal(environment::PROCESS_ID, self.launch.process_id.as_str()));
        if is_init {
            return;
        }
        if environment::inputs_in_file(self.launch) {
            env.push(literal(environment::INPUTS_FILE, &format!("{INPUTS_FOLDER}/{INPUTS_KEY}")));
        } else if self.launch.inputs.is_some() {
            env.push(self.inputs(environment::INPUTS));
        }
        if let Some(nonce) = &self.launch.nonce {
            env.push(literal(environment::RESULT_NONCE, nonce));
        }
    }

    /// Texts of a command. One that holds a secret is a variable from the Secret, which the cluster expands.
    fn texts(&mut self, texts: &[String], masked: Option<&[String]>, env: &mut Vec<EnvVar>) -> Vec<String> {
        let is_secret = |index: usize, text: &String| {
            masked.and_then(|masked| masked.get(index)).is_some_and(|masked| masked != text)
        };
        let mut written = Vec::with_capacity(texts.len());
        for (index, text) in texts.iter().enumerate() {
            if is_secret(index, text) {
                let key = self.contents.add(text);
                let name = format!("VESPIARY_{}", key.to_ascii_uppercase().replace('-', "_"));
                env.push(from(&name, self.contents.source(&key)));
                written.push(format!("$({name})"));
            } else {
                written.push(verbatim(text));
            }
        }
        written
    }

    fn security_context(&self) -> SecurityContext {
        let drop = Capabilities { drop: Some(vec!["ALL".to_owned()]), add: None };
        SecurityContext {
            allow_privilege_escalation: Some(self.launch.plan.security.privilege_escalation),
            capabilities: (self.settings.pod_security == PodSecurity::Restricted).then_some(drop),
            ..SecurityContext::default()
        }
    }
}

fn some<T>(items: Vec<T>) -> Option<Vec<T>> {
    (!items.is_empty()).then_some(items)
}

/// A text that the cluster hands on as it is. It reads `$(NAME)` as a variable and `$$` as `$`, and takes a `$` before other characters
/// than ASCII apart, so each `$` is doubled.
fn verbatim(text: &str) -> String {
    text.replace('$', "$$")
}

fn literal(name: &str, text: &str) -> EnvVar {
    EnvVar { name: name.to_owned(), value: Some(verbatim(text)), value_from: None }
}

fn from(name: &str, source: EnvVarSource) -> EnvVar {
    EnvVar { name: name.to_owned(), value: None, value_from: Some(source) }
}

const fn pull_policy(policy: ImagePullPolicy) -> &'static str {
    match policy {
        ImagePullPolicy::Always => "Always",
        ImagePullPolicy::IfNotPresent => "IfNotPresent",
        ImagePullPolicy::Never => "Never",
    }
}

fn resources(resources: &plan::Resources) -> Option<ResourceRequirements> {
    let amounts = |amounts: &BTreeMap<String, String>| {
        let amounts: BTreeMap<_, _> =
            amounts.iter().map(|(name, text)| (name.clone(), Quantity(text.clone()))).collect();
        (!amounts.is_empty()).then_some(amounts)
    };
    let (limits, requests) = (amounts(&resources.limits), amounts(&resources.requests));
    (limits.is_some() || requests.is_some()).then_some(ResourceRequirements { claims: None, limits, requests })
}

fn mount(mount: &plan::Mount) -> VolumeMount {
    VolumeMount {
        name: mount.volume.clone(),
        mount_path: mount.mount_path.clone(),
        sub_path: mount.sub_path.clone(),
        read_only: mount.read_only.then_some(true),
        ..VolumeMount::default()
    }
}
