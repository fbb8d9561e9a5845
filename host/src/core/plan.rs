//! The plan of a job: what a processor asks the runner to run. It mirrors `wit/v1` record by record and follows the
//! names of the Kubernetes API where there is one.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::Value;

/// What one job runs. JSON in `camelCase`, absent members left out.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct JobPlan {
    /// The containers; at least one. The first is the main container unless `results.container` names another.
    pub containers: Vec<Container>,
    /// Run one after another before the containers; each must succeed.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub init_containers: Vec<Container>,
    /// Volumes that containers mount by name.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub volumes: Vec<Volume>,
    /// Pod tolerations.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub tolerations: Vec<Toleration>,
    /// Labels that a node must have.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub node_selector: BTreeMap<String, String>,
    /// Names of image pull secrets.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub image_pull_secrets: Vec<String>,
    /// Service account of the pod.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub service_account: Option<String>,
    /// Priority class of the pod.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub priority_class: Option<String>,
    /// Name of the queue that admits the job (Kueue's LocalQueue).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub queue: Option<String>,
    /// Seconds from start to forced end (`activeDeadlineSeconds`); absent: the policy's longest.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub deadline_seconds: Option<u32>,
    /// How often a failed run is tried again (`backoffLimit`).
    pub retries: u32,
    /// Labels of the run, beside the host's own.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
    /// Annotations of the run, beside the host's own.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub annotations: BTreeMap<String, String>,
    /// What is relaxed of the safe defaults.
    pub security: Security,
    /// Where the result is and what it is.
    pub results: ResultRules,
    /// A JSON patch (RFC 6902) of the finished pod template, for what has no field yet.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pod_patch: Option<Value>,
    /// What a later minor version adds; an object, empty in version 1.0.
    #[serde(skip_serializing_if = "Value::is_null")]
    pub extensions: Value,
}

/// One container.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Container {
    /// Unique in the plan; a DNS label (RFC 1123).
    pub name: String,
    /// Image reference.
    pub image: String,
    /// When the image is pulled; absent: as the cluster decides.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub image_pull_policy: Option<ImagePullPolicy>,
    /// Replaces the image's entry point. Never goes through a shell.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub command: Vec<String>,
    /// Arguments of the command or entry point.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub args: Vec<String>,
    /// Working directory; absent: the image's.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub working_dir: Option<String>,
    /// Variables, beside those that the host sets.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub env: Vec<EnvVariable>,
    /// Requests and limits.
    pub resources: Resources,
    /// Where volumes appear.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub mounts: Vec<Mount>,
    /// As in [`JobPlan::extensions`].
    #[serde(skip_serializing_if = "Value::is_null")]
    pub extensions: Value,
}

/// `imagePullPolicy` of Kubernetes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum ImagePullPolicy {
    /// Ask the registry each time.
    Always,
    /// Only when the node lacks it.
    IfNotPresent,
    /// The node must have it.
    Never,
}

/// One environment variable.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct EnvVariable {
    /// Its name.
    pub name: String,
    /// Where its value comes from.
    pub value: EnvValue,
}

/// Where the value of a variable comes from.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum EnvValue {
    /// This text.
    Literal(String),
    /// A key of a secret; the server never sees the value.
    SecretKey(KeyReference),
    /// A key of a config map.
    ConfigMapKey(KeyReference),
    /// The request's inputs as a JSON object.
    Inputs,
}

/// A key of a secret or config map.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeyReference {
    /// Name of the object.
    pub name: String,
    /// Key in it.
    pub key: String,
    /// Whether the container starts without it.
    #[serde(default)]
    pub optional: bool,
}

/// Requests and limits: quantities of Kubernetes (`500m`, `1Gi`) by resource name.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Resources {
    /// What is set aside.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub requests: BTreeMap<String, String>,
    /// What it may use.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub limits: BTreeMap<String, String>,
}

/// A volume of the pod.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Volume {
    /// Unique in the plan; a DNS label.
    pub name: String,
    /// What it holds.
    pub source: VolumeSource,
}

/// What a volume holds. There is no host path, on purpose.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum VolumeSource {
    /// A persistent volume claim.
    #[serde(rename_all = "camelCase")]
    Claim {
        /// Its name.
        claim_name: String,
        /// Whether it is mounted for reading only.
        #[serde(default)]
        read_only: bool,
    },
    /// Space that lives as long as the run.
    #[serde(rename_all = "camelCase")]
    EmptyDir {
        /// `Memory`, or absent for the node's disk.
        #[serde(skip_serializing_if = "Option::is_none", default)]
        medium: Option<String>,
        /// A quantity.
        #[serde(skip_serializing_if = "Option::is_none", default)]
        size_limit: Option<String>,
    },
    /// The keys of a config map as files.
    ConfigMap {
        /// Its name.
        name: String,
        /// Whether the run starts without it.
        #[serde(default)]
        optional: bool,
    },
    /// The keys of a secret as files.
    Secret {
        /// Its name.
        name: String,
        /// Whether the run starts without it.
        #[serde(default)]
        optional: bool,
    },
}

/// Where a volume appears in a container.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Mount {
    /// Name of the volume.
    pub volume: String,
    /// Absolute path in the container.
    pub mount_path: String,
    /// Path inside the volume.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub sub_path: Option<String>,
    /// Whether it is for reading only.
    #[serde(default)]
    pub read_only: bool,
}

/// A toleration of Kubernetes.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Toleration {
    /// The taint's key; absent with `Exists` matches all.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub key: Option<String>,
    /// `Exists` or `Equal`; absent means `Equal`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub operator: Option<String>,
    /// The taint's value.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub value: Option<String>,
    /// `NoSchedule`, `PreferNoSchedule` or `NoExecute`; absent matches all.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub effect: Option<String>,
    /// How long a `NoExecute` taint is tolerated.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub toleration_seconds: Option<u32>,
}

/// What a plan relaxes of the safe defaults; each one needs the policy's consent.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Security {
    /// `runAsUser`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub run_as_user: Option<u32>,
    /// `runAsGroup`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub run_as_group: Option<u32>,
    /// `fsGroup`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub fs_group: Option<u32>,
    /// Mounts the service account's token.
    pub service_account_token: bool,
    /// `allowPrivilegeEscalation`.
    pub privilege_escalation: bool,
    /// Seccomp `Unconfined` instead of `RuntimeDefault`.
    pub seccomp_unconfined: bool,
}

/// Where the result is and what it is.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ResultRules {
    /// The container whose log holds the result; absent: the first.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub container: Option<String>,
    /// Media type when no marker names one; absent: from the description of the outputs.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub default_media_type: Option<String>,
    /// Whether markers only count with the job's nonce, which the container finds in `VESPIARY_RESULT_NONCE`.
    pub nonce: bool,
}

impl JobPlan {
    /// The container whose log holds the result.
    #[must_use]
    pub fn result_container(&self) -> Option<&str> {
        self.results.container.as_deref().or_else(|| self.containers.first().map(|first| first.name.as_str()))
    }

    /// Init containers, then containers, in the order of the plan.
    pub fn all_containers(&self) -> impl Iterator<Item = &Container> {
        self.init_containers.iter().chain(&self.containers)
    }
}
