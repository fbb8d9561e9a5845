//! A look at the cluster's objects of ours, by lists and without a watch, and letting single ones go.

use std::time::Duration;

use async_trait::async_trait;
use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::{ContainerStateTerminated, Pod, Secret};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time};
use kube::Api;
use kube::api::ListParams;
use kube::core::{ObjectList, PartialObjectMeta};

use super::cluster::Cluster;
use super::connect::{OpenError, connect_from};
use super::failure::CallError;
use super::names::{INCOMPLETE, JOB_ID, is_held};
use super::settings::Settings;
use super::{release, rights, scope};
use crate::core::Timestamp;
use crate::runner::RunnerError;
use crate::runner::inspection::{FoundObject, Inspection, Inspector, MissingRight, ObjectKind, PlaceFrom, Stage};

/// Objects in one answer.
const PAGE: u32 = 500;

/// The objects of one instance in its namespace.
pub struct KubernetesInspector {
    cluster: Cluster,
    from: PlaceFrom,
    scope: String,
}

impl KubernetesInspector {
    /// Finds the cluster, which is not called yet.
    pub async fn open(settings: Settings) -> Result<Self, OpenError> {
        let (cluster, from) = connect_from(settings).await?;
        Ok(Self { from, ..Self::of(cluster) })
    }

    pub(super) fn of(cluster: Cluster) -> Self {
        let scope = scope(&cluster);
        Self { cluster, from: PlaceFrom::Configuration, scope }
    }

    async fn jobs(&self, into: &mut Vec<FoundObject>) -> Result<(), CallError> {
        let api = self.cluster.jobs();
        let mut next = Some(self.first());
        while let Some(page) = next {
            let found: ObjectList<Job> = self.cluster.call(|| api.list(&page)).await?;
            next = following(&page, found.metadata.continue_);
            into.extend(found.items.into_iter().filter_map(|job| {
                let stage = stage_of_job(&job);
                // As in the view: another's Job that has our labels is none of ours.
                let name = |object: &FoundObject| object.name == self.cluster.names.job(object.job_id);
                found_object(ObjectKind::Job, job.metadata, stage).filter(name)
            }));
        }
        Ok(())
    }

    async fn pods(&self, into: &mut Vec<FoundObject>) -> Result<(), CallError> {
        let api = self.cluster.pods();
        let (now, patience) = (Timestamp::now(), self.gives_up_after());
        let mut next = Some(self.first());
        while let Some(page) = next {
            let found: ObjectList<Pod> = self.cluster.call(|| api.list(&page)).await?;
            next = following(&page, found.metadata.continue_);
            into.extend(found.items.into_iter().filter_map(|pod| {
                let stage = stage_of_pod(&pod, patience, now);
                found_object(ObjectKind::Pod, pod.metadata, stage)
            }));
        }
        Ok(())
    }

    async fn secrets(&self, into: &mut Vec<FoundObject>) -> Result<(), CallError> {
        let api = self.secrets_api();
        let mut next = Some(self.first());
        while let Some(page) = next {
            // Never what is in them.
            let found: ObjectList<PartialObjectMeta<Secret>> = self.cluster.call(|| api.list_metadata(&page)).await?;
            next = following(&page, found.metadata.continue_);
            let secrets = found.items.into_iter();
            into.extend(secrets.filter_map(|secret| found_object(ObjectKind::Secret, secret.metadata, Stage::Alive)));
        }
        Ok(())
    }

    fn secrets_api(&self) -> Api<Secret> {
        Api::namespaced(self.cluster.client.clone(), &self.cluster.namespace)
    }

    fn first(&self) -> ListParams {
        ListParams::default().labels(&self.cluster.names.selector()).limit(PAGE)
    }
}

/// What asks for the next page, if there is one.
fn following(page: &ListParams, token: Option<String>) -> Option<ListParams> {
    token.filter(|token| !token.is_empty()).map(|token| page.clone().continue_token(&token))
}

/// The object, if it is one of a job's.
fn found_object(kind: ObjectKind, meta: ObjectMeta, stage: Stage) -> Option<FoundObject> {
    let job_id = meta.labels.as_ref()?.get(JOB_ID)?.parse().ok()?;
    let held = is_held(&meta);
    let created = meta.creation_timestamp.as_ref().map_or(Timestamp::from_millis(0), moment);
    Some(FoundObject { job_id, kind, name: meta.name?, uid: meta.uid?, created, held, stage })
}

fn moment(time: &Time) -> Timestamp {
    Timestamp::from_millis(time.0.as_millisecond())
}

