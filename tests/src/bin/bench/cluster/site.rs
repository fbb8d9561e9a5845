//! A server on the cluster with backends of its own, and what a bare loop needs beside it.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures::StreamExt as _;
use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::Pod;
use kube::api::{Api, ListParams, Patch, PatchParams};
use kube::core::NamespaceResourceScope;
use serde_json::{Value, json};
use tokio::runtime::Runtime;
use vespiary_tests::{Cluster, Namespace, Server, ServerOptions};

use crate::driver::{self, Connection};
use crate::{Outcome, say};

/// Removals at once.
const AT_ONCE: usize = 32;

/// A server that is measured.
pub(crate) struct Site {
    // Before what it uses.
    pub(crate) server: Option<Server>,
    /// Where a bare loop makes its Jobs: the server does not look there.
    beside: Namespace,
    cluster: Arc<Cluster>,
}

impl Site {
    /// Starts a server, with these variables more.
    pub(crate) fn start(variables: &[(&str, String)]) -> Outcome<Self> {
        let cluster =
            Cluster::with_kubernetes().ok_or("KUBECONFIG, TEST_POSTGRES_URL or a TEST_S3 variable is missing")?;
        // As a server has it that does not share its database with a hundred tests.
        let mut options = ServerOptions::default().config(&config()).env("VESPIARY_POSTGRES_CONNECTIONS", "16");
        for (name, value) in variables {
            options = options.env(name, value.clone());
        }
        let server = Server::replica(&cluster, options);
        Ok(Self { server: Some(server), beside: Namespace::create(), cluster })
    }

    pub(crate) fn server(&self) -> Outcome<&Server> {
        Ok(self.server.as_ref().ok_or("the server is gone")?)
    }

    pub(crate) fn address(&self) -> Outcome<SocketAddr> {
        driver::address(self.server()?.url())
    }

    /// The URL of the server's database.
    pub(crate) fn database(&self) -> String {
        self.cluster.url()
    }

    /// Where the server's Jobs are.
    pub(crate) fn namespace(&self) -> Outcome<&Namespace> {
        Ok(self.cluster.namespace().ok_or("there is no namespace")?)
    }

    /// The Jobs of a bare loop.
    pub(crate) fn beside(&self, client: &kube::Client) -> Api<Job> {
        Api::namespaced(client.clone(), self.beside.name())
    }

