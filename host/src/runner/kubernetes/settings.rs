//! The keys of `kubernetes` in the configuration.

use serde::{Deserialize, Serialize};

/// Settings of the Kubernetes runner. The cluster is the one of the service account, or else of `KUBECONFIG`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Settings {
    /// Namespace of the Jobs; absent: the service account's, or else the current context's.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub namespace: Option<String>,
    /// Put before the job's id in the names of its objects. Servers of one database share it, others in the namespace need another.
    pub job_name_prefix: String,
    /// Seconds for which a Job is kept after its end (`ttlSecondsAfterFinished`); the history of jobs does not depend on it.
    pub ttl_seconds_after_finished: u32,
    /// `baseline` or `restricted`: restricted also drops all capabilities and demands a user other than root.
    pub pod_security: PodSecurity,
    /// Seconds in which a job that is not held by a queue must have started, or it fails with the reason; 0: it may wait for ever.
    pub start_timeout_seconds: u32,
    /// Seconds between the request to stop and the end by force (`terminationGracePeriodSeconds`).
    pub grace_seconds: u32,
    /// Seconds after which a pod that is being deleted and whose node does not answer is given up.
    pub lost_after_seconds: u32,
    /// Deadline, in milliseconds, of one call to the API server, watches and logs aside.
    pub deadline_ms: u32,
    /// Seconds after which a watch is begun anew, at most 295; less than what load balancers allow an idle connection.
    pub watch_seconds: u32,
}

/// How strict the security context of pods is; the words of the Pod Security Standards.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum PodSecurity {
    /// No service account token, no privilege escalation, the runtime's seccomp profile.
    Baseline,
    /// Also no capabilities, and a user other than root.
    Restricted,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            namespace: None,
            job_name_prefix: "pygeoapi-job-".to_owned(),
            ttl_seconds_after_finished: 600,
            pod_security: PodSecurity::Baseline,
            start_timeout_seconds: 3600,
            grace_seconds: 10,
            lost_after_seconds: 60,
            deadline_ms: 10_000,
            watch_seconds: 180,
        }
    }
}

impl Settings {
    /// What is wrong, each with the key's name.
    #[must_use]
    pub fn violations(&self) -> Vec<String> {
        let mut wrong = Vec::new();
        let prefix = self.job_name_prefix.as_bytes();
        let is_label = |byte: &u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || *byte == b'-';
        if prefix.len() > 27 || !prefix.iter().all(is_label) || prefix.first() == Some(&b'-') {
            wrong.push(
                "job_name_prefix: must be at most 27 of a-z, 0-9 and '-', and not begin with '-': with the id it names a Job".to_owned(),
            );
        }
        if self.deadline_ms == 0 {
            wrong.push("deadline_ms: must be at least 1".to_owned());
        }
        if !(10..=295).contains(&self.watch_seconds) {
            wrong.push("watch_seconds: must be 10 to 295".to_owned());
        }
        wrong
    }
}
