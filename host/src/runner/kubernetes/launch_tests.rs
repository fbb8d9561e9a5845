//! Launching, stopping and letting go on a real cluster, in a namespace of its own for each test.

use std::collections::BTreeMap;
use std::time::Duration;

use futures::FutureExt as _;
use k8s_openapi::api::core::v1::{Namespace, Pod, ResourceQuota, Secret, ServiceAccount};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::Api;
use kube::api::{DeleteParams, ListParams, LogParams, Patch, PatchParams, PostParams};
use serde_json::value::RawValue;
use serde_json::{Value, json};

use super::*;
use crate::core::JobPlan;
use crate::runner::{Masked, contract};

pub(super) const PATIENCE: Duration = Duration::from_secs(90);

/// The cluster under test, or `None` where there is none to be had.
async fn home(test: &str) -> Option<Cluster> {
    if std::env::var_os("KUBECONFIG").is_none() {
        assert!(std::env::var_os("VESPIARY_TEST_ALL").is_none(), "KUBECONFIG is not set");
        return None;
    }
    let _ = rustls::crypto::ring::default_provider().install_default();
    let suffix: String = uuid::Uuid::new_v4().simple().to_string().chars().take(8).collect();
    let namespace = format!("vespiary-{test}-{suffix}");
    let settings =
        Settings { namespace: Some(namespace.clone()), grace_seconds: 1, deadline_ms: 30_000, ..Settings::default() };
    let cluster = connect::connect(settings).await.unwrap();
    let namespaces: Api<Namespace> = Api::all(cluster.client.clone());
    let new = serde_json::from_value(json!({ "metadata": { "name": namespace } })).unwrap();
    namespaces.create(&PostParams::default(), &new).await.unwrap();
    let accounts: Api<ServiceAccount> = Api::namespaced(cluster.client.clone(), &namespace);
    until("the service account", async || accounts.get_opt("default").await.unwrap()).await;
    Some(cluster)
}

/// Runs a test and cleans up, whatever came of it.
pub(super) async fn on_a_cluster<T: Future<Output = ()>>(test: &str, body: impl FnOnce(KubernetesRunner) -> T) {
    let Some(cluster) = home(test).await else { return };
    let outcome = std::panic::AssertUnwindSafe(body(KubernetesRunner::start(cluster.clone()))).catch_unwind().await;
    let free = Patch::Merge(json!({ "metadata": { "finalizers": null } }));
    for job in cluster.jobs().list(&ListParams::default()).await.unwrap() {
        let _ = cluster.jobs().patch(&job.metadata.name.unwrap(), &PatchParams::default(), &free).await;
    }
    let namespaces: Api<Namespace> = Api::all(cluster.client.clone());
    let _ = namespaces.delete(&cluster.namespace, &DeleteParams::default()).await;
    for pod in cluster.pods().list(&ListParams::default()).await.unwrap() {
        let _ = cluster.pods().patch(&pod.metadata.name.unwrap(), &PatchParams::default(), &free).await;
    }
    if let Err(panic) = outcome {
        std::panic::resume_unwind(panic);
    }
}

