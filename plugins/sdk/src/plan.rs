//! Builders for the records of a plan, so that what is not used need not be written.

use memchr::memmem;
use serde_json::Value;

use crate::{
    ClaimSource, Container, EmptyDirSource, EnvValue, EnvVariable, ImagePullPolicy, KeyReference, Mount, ObjectSource,
    Pair, Plan, Resources, ResultRules, Security, Toleration, Volume, VolumeSource,
};

/// Whether this is the name of a variable that the host sets in containers, or may set one day: a plan must not set it.
#[must_use]
pub fn is_reserved_variable(name: &str) -> bool {
    matches!(
        name,
        "PYGEOAPI_JOB_ID" | "PYGEOAPI_PROCESS_ID" | "PYGEOAPI_K8S_MANAGER_INPUTS" | "PYGEOAPI_K8S_MANAGER_INPUTS_FILE"
    ) || name.starts_with("VESPIARY_")
}

/// Whether a line with this text could be taken for a marker of a result or of progress. A processor whose container prints text of the caller
/// without [`Plan::nonce`] rejects such text.
#[must_use]
pub fn holds_marker(text: &str) -> bool {
    let holds = |marker: &str| memmem::find(text.as_bytes(), marker.as_bytes()).is_some();
    holds("PYGEOAPI_K8S_MANAGER_RESULT_") || holds("VESPIARY_PROGRESS")
}

/// Whether there is a control character in it, a line end or an escape say: such a text may be more than one line of a log.
#[must_use]
pub fn holds_control(text: &str) -> bool {
    // The common answer in a loop of vector instructions. Controls beyond ASCII, U+0080 to U+009F, begin with C2 in UTF-8, as others do.
    let suspect = |byte: u8| byte < 0x20 || byte == 0x7F || byte == 0xC2;
    text.bytes().fold(false, |found, byte| found | suspect(byte)) && text.chars().any(char::is_control)
}

fn texts<I>(items: I) -> Vec<String>
where
    I: IntoIterator,
    I::Item: Into<String>,
{
    items.into_iter().map(Into::into).collect()
}

fn pair(name: impl Into<String>, value: impl Into<String>) -> Pair {
    Pair { name: name.into(), value: value.into() }
}

impl Plan {
    /// A plan of one container, with safe defaults and no retries.
    #[must_use]
    pub fn new(main: Container) -> Self {
        Self {
            containers: vec![main],
            init_containers: Vec::new(),
            volumes: Vec::new(),
            tolerations: Vec::new(),
            node_selector: Vec::new(),
            image_pull_secrets: Vec::new(),
            service_account: None,
            priority_class: None,
            queue: None,
            deadline_seconds: None,
            retries: 0,
            labels: Vec::new(),
            annotations: Vec::new(),
            security: Security::default(),
            results: ResultRules { container: None, default_media_type: None, nonce: false, extensions: String::new() },
            pod_patch: None,
            extensions: String::new(),
        }
    }

    /// Adds a container that runs beside the first.
    #[must_use]
    pub fn container(mut self, container: Container) -> Self {
        self.containers.push(container);
        self
    }

    /// Adds a container that must succeed before the others start.
    #[must_use]
    pub fn init_container(mut self, container: Container) -> Self {
        self.init_containers.push(container);
        self
    }

    /// Adds a volume for containers to mount.
    #[must_use]
    pub fn volume(mut self, volume: Volume) -> Self {
        self.volumes.push(volume);
        self
    }

    /// Adds a toleration.
    #[must_use]
    pub fn toleration(mut self, toleration: Toleration) -> Self {
        self.tolerations.push(toleration);
        self
    }

    /// Adds a label that a node must have.
    #[must_use]
    pub fn node_label(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        self.node_selector.push(pair(name, value));
        self
    }

    /// Adds a secret with which images are pulled.
    #[must_use]
    pub fn image_pull_secret(mut self, name: impl Into<String>) -> Self {
        self.image_pull_secrets.push(name.into());
        self
    }

    /// The service account of the run.
    #[must_use]
    pub fn service_account(mut self, name: impl Into<String>) -> Self {
        self.service_account = Some(name.into());
        self
    }

    /// The priority class of the run.
    #[must_use]
    pub fn priority_class(mut self, name: impl Into<String>) -> Self {
        self.priority_class = Some(name.into());
        self
    }

    /// The queue that admits the run (a LocalQueue of Kueue).
    #[must_use]
    pub fn queue(mut self, name: impl Into<String>) -> Self {
        self.queue = Some(name.into());
        self
    }

    /// Seconds from the start to a forced end, in place of the longest that the host's policy allows.
    #[must_use]
    pub fn deadline_seconds(mut self, seconds: u32) -> Self {
        self.deadline_seconds = Some(seconds);
        self
    }

    /// How often a failed run is tried again.
    #[must_use]
    pub fn retries(mut self, retries: u32) -> Self {
        self.retries = retries;
        self
    }

    /// Adds a label of the run.
    #[must_use]
    pub fn label(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        self.labels.push(pair(name, value));
        self
    }

    /// Adds an annotation of the run.
    #[must_use]
    pub fn annotation(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        self.annotations.push(pair(name, value));
        self
    }

