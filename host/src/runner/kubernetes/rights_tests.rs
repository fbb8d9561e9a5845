//! Rights as a real API server sees them, and what the runner makes of the answers of one that is made up.

use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

use k8s_openapi::api::core::v1::ServiceAccount;
use k8s_openapi::api::rbac::v1::{Role, RoleBinding};
use kube::Api;
use kube::api::PostParams;
use serde_json::json;

use super::cluster::Cluster;
use super::launch_tests::on_a_cluster;
use super::names::Names;
use super::rights::LettingGo;
use super::settings::Settings;
use super::{RIGHTS, rights};
use crate::runner::RunnerError;

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
        let refused = LettingGo::new(less).before_launch().await.unwrap_err();
        assert!(refused.to_string().contains("patch pods"), "{refused}");
        let less_log = account_without(&runner.cluster, None).await;
        assert_eq!(missing(&less_log, 0).await, Vec::<String>::new());
        LettingGo::new(less_log.clone()).before_launch().await.unwrap();
        // Without a right to list Secrets everything else is seen all the same.
        let inspector = super::inspection::KubernetesInspector::of(less_log);
        let seen = crate::runner::inspection::Inspector::look(&inspector).await.unwrap();
        assert!(matches!(&seen.unseen[..], [one] if one.contains("Secrets")), "{seen:?}");
    })
    .await;
}

/// What an API server answers that is made up.
#[derive(Default)]
struct Answers {
    away: AtomicBool,
    may_patch_pods: AtomicBool,
    asked: AtomicU32,
}

fn told(answers: &Arc<Answers>) -> Cluster {
    let answers = Arc::clone(answers);
    let service = tower::service_fn(move |request: http::Request<kube::client::Body>| {
        let answers = Arc::clone(&answers);
        async move {
            answers.asked.fetch_add(1, Ordering::SeqCst);
            let asked = request.into_body().collect_bytes().await.unwrap();
            let mut review: serde_json::Value = serde_json::from_slice(&asked).unwrap();
            let allowed = review["spec"]["resourceAttributes"]["resource"] != "pods"
                || answers.may_patch_pods.load(Ordering::SeqCst);
            review["status"] = json!({ "allowed": allowed });
            let code = if answers.away.load(Ordering::SeqCst) { 500 } else { 201 };
            let body = kube::client::Body::from(review.to_string().into_bytes());
            Ok::<_, Infallible>(http::Response::builder().status(code).body(body).unwrap())
        }
    });
    let settings = Settings::default();
    Cluster {
        client: kube::Client::new(service, "here"),
        namespace: "here".to_owned(),
        names: Names::new(&settings.job_name_prefix),
        settings: Arc::new(settings),
    }
}

#[tokio::test]
async fn nothing_is_launched_that_could_not_be_let_go() {
    let answers = Arc::new(Answers::default());
    let letting_go = Arc::new(LettingGo::new(told(&answers)));
    // Nobody has answered: the launch itself tells that nobody does.
    answers.away.store(true, Ordering::SeqCst);
    letting_go.before_launch().await.unwrap();
    letting_go.ready().unwrap();

    answers.away.store(false, Ordering::SeqCst);
    let refused = letting_go.before_launch().await.unwrap_err();
    let said = refused.to_string();
    assert!(matches!(refused, RunnerError::Unavailable { .. }) && said.contains("patch pods"), "{said}");
    assert!(!said.contains("patch jobs") && letting_go.ready().is_err());
    // What is known stays known while nobody answers.
    answers.away.store(true, Ordering::SeqCst);
    letting_go.before_launch().await.unwrap_err();

    // The Role comes late.
    answers.away.store(false, Ordering::SeqCst);
    answers.may_patch_pods.store(true, Ordering::SeqCst);
    let follower = tokio::spawn({
        let letting_go = Arc::clone(&letting_go);
        async move { letting_go.follow().await }
    });
    while letting_go.ready().is_err() {
        tokio::task::yield_now().await;
    }
    letting_go.before_launch().await.unwrap();
    let asked = answers.asked.load(Ordering::SeqCst);
    letting_go.before_launch().await.unwrap();
    assert_eq!(answers.asked.load(Ordering::SeqCst), asked, "what is granted is not asked for again");
    follower.abort();
}
