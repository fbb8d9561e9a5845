//! Letting a run go: our finalizer off its pods and Job, nobody else's.

use futures::future::{try_join, try_join_all};
use k8s_openapi::NamespaceResourceScope;
use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::Pod;
use kube::Resource;
use serde::Deserialize;
use serde_json::json;

use super::cancel::{delete_job, delete_pods};
use super::cluster::Cluster;
use super::names::FINALIZER;
use super::view::View;
use crate::core::{JobId, RunState};
use crate::runner::RunnerError;

/// How often an object is read again whose finalizers others change meanwhile.
const ATTEMPTS: u32 = 5;

pub(super) async fn release(cluster: &Cluster, view: &View, id: JobId) -> Result<(), RunnerError> {
    let state = view.state(id);
    if matches!(state, Some(RunState::Incomplete | RunState::Waiting { .. } | RunState::Running { .. })) {
        return Err(RunnerError::Refused(format!("the run of job {id} has not ended")));
    }
    let pods = view.pods(id);
    if pods.is_empty() || pods.iter().any(|pod| !pod.terminated) {
        // It never started, or it was given up: a Job that stays would make another pod.
        delete_job(cluster, id, state.is_some(), false).await?;
        delete_pods(cluster, &pods).await?;
    }
    let held = pods.iter().filter(|pod| pod.held);
    let released = try_join_all(held.map(|pod| let_go::<Pod>(cluster, &pod.name, Some(&pod.uid))));
    let name = cluster.names.job(id);
    try_join(released, let_go::<Job>(cluster, &name, None)).await?;
    view.let_go(id, &pods);
    Ok(())
}

/// Removes our finalizer from an object. One that is not there, or does not have it, is let go.
pub(super) async fn let_go<K>(cluster: &Cluster, name: &str, uid: Option<&str>) -> Result<(), RunnerError>
where
    K: Resource<DynamicType = (), Scope = NamespaceResourceScope> + Clone + std::fmt::Debug + for<'de> Deserialize<'de>,
{
    const WHAT: &str = "remove the finalizer";
    let mut place = 0; // where we put it
    let mut last = None;
    for _ in 0..ATTEMPTS {
        let path = format!("/metadata/finalizers/{place}");
        let mut operations = vec![json!({ "op": "test", "path": path, "value": FINALIZER })];
        operations.extend(uid.map(|uid| json!({ "op": "test", "path": "/metadata/uid", "value": uid })));
        operations.push(json!({ "op": "remove", "path": path }));
        match cluster.patch::<K>(name, &operations.into()).await {
            Ok(()) => return Ok(()),
            Err(error) if error.is_not_found() => return Ok(()),
            Err(error) if error.is_invalid() || error.is_conflict() => last = Some(error),
            Err(error) => return Err(error.into_unavailable(WHAT)),
        }
        let found = cluster.metadata::<K>(name).await.map_err(|error| error.into_unavailable(WHAT))?;
        let Some(found) = found.filter(|found| uid.is_none() || found.uid.as_deref() == uid) else { return Ok(()) };
        match found.finalizers.unwrap_or_default().iter().position(|finalizer| finalizer == FINALIZER) {
            Some(position) => place = position,
            None => return Ok(()),
        }
    }
    let message = format!("could not {WHAT}");
    Err(match last {
        Some(error) => error.into_unavailable(WHAT),
        None => RunnerError::Unavailable { message, source: "it was not tried".into() },
    })
}