    /// What is relaxed of the safe defaults; the host's policy must consent.
    #[must_use]
    pub fn security(mut self, security: Security) -> Self {
        self.security = security;
        self
    }

    /// The container whose log holds the result, in place of the first.
    #[must_use]
    pub fn result_container(mut self, name: impl Into<String>) -> Self {
        self.results.container = Some(name.into());
        self
    }

    /// The media type of the result when the container names none.
    #[must_use]
    pub fn default_media_type(mut self, media_type: impl Into<String>) -> Self {
        self.results.default_media_type = Some(media_type.into());
        self
    }

    /// Makes markers count only on lines with the job's nonce, which the container finds in `VESPIARY_RESULT_NONCE`.
    #[must_use]
    pub fn nonce(mut self) -> Self {
        self.results.nonce = true;
        self
    }

    /// A JSON patch (RFC 6902) of the finished pod template, for what has no field. The host's policy may forbid it.
    #[must_use]
    pub fn pod_patch(mut self, patch: &Value) -> Self {
        self.pod_patch = Some(patch.to_string());
        self
    }
}

impl Container {
    /// A container of this name (a DNS label) and image that runs the image's entry point.
    #[must_use]
    pub fn new(name: impl Into<String>, image: impl Into<String>) -> Self {
        Self {
            name: name.into(),
            image: image.into(),
            image_pull_policy: None,
            command: Vec::new(),
            args: Vec::new(),
            working_dir: None,
            env: Vec::new(),
            resources: Resources { requests: Vec::new(), limits: Vec::new(), extensions: String::new() },
            mounts: Vec::new(),
            extensions: String::new(),
        }
    }

    /// When the image is pulled.
    #[must_use]
    pub fn image_pull_policy(mut self, policy: ImagePullPolicy) -> Self {
        self.image_pull_policy = Some(policy);
        self
    }

    /// Replaces the image's entry point. Each text is one argument, no shell is involved: caller-given text is safe here, but not in
    /// the script of a shell that is called so.
    #[must_use]
    pub fn command<I>(mut self, command: I) -> Self
    where
        I: IntoIterator,
        I::Item: Into<String>,
    {
        self.command = texts(command);
        self
    }

    /// Arguments of the command or of the image's entry point.
    #[must_use]
    pub fn args<I>(mut self, args: I) -> Self
    where
        I: IntoIterator,
        I::Item: Into<String>,
    {
        self.args = texts(args);
        self
    }

    /// The working directory, in place of the image's.
    #[must_use]
    pub fn working_dir(mut self, path: impl Into<String>) -> Self {
        self.working_dir = Some(path.into());
        self
    }

    /// Sets a variable to this text. Caller-given text is safe here.
    #[must_use]
    pub fn env(self, name: impl Into<String>, text: impl Into<String>) -> Self {
        self.env_value(name, EnvValue::Literal(text.into()))
    }

    /// Sets a variable to a key of a secret, which must be there.
    #[must_use]
    pub fn env_from_secret(self, name: impl Into<String>, secret: impl Into<String>, key: impl Into<String>) -> Self {
        self.env_value(name, EnvValue::SecretKey(KeyReference::new(secret, key)))
    }

    /// Sets a variable to a key of a config map, which must be there.
    #[must_use]
    pub fn env_from_config_map(self, name: impl Into<String>, map: impl Into<String>, key: impl Into<String>) -> Self {
        self.env_value(name, EnvValue::ConfigMapKey(KeyReference::new(map, key)))
    }

    /// Sets a variable to the request's inputs as a JSON object, for a container that expects them under a name of its own. With inputs
    /// over 96 KiB such a plan is refused.
    #[must_use]
    pub fn env_inputs(self, name: impl Into<String>) -> Self {
        self.env_value(name, EnvValue::Inputs)
    }

    /// Sets a variable.
    #[must_use]
    pub fn env_value(mut self, name: impl Into<String>, value: EnvValue) -> Self {
        self.env.push(EnvVariable { name: name.into(), value, extensions: String::new() });
        self
    }

    /// Asks for this much of a resource: `request("memory", "1Gi")`.
    #[must_use]
    pub fn request(mut self, resource: impl Into<String>, quantity: impl Into<String>) -> Self {
        self.resources.requests.push(pair(resource, quantity));
        self
    }

    /// Limits a resource: `limit("memory", "2Gi")`.
    #[must_use]
    pub fn limit(mut self, resource: impl Into<String>, quantity: impl Into<String>) -> Self {
        self.resources.limits.push(pair(resource, quantity));
        self
    }

    /// Mounts a volume of the plan.
    #[must_use]
    pub fn mount(mut self, mount: Mount) -> Self {
        self.mounts.push(mount);
        self
    }
}

impl KeyReference {
    /// This key of the secret or config map of this name. The container does not start without it.
    #[must_use]
    pub fn new(name: impl Into<String>, key: impl Into<String>) -> Self {
        Self { name: name.into(), key: key.into(), optional: false, extensions: String::new() }
    }

    /// The container starts without it.
    #[must_use]
    pub fn optional(mut self) -> Self {
        self.optional = true;
        self
    }
}

