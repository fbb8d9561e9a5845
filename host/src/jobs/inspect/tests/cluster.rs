//! The whole on a real cluster, in a namespace of its own.

use std::collections::BTreeMap;

use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::{Namespace, Pod, Secret, ServiceAccount};
use kube::Api;
use kube::api::{DeleteParams, ListParams, Patch, PatchParams, PostParams};
use serde_json::{Value, json};

use super::*;
use crate::core::RunState;
use crate::jobs::inspect::leave::leave;
use crate::runner::contract;
use crate::runner::kubernetes::{self, KubernetesInspector, KubernetesRunner};

const PATIENCE: Duration = Duration::from_secs(90);
const FINALIZER: &str = "pygeoapi.io/finalizer-log-retrieval";
const IMAGE: &str = "docker.io/library/busybox:1.36";

struct Home {
    client: kube::Client,
    namespace: String,
    settings: kubernetes::Settings,
}

impl Home {
    async fn new(test: &str) -> Option<Self> {
        if std::env::var_os("KUBECONFIG").is_none() {
            assert!(std::env::var_os("VESPIARY_TEST_ALL").is_none(), "KUBECONFIG is not set");
            return None;
        }
        let _ = rustls::crypto::ring::default_provider().install_default();
        let suffix: String = uuid::Uuid::new_v4().simple().to_string().chars().take(8).collect();
        let namespace = format!("vespiary-doctor-{test}-{suffix}");
        let client = kube::Client::try_default().await.unwrap();
        let new = serde_json::from_value(json!({ "metadata": { "name": namespace } })).unwrap();
        Api::<Namespace>::all(client.clone()).create(&PostParams::default(), &new).await.unwrap();
        let accounts: Api<ServiceAccount> = Api::namespaced(client.clone(), &namespace);
        until("the service account", async || accounts.get_opt("default").await.unwrap().is_some()).await;
        let settings = kubernetes::Settings {
            namespace: Some(namespace.clone()),
            grace_seconds: 1,
            deadline_ms: 30_000,
            ..Default::default()
        };
        Some(Self { client, namespace, settings })
    }

    fn api<K>(&self) -> Api<K>
    where
        K: kube::Resource<DynamicType = (), Scope = k8s_openapi::NamespaceResourceScope>,
    {
        Api::namespaced(self.client.clone(), &self.namespace)
    }

    async fn create<K>(&self, object: Value) -> K
    where
        K: kube::Resource<DynamicType = (), Scope = k8s_openapi::NamespaceResourceScope>
            + Clone
            + std::fmt::Debug
            + serde::Serialize
            + serde::de::DeserializeOwned,
    {
        self.api::<K>().create(&PostParams::default(), &serde_json::from_value(object).unwrap()).await.unwrap()
    }

    async fn end(self) {
        let free = Patch::Merge(json!({ "metadata": { "finalizers": null } }));
        let namespaces: Api<Namespace> = Api::all(self.client.clone());
        namespaces.delete(&self.namespace, &DeleteParams::default()).await.unwrap();
        for job in self.api::<Job>().list(&ListParams::default()).await.unwrap() {
            let _ = self.api::<Job>().patch(&job.metadata.name.unwrap(), &PatchParams::default(), &free).await;
        }
        for pod in self.api::<Pod>().list(&ListParams::default()).await.unwrap() {
            let _ = self.api::<Pod>().patch(&pod.metadata.name.unwrap(), &PatchParams::default(), &free).await;
        }
    }
}

async fn until(what: &str, look: impl AsyncFn() -> bool) {
    let found = tokio::time::timeout(PATIENCE, async {
        while !look().await {
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    });
    found.await.unwrap_or_else(|_| panic!("no {what} in time"));
}

fn shell(text: &str) -> JobPlan {
    serde_json::from_value(json!({ "containers": [{ "name": "main", "image": IMAGE, "command": ["sh", "-c", text] }] }))
        .unwrap()
}

fn labels(id: JobId) -> BTreeMap<&'static str, String> {
    BTreeMap::from([
        ("app.kubernetes.io/managed-by", "vespiary".to_owned()),
        ("app.kubernetes.io/instance", "pygeoapi-job".to_owned()),
        ("vespiary.io/job-id", id.to_string()),
    ])
}

fn pod(name: &str, labels: Value, finalizers: &[&str]) -> Value {
    json!({ "metadata": { "name": name, "labels": labels, "finalizers": finalizers },
        "spec": { "restartPolicy": "Never", "terminationGracePeriodSeconds": 1,
            "containers": [{ "name": "main", "image": IMAGE, "command": ["echo", "left behind"] }] } })
}

async fn has_ended(runner: &KubernetesRunner, id: JobId) -> bool {
    matches!(runner.state(id).await, Ok(Some(RunState::Ended(_))))
}

