//! Masking in the texts of a plan.

use std::collections::BTreeMap;

use memchr::memmem::Finder;
use serde_json::Value;

use super::MASK;
use crate::core::JobPlan;
use crate::core::plan::{Container, EnvValue, Toleration, VolumeSource};

/// So many values are looked for. With more of them every text of the plan is masked as a whole, which takes no time.
const MOST: usize = 1000;

pub(super) fn mask(plan: &JobPlan, values: &[String]) -> (JobPlan, bool) {
    let forms = if values.len() > MOST { Vec::new() } else { forms(values) };
    let finders = forms.iter().map(|form| Finder::new(form.as_bytes())).collect();
    let mut masking = Masking { finders, all: values.len() > MOST, found: false };
    let mut plan = plan.clone();
    if masking.all || !masking.finders.is_empty() {
        masking.plan(&mut plan);
    }
    (plan, masking.found)
}

pub(super) fn mask_literals(plan: &mut JobPlan) {
    for container in plan.init_containers.iter_mut().chain(&mut plan.containers) {
        for variable in &mut container.env {
            if let EnvValue::Literal(text) = &mut variable.value {
                MASK.clone_into(text);
            }
        }
    }
    for operation in plan.pod_patch.iter_mut().filter_map(Value::as_array_mut).flatten() {
        if let Some(value) = operation.get_mut("value") {
            *value = Value::from(MASK);
        }
    }
}

/// Each value as it is, and as it stands inside JSON text (with and without other characters than ASCII).
fn forms(values: &[String]) -> Vec<String> {
    let mut forms = Vec::new();
    for value in values.iter().filter(|value| !value.is_empty()) {
        let quoted = Value::String(value.clone()).to_string();
        let escaped = quoted.strip_prefix('"').and_then(|text| text.strip_suffix('"')).unwrap_or(&quoted);
        let mut ascii = String::new();
        for c in escaped.chars() {
            if c.is_ascii() {
                ascii.push(c);
            } else {
                ascii.extend(c.encode_utf16(&mut [0; 2]).iter().map(|unit| format!("\\u{unit:04x}")));
            }
        }
        forms.extend([value.clone(), escaped.to_owned(), ascii]);
    }
    forms.sort_unstable();
    forms.dedup();
    forms
}

struct Masking<'a> {
    finders: Vec<Finder<'a>>,
    all: bool,
    found: bool,
}

impl Masking<'_> {
    /// Every field of a plan, destructured so that a new one cannot be forgotten.
    fn plan(&mut self, plan: &mut JobPlan) {
        let JobPlan {
            containers,
            init_containers,
            volumes,
            tolerations,
            node_selector,
            image_pull_secrets,
            service_account,
            priority_class,
            queue,
            deadline_seconds: _,
            retries: _,
            labels,
            annotations,
            security: _,
            // Names of containers and what is found in their logs are bounded by the plan's own rules, and finalizing goes by them.
            results: _,
            pod_patch,
            extensions,
        } = plan;
        for container in init_containers.iter_mut().chain(containers) {
            self.container(container);
        }
        for volume in volumes {
            self.text(&mut volume.name);
            match &mut volume.source {
                VolumeSource::Claim { claim_name: name, .. }
                | VolumeSource::ConfigMap { name, .. }
                | VolumeSource::Secret { name, .. } => self.text(name),
                VolumeSource::EmptyDir { medium, size_limit } => self.texts(medium.iter_mut().chain(size_limit)),
            }
        }
        for toleration in tolerations {
            let Toleration { key, operator, value, effect, toleration_seconds: _ } = toleration;
            self.texts([key, operator, value, effect].into_iter().flatten());
        }
        self.texts(image_pull_secrets.iter_mut().chain(service_account).chain(priority_class).chain(queue));
        for pairs in [node_selector, labels, annotations] {
            self.pairs(pairs);
        }
        pod_patch.iter_mut().for_each(|patch| self.json(patch));
        self.json(extensions);
    }

    fn container(&mut self, container: &mut Container) {
        let Container {
            name: _,
            image,
            image_pull_policy: _,
            command,
            args,
            working_dir,
            env,
            resources,
            mounts,
            extensions,
        } = container;
        self.texts([image].into_iter().chain(command).chain(args).chain(working_dir));
        for variable in env {
            self.text(&mut variable.name);
            match &mut variable.value {
                EnvValue::Literal(text) => self.text(text),
                EnvValue::SecretKey(key) | EnvValue::ConfigMapKey(key) => self.texts([&mut key.name, &mut key.key]),
                EnvValue::Inputs => {}
            }
        }
        self.pairs(&mut resources.requests);
        self.pairs(&mut resources.limits);
        for mount in mounts {
            self.texts([&mut mount.volume, &mut mount.mount_path].into_iter().chain(&mut mount.sub_path));
        }
        self.json(extensions);
    }

    fn texts<'t>(&mut self, texts: impl IntoIterator<Item = &'t mut String>) {
        texts.into_iter().for_each(|text| self.text(text));
    }

    fn pairs(&mut self, pairs: &mut BTreeMap<String, String>) {
        *pairs = std::mem::take(pairs)
            .into_iter()
            .map(|(mut name, mut value)| {
                self.texts([&mut name, &mut value]);
                (name, value)
            })
            .collect();
    }

    fn json(&mut self, value: &mut Value) {
        match value {
            Value::String(text) => self.text(text),
            Value::Number(number) => {
                let mut text = number.to_string();
                if self.replace(&mut text) {
                    *value = Value::String(MASK.to_owned());
                }
            }
            Value::Array(elements) => elements.iter_mut().for_each(|element| self.json(element)),
            Value::Object(members) => {
                *members = std::mem::take(members)
                    .into_iter()
                    .map(|(mut name, mut member)| {
                        self.text(&mut name);
                        self.json(&mut member);
                        (name, member)
                    })
                    .collect();
            }
            Value::Null | Value::Bool(_) => {}
        }
    }

    fn text(&mut self, text: &mut String) {
        self.replace(text);
    }

    /// Replaces all occurrences, overlapping ones as one: nothing of either is left.
    fn replace(&mut self, text: &mut String) -> bool {
        if self.all {
            MASK.clone_into(text);
            self.found = true;
            return true;
        }
        let mut ranges: Vec<(usize, usize)> = Vec::new();
        for finder in &self.finders {
            let mut from = 0;
            while let Some(offset) = text.as_bytes().get(from..).and_then(|rest| finder.find(rest)) {
                ranges.push((from + offset, from + offset + finder.needle().len()));
                from += offset + 1;
            }
        }
        if ranges.is_empty() {
            return false;
        }
        ranges.sort_unstable();
        let mut masked = String::with_capacity(text.len());
        let mut end = 0;
        for (start, stop) in ranges {
            // Matches of UTF-8 in UTF-8 begin and end between characters.
            if start >= end {
                masked.push_str(text.get(end..start).unwrap_or_default());
                masked.push_str(MASK);
            }
            end = end.max(stop);
        }
        masked.push_str(text.get(end..).unwrap_or_default());
        *text = masked;
        self.found = true;
        true
    }
}
