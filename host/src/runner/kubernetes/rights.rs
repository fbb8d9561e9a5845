//! What the runner may do in its namespace: the one list, granted by the Role of the manifests and asked for by `vespiary doctor`.

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

/// Those of [`RIGHTS`] that this identity does not have in the runner's namespace, in their order.
pub(super) async fn missing(cluster: &Cluster) -> Result<Vec<MissingRight>, RunnerError> {
    let each = |right: &'static Right| right.verbs.iter().map(move |verb| (right, *verb));
    let reviews: Vec<_> = RIGHTS.iter().flat_map(each).map(|(right, verb)| review(cluster, right, verb)).collect();
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
