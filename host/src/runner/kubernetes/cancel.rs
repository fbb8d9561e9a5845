//! Stopping a run that has not ended. What is stopped stays until it is released, since our finalizer holds it.

use futures::future::try_join_all;
use k8s_openapi::api::batch::v1::Job;
use kube::api::ListParams;

use super::cluster::Cluster;
use super::inspection::has_ended;
use super::names::{JOB_ID, is_held, is_ours};
use super::view::{PodRef, View};
use crate::core::{JobId, RunState};
use crate::runner::RunnerError;

pub(super) async fn cancel(cluster: &Cluster, view: &View, id: JobId) -> Result<(), RunnerError> {
    let (state, pods) = (view.state(id), view.pods(id));
    // One that was given up before it started has ended for us, and may start yet.
    if matches!(state, Some(RunState::Ended(_))) && !pods.is_empty() && pods.iter().all(|pod| pod.terminated) {
        return Ok(());
    }
    delete_job(cluster, id, state.is_some(), true).await?;
    // The garbage collector waits for the Job to be gone, and that waits for us. Pods that the view does not know yet it deletes itself.
    delete_pods(cluster, &pods).await
}

/// Deletes our Job of this id, unless it has finished. One that we do not hold, of a run that the view does not know, was captured and let
/// go, and then stays for as long as its time to live says; or somebody else let it go, and then `look` finds it going on.
pub(super) async fn delete_job(cluster: &Cluster, id: JobId, is_known: bool, look: bool) -> Result<(), RunnerError> {
    let (jobs, name) = (cluster.jobs(), cluster.names.job(id));
    let found = cluster.call(|| jobs.get_opt(&name)).await.map_err(|error| error.into_unavailable("read the Job"))?;
    let Some(job) = found.filter(|job| is_ours(&job.metadata, &cluster.names, id)) else { return Ok(()) };
    if job.metadata.deletion_timestamp.is_some() || has_finished(&job) {
        return Ok(());
    }
    let is_ours_to_delete = is_known || is_held(&job.metadata) || (look && goes_on(cluster, id).await?);
    if !is_ours_to_delete {
        return Ok(());
    }
    let uid = job.metadata.uid.unwrap_or_default();
    cluster.delete(&jobs, &name, &uid).await.map_err(|error| error.into_unavailable("delete the Job"))
}

/// Whether anything of the run may run yet. The Job controller says so seconds late; the pods know.
async fn goes_on(cluster: &Cluster, id: JobId) -> Result<bool, RunnerError> {
    let selector = format!("{},{JOB_ID}={id}", cluster.names.selector());
    let (pods, wanted) = (cluster.pods(), ListParams::default().labels(&selector).limit(100));
    let found =
        cluster.call(|| pods.list(&wanted)).await.map_err(|error| error.into_unavailable("look for its pods"))?;
    Ok(found.items.is_empty() || !found.items.iter().all(has_ended))
}

/// Deletes those of the pods in which anything may run yet.
pub(super) async fn delete_pods(cluster: &Cluster, pods: &[PodRef]) -> Result<(), RunnerError> {
    let api = cluster.pods();
    let deletions = pods.iter().filter(|pod| !pod.terminated).map(|pod| cluster.delete(&api, &pod.name, &pod.uid));
    try_join_all(deletions).await.map_err(|error| error.into_unavailable("delete the pods"))?;
    Ok(())
}

/// Whether the Job controller is done with it.
fn has_finished(job: &Job) -> bool {
    let conditions = job.status.as_ref().and_then(|status| status.conditions.as_deref()).unwrap_or_default();
    conditions.iter().any(|one| matches!(one.type_.as_str(), "Complete" | "Failed") && one.status == "True")
}
