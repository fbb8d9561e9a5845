//! The names by which the cluster's objects and this server know each other.

use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use crate::core::{JobId, ProcessId};

/// Held by Job and pod until log and result are captured. The original's name, so that either server can let go.
pub(super) const FINALIZER: &str = "pygeoapi.io/finalizer-log-retrieval";

/// Marks the objects of all servers of this kind.
pub(super) const MANAGED_BY: (&str, &str) = ("app.kubernetes.io/managed-by", "vespiary");

/// Label with the prefix of the names, without its last `-`: tells servers in one namespace apart.
pub(super) const INSTANCE: &str = "app.kubernetes.io/instance";

/// Label with the job's id, on Job, pods and Secret.
pub(super) const JOB_ID: &str = "vespiary.io/job-id";

/// Label with the process's id.
pub(super) const PROCESS_ID: &str = "vespiary.io/process-id";

/// Kueue's label; its value names the LocalQueue.
pub(super) const QUEUE: &str = "kueue.x-k8s.io/queue-name";

/// Annotation of a Job that is held back (`suspend: true`, without the queue's label) until its Secret is there. A run with it, whose
/// Job is not being deleted, is [`crate::core::RunState::Incomplete`].
pub(super) const INCOMPLETE: &str = "vespiary.io/incomplete";

/// Makes names of ids and finds ids in names.
#[derive(Debug, Clone)]
pub(super) struct Names {
    prefix: String,
}

impl Names {
    pub(super) fn new(prefix: &str) -> Self {
        Self { prefix: prefix.to_owned() }
    }

    /// The value of [`INSTANCE`]. An empty prefix is `none`.
    pub(super) fn instance(&self) -> &str {
        match self.prefix.trim_end_matches('-') {
            "" => "none",
            instance => instance,
        }
    }

    /// Name of the Job, and of the Secret with its inputs.
    pub(super) fn job(&self, id: JobId) -> String {
        format!("{}{id}", self.prefix)
    }

    /// The id in a Job's name, or in what begins with it (a pod's name).
    pub(super) fn id_in(&self, name: &str) -> Option<JobId> {
        name.strip_prefix(&self.prefix)?.get(..36)?.parse().ok()
    }

    /// Selects our objects in a list or watch.
    pub(super) fn selector(&self) -> String {
        format!("{}={},{INSTANCE}={}", MANAGED_BY.0, MANAGED_BY.1, self.instance())
    }

    /// The labels of every object of this job.
    pub(super) fn labels(&self, id: JobId, process_id: &ProcessId) -> BTreeMap<String, String> {
        BTreeMap::from([
            (MANAGED_BY.0.to_owned(), MANAGED_BY.1.to_owned()),
            (INSTANCE.to_owned(), self.instance().to_owned()),
            (JOB_ID.to_owned(), id.to_string()),
            (PROCESS_ID.to_owned(), process_id.to_string()),
        ])
    }
}

/// Whether our finalizer holds the object.
pub(super) fn is_held(object: &ObjectMeta) -> bool {
    object.finalizers.iter().flatten().any(|finalizer| finalizer == FINALIZER)
}

/// Whether this is an object that a server of this instance made for this job.
pub(super) fn is_ours(object: &ObjectMeta, names: &Names, id: JobId) -> bool {
    let label = |key: &str| object.labels.as_ref().and_then(|labels| labels.get(key)).map(String::as_str);
    label(MANAGED_BY.0) == Some(MANAGED_BY.1)
        && label(INSTANCE) == Some(names.instance())
        && label(JOB_ID) == Some(id.to_string().as_str())
}
