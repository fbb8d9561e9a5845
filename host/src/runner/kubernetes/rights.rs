//! What the runner may do in its namespace: the one list, granted by the Role of the manifests and asked for by `vespiary doctor`. Before it
//! launches anything the runner itself asks for those by which it lets runs go.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use futures::{StreamExt as _, TryStreamExt as _};
use k8s_openapi::api::authorization::v1::{ResourceAttributes, SelfSubjectAccessReview, SelfSubjectAccessReviewSpec};
use kube::Api;
use kube::api::PostParams;

use super::cluster::Cluster;
use crate::runner::RunnerError;
use crate::runner::inspection::MissingRight;

/// Verbs on one resource.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Right {
    /// API group; empty for the core group.
    pub group: &'static str,
    /// Resource, with its subresource behind a `/`.
    pub resource: &'static str,
    /// Verbs that the runner uses.
    pub verbs: &'static [&'static str],
    /// What they are for; completes "needed to".
    pub needed_to: &'static str,
}

/// Every verb that the runner uses, and no other.
pub const RIGHTS: &[Right] = &[
    Right {
        group: "batch",
        resource: "jobs",
        verbs: &["create", "get", "list", "watch", "patch", "delete"],
        needed_to: "start runs, watch them, stop them and let them go",
    },
    Right {
        group: "",
        resource: "pods",
        verbs: &["get", "list", "watch", "patch", "delete"],
        needed_to: "watch runs, end them and let their pods go",
    },
    Right { group: "", resource: "pods/log", verbs: &["get"], needed_to: "capture logs and results" },
    Right { group: "", resource: "events", verbs: &["list", "watch"], needed_to: "say why a run does not start" },
    Right {
        group: "",
        resource: "secrets",
        verbs: &["create"],
        needed_to: "hand over inputs that are large or secret",
    },
];

/// Reviews that are asked for at once.
const AT_ONCE: usize = 8;

/// The verb by which a finalizer is taken off a Job or pod: without it whatever is launched is held for ever.
const LETS_GO: &str = "patch";

/// How often the rights are asked for: while they are not known to be there, and then.
const ASK_AGAIN: Duration = Duration::from_secs(5);
const ASK_LATER: Duration = Duration::from_secs(300);

/// What is known of the rights by which runs are let go.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Standing {
    /// Nobody has answered yet.
    Unknown,
    Granted,
    /// These are missing.
    Missing(String),
}

/// Keeps a server from launching what it could not let go.
pub(super) struct LettingGo {
    cluster: Cluster,
    standing: Mutex<Standing>,
}

impl LettingGo {
    pub(super) fn new(cluster: Cluster) -> Self {
        Self { cluster, standing: Mutex::new(Standing::Unknown) }
    }

    fn standing(&self) -> Standing {
        self.standing.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Asks from time to time, for as long as it is polled: a Role may come late, or be changed.
    pub(super) async fn follow(&self) {
        loop {
            self.ask().await;
            let granted = self.standing() == Standing::Granted;
            tokio::time::sleep(if granted { ASK_LATER } else { ASK_AGAIN }).await;
        }
    }

    async fn ask(&self) {
        let found = match missing_verbs(&self.cluster, |verb| verb == LETS_GO).await {
            Ok(missing) if missing.is_empty() => Standing::Granted,
            Ok(missing) => {
                Standing::Missing(missing.into_iter().map(|missing| missing.right).collect::<Vec<_>>().join(", "))
            }
            // What was known stays: an API server that is away takes no right from anybody.
            Err(cause) => {
                tracing::debug!(error = &cause as &dyn std::error::Error, "the rights are not known yet");
                return;
            }
        };
        let before =
            std::mem::replace(&mut *self.standing.lock().unwrap_or_else(PoisonError::into_inner), found.clone());
        match &found {
            Standing::Missing(rights) if before != found => tracing::error!(
                "no run is launched: in namespace '{}' the right to {rights} is missing, so that none could be let go; apply the Role of the manifests (k8s-manifests/base/role.yaml)",
                self.cluster.namespace
            ),
            Standing::Granted if matches!(before, Standing::Missing(_)) => tracing::info!("runs are launched again"),
            _ => {}
        }
    }

    /// Whether what is launched can be let go. Asks now where nobody has answered yet; that nobody answers is no reason, and the launch
    /// itself tells.
    pub(super) async fn before_launch(&self) -> Result<(), RunnerError> {
        if self.standing() == Standing::Unknown {
            self.ask().await;
        }
        self.ready()
    }

    /// The same, as far as it is known.
    pub(super) fn ready(&self) -> Result<(), RunnerError> {
        match self.standing() {
            Standing::Missing(rights) => Err(RunnerError::Unavailable {
                message: format!("the right to {rights} is missing in namespace '{}'", self.cluster.namespace),
                source: "a run could not be let go".into(),
            }),
            Standing::Unknown | Standing::Granted => Ok(()),
        }
    }
}

/// Those of [`RIGHTS`] that this identity does not have in the runner's namespace, in their order.
pub(super) async fn missing(cluster: &Cluster) -> Result<Vec<MissingRight>, RunnerError> {
    missing_verbs(cluster, |_| true).await
}

async fn missing_verbs(cluster: &Cluster, asked: impl Fn(&str) -> bool) -> Result<Vec<MissingRight>, RunnerError> {
    let each = |right: &'static Right| right.verbs.iter().map(move |verb| (right, *verb));
    let verbs = RIGHTS.iter().flat_map(each).filter(|(_, verb)| asked(verb));
    let reviews: Vec<_> = verbs.map(|(right, verb)| review(cluster, right, verb)).collect();
    let mut answers = futures::stream::iter(reviews).buffered(AT_ONCE);
    let mut missing = Vec::new();
    while let Some(answer) = answers.try_next().await? {
        missing.extend(answer);
    }
    Ok(missing)
}

/// Asks for one verb.
async fn review(
    cluster: &Cluster,
    right: &'static Right,
    verb: &'static str,
) -> Result<Option<MissingRight>, RunnerError> {
    let (resource, subresource) = match right.resource.split_once('/') {
        Some((resource, subresource)) => (resource, Some(subresource.to_owned())),
        None => (right.resource, None),
    };
    let attributes = ResourceAttributes {
        group: Some(right.group.to_owned()),
        resource: Some(resource.to_owned()),
        subresource,
        verb: Some(verb.to_owned()),
        namespace: Some(cluster.namespace.clone()),
        ..ResourceAttributes::default()
    };
    let spec = SelfSubjectAccessReviewSpec { resource_attributes: Some(attributes), ..Default::default() };
    let wanted = SelfSubjectAccessReview { spec, ..SelfSubjectAccessReview::default() };
    let (reviews, how) = (Api::<SelfSubjectAccessReview>::all(cluster.client.clone()), PostParams::default());
    let answer = cluster.call(|| reviews.create(&how, &wanted)).await;
    let answer = answer.map_err(|error| error.into_unavailable("ask which rights there are"))?;
    if answer.status.is_some_and(|status| status.allowed) {
        return Ok(None);
    }
    Ok(Some(MissingRight { right: format!("{verb} {}", right.resource), needed_to: right.needed_to }))
}
