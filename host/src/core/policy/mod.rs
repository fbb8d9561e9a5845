//! What the operator lets plans ask for. The host trusts no plan: one outside these bounds is refused with the rule's name.

mod glob;
mod settings;
#[cfg(test)]
mod tests;

use super::JobPlan;
use super::plan::{Container, EnvValue, VolumeSource};
use super::quantity::Quantity;

pub use settings::{Relaxation, Settings, VolumeKind};

/// Settings that were checked.
#[derive(Debug, Clone, Default)]
pub struct Policy {
    settings: Settings,
    max_cpu: Option<Quantity>,
    max_memory: Option<Quantity>,
}

/// One rule that a plan breaks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PolicyViolation {
    /// The configuration's key, `policy.images` say.
    pub rule: &'static str,
    /// What the plan asks for and what is allowed, one sentence in lower case without a full stop.
    pub message: String,
}

impl Policy {
    /// Checks the settings.
    ///
    /// # Errors
    /// Everything that is wrong with them, each text beginning with the configuration's key.
    pub fn new(settings: &Settings) -> Result<Self, Vec<String>> {
        let (max_cpu, max_memory) = settings.check()?;
        Ok(Self { settings: settings.clone(), max_cpu, max_memory })
    }

    /// Every rule that the plan breaks.
    #[must_use]
    pub fn check(&self, plan: &JobPlan) -> Vec<PolicyViolation> {
        let mut found = Found { violations: Vec::new() };
        let settings = &self.settings;
        let count = plan.all_containers().count();
        if count > settings.max_containers {
            found.add(
                "policy.max_containers",
                format!("the plan has {count} containers; {} are allowed", settings.max_containers),
            );
        }
        for container in plan.all_containers() {
            self.container(container, &mut found);
        }
        for volume in &plan.volumes {
            self.volume(&volume.name, &volume.source, &mut found);
        }
        for secret in &plan.image_pull_secrets {
            found.pattern("policy.secrets", &settings.secrets, "image pull secret", secret);
        }
        for (rule, patterns, what, name) in [
            ("policy.service_accounts", &settings.service_accounts, "service account", &plan.service_account),
            ("policy.priority_classes", &settings.priority_classes, "priority class", &plan.priority_class),
            ("policy.queues", &settings.queues, "queue", &plan.queue),
        ] {
            if let Some(name) = name {
                found.pattern(rule, patterns, what, name);
            }
        }
        if let Some(deadline) = plan.deadline_seconds.filter(|deadline| *deadline > settings.max_deadline_seconds) {
            let most = settings.max_deadline_seconds;
            found.add("policy.max_deadline_seconds", format!("the deadline is {deadline} s; {most} s are allowed"));
        }
        if plan.retries > settings.max_retries {
            let most = settings.max_retries;
            found.add("policy.max_retries", format!("the plan asks for {} retries; {most} are allowed", plan.retries));
        }
        self.security(plan, &mut found);
        if plan.pod_patch.is_some() && !settings.pod_patch {
            found.add("policy.pod_patch", "the plan patches the pod, which is not allowed".to_owned());
        }
        found.violations
    }

    /// Fills what the plan leaves open and the policy bounds: the deadline, and the limits of containers that name none.
    pub fn bound(&self, plan: &mut JobPlan) {
        let settings = &self.settings;
        let deadline = settings.default_deadline_seconds.unwrap_or(settings.max_deadline_seconds);
        plan.deadline_seconds.get_or_insert(deadline);
        for container in plan.init_containers.iter_mut().chain(&mut plan.containers) {
            for (resource, most) in [("cpu", &settings.max_cpu), ("memory", &settings.max_memory)] {
                if let Some(most) = most {
                    container.resources.limits.entry(resource.to_owned()).or_insert_with(|| most.clone());
                }
            }
        }
    }