impl Volume {
    /// A volume of this name (a DNS label) and source.
    #[must_use]
    pub fn new(name: impl Into<String>, source: VolumeSource) -> Self {
        Self { name: name.into(), source, extensions: String::new() }
    }

    /// A persistent volume claim.
    #[must_use]
    pub fn claim(name: impl Into<String>, claim: impl Into<String>, read_only: bool) -> Self {
        let source = ClaimSource { claim_name: claim.into(), read_only, extensions: String::new() };
        Self::new(name, VolumeSource::Claim(source))
    }

    /// Space that lives as long as the run: on the node's disk, or in `Memory`; at most `size_limit` (`2Gi` say).
    #[must_use]
    pub fn empty_dir(name: impl Into<String>, medium: Option<String>, size_limit: Option<String>) -> Self {
        Self::new(name, VolumeSource::EmptyDir(EmptyDirSource { medium, size_limit, extensions: String::new() }))
    }

    /// The keys of a config map as files.
    #[must_use]
    pub fn config_map(name: impl Into<String>, map: impl Into<String>) -> Self {
        Self::new(name, VolumeSource::ConfigMap(ObjectSource::new(map)))
    }

    /// The keys of a secret as files.
    #[must_use]
    pub fn secret(name: impl Into<String>, secret: impl Into<String>) -> Self {
        Self::new(name, VolumeSource::Secret(ObjectSource::new(secret)))
    }
}

impl ObjectSource {
    /// The secret or config map of this name; the run does not start without it.
    #[must_use]
    pub fn new(name: impl Into<String>) -> Self {
        Self { name: name.into(), optional: false, extensions: String::new() }
    }
}

impl Mount {
    /// Mounts the plan's volume of this name at an absolute path.
    #[must_use]
    pub fn new(volume: impl Into<String>, path: impl Into<String>) -> Self {
        Self {
            volume: volume.into(),
            mount_path: path.into(),
            sub_path: None,
            read_only: false,
            extensions: String::new(),
        }
    }

    /// Mounts this path inside the volume, in place of its root.
    #[must_use]
    pub fn sub_path(mut self, path: impl Into<String>) -> Self {
        self.sub_path = Some(path.into());
        self
    }

    /// Mounts it for reading only.
    #[must_use]
    pub fn read_only(mut self) -> Self {
        self.read_only = true;
        self
    }
}

impl Default for Toleration {
    /// Tolerates nothing until its members are set.
    fn default() -> Self {
        Self {
            key: None,
            operator: None,
            value: None,
            effect: None,
            toleration_seconds: None,
            extensions: String::new(),
        }
    }
}

impl Default for Security {
    /// Nothing relaxed.
    fn default() -> Self {
        Self {
            run_as_user: None,
            run_as_group: None,
            fs_group: None,
            service_account_token: false,
            privilege_escalation: false,
            seccomp_unconfined: false,
            extensions: String::new(),
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_plan_says_what_was_built_and_nothing_more() {
        let main = Container::new("main", "busybox")
            .command(["printf", "%s"])
            .args(vec!["x".to_owned()])
            .env("A", "1")
            .env_from_secret("B", "secret", "key")
            .env_inputs("C")
            .limit("memory", "1Gi")
            .mount(Mount::new("scratch", "/scratch").read_only());
        let plan = Plan::new(main)
            .volume(Volume::empty_dir("scratch", None, Some("1Gi".to_owned())))
            .deadline_seconds(60)
            .nonce()
            .pod_patch(&json!([{"op": "add", "path": "/spec/hostname", "value": "x"}]));
        let [container] = plan.containers.as_slice() else { panic!("one container") };
        assert_eq!((container.command.len(), container.args.len(), container.env.len()), (2, 1, 3));
        assert_eq!(container.env[1].value, EnvValue::SecretKey(KeyReference::new("secret", "key")));
        assert!(container.mounts[0].read_only && container.resources.requests.is_empty());
        assert!(plan.results.nonce && plan.results.container.is_none() && plan.retries == 0);
        assert_eq!(plan.security, Security::default());
        assert_eq!(plan.pod_patch.unwrap(), r#"[{"op":"add","path":"/spec/hostname","value":"x"}]"#);
    }

    #[test]
    fn markers_are_recognised_inside_a_text() {
        assert!(holds_marker("a PYGEOAPI_K8S_MANAGER_RESULT_END b"));
        assert!(holds_marker("VESPIARY_PROGRESS: 5"));
        assert!(!holds_marker("PYGEOAPI_JOB_ID"));
        for text in ["\0", "a\nb", "\x1B[2J", "\x7F", "\u{80}", "\u{9F}é"] {
            assert!(holds_control(text), "{text:?}");
        }
        for text in ["", "a b~", "é\u{A0}Ж 名", "\u{BF}"] {
            assert!(!holds_control(text), "{text:?}");
        }
        assert!(is_reserved_variable("PYGEOAPI_JOB_ID") && is_reserved_variable("VESPIARY_RESULT_NONCE"));
        assert!(!is_reserved_variable("PYGEOAPI_JOB_IDS"));
    }
}
