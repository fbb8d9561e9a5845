//! Launching: one call in the normal case, three where inputs or variables travel in a Secret.
//!
//! Invariant: a Job that needs a Secret is held back until the Secret is there. Died in between, the next launch goes on where this one
//! stopped; until then the run is incomplete.

use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::Secret;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use serde_json::json;

use super::cluster::Cluster;
use super::failure::CallError;
use super::names::{FINALIZER, INCOMPLETE, QUEUE, is_held, is_ours};
use super::object::{self, Contents};
use super::view::View;
use crate::failpoint;
use crate::runner::{Launch, RunnerError};

/// How often a Job is read again that others change meanwhile.
const ATTEMPTS: u32 = 5;

pub(super) async fn launch(cluster: &Cluster, view: &View, launch: &Launch) -> Result<(), RunnerError> {
    let objects = object::build(&cluster.names, &cluster.settings, launch).map_err(|error| match error {
        // The check before the row says so; here it can only be a job of a server with another limit.
        RunnerError::TooLarge { .. } => RunnerError::Refused(error.to_string()),
        other => other,
    })?;
    let name = cluster.names.job(launch.job_id);
    let (job, is_new) = match cluster.create::<Job>(&objects.job).await {
        Ok(created) => (created, true),
        Err(error) if error.is_already_exists() => {
            let found = cluster.metadata::<Job>(&name).await.map_err(|error| error.into_unavailable("read the Job"))?;
            // Gone since: the next attempt may create it.
            (found.ok_or_else(|| error.into_unavailable("create the Job"))?, false)
        }
        Err(error) => return Err(refusal(view, error, "create the Job")),
    };
    if !is_ours(&job, &cluster.names, launch.job_id) {
        return Err(RunnerError::Refused(format!(
            "namespace '{}' has a Job '{name}' that is not of this server",
            cluster.namespace
        )));
    }
    // One just created may be without by a policy of the cluster; its pod is held all the same.
    if !is_new && job.deletion_timestamp.is_none() && !is_held(&job) {
        // Nobody would see its end: its job would wait until it is gone, and then run once more.
        return Err(RunnerError::Refused(format!(
            "somebody has let Job '{name}' go: it is without the finalizer '{FINALIZER}', so that its log may be gone before it is kept; \
             send the request again"
        )));
    }
    failpoint::hit("kubernetes-job-created");
    match &objects.secret {
        Some(contents) if is_incomplete(&job) => {
            create_secret(cluster, view, launch, &job, contents).await?;
            failpoint::hit("kubernetes-secret-created");
            complete(cluster, &name, launch.plan.queue.as_deref()).await
        }
        _ => Ok(()),
    }
}

/// Whether the Job waits for its Secret. One that is being deleted waits for nothing.
fn is_incomplete(job: &ObjectMeta) -> bool {
    job.deletion_timestamp.is_none()
        && job.annotations.as_ref().is_some_and(|annotations| annotations.contains_key(INCOMPLETE))
}

/// What was not created. The word of an API server that has just come back is not its last one.
fn refusal(view: &View, error: CallError, what: &str) -> RunnerError {
    if error.is_forbidden() && view.is_unsettled() { error.into_unavailable(what) } else { error.into_runner(what) }
}

async fn create_secret(
    cluster: &Cluster,
    view: &View,
    launch: &Launch,
    job: &ObjectMeta,
    contents: &Contents,
) -> Result<(), RunnerError> {
    let uid = job.uid.as_deref().unwrap_or_default();
    let labels = cluster.names.labels(launch.job_id, &launch.process_id);
    let secret = object::secret(&cluster.names.job(launch.job_id), uid, labels, contents);
    match cluster.create::<Secret>(&secret).await {
        Ok(_) => Ok(()),
        // Made by a launch that did not come further. Nobody else can know the name, and reading Secrets is a right that we do not want.
        Err(error) if error.is_already_exists() => Ok(()),
        Err(error) => Err(refusal(view, error, "create the Secret of the inputs")),
    }
}

/// Lets a Job that was held back start, or be seen by its queue.
async fn complete(cluster: &Cluster, name: &str, queue: Option<&str>) -> Result<(), RunnerError> {
    const WHAT: &str = "let the Job start";
    let path = |key: &str, name: &str| format!("/metadata/{key}/{}", name.replace('~', "~0").replace('/', "~1"));
    let start = match queue {
        Some(queue) => json!({ "op": "add", "path": path("labels", QUEUE), "value": queue }),
        None => json!({ "op": "replace", "path": "/spec/suspend", "value": false }),
    };
    // Removing what is not there fails, so that nothing is done twice.
    let operations = json!([{ "op": "remove", "path": path("annotations", INCOMPLETE) }, start]);
    for _ in 0..ATTEMPTS {
        match cluster.patch::<Job>(name, &operations).await {
            Ok(()) => return Ok(()),
            Err(error) if error.is_invalid() || error.is_conflict() => {
                let job = cluster.metadata::<Job>(name).await.map_err(|error| error.into_unavailable(WHAT))?;
                if job.is_none_or(|job| !is_incomplete(&job)) {
                    return Ok(()); // another launch completed it, or it was cancelled
                }
            }
            Err(error) => return Err(error.into_unavailable(WHAT)),
        }
    }
    Err(RunnerError::Unavailable {
        message: format!("could not {WHAT}"),
        source: "others change it all the time".into(),
    })
}
