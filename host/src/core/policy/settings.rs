//! The keys of `policy` in the configuration.

use serde::{Deserialize, Serialize};

use crate::core::quantity::Quantity;

/// Bounds of plans. In every list of patterns `*` stands for any characters and an empty list allows no name at all; what a plan leaves
/// out is always allowed. Where people deploy processors whom you do not trust, narrow `images`, `secrets`, `config_maps` and `claims`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Settings {
    /// Image references, matched as the plan writes them. Default: all.
    pub images: Vec<String>,
    /// The most CPU that one container may request and use, `2` or `500m` say; also the limit of containers that name none. Default: no bound.
    pub max_cpu: Option<String>,
    /// The most memory that one container may request and use, `4Gi` say; also the limit of containers that name none. Default: no bound.
    pub max_memory: Option<String>,
    /// Service accounts. Default: none, only the namespace's default.
    pub service_accounts: Vec<String>,
    /// Priority classes. Default: none, only the cluster's default.
    pub priority_classes: Vec<String>,
    /// Queues that admit jobs. Default: all.
    pub queues: Vec<String>,
    /// The longest time from start to forced end, in seconds, 1 to 31,536,000. Default: 86,400, a day.
    pub max_deadline_seconds: u32,
    /// The deadline of plans that name none, in seconds. Default: the longest.
    pub default_deadline_seconds: Option<u32>,
    /// Kinds of volumes. Default: all four; there is none that reaches into the node.
    pub volumes: Vec<VolumeKind>,
    /// Persistent volume claims. Default: all of the namespace.
    pub claims: Vec<String>,
    /// Secrets, in variables, in volumes and for pulling images. Default: all of the namespace.
    pub secrets: Vec<String>,
    /// Config maps, in variables and in volumes. Default: all of the namespace.
    pub config_maps: Vec<String>,
    /// What plans may relax of the safe defaults. Default: nothing.
    pub security: Vec<Relaxation>,
    /// Whether plans may patch the pod template, which circumvents all other rules. Default: no.
    pub pod_patch: bool,
    /// Containers of one plan, init containers too, 1 to 100. Default: 16.
    pub max_containers: usize,
    /// How often a plan may have a failed run tried again, 0 to 100. Default: 6.
    pub max_retries: u32,
    /// Names and values of one container's literal variables, in bytes, at most 1,048,576. Default: 98,304; Linux takes no single text over 131,072.
    pub max_literal_env_bytes: usize,
}

/// A kind of volume.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum VolumeKind {
    /// A persistent volume claim.
    Claim,
    /// Space that lives as long as the run.
    EmptyDir,
    /// The keys of a config map as files.
    ConfigMap,
    /// The keys of a secret as files.
    Secret,
}

impl VolumeKind {
    /// The word of the configuration.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Claim => "claim",
            Self::EmptyDir => "empty-dir",
            Self::ConfigMap => "config-map",
            Self::Secret => "secret",
        }
    }
}

/// A safe default that a plan may want to relax.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Relaxation {
    /// Choosing the user.
    RunAsUser,
    /// Choosing the group.
    RunAsGroup,
    /// Choosing the group of volumes.
    FsGroup,
    /// Mounting the service account's token.
    ServiceAccountToken,
    /// Gaining privileges, by setuid programs say.
    PrivilegeEscalation,
    /// System calls without the runtime's filter.
    SeccompUnconfined,
}

impl Relaxation {
    /// The word of the configuration.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::RunAsUser => "run-as-user",
            Self::RunAsGroup => "run-as-group",
            Self::FsGroup => "fs-group",
            Self::ServiceAccountToken => "service-account-token",
            Self::PrivilegeEscalation => "privilege-escalation",
            Self::SeccompUnconfined => "seccomp-unconfined",
        }
    }
}

impl Default for Settings {
    fn default() -> Self {
        let all = || vec!["*".to_owned()];
        Self {
            images: all(),
            max_cpu: None,
            max_memory: None,
            service_accounts: Vec::new(),
            priority_classes: Vec::new(),
            queues: all(),
            max_deadline_seconds: 86_400,
            default_deadline_seconds: None,
            volumes: vec![VolumeKind::Claim, VolumeKind::EmptyDir, VolumeKind::ConfigMap, VolumeKind::Secret],
            claims: all(),
            secrets: all(),
            config_maps: all(),
            security: Vec::new(),
            pod_patch: false,
            max_containers: 16,
            max_retries: 6,
            max_literal_env_bytes: 96 * 1024,
        }
    }
}

impl Settings {
    /// The two quantities, or everything that is wrong.
    pub(super) fn check(&self) -> Result<(Option<Quantity>, Option<Quantity>), Vec<String>> {
        let mut wrong = Vec::new();
        let mut quantity = |key: &str, text: &Option<String>| {
            let parsed = text.as_deref().map(str::parse::<Quantity>).transpose();
            parsed.unwrap_or_else(|error| {
                wrong.push(format!("policy.{key}: {error}"));
                None
            })
        };
        let quantities = (quantity("max_cpu", &self.max_cpu), quantity("max_memory", &self.max_memory));
        let mut bound = |key: &str, is_right: bool, allowed: &str| {
            if !is_right {
                wrong.push(format!("policy.{key}: must be {allowed}"));
            }
        };
        bound("max_deadline_seconds", (1..=31_536_000).contains(&self.max_deadline_seconds), "1 to 31536000");
        bound(
            "default_deadline_seconds",
            self.default_deadline_seconds.is_none_or(|default| (1..=self.max_deadline_seconds).contains(&default)),
            "1 to max_deadline_seconds",
        );
        bound("max_containers", (1..=100).contains(&self.max_containers), "1 to 100");
        bound("max_retries", self.max_retries <= 100, "0 to 100");
        bound("max_literal_env_bytes", self.max_literal_env_bytes <= 1024 * 1024, "at most 1048576");
        for (key, patterns) in [
            ("images", &self.images),
            ("service_accounts", &self.service_accounts),
            ("priority_classes", &self.priority_classes),
            ("queues", &self.queues),
            ("claims", &self.claims),
            ("secrets", &self.secrets),
            ("config_maps", &self.config_maps),
        ] {
            let is_pattern =
                |text: &String| !text.is_empty() && !text.contains(|c: char| c.is_whitespace() || c.is_control());
            bound(key, patterns.iter().all(is_pattern), "a list of patterns without blanks, none empty");
        }
        if wrong.is_empty() { Ok(quantities) } else { Err(wrong) }
    }
}