pub(super) async fn until<T>(what: &str, look: impl AsyncFn() -> Option<T>) -> T {
    let found = tokio::time::timeout(PATIENCE, async {
        loop {
            if let Some(found) = look().await {
                return found;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    });
    found.await.unwrap_or_else(|_| panic!("no {what} in time"))
}

pub(super) fn plan(args: &[&str]) -> JobPlan {
    let command = ["sh", "-c"].iter().chain(args).collect::<Vec<_>>();
    serde_json::from_value(
        json!({ "containers": [{ "name": "main", "image": "docker.io/library/busybox:1.36", "command": command }] }),
    )
    .unwrap()
}

fn inputs(value: &Value) -> Arc<RawValue> {
    serde_json::value::to_raw_value(value).unwrap().into()
}

impl KubernetesRunner {
    async fn pod(&self, id: JobId, wanted: impl Fn(&Pod) -> bool) -> Pod {
        let params = ListParams::default().labels(&format!("{}={id}", names::JOB_ID));
        let api = self.cluster.pods();
        until("such pod", async || api.list(&params).await.unwrap().items.into_iter().find(|pod| wanted(pod))).await
    }

    /// The log of a run that succeeds.
    async fn output(&self, id: JobId) -> String {
        let has_ended = |pod: &Pod| matches!(phase(pod), "Succeeded" | "Failed");
        let pod = self.pod(id, has_ended).await;
        let log = self.cluster.pods().logs(&pod.metadata.name.unwrap(), &LogParams::default()).await.unwrap();
        assert_eq!(pod.status.unwrap().phase.unwrap(), "Succeeded", "{log}");
        log
    }

    async fn job(&self, id: JobId) -> Option<Job> {
        self.cluster.jobs().get_opt(&self.cluster.names.job(id)).await.unwrap()
    }

    /// Releases as soon as the view knows the pods.
    async fn let_go(&self, id: JobId) {
        until("release", async || match self.release(id).await {
            Ok(()) => Some(()),
            Err(RunnerError::Refused(_)) => None,
            Err(error) => panic!("{error}"),
        })
        .await;
    }
}

fn phase(pod: &Pod) -> &str {
    pod.status.as_ref().and_then(|status| status.phase.as_deref()).unwrap_or_default()
}

fn finalizers(object: &ObjectMeta) -> Vec<&str> {
    object.finalizers.iter().flatten().map(String::as_str).collect()
}

#[tokio::test]
async fn a_launch_may_be_repeated_and_texts_are_verbatim() {
    on_a_cluster("launch", |runner| async move {
        let texts = ["$(HOME)", "$$", "$é", "$$(A)", "`x` \"'\\"];
        let script = r#"printf '%s\n' "$A" "$PYGEOAPI_JOB_ID" "$PYGEOAPI_K8S_MANAGER_INPUTS" "$0" "$@""#;
        let mut plan = plan(&[&[script], &texts[..]].concat());
        plan.containers[0]
            .env
            .push(serde_json::from_value(json!({ "name": "A", "value": { "literal": "$(PATH)$$" } })).unwrap());
        let launch = contract::launch(plan);
        runner.check(&launch).unwrap();
        let five = futures::future::join_all((0..5).map(|_| runner.launch(&launch))).await;
        five.into_iter().collect::<Result<Vec<_>, _>>().unwrap();
        let id = launch.job_id;
        let expected = format!("$(PATH)$$\n{id}\n{}\n{}\n", launch.inputs.as_ref().unwrap(), texts.join("\n"));
        assert_eq!(runner.output(id).await, expected);
        runner.launch(&launch).await.unwrap();
        assert!(runner.exists(id).await.unwrap() && !runner.exists(JobId::new()).await.unwrap());
        until("completion", async || {
            runner
                .job(id)
                .await
                .filter(|job| job.status.as_ref().is_some_and(|status| status.completion_time.is_some()))
        })
        .await;
        runner.let_go(id).await;
        runner.let_go(id).await;
        assert!(!runner.exists(id).await.unwrap());
        assert_eq!(finalizers(&runner.job(id).await.unwrap().metadata), [""; 0]);
        let pods = runner.cluster.pods().list(&ListParams::default()).await.unwrap().items;
        assert_eq!((pods.len(), finalizers(&pods[0].metadata)), (1, vec![]));
    })
    .await;
}

#[tokio::test]
async fn what_is_not_ours_is_left_alone() {
    on_a_cluster("foreign", |runner| async move {
        let launch = contract::launch(plan(&["true"]));
        let name = runner.cluster.names.job(launch.job_id);
        let foreign = json!({ "metadata": { "name": name, "finalizers": ["example.com/other"] }, "spec": { "suspend": true,
            "template": { "spec": { "restartPolicy": "Never", "containers": [{ "name": "x", "image": "x" }] } } } });
        runner.cluster.jobs().create(&PostParams::default(), &serde_json::from_value(foreign).unwrap()).await.unwrap();
        let refused = runner.launch(&launch).await.unwrap_err();
        assert!(matches!(&refused, RunnerError::Refused(why) if why.contains(&name)), "{refused}");
        runner.cancel(launch.job_id).await.unwrap();
        runner.release(launch.job_id).await.unwrap();
        let job = runner.job(launch.job_id).await.unwrap();
        assert!(job.metadata.deletion_timestamp.is_none() && finalizers(&job.metadata) == ["example.com/other"]);
        assert!(!runner.exists(launch.job_id).await.unwrap());
    })
    .await;
}

#[tokio::test]
async fn a_job_that_somebody_let_go_does_not_count_as_launched() {
    on_a_cluster("let-go", |runner| async move {
        let launch = contract::launch(plan(&["sleep 600"]));
        let id = launch.job_id;
        runner.launch(&launch).await.unwrap();
        let free = Patch::Merge(json!({ "metadata": { "finalizers": null } }));
        let name = runner.cluster.names.job(id);
        runner.cluster.jobs().patch(&name, &PatchParams::default(), &free).await.unwrap();
        let refused = runner.launch(&launch).await.unwrap_err();
        assert!(matches!(&refused, RunnerError::Refused(why) if why.contains(names::FINALIZER)), "{refused}");
        // Its pod too: nothing runs on unseen.
        let pods = runner.cluster.pods();
        let held = runner.pod(id, |_| true).await.metadata.name.unwrap();
        pods.patch(&held, &PatchParams::default(), &free).await.unwrap();
        until("the run to be gone from the view", async || runner.view.state(id).is_none().then_some(())).await;
        runner.release(id).await.unwrap();
        assert!(runner.job(id).await.unwrap().metadata.deletion_timestamp.is_none(), "it may have been captured");
        runner.cancel(id).await.unwrap();
        until("end of the Job", async || runner.job(id).await.is_none().then_some(())).await;
        until("end of the pod", async || pods.get_opt(&held).await.unwrap().is_none().then_some(())).await;
    })
    .await;
}

#[tokio::test]
async fn permanent_refusals_say_why() {
    on_a_cluster("refused", |runner| async move {
        let mut invalid = plan(&["true"]);
        invalid.containers[0].working_dir = Some("/x".to_owned());
        invalid.priority_class = Some("no-such-class".to_owned());
        invalid.containers[0].mounts =
            vec![serde_json::from_value(json!({ "volume": "gone", "mountPath": "/x" })).unwrap()];
        let refused = runner.launch(&contract::launch(invalid)).await.unwrap_err();
        assert!(matches!(&refused, RunnerError::Refused(why) if why.contains("volumeMounts")), "{refused}");

        let unknown = JobPlan {
            pod_patch: Some(json!([{ "op": "add", "path": "/spec/aFieldOfTomorrow", "value": 1 }])),
            ..plan(&["true"])
        };
        let refused = runner.launch(&contract::launch(unknown)).await.unwrap_err();
        assert!(matches!(&refused, RunnerError::Refused(why) if why.contains("aFieldOfTomorrow")), "{refused}");

        let quotas: Api<ResourceQuota> = Api::namespaced(runner.cluster.client.clone(), runner.namespace());
        let none = json!({ "metadata": { "name": "none" }, "spec": { "hard": { "count/jobs.batch": "0" } } });
        quotas.create(&PostParams::default(), &serde_json::from_value(none).unwrap()).await.unwrap();
        until("quota", async || quotas.get("none").await.unwrap().status?.hard).await;
        // Admission knows a quota a moment after its status does.
        let refused = until("refusal", async || runner.launch(&contract::launch(plan(&["true"]))).await.err()).await;
        assert!(matches!(&refused, RunnerError::Refused(why) if why.contains("exceeded quota: none")), "{refused}");
    })
    .await;
}

#[tokio::test]
async fn an_api_server_that_is_not_there_may_come_back() {
    let _ = rustls::crypto::ring::default_provider().install_default();
    let config = kube::Config::new("http://127.0.0.1:1".parse().unwrap());
    let client = kube::Client::try_from(config).unwrap();
    let settings = Settings::default();
    let names = names::Names::new(&settings.job_name_prefix);
    let cluster = Cluster { client, namespace: "x".to_owned(), names, settings: Arc::new(settings) };
    let failed = KubernetesRunner::start(cluster).launch(&contract::launch(plan(&["true"]))).await.unwrap_err();
    assert!(matches!(failed, RunnerError::Unavailable { .. }), "{failed}");
}

#[tokio::test]
async fn others_finalizers_stay() {
    on_a_cluster("finalizer", |runner| async move {
        let launch = contract::launch(plan(&["true"]));
        let id = launch.job_id;
        runner.launch(&launch).await.unwrap();
        runner.output(id).await;
        let pod = runner.pod(id, |_| true).await.metadata.name.unwrap();
        let (pods, jobs) = (runner.cluster.pods(), runner.cluster.jobs());
        let other = "example.com/other";
        // Before ours, where it would be hit by a patch that goes by places.
        let before = json!([{ "op": "add", "path": "/metadata/finalizers/0", "value": other }]);
        runner.cluster.patch::<Pod>(&pod, &before).await.unwrap();
        runner.cluster.patch::<Job>(&runner.cluster.names.job(id), &before).await.unwrap();
        runner.let_go(id).await;
        let left = |object: &ObjectMeta| {
            finalizers(object).contains(&other) && !finalizers(object).contains(&names::FINALIZER)
        };
        until("released pod", async || Some(pods.get(&pod).await.unwrap()).filter(|pod| left(&pod.metadata))).await;
        assert!(left(&jobs.get(&runner.cluster.names.job(id)).await.unwrap().metadata));
    })
    .await;
}

#[tokio::test]
async fn secrets_reach_the_container_alone() {
    on_a_cluster("secret", |runner| async move {
        let with = |secret: &str| {
            let mut plan =
                plan(&[r#"echo "$TOKEN" "$1" "$PYGEOAPI_K8S_MANAGER_INPUTS""#, "x", &format!("--p={secret}")]);
            let variable = json!({ "name": "TOKEN", "value": { "literal": secret } });
            plan.containers[0].env.push(serde_json::from_value(variable).unwrap());
            plan
        };
        let secret = "hunter2$(HOME)";
        let launch = Launch {
            inputs: Some(inputs(&json!({ "password": secret }))),
            masked: Some(Masked { plan: Arc::new(with("***")), inputs: inputs(&json!({ "password": "***" })) }),
            ..contract::launch(with(secret))
        };
        let id = launch.job_id;
        // As if the server had died between Job and Secret: the run is held back, and the next launch completes it.
        let objects = object::build(&runner.cluster.names, &runner.cluster.settings, &launch).unwrap();
        runner.cluster.create::<Job>(&objects.job).await.unwrap();
        until("incomplete run", async || matches!(runner.view.state(id), Some(RunState::Incomplete)).then_some(()))
            .await;
        assert!(matches!(runner.release(id).await, Err(RunnerError::Refused(_))));
        let five = futures::future::join_all((0..5).map(|_| runner.launch(&launch))).await;
        five.into_iter().collect::<Result<Vec<_>, _>>().unwrap();
        assert_eq!(runner.output(id).await, format!("{secret} --p={secret} {{\"password\":\"{secret}\"}}\n"));
        let job = runner.job(id).await.unwrap();
        assert!(!serde_json::to_string(&job).unwrap().contains("hunter2"));
        let pod = runner.pod(id, |_| true).await;
        assert!(!serde_json::to_string(&pod).unwrap().contains("hunter2"));
        assert!(!job.metadata.annotations.unwrap().contains_key(names::INCOMPLETE));
        runner.let_go(id).await;

        // What cannot be completed can be stopped.
        let lost = Launch { job_id: JobId::new(), ..launch };
        let objects = object::build(&runner.cluster.names, &runner.cluster.settings, &lost).unwrap();
        runner.cluster.create::<Job>(&objects.job).await.unwrap();
        runner.cancel(lost.job_id).await.unwrap();
        contract::ended(&runner, lost.job_id, PATIENCE).await;
        runner.let_go(lost.job_id).await;
        until("end of the Job", async || runner.job(lost.job_id).await.is_none().then_some(())).await;

        // It goes with the Job.
        let secrets: Api<Secret> = Api::namespaced(runner.cluster.client.clone(), runner.namespace());
        let name = runner.cluster.names.job(id);
        assert!(secrets.get_opt(&name).await.unwrap().is_some());
        runner.cluster.jobs().delete(&name, &DeleteParams::background()).await.unwrap();
        until("end of the Secret", async || secrets.get_opt(&name).await.unwrap().is_none().then_some(())).await;
    })
    .await;
}

#[tokio::test]
async fn a_queue_sees_a_job_when_its_secret_is_there() {
    on_a_cluster("queue", |runner| async move {
        let with = |inputs: Value| Launch {
            inputs: Some(self::inputs(&inputs)),
            ..contract::launch(JobPlan { queue: Some("lab".to_owned()), ..plan(&["true"]) })
        };
        for launch in [with(json!({})), with(json!({ "a": "x".repeat(100_000) }))] {
            runner.launch(&launch).await.unwrap();
            let job = runner.job(launch.job_id).await.unwrap();
            assert_eq!(job.metadata.labels.unwrap()[names::QUEUE], "lab");
            assert_eq!(job.spec.unwrap().suspend, Some(true));
            assert!(!job.metadata.annotations.unwrap().contains_key(names::INCOMPLETE));
        }
    })
    .await;
}

#[tokio::test]
async fn large_inputs_travel_as_a_file() {
    on_a_cluster("large", |runner| async move {
        let script = r#"echo "${PYGEOAPI_K8S_MANAGER_INPUTS-none}" $(wc -c < "$PYGEOAPI_K8S_MANAGER_INPUTS_FILE"); { echo x > "$PYGEOAPI_K8S_MANAGER_INPUTS_FILE"; } 2> /dev/null || echo read-only"#;
        let with = |bytes: usize| Launch {
            inputs: Some(inputs(&json!({ "a": "x".repeat(bytes - 8) }))),
            ..contract::launch(plan(&[script]))
        };
        for bytes in [200 * 1024, 900 * 1024] {
            let launch = with(bytes);
            runner.check(&launch).unwrap();
            runner.launch(&launch).await.unwrap();
            let log = runner.output(launch.job_id).await;
            assert!(log.starts_with(&format!("none {bytes}\n")) && log.ends_with("read-only\n"), "{log}");
            runner.let_go(launch.job_id).await;
        }
        // In a variable the largest of them starts, too.
        let script = r#"printf %s "$PYGEOAPI_K8S_MANAGER_INPUTS" | wc -c"#;
        let launch = Launch { plan: Arc::new(plan(&[script])), ..with(96 * 1024) };
        runner.launch(&launch).await.unwrap();
        assert_eq!(runner.output(launch.job_id).await.trim(), "98304");

        let launch = with(901 * 1024);
        let refused = runner.check(&launch).unwrap_err();
        assert!(matches!(&refused, RunnerError::TooLarge { limit: 921_600, .. }), "{refused}");
        assert!(matches!(runner.launch(&launch).await, Err(RunnerError::Refused(_))));
        assert!(runner.job(launch.job_id).await.is_none());
    })
    .await;
}

#[tokio::test]
async fn stopped_and_let_go_nothing_is_left() {
    on_a_cluster("cancel", |runner| async move {
        let launch = contract::launch(plan(&["sleep 600"]));
        let id = launch.job_id;
        runner.launch(&launch).await.unwrap();
        runner.pod(id, |pod| phase(pod) == "Running").await;
        until("the pod in the view", async || (!runner.view.pods(id).is_empty()).then_some(())).await;
        runner.cancel(id).await.unwrap();
        runner.cancel(id).await.unwrap();
        let job = runner.job(id).await.unwrap();
        assert!(job.metadata.deletion_timestamp.is_some() && finalizers(&job.metadata).contains(&names::FINALIZER));
        let pod = runner.pod(id, |pod| phase(pod) == "Failed").await;
        assert!(pod.metadata.deletion_timestamp.is_some() && finalizers(&pod.metadata).contains(&names::FINALIZER));
        runner.let_go(id).await;
        until("end of the Job", async || runner.job(id).await.is_none().then_some(())).await;
        let pods = runner.cluster.pods();
        until("end of the pod", async || {
            pods.list(&ListParams::default()).await.unwrap().items.is_empty().then_some(())
        })
        .await;
        assert!(!runner.exists(id).await.unwrap());

        // A run that never started, of a Job that would go on making pods.
        let launch = contract::launch(JobPlan {
            retries: 3,
            node_selector: BTreeMap::from([("no".to_owned(), "such-node".to_owned())]),
            ..plan(&["true"])
        });
        let id = launch.job_id;
        runner.launch(&launch).await.unwrap();
        runner.pod(id, |_| true).await;
        until("the pod in the view", async || (!runner.view.pods(id).is_empty()).then_some(())).await;
        runner.cancel(id).await.unwrap();
        runner.let_go(id).await;
        until("end of the Job", async || runner.job(id).await.is_none().then_some(())).await;
        until("end of the pod", async || {
            pods.list(&ListParams::default()).await.unwrap().items.is_empty().then_some(())
        })
        .await;
    })
    .await;
}

#[tokio::test]
async fn restricted_pods_are_admitted_where_others_are_not() {
    on_a_cluster("restricted", |runner| async move {
        let namespaces: Api<Namespace> = Api::all(runner.cluster.client.clone());
        let enforce = json!({ "metadata": { "labels": { "pod-security.kubernetes.io/enforce": "restricted" } } });
        namespaces.patch(runner.namespace(), &PatchParams::default(), &Patch::Merge(enforce)).await.unwrap();
        let settings = Settings { pod_security: PodSecurity::Restricted, ..Settings::clone(&runner.cluster.settings) };
        let strict = KubernetesRunner::start(Cluster { settings: Arc::new(settings), ..runner.cluster.clone() });
        let mut plan = plan(&["id -u; grep CapBnd /proc/self/status"]);
        plan.security.run_as_user = Some(1000);
        let launch = contract::launch(plan);
        strict.launch(&launch).await.unwrap();
        assert_eq!(strict.output(launch.job_id).await, "1000\nCapBnd:\t0000000000000000\n");
        strict.let_go(launch.job_id).await;
    })
    .await;
}