fn stage_of_job(job: &Job) -> Stage {
    let status = job.status.as_ref();
    let mut conditions = status.and_then(|status| status.conditions.as_deref()).unwrap_or_default().iter();
    let over = conditions.find(|one| matches!(one.type_.as_str(), "Complete" | "Failed") && one.status == "True");
    let since = over.and_then(|over| over.last_transition_time.as_ref());
    match (over, &job.metadata.deletion_timestamp) {
        (Some(_), deleted) => {
            let since = since.or(deleted.as_ref()).or(job.metadata.creation_timestamp.as_ref());
            Stage::Ended(since.map_or(Timestamp::from_millis(0), moment))
        }
        // It makes no pod any more; those that it made speak for themselves.
        (None, Some(deleted)) => Stage::Ended(moment(deleted)),
        (None, None) => {
            let annotations = job.metadata.annotations.as_ref();
            let is_incomplete = annotations.is_some_and(|annotations| annotations.contains_key(INCOMPLETE));
            if is_incomplete { Stage::Incomplete } else { Stage::Alive }
        }
    }
}

/// How each container of a pod ended that has; init containers are left out.
fn ends(pod: &Pod) -> impl Iterator<Item = Option<&ContainerStateTerminated>> {
    let statuses = pod.status.iter().filter_map(|status| status.container_statuses.as_ref()).flatten();
    statuses.map(|one| one.state.as_ref().and_then(|state| state.terminated.as_ref()))
}

/// Whether nothing runs in a pod any more. Its phase says so a second later than its containers.
pub(super) fn has_ended(pod: &Pod) -> bool {
    let phase = pod.status.as_ref().and_then(|status| status.phase.as_deref());
    let expected = pod.spec.as_ref().map_or(usize::MAX, |spec| spec.containers.len());
    matches!(phase, Some("Succeeded" | "Failed"))
        || (ends(pod).count() >= expected && ends(pod).all(|end| end.is_some()))
}

/// `patience` is what a server has with a pod that is being deleted; the time of its deletion counts its grace period already.
fn stage_of_pod(pod: &Pod, patience: Duration, now: Timestamp) -> Stage {
    let gone_by = pod.metadata.deletion_timestamp.as_ref().map(|deleted| moment(deleted) + patience);
    let unended = gone_by.filter(|gone_by| *gone_by <= now).map_or(Stage::Alive, Stage::Lost);
    if !has_ended(pod) {
        return unended;
    }
    let last = ends(pod).flatten().filter_map(|end| end.finished_at.as_ref()).map(moment).max();
    let created = pod.metadata.creation_timestamp.as_ref().map(moment);
    Stage::Ended(last.or(created).unwrap_or(Timestamp::from_millis(0)))
}

#[async_trait]
impl Inspector for KubernetesInspector {
    fn place(&self) -> String {
        format!("namespace '{}'", self.cluster.namespace)
    }

    fn place_from(&self) -> PlaceFrom {
        self.from
    }

    fn gives_up_after(&self) -> Duration {
        let settings = &self.cluster.settings;
        Duration::from_secs(u64::from(settings.grace_seconds.saturating_add(settings.lost_after_seconds)))
    }

    fn scope(&self) -> Option<&str> {
        Some(&self.scope)
    }

    async fn look(&self) -> Result<Inspection, RunnerError> {
        let mut seen = Inspection::default();
        match self.secrets(&mut seen.objects).await {
            Ok(()) => {}
            // The server does not need it and should not have it: it would let it read every Secret of the namespace.
            Err(error) if error.is_forbidden() => {
                seen.unseen.push("Secrets without a Job: this identity may not list Secrets, which is right for a server; look with an administrator's kubeconfig".to_owned());
            }
            Err(error) => return Err(error.into_unavailable("list our Secrets")),
        }
        self.pods(&mut seen.objects).await.map_err(|error| error.into_unavailable("list our pods"))?;
        self.jobs(&mut seen.objects).await.map_err(|error| error.into_unavailable("list our Jobs"))?;
        Ok(seen)
    }

    async fn missing_rights(&self) -> Result<Vec<MissingRight>, RunnerError> {
        rights::missing(&self.cluster).await
    }

