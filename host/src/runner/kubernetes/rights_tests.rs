//! Rights as a real API server sees them.

use k8s_openapi::api::core::v1::ServiceAccount;
use k8s_openapi::api::rbac::v1::{Role, RoleBinding};
use kube::Api;
use kube::api::PostParams;
use serde_json::json;

use super::cluster::Cluster;
use super::launch_tests::on_a_cluster;
use super::{RIGHTS, rights};

/// The cluster as a service account sees it that has these rights, but for one.
async fn account_without(cluster: &Cluster, denied: Option<(&str, &str)>) -> Cluster {
    let (client, namespace) = (cluster.client.clone(), cluster.namespace.as_str());
    let rules: Vec<_> = RIGHTS
        .iter()
        .map(|right| {
            let verbs: Vec<_> = right.verbs.iter().filter(|verb| denied != Some((right.resource, verb))).collect();
            json!({ "apiGroups": [right.group], "resources": [right.resource], "verbs": verbs })
        })
        .collect();
    let name = if denied.is_some() { "less" } else { "all" };
    let how = PostParams::default();
    let meta = json!({ "name": name });
    let account = serde_json::from_value(json!({ "metadata": meta })).unwrap();
    Api::<ServiceAccount>::namespaced(client.clone(), namespace).create(&how, &account).await.unwrap();
    let role = serde_json::from_value(json!({ "metadata": meta, "rules": rules })).unwrap();
    Api::<Role>::namespaced(client.clone(), namespace).create(&how, &role).await.unwrap();
    let binding = json!({ "metadata": meta, "roleRef": { "apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": name },
        "subjects": [{ "kind": "ServiceAccount", "name": name, "namespace": namespace }] });
    let binding = serde_json::from_value(binding).unwrap();
    Api::<RoleBinding>::namespaced(client.clone(), namespace).create(&how, &binding).await.unwrap();
    let mut config = kube::Config::infer().await.unwrap();
    config.auth_info.impersonate = Some(format!("system:serviceaccount:{namespace}:{name}"));
    config.auth_info.impersonate_groups = Some(vec!["system:authenticated".to_owned()]);
    Cluster { client: kube::Client::try_from(config).unwrap(), ..cluster.clone() }
}

/// What is missing, once the API server's authorizer has heard of the role.
async fn missing(cluster: &Cluster, wanted: usize) -> Vec<String> {
    let mut last = Vec::new();
    for _ in 0..100 {
        last = rights::missing(cluster).await.unwrap().into_iter().map(|missing| missing.right).collect();
        if last.len() == wanted {
            break;
        }
        tokio::time::sleep(std::time::Duration::from_millis(100)).await;
    }
    last
}

#[tokio::test(flavor = "multi_thread")]
async fn a_missing_verb_is_named() {
    on_a_cluster("rights", async |runner| {
        let less = account_without(&runner.cluster, Some(("pods", "patch"))).await;
        assert_eq!(missing(&less, 1).await, ["patch pods"]);
        let less_log = account_without(&runner.cluster, None).await;
        assert_eq!(missing(&less_log, 0).await, Vec::<String>::new());
        // Without a right to list Secrets everything else is seen all the same.
        let inspector = super::inspection::KubernetesInspector::of(less_log);
        let seen = crate::runner::inspection::Inspector::look(&inspector).await.unwrap();
        assert!(matches!(&seen.unseen[..], [one] if one.contains("Secrets")), "{seen:?}");
    })
    .await;
}
