//! A namespace of the cluster for one server under test, and what tests look at and do in it. Gone when dropped.

use std::time::{Duration, Instant};

use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::{
    ConfigMap, Namespace as KubeNamespace, Node, Pod, ResourceQuota, Secret, ServiceAccount,
};
use kube::api::{Api, DeleteParams, EvictParams, ListParams, Patch, PatchParams, PostParams, PropagationPolicy};
use serde_json::json;

use crate::cluster::{block_on, variable};

/// The finalizer that the server puts on Jobs and pods.
pub const FINALIZER: &str = "pygeoapi.io/finalizer-log-retrieval";

/// A namespace of its own on the cluster that `KUBECONFIG` names.
pub struct Namespace {
    name: String,
}

async fn client() -> kube::Client {
    let _ = rustls::crypto::ring::default_provider().install_default();
    kube::Client::try_default().await.expect("KUBECONFIG names a cluster")
}

impl Namespace {
    /// Whether there is a cluster to make one on.
    #[must_use]
    pub fn is_possible() -> bool {
        !variable("KUBECONFIG").is_empty()
    }

    /// Makes one, and waits until pods can be made in it.
    #[must_use]
    pub fn create() -> Self {
        let name = format!("e2e-{}", vespiary::core::JobId::new());
        let namespace: KubeNamespace =
            serde_json::from_value(json!({ "metadata": { "name": name } })).expect("a namespace");
        block_on(async {
            let client = client().await;
            Api::all(client.clone()).create(&PostParams::default(), &namespace).await.expect("a namespace can be made");
            let accounts: Api<ServiceAccount> = Api::namespaced(client, &name);
            let end = Instant::now() + Duration::from_secs(30);
            while accounts.get_opt("default").await.expect("the API server answers").is_none() {
                assert!(Instant::now() < end, "the namespace has no service account");
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        });
        Self { name }
    }

    /// Its name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Works with its pods.
    pub fn pods<T: Send, W: Future<Output = T> + Send>(&self, work: impl FnOnce(Api<Pod>) -> W + Send) -> T {
        block_on(async { work(Api::namespaced(client().await, &self.name)).await })
    }

    /// Works with its Jobs.
    pub fn jobs<T: Send, W: Future<Output = T> + Send>(&self, work: impl FnOnce(Api<Job>) -> W + Send) -> T {
        block_on(async { work(Api::namespaced(client().await, &self.name)).await })
    }

    /// Names of the Jobs and pods that the server's finalizer holds.
    #[must_use]
    pub fn held(&self) -> Vec<String> {
        let is_held = |finalizers: &[String]| finalizers.iter().any(|one| one == FINALIZER);
        let all = ListParams::default();
        block_on(async {
            let client = client().await;
            let jobs: Api<Job> = Api::namespaced(client.clone(), &self.name);
            let pods: Api<Pod> = Api::namespaced(client, &self.name);
            let jobs = jobs.list_metadata(&all).await.expect("Jobs can be listed");
            let pods = pods.list_metadata(&all).await.expect("pods can be listed");
            let held = |metadata: kube::api::ObjectMeta| {
                is_held(metadata.finalizers.as_deref().unwrap_or_default()).then(|| metadata.name.unwrap_or_default())
            };
            let jobs = jobs.items.into_iter().filter_map(|job| held(job.metadata));
            jobs.chain(pods.items.into_iter().filter_map(|pod| held(pod.metadata))).collect()
        })
    }

    /// How many Jobs were made and are there.
    #[must_use]
    pub fn job_names(&self) -> Vec<String> {
        let found = self.jobs(|jobs| async move { jobs.list_metadata(&ListParams::default()).await });
        found.expect("Jobs can be listed").items.into_iter().filter_map(|job| job.metadata.name).collect()
    }

    /// What is there of a Job, as JSON.
    #[must_use]
    pub fn job(&self, name: &str) -> Option<serde_json::Value> {
        let found = self.jobs(|jobs| async move { jobs.get_opt(name).await });
        found.expect("the API server answers").map(|job| serde_json::to_value(job).expect("JSON"))
    }

    /// The pods of a job, as JSON.
    #[must_use]
    pub fn pods_of(&self, id: &str) -> Vec<serde_json::Value> {
        let wanted = ListParams::default().labels(&format!("vespiary.io/job-id={id}"));
        let found = self.pods(|pods| async move { pods.list(&wanted).await });
        let pods = found.expect("pods can be listed").items;
        pods.into_iter().map(|pod| serde_json::to_value(pod).expect("JSON")).collect()
    }

    /// The job of each pod that was made and is there.
    #[must_use]
    pub fn jobs_of_pods(&self) -> Vec<String> {
        let found = self.pods(|pods| async move { pods.list_metadata(&ListParams::default()).await });
        let pods = found.expect("pods can be listed").items.into_iter();
        pods.filter_map(|pod| pod.metadata.labels?.remove("vespiary.io/job-id")).collect()
    }

    /// What `kubectl delete job` does.
    pub fn delete_job(&self, name: &str) {
        let background =
            DeleteParams { propagation_policy: Some(PropagationPolicy::Background), ..DeleteParams::default() };
        self.jobs(|jobs| async move { jobs.delete(name, &background).await }).expect("a Job can be deleted");
    }

    /// Names of the pods that are being deleted and still there.
    #[must_use]
    pub fn leaving(&self) -> Vec<String> {
        let pods = self.pods(|pods| async move { pods.list_metadata(&ListParams::default()).await });
        let pods = pods.expect("pods can be listed").items.into_iter();
        pods.filter(|pod| pod.metadata.deletion_timestamp.is_some()).filter_map(|pod| pod.metadata.name).collect()
    }

    /// What a drain does to one pod: its node takes no other meanwhile, and the pod is evicted.
    pub fn drain(&self, pod: &str) {
        block_on(async {
            let client = client().await;
            let pods: Api<Pod> = Api::namespaced(client.clone(), &self.name);
            let node = pods.get(pod).await.expect("the pod is there").spec.and_then(|spec| spec.node_name);
            let nodes: Api<Node> = Api::all(client);
            let node = node.expect("the pod is on a node");
            nodes.cordon(&node).await.expect("a node can be cordoned");
            let evicted = pods.evict(pod, &EvictParams::default()).await;
            // Before anything else: other tests use the node.
            nodes.uncordon(&node).await.expect("a node can be uncordoned");
            evicted.expect("a pod can be evicted");
        });
    }

    /// Bounds what may be there, and waits until it does.
    pub fn limit(&self, name: &str, hard: &serde_json::Value) {
        let quota = json!({ "metadata": { "name": name }, "spec": { "hard": hard } });
        let quota: ResourceQuota = serde_json::from_value(quota).expect("a quota");
        block_on(async {
            let quotas: Api<ResourceQuota> = Api::namespaced(client().await, &self.name);
            quotas.create(&PostParams::default(), &quota).await.expect("a quota can be made");
            let end = Instant::now() + Duration::from_secs(30);
            while quotas.get(name).await.expect("the quota is there").status.is_none_or(|status| status.hard.is_none())
            {
                assert!(Instant::now() < end, "the quota is not counted");
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        });
    }

    /// Takes a bound away.
    pub fn unlimit(&self, name: &str) {
        block_on(async {
            let quotas: Api<ResourceQuota> = Api::namespaced(client().await, &self.name);
            quotas.delete(name, &DeleteParams::default()).await.expect("a quota can be deleted");
        });
    }

    /// Makes a config map.
    pub fn configure(&self, name: &str, values: &serde_json::Value) {
        let map: ConfigMap =
            serde_json::from_value(json!({ "metadata": { "name": name }, "data": values })).expect("a config map");
        block_on(async {
            let maps: Api<ConfigMap> = Api::namespaced(client().await, &self.name);
            maps.create(&PostParams::default(), &map).await.expect("a config map can be made");
        });
    }

    /// Makes a Job that no server of ours made.
    pub fn create_job(&self, job: &serde_json::Value) {
        let job: Job = serde_json::from_value(job.clone()).expect("a Job");
        self.jobs(|jobs| async move { jobs.create(&PostParams::default(), &job).await }).expect("a Job can be made");
    }

    /// Sets the finalizers of a pod.
    pub fn finalize(&self, pod: &str, finalizers: &[&str]) {
        let patch = Patch::Merge(json!({ "metadata": { "finalizers": finalizers } }));
        let (patch, apply) = (&patch, &PatchParams::default());
        self.pods(|pods| async move { pods.patch(pod, apply, patch).await }).expect("a pod can be patched");
    }

    /// The Secrets that are there, as JSON.
    #[must_use]
    pub fn secrets(&self) -> Vec<serde_json::Value> {
        let found = block_on(async {
            let secrets: Api<Secret> = Api::namespaced(client().await, &self.name);
            secrets.list(&ListParams::default()).await
        });
        let secrets = found.expect("Secrets can be listed").items.into_iter();
        secrets.map(|secret| serde_json::to_value(secret).expect("JSON")).collect()
    }

    /// What `kubectl delete namespace` does; it does not wait.
    pub fn delete(&self) {
        block_on(async {
            let all: Api<KubeNamespace> = Api::all(client().await);
            let _ = all.delete(&self.name, &DeleteParams::default()).await;
        });
    }

    /// Whether it is gone.
    #[must_use]
    pub fn is_gone(&self) -> bool {
        block_on(async {
            let all: Api<KubeNamespace> = Api::all(client().await);
            all.get_opt(&self.name).await.expect("the API server answers").is_none()
        })
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        // A test that failed must not leave what only a server of its own would let go.
        let free = Patch::Merge(json!({ "metadata": { "finalizers": null } }));
        let (free, all) = (&free, ListParams::default());
        block_on(async {
            let client = client().await;
            let namespaces: Api<KubeNamespace> = Api::all(client.clone());
            let _ = namespaces.delete(&self.name, &DeleteParams::default()).await;
            let jobs: Api<Job> = Api::namespaced(client.clone(), &self.name);
            let pods: Api<Pod> = Api::namespaced(client, &self.name);
            let apply = PatchParams::default();
            for job in jobs.list_metadata(&all).await.into_iter().flatten() {
                let _ = jobs.patch(&job.metadata.name.unwrap_or_default(), &apply, free).await;
            }
            for pod in pods.list_metadata(&all).await.into_iter().flatten() {
                let _ = pods.patch(&pod.metadata.name.unwrap_or_default(), &apply, free).await;
            }
        });
    }
}

/// Stops, kills, starts parts of the test cluster, with the program that `TEST_FAULT` names.
pub fn fault(words: &[&str]) {
    let program = variable("TEST_FAULT");
    assert!(!program.is_empty(), "TEST_FAULT names no program");
    let output = std::process::Command::new(&program).args(words).output().expect("the fault program runs");
    assert!(output.status.success(), "fault {words:?}: {}", String::from_utf8_lossy(&output.stderr));
}
