//! The pod of a run: where it may run, as whom, and with which volumes.

use k8s_openapi::api::core::v1::{
    ConfigMapVolumeSource, EmptyDirVolumeSource, KeyToPath, LocalObjectReference, PersistentVolumeClaimVolumeSource,
    PodSecurityContext, PodSpec, SeccompProfile, SecretVolumeSource, Toleration, Volume,
};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;

use super::container::Builder;
use super::secret::{Contents, INPUTS_KEY};
use crate::core::plan::{Container, Security, VolumeSource};
use crate::runner::kubernetes::settings::{PodSecurity, Settings};
use crate::runner::{Launch, environment};

/// Volume of the inputs, where they travel as a file.
pub(super) const INPUTS_VOLUME: &str = "vespiary-inputs";

/// Where it is mounted; the file has the name of its key.
pub(super) const INPUTS_FOLDER: &str = "/vespiary";

/// The pod's specification; what must be secret is put into `contents`.
pub(super) fn spec(settings: &Settings, launch: &Launch, contents: &mut Contents) -> PodSpec {
    let plan = &*launch.plan;
    let masked = launch.masked.as_ref().map(|masked| &*masked.plan);
    let mut builder = Builder::new(settings, launch, contents);
    let mut make = |containers: &[Container], masked: Option<&[Container]>, is_init: bool| -> Vec<_> {
        let masked = |index: usize| masked.and_then(|masked| masked.get(index));
        containers.iter().enumerate().map(|(index, one)| builder.container(one, masked(index), is_init)).collect()
    };
    let init = make(&plan.init_containers, masked.map(|plan| &*plan.init_containers), true);
    let containers = make(&plan.containers, masked.map(|plan| &*plan.containers), false);
    let mut volumes: Vec<_> = plan.volumes.iter().map(|volume| self::volume(&volume.name, &volume.source)).collect();
    if environment::inputs_in_file(launch) {
        volumes.push(Volume {
            name: INPUTS_VOLUME.to_owned(),
            secret: Some(SecretVolumeSource {
                secret_name: Some(contents.name().to_owned()),
                // Of the Secret only the inputs: what else is in it is for single containers.
                items: Some(vec![KeyToPath { key: INPUTS_KEY.to_owned(), path: INPUTS_KEY.to_owned(), mode: None }]),
                ..SecretVolumeSource::default()
            }),
            ..Volume::default()
        });
    }
    let pull_secret = |name: &String| LocalObjectReference { name: name.clone() };
    PodSpec {
        automount_service_account_token: Some(plan.security.service_account_token),
        containers,
        enable_service_links: Some(false),
        image_pull_secrets: some(plan.image_pull_secrets.iter().map(pull_secret).collect()),
        init_containers: some(init),
        node_selector: (!plan.node_selector.is_empty()).then(|| plan.node_selector.clone()),
        priority_class_name: plan.priority_class.clone(),
        restart_policy: Some("Never".to_owned()),
        security_context: Some(security_context(settings, &plan.security)),
        service_account_name: plan.service_account.clone(),
        termination_grace_period_seconds: Some(i64::from(settings.grace_seconds)),
        tolerations: some(plan.tolerations.iter().map(toleration).collect()),
        volumes: some(volumes),
        ..PodSpec::default()
    }
}

fn some<T>(items: Vec<T>) -> Option<Vec<T>> {
    (!items.is_empty()).then_some(items)
}

fn security_context(settings: &Settings, security: &Security) -> PodSecurityContext {
    let seccomp = if security.seccomp_unconfined { "Unconfined" } else { "RuntimeDefault" };
    PodSecurityContext {
        fs_group: security.fs_group.map(i64::from),
        run_as_group: security.run_as_group.map(i64::from),
        run_as_non_root: (settings.pod_security == PodSecurity::Restricted).then_some(true),
        run_as_user: security.run_as_user.map(i64::from),
        seccomp_profile: Some(SeccompProfile { type_: seccomp.to_owned(), ..SeccompProfile::default() }),
        ..PodSecurityContext::default()
    }
}

fn toleration(toleration: &crate::core::plan::Toleration) -> Toleration {
    Toleration {
        effect: toleration.effect.clone(),
        key: toleration.key.clone(),
        operator: toleration.operator.clone(),
        toleration_seconds: toleration.toleration_seconds.map(i64::from),
        value: toleration.value.clone(),
    }
}

fn volume(name: &str, source: &VolumeSource) -> Volume {
    let mut volume = Volume { name: name.to_owned(), ..Volume::default() };
    match source {
        VolumeSource::Claim { claim_name, read_only } => {
            volume.persistent_volume_claim = Some(PersistentVolumeClaimVolumeSource {
                claim_name: claim_name.clone(),
                read_only: read_only.then_some(true),
            });
        }
        VolumeSource::EmptyDir { medium, size_limit } => {
            volume.empty_dir =
                Some(EmptyDirVolumeSource { medium: medium.clone(), size_limit: size_limit.clone().map(Quantity) });
        }
        VolumeSource::ConfigMap { name, optional } => {
            volume.config_map = Some(ConfigMapVolumeSource {
                name: name.clone(),
                optional: optional.then_some(true),
                ..ConfigMapVolumeSource::default()
            });
        }
        VolumeSource::Secret { name, optional } => {
            volume.secret = Some(SecretVolumeSource {
                secret_name: Some(name.clone()),
                optional: optional.then_some(true),
                ..SecretVolumeSource::default()
            });
        }
    }
    volume
}