    /// A request for an asynchronous execution.
    pub(crate) fn request(&self, process: &str) -> Outcome<Vec<u8>> {
        let path = format!("/processes/{process}/execution");
        Ok(driver::post(self.address()?, &path, "prefer: respond-async\r\n", r#"{"inputs":{}}"#))
    }

    /// Waits until the server is ready.
    pub(crate) async fn ready(&self) -> Outcome<()> {
        let address = self.address()?;
        let request = driver::get(address, "/readyz");
        vespiary_tests::until("the server to be ready", Duration::from_secs(60), || async {
            let reply = Connection::open(address).await.ok()?.send(&request).await.ok()?;
            (reply.status == 200).then_some(())
        })
        .await;
        Ok(())
    }

    /// Waits until the server launches nothing any more.
    pub(crate) async fn launched(&self) -> Outcome<()> {
        let request = driver::get(self.address()?, "/metrics");
        let mut connection = Connection::open(self.address()?).await?;
        let deadline = Instant::now() + Duration::from_secs(60);
        while Instant::now() < deadline {
            let reply = connection.expect(&request, 200).await?;
            if String::from_utf8_lossy(&reply.body).lines().any(|line| line == "vespiary_launches 0") {
                return Ok(());
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        Err("launches do not end".into())
    }

    /// How many Jobs the server has made that are still there.
    pub(crate) async fn jobs(&self, client: &kube::Client) -> Outcome<usize> {
        let jobs: Api<Job> = Api::namespaced(client.clone(), self.namespace()?.name());
        Ok(jobs.list_metadata(&ListParams::default()).await?.items.len())
    }

    /// Executes once: the job's id, and a Job as the server makes it for this process.
    pub(crate) async fn example(&self, process: &str) -> Outcome<(String, Job)> {
        self.ready().await?;
        let reply = Connection::open(self.address()?).await?.expect(&self.request(process)?, 201).await?;
        let id = job_id(&reply.body)?;
        let job = self.namespace()?.job(&format!("pygeoapi-job-{id}")).ok_or("the Job is not there")?;
        Ok((id, bare(job)?))
    }
}

/// The id in the status document of a job.
pub(crate) fn job_id(body: &[u8]) -> Outcome<String> {
    let status: Value = serde_json::from_slice(body)?;
    Ok(status.get("jobID").and_then(Value::as_str).ok_or("no job id in the answer")?.to_owned())
}

/// Processes: `brief` works for 50 ms, `long` for an hour, `nowhere` fits no node, `held` waits in a queue that nobody serves.
fn config() -> String {
    let inputs = json!({ "n": { "schema": { "type": "integer" }, "minOccurs": 0 } });
    let outputs = json!({ "text": { "schema": { "type": "string", "contentMediaType": "text/plain" } } });
    let process = |id: &str, more: Value| {
        let mut config = json!({
            "metadata": { "id": id, "version": "1.0.0", "title": id, "inputs": inputs, "outputs": outputs },
            "default_image": "busybox:1.36",
            "check_auth": false,
            "command": ["sh", "-c", "sleep 0.05; printf 'PYGEOAPI_K8S_MANAGER_RESULT_START\\ndone'"],
        });
        if let (Some(config), Value::Object(more)) = (config.as_object_mut(), more) {
            config.extend(more);
        }
        json!({ "processor": "generic-image", "config": config })
    };
    // JSON is YAML.
    json!({
        "processes": [
            process("brief", json!({})),
            process("long", json!({ "command": ["sleep", "3600"] })),
            process("nowhere", json!({ "node_selector": { "bench.vespiary.io/nowhere": "true" } })),
            process("held", json!({ "queue": "nobody-serves-it" })),
        ],
    })
    .to_string()
}

/// The same Job for a bare loop: without a name, without finalizers, without what the API server has put in.
fn bare(mut job: Value) -> Outcome<Job> {
    fn part<'a>(value: &'a mut Value, path: &str) -> Option<&'a mut serde_json::Map<String, Value>> {
        value.pointer_mut(path).and_then(Value::as_object_mut)
    }
    let set = ["controller-uid", "batch.kubernetes.io/controller-uid", "job-name", "batch.kubernetes.io/job-name"];
    for path in ["/metadata/labels", "/spec/template/metadata/labels"] {
        if let Some(labels) = part(&mut job, path) {
            labels.retain(|name, _| !set.contains(&name.as_str()));
        }
    }
    if let Some(metadata) = part(&mut job, "/metadata") {
        metadata.retain(|name, _| matches!(name.as_str(), "labels" | "annotations"));
    }
    if let Some(metadata) = part(&mut job, "/spec/template/metadata") {
        metadata.remove("finalizers");
    }
    if let Some(spec) = part(&mut job, "/spec") {
        spec.remove("selector");
    }
    if let Some(whole) = job.as_object_mut() {
        whole.remove("status");
    }
    Ok(serde_json::from_value(job)?)
}

impl Drop for Site {
    fn drop(&mut self) {
        drop(self.server.take());
        // Thousands of Jobs that nobody would let go: many at once, before the namespace goes.
        let Ok(runtime) = Runtime::new() else { return };
        if let Some(namespace) = self.cluster.namespace() {
            namespace.delete();
            runtime.block_on(async {
                if let Err(error) = let_go(namespace.name()).await {
                    say(&format!("bench: namespace {} is not empty: {error}", namespace.name()));
                }
            });
        }
    }
}

/// Takes the finalizers off everything in a namespace.
async fn let_go(namespace: &str) -> Outcome<()> {
    let client = kube::Client::try_default().await?;
    free(Api::<Job>::namespaced(client.clone(), namespace)).await?;
    free(Api::<Pod>::namespaced(client, namespace)).await
}

async fn free<K>(api: Api<K>) -> Outcome<()>
where
    K: kube::Resource<DynamicType = (), Scope = NamespaceResourceScope>
        + Clone
        + std::fmt::Debug
        + serde::de::DeserializeOwned,
{
    let (patch, how) = (Patch::Merge(json!({ "metadata": { "finalizers": null } })), PatchParams::default());
    let all = api.list_metadata(&ListParams::default()).await?;
    let names =
        all.items.into_iter().filter(|one| one.metadata.finalizers.is_some()).filter_map(|one| one.metadata.name);
    futures::stream::iter(names)
        .for_each_concurrent(AT_ONCE, |name| {
            let (api, patch, how) = (&api, &patch, &how);
            async move {
                // Gone already, mostly.
                let _ = api.patch_metadata(&name, how, patch).await;
            }
        })
        .await;
    Ok(())
}