    fn container(&self, container: &Container, found: &mut Found) {
        let settings = &self.settings;
        let name = &container.name;
        found.pattern("policy.images", &settings.images, "image", &container.image);
        for (rule, resource, most) in
            [("policy.max_cpu", "cpu", self.max_cpu), ("policy.max_memory", "memory", self.max_memory)]
        {
            let Some(most) = most else { continue };
            for (kind, amounts) in [("request", &container.resources.requests), ("limit", &container.resources.limits)]
            {
                let Some(amount) = amounts.get(resource) else { continue };
                if !amount.parse::<Quantity>().is_ok_and(|amount| amount <= most) {
                    found.add(
                        rule,
                        format!("the {resource} {kind} of container '{name}' is {amount}; {most} is allowed"),
                    );
                }
            }
        }
        let mut literals = 0_usize;
        for variable in &container.env {
            match &variable.value {
                EnvValue::Literal(text) => {
                    literals = literals.saturating_add(variable.name.len()).saturating_add(text.len());
                }
                EnvValue::SecretKey(key) => found.pattern("policy.secrets", &settings.secrets, "secret", &key.name),
                EnvValue::ConfigMapKey(key) => {
                    found.pattern("policy.config_maps", &settings.config_maps, "config map", &key.name);
                }
                EnvValue::Inputs => {}
            }
        }
        if literals > settings.max_literal_env_bytes {
            let most = settings.max_literal_env_bytes;
            let message =
                format!("the literal variables of container '{name}' have {literals} bytes; {most} are allowed");
            found.add("policy.max_literal_env_bytes", message);
        }
    }

    fn volume(&self, volume: &str, source: &VolumeSource, found: &mut Found) {
        let settings = &self.settings;
        let (kind, named) = match source {
            VolumeSource::Claim { claim_name, .. } => {
                (VolumeKind::Claim, Some(("policy.claims", &settings.claims, "claim", claim_name)))
            }
            VolumeSource::EmptyDir { .. } => (VolumeKind::EmptyDir, None),
            VolumeSource::ConfigMap { name, .. } => {
                (VolumeKind::ConfigMap, Some(("policy.config_maps", &settings.config_maps, "config map", name)))
            }
            VolumeSource::Secret { name, .. } => {
                (VolumeKind::Secret, Some(("policy.secrets", &settings.secrets, "secret", name)))
            }
        };
        if !settings.volumes.contains(&kind) {
            found.add(
                "policy.volumes",
                format!("volume '{volume}' is of the kind '{}', which is not allowed", kind.as_str()),
            );
        }
        if let Some((rule, patterns, what, name)) = named {
            found.pattern(rule, patterns, what, name);
        }
    }

    fn security(&self, plan: &JobPlan, found: &mut Found) {
        let asked = &plan.security;
        for (relaxation, is_asked) in [
            (Relaxation::RunAsUser, asked.run_as_user.is_some()),
            (Relaxation::RunAsGroup, asked.run_as_group.is_some()),
            (Relaxation::FsGroup, asked.fs_group.is_some()),
            (Relaxation::ServiceAccountToken, asked.service_account_token),
            (Relaxation::PrivilegeEscalation, asked.privilege_escalation),
            (Relaxation::SeccompUnconfined, asked.seccomp_unconfined),
        ] {
            if is_asked && !self.settings.security.contains(&relaxation) {
                found.add(
                    "policy.security",
                    format!("the plan asks for '{}', which is not allowed", relaxation.as_str()),
                );
            }
        }
    }
}

struct Found {
    violations: Vec<PolicyViolation>,
}

impl Found {
    fn add(&mut self, rule: &'static str, message: String) {
        let violation = PolicyViolation { rule, message };
        if !self.violations.contains(&violation) {
            self.violations.push(violation);
        }
    }

    fn pattern(&mut self, rule: &'static str, patterns: &[String], what: &str, name: &str) {
        if !patterns.iter().any(|pattern| glob::matches(pattern, name)) {
            let name: String = name.chars().take(120).collect();
            self.add(rule, format!("{what} '{}' is not allowed: no pattern matches it", name.escape_debug()));
        }
    }
}