    async fn let_go(&self, object: &FoundObject) -> Result<(), RunnerError> {
        let (cluster, uid) = (&self.cluster, Some(object.uid.as_str()));
        match object.kind {
            ObjectKind::Job => release::let_go::<Job>(cluster, &object.name, uid).await,
            ObjectKind::Pod => release::let_go::<Pod>(cluster, &object.name, uid).await,
            ObjectKind::Secret => {
                let deleted = cluster.delete(&self.secrets_api(), &object.name, &object.uid).await;
                deleted.map_err(|error| error.into_unavailable("delete the Secret"))
            }
            ObjectKind::Run => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    const FINISHED: i64 = 1_767_323_045_000;

    fn job(status: Value, meta: Value) -> Job {
        let job =
            json!({ "metadata": meta, "spec": { "template": { "spec": { "containers": [] } } }, "status": status });
        serde_json::from_value(job).unwrap()
    }

    fn pod(phase: &str, states: &[Value]) -> Pod {
        let containers: Vec<_> = (0..2).map(|n| json!({ "name": format!("c{n}"), "image": "i" })).collect();
        let statuses: Vec<_> = states
            .iter()
            .map(|state| json!({ "name": "c", "image": "i", "imageID": "", "ready": false, "restartCount": 0, "state": state }))
            .collect();
        let pod = json!({ "metadata": { "creationTimestamp": "2026-01-02T03:00:00Z" }, "spec": { "containers": containers },
            "status": { "phase": phase, "containerStatuses": statuses } });
        serde_json::from_value(pod).unwrap()
    }

    fn stage(pod: &Pod) -> Stage {
        stage_of_pod(pod, Duration::from_secs(70), Timestamp::from_millis(FINISHED))
    }

    #[test]
    fn a_pod_has_ended_when_all_its_containers_have() {
        let over = json!({ "terminated": { "exitCode": 0, "finishedAt": "2026-01-02T03:04:05Z" } });
        let runs = json!({ "running": {} });
        let ended = Stage::Ended(Timestamp::from_millis(FINISHED));
        assert_eq!(stage(&pod("Running", &[over.clone(), over.clone()])), ended);
        assert_eq!(stage(&pod("Running", &[over.clone(), runs])), Stage::Alive);
        // The other one has no status yet.
        assert_eq!(stage(&pod("Pending", &[over])), Stage::Alive);
        assert_eq!(stage(&pod("Failed", &[])), Stage::Ended(Timestamp::from_millis(FINISHED - 245_000)));
    }

    #[test]
    fn a_pod_whose_node_does_not_say_that_it_ended_is_lost_after_a_while() {
        let runs = json!({ "running": {} });
        let deleted = |at: &str, states: &[Value]| {
            let mut pod = pod("Running", states);
            pod.metadata.deletion_timestamp = Some(serde_json::from_value(json!(at)).unwrap());
            stage(&pod)
        };
        // 65 s and 70 s before.
        assert_eq!(deleted("2026-01-02T03:03:00Z", &[runs.clone(), runs.clone()]), Stage::Alive);
        let lost = Stage::Lost(Timestamp::from_millis(FINISHED));
        assert_eq!(deleted("2026-01-02T03:02:55Z", &[runs.clone(), runs]), lost);
        assert_eq!(deleted("2026-01-02T03:02:55Z", &[]), lost);
        let over = json!({ "terminated": { "exitCode": 0, "finishedAt": "2026-01-02T03:04:05Z" } });
        assert_eq!(
            deleted("2026-01-02T03:02:55Z", &[over.clone(), over]),
            Stage::Ended(Timestamp::from_millis(FINISHED))
        );
    }

    #[test]
    fn a_job_has_ended_when_it_says_so_or_is_being_deleted() {
        let condition = |kind: &str, status: &str| json!({ "conditions": [{ "type": kind, "status": status, "lastTransitionTime": "2026-01-02T03:04:05Z" }] });
        let ended = Stage::Ended(Timestamp::from_millis(FINISHED));
        assert_eq!(stage_of_job(&job(condition("Complete", "True"), json!({}))), ended);
        assert_eq!(stage_of_job(&job(condition("Failed", "True"), json!({}))), ended);
        assert_eq!(stage_of_job(&job(condition("Failed", "False"), json!({}))), Stage::Alive);
        assert_eq!(stage_of_job(&job(condition("Suspended", "True"), json!({}))), Stage::Alive);
        let incomplete = json!({ "annotations": { INCOMPLETE: "true" } });
        assert_eq!(stage_of_job(&job(json!({}), incomplete)), Stage::Incomplete);
        assert_eq!(stage_of_job(&job(json!({}), json!({ "deletionTimestamp": "2026-01-02T03:04:05Z" }))), ended);
    }

    #[test]
    fn what_has_no_id_of_a_job_is_not_ours() {
        let meta = |label: &str| {
            serde_json::from_value(json!({ "name": "n", "uid": "u", "labels": { JOB_ID: label } })).unwrap()
        };
        assert_eq!(found_object(ObjectKind::Pod, meta("../../x"), Stage::Alive), None);
        assert_eq!(found_object(ObjectKind::Pod, ObjectMeta::default(), Stage::Alive), None);
        let id = crate::core::JobId::new();
        let found = found_object(ObjectKind::Pod, meta(&id.to_string()), Stage::Alive).unwrap();
        assert_eq!((found.job_id, found.held), (id, false));
    }
}