#[tokio::test(flavor = "multi_thread")]
async fn leftovers_on_a_cluster_are_found_and_repaired() {
    let Some(home) = Home::new("fix").await else { return };
    let place = Place::new().await;
    let runner = Arc::new(KubernetesRunner::open(home.settings.clone()).await.unwrap());
    until("view", async || runner.ready().await.is_ok()).await;
    let inspector: Arc<dyn Inspector> = Arc::new(KubernetesInspector::open(home.settings.clone()).await.unwrap());

    // A Job without a row, its log in pieces of two containers' worth of headings.
    let lost = contract::launch(shell("echo from a lost job"));
    runner.launch(&lost).await.unwrap();
    // A pod without Job and row, with a second finalizer that is none of ours; and one that has our finalizer and not our labels.
    let orphan = JobId::new();
    let name = format!("pygeoapi-job-{orphan}-abcde");
    home.create::<Pod>(pod(&name, json!(labels(orphan)), &[FINALIZER, "example.com/other"])).await;
    home.create::<Pod>(pod("foreign", json!({ "app": "other" }), &[FINALIZER])).await;
    // A row without a Job, a Secret without one.
    let waiting = row(runner.scope(), shell("echo started late"));
    let waiting_id = waiting.id;
    place.store.insert(waiting).await.unwrap();
    let secret = format!("pygeoapi-job-{orphan}");
    home.create::<Secret>(json!({ "metadata": { "name": secret, "labels": labels(orphan) } })).await;
    home.create::<Secret>(json!({ "metadata": { "name": "foreign" } })).await;

    until("end of the lost job", async || has_ended(&runner, lost.job_id).await).await;
    until("end of the orphan", async || has_ended(&runner, orphan).await).await;
    let subject = place.subject(Arc::clone(&inspector), NOW);
    until("the Job's own end", async || {
        let found = subject.look().await;
        of(&found, "job without a row").iter().any(|one| one.fix.is_some())
    })
    .await;
    let mut found = subject.look().await;
    for what in ["job without a row", "pod without a row", "row without a run", "secret without a job"] {
        assert_eq!(of(&found, what).len(), 1, "{what}: {found:#?}");
    }
    assert_eq!(found.len(), 4, "{found:#?}");

    let jobs = place.jobs(Arc::clone(&runner) as _);
    fix(&mut found, &jobs, &*inspector, &NOW).await;
    assert!(found.iter().all(|one| !one.is_open()), "{found:#?}");
    for (id, text) in [(lost.job_id, "from a lost job\n"), (orphan, "left behind\n")] {
        use futures::TryStreamExt as _;
        let read = place.archive.read(&log_key(id), None).await.unwrap();
        let bytes: Vec<Bytes> = read.body.try_collect().await.unwrap();
        let log = String::from_utf8(bytes.concat()).unwrap();
        assert!(log.ends_with(text) && log.contains("main"), "{log:?}");
    }
    let left = home.api::<Pod>().get(&name).await.unwrap().metadata.finalizers.unwrap();
    assert_eq!(left, ["example.com/other"], "another's finalizer stays");
    let foreign = home.api::<Pod>().get("foreign").await.unwrap();
    assert_eq!(foreign.metadata.finalizers.unwrap(), [FINALIZER], "what has not our labels stays");
    let secrets: Vec<_> = home.api::<Secret>().list(&ListParams::default()).await.unwrap().items;
    let names: Vec<_> = secrets.iter().filter_map(|one| one.metadata.name.as_deref()).collect();
    assert!(names.contains(&"foreign") && !names.contains(&secret.as_str()), "{names:?}");

    // The row's run was started; nobody records its end, until the doctor does.
    until("end of the late one", async || has_ended(&runner, waiting_id).await).await;
    until("the late one's end", async || {
        let mut found = subject.look().await;
        let is_there = !of(&found, "run not let go").is_empty();
        fix(&mut found, &jobs, &*inspector, &NOW).await;
        is_there
    })
    .await;
    let job = place.store.detail(waiting_id).await.unwrap().unwrap();
    assert!(job.job.status.is_final() && job.receipt.is_some(), "{job:?}");
    until("nothing", async || {
        subject.look().await.iter().all(|one| one.what == "objects without a job" || !one.is_open())
    })
    .await;
    home.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn leaving_a_cluster_lets_everything_go_and_stops_nothing() {
    let Some(home) = Home::new("leave").await else { return };
    let place = Place::new().await;
    let runner = KubernetesRunner::open(home.settings.clone()).await.unwrap();
    let inspector: Arc<dyn Inspector> = Arc::new(KubernetesInspector::open(home.settings.clone()).await.unwrap());
    let launch = contract::launch(shell("sleep 8; echo done"));
    runner.launch(&launch).await.unwrap();
    let name = format!("pygeoapi-job-{}", launch.job_id);
    home.create::<Pod>(pod("foreign", json!({ "app": "other" }), &[FINALIZER])).await;
    until("a pod", async || {
        let found = inspector.look().await.unwrap().objects;
        found.iter().any(|one| one.kind == ObjectKind::Pod && one.held)
    })
    .await;
    let subject = place.subject(Arc::clone(&inspector), NOW);
    let refused = leave(&subject, true, false).await.unwrap();
    assert!(refused.refused.is_some() && refused.held.len() == 2, "{refused:?}");
    let left = leave(&subject, true, true).await.unwrap();
    assert!(left.is_free() && left.held.len() == 2, "{left:?}");
    assert_eq!(left.unfinished, [name.as_str()], "it may make a pod that is held again");
    assert!(inspector.look().await.unwrap().objects.iter().all(|one| !one.held));
    let foreign = home.api::<Pod>().get("foreign").await.unwrap();
    assert_eq!(foreign.metadata.finalizers.unwrap(), [FINALIZER]);
    until("success", async || {
        let job = home.api::<Job>().get(&name).await.unwrap();
        job.status.is_some_and(|status| status.succeeded == Some(1))
    })
    .await;
    // And nothing holds it when it is deleted.
    home.api::<Job>().delete(&name, &DeleteParams::background()).await.unwrap();
    until("its end", async || home.api::<Job>().get_opt(&name).await.unwrap().is_none()).await;
    home.end().await;
}
