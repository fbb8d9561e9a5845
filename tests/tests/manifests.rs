//! The manifests on a real cluster: the server in pods under its own ServiceAccount, its rights, and an update while requests come.
//!
//! `TEST_IMAGE` names an image of this server that the cluster has, with its shipped processors, and for the look inside also busybox.

use std::collections::BTreeSet;
use std::path::{Component, Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use futures::future::join_all;
use k8s_openapi::api::authorization::v1::SubjectAccessReview;
use kube::api::{Api, Patch, PatchParams, PostParams};
use reqwest::Method;
use serde_json::{Value, json};
use vespiary_tests::{
    ApiProxy, Call, Client, Cluster, Namespace, Server, ServerOptions, kubectl, try_kubectl, until, workspace,
};

/// What the input `token` of `hello-world` must match.
const TOKEN: &str = "what the input token must match";

/// How long a rollout may take.
const ROLLOUT: &str = "--timeout=300s";

/// The way from one folder to another.
fn way(from: &Path, to: &Path) -> PathBuf {
    let (from, to) = (from.canonicalize().unwrap(), to.canonicalize().unwrap());
    let shared = from.components().zip(to.components()).take_while(|(a, b)| a == b).count();
    let up = from.components().skip(shared).map(|_| Component::ParentDir);
    up.chain(to.components().skip(shared)).collect()
}

/// The port in `scheme://[user:password@]host:port[/…]`.
fn port(url: &str) -> u16 {
    let rest = url.split_once("://").map_or(url, |(_, rest)| rest);
    let authority = rest.split('/').next().unwrap_or_default();
    authority.rsplit_once(':').and_then(|(_, port)| port.parse().ok()).unwrap_or(443)
}

/// An overlay of the repository's base, in a folder of its own.
struct Overlay {
    folder: tempfile::TempDir,
}

impl Overlay {
    fn write(cluster: &Cluster, image: &str, replicas: u32) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let base = way(folder.path(), &workspace::root().join("k8s-manifests/base"));
        let (name, tag) = image.rsplit_once(':').expect("the image has a tag");
        let (url, bucket) = cluster.for_pods();
        let literals = |pairs: &[(&str, &str)]| {
            pairs.iter().map(|(key, value)| json!(format!("{key}={value}"))).collect::<Vec<Value>>()
        };
        let bucket: Vec<_> = bucket.iter().map(|(key, value)| (*key, value.as_str())).collect();
        // Where these servers listen: a cluster that enforces policies would not let the pods reach them.
        let opened = [&url, bucket[0].1].map(|url| {
            let rule = json!({ "ports": [{ "port": port(url), "protocol": "TCP" }] });
            json!({ "op": "add", "path": "/spec/egress/-", "value": rule })
        });
        let wanted = json!({
            "apiVersion": "kustomize.config.k8s.io/v1beta1",
            "kind": "Kustomization",
            "namespace": cluster.namespace().expect("a namespace").name(),
            "resources": [base],
            "images": [{ "name": "vespiary", "newName": name, "newTag": tag }],
            "replicas": [{ "name": "vespiary", "count": replicas }],
            "secretGenerator": [
                { "name": "k8s-job-manager", "literals": literals(&[("token", TOKEN)]) },
                { "name": "vespiary-database", "literals": literals(&[("url", &url)]) },
                { "name": "vespiary-bucket", "literals": literals(&bucket) },
            ],
            "patches": [{
                "target": { "kind": "NetworkPolicy", "name": "vespiary" },
                "patch": json!(opened).to_string(),
            }],
        });
        // JSON is YAML.
        std::fs::write(folder.path().join("kustomization.yaml"), wanted.to_string()).unwrap();
        Self { folder }
    }

    fn apply(&self) {
        let _ = kubectl(&["apply", "-k", &self.folder.path().to_string_lossy()]);
    }

    /// Takes everything away again, without the pods' last minutes.
    fn delete(&self, namespace: &str) {
        let _ = kubectl(&["delete", "--wait=false", "-k", &self.folder.path().to_string_lossy()]);
        let _ = kubectl(&["-n", namespace, "delete", "pods", "-l", SERVERS, "--grace-period=1", "--wait=false"]);
    }
}

/// Selects the server's pods.
const SERVERS: &str = "app.kubernetes.io/name=vespiary,app.kubernetes.io/component=server";

/// The server in pods.
struct Deployed {
    overlay: Overlay,
    cluster: Arc<Cluster>,
    client: Client,
}

impl Deployed {
    /// `None` where there is nothing to try it on.
    fn start() -> Option<Self> {
        let image = std::env::var("TEST_IMAGE").unwrap_or_default();
        if image.is_empty() {
            let must = std::env::var("VESPIARY_TEST_ALL").is_ok_and(|all| all == "1");
            assert!(!must, "VESPIARY_TEST_ALL is set, and TEST_IMAGE not");
            eprintln!("not tried: TEST_IMAGE not set");
            return None;
        }
        let cluster = Cluster::with_kubernetes()?;
        let overlay = Overlay::write(&cluster, &image, 2);
        overlay.apply();
        let namespace = cluster.namespace().unwrap().name().to_owned();
        rolled_out(&namespace);
        let address = kubectl(&["-n", &namespace, "get", "service", "vespiary", "-o", "jsonpath={.spec.clusterIP}"]);
        let client = Client::new(&format!("http://{address}"), None);
        Some(Self { overlay, cluster, client })
    }

    fn namespace(&self) -> &Namespace {
        self.cluster.namespace().expect("a namespace")
    }

    /// The server's pods that are not going.
    fn pods(&self) -> Vec<Value> {
        let found = kubectl(&["-n", self.namespace().name(), "get", "pods", "-l", SERVERS, "-o", "json"]);
        let found: Value = serde_json::from_str(&found).unwrap();
        let pods = found["items"].as_array().unwrap().iter();
        pods.filter(|pod| pod["metadata"]["deletionTimestamp"].is_null()).cloned().collect()
    }

    /// Runs a program in a pod.
    fn exec(&self, pod: &Value, words: &[&str]) -> Result<String, String> {
        let name = pod["metadata"]["name"].as_str().unwrap();
        try_kubectl(&[&["-n", self.namespace().name(), "exec", name, "-c", "vespiary", "--"], words].concat())
    }
}

impl Drop for Deployed {
    fn drop(&mut self) {
        self.overlay.delete(self.namespace().name());
    }
}

/// Waits until the Deployment is as it should be; says why when it does not come to that.
fn rolled_out(namespace: &str) {
    if let Err(why) = try_kubectl(&["-n", namespace, "rollout", "status", "deployment/vespiary", ROLLOUT]) {
        for words in [
            &["describe", "pods", "-l", SERVERS][..],
            &["logs", "-l", SERVERS, "--tail=20", "--prefix"],
            &["logs", "-l", SERVERS, "--tail=20", "--prefix", "--previous"],
        ] {
            eprintln!("{}", try_kubectl(&[&["-n", namespace], words].concat()).unwrap_or_default());
        }
        panic!("the Deployment does not become available: {why}");
    }
}

fn hello(name: &str) -> Value {
    json!({ "name": name, "token": TOKEN })
}

#[tokio::test(flavor = "multi_thread")]
async fn the_manifests_run_a_server_that_can_be_updated_under_load() {
    let Some(deployed) = Deployed::start() else { return };
    let pods = deployed.pods();
    assert_eq!(pods.len(), 2, "two replicas");
    locked(&deployed, &pods);
    executes(&deployed, &pods[0]).await;
    updates(&deployed).await;

    until("every run to be let go", Duration::from_secs(60), || async {
        deployed.namespace().held().is_empty().then_some(())
    })
    .await;
}

/// What the manifests promise of the server's pods.
fn locked(deployed: &Deployed, pods: &[Value]) {
    for pod in pods {
        let (spec, container) = (&pod["spec"], &pod["spec"]["containers"][0]);
        assert_eq!(spec["serviceAccountName"], "vespiary");
        assert_eq!(spec["securityContext"]["runAsNonRoot"], true);
        assert_eq!(spec["securityContext"]["seccompProfile"]["type"], "RuntimeDefault");
        assert_eq!(container["securityContext"]["readOnlyRootFilesystem"], true);
        assert_eq!(container["securityContext"]["allowPrivilegeEscalation"], false);
        assert_eq!(container["securityContext"]["capabilities"]["drop"], json!(["ALL"]));
        let conditions = pod["status"]["conditions"].as_array().unwrap();
        assert!(conditions.iter().any(|one| one["type"] == "Ready" && one["status"] == "True"), "{conditions:?}");
        assert_eq!(pod["status"]["containerStatuses"][0]["restartCount"], 0);
    }
    // And that they hold.
    let pod = &pods[0];
    assert_eq!(deployed.exec(pod, &["id", "-u"]).unwrap().trim(), "65532");
    let refused = deployed.exec(pod, &["touch", "/usr/share/vespiary/x"]).unwrap_err();
    assert!(refused.contains("Read-only file system"), "{refused}");
    let _ = deployed.exec(pod, &["touch", "/tmp/x"]).unwrap();
    let status = deployed.exec(pod, &["grep", "-E", "^(CapEff|NoNewPrivs|Seccomp):", "/proc/1/status"]).unwrap();
    let status: Vec<&str> = status.lines().filter_map(|line| line.split_whitespace().nth(1)).collect();
    assert_eq!(status, ["0000000000000000", "1", "2"]);
}

/// An execution of either kind through the Service, and what is kept of it.
async fn executes(deployed: &Deployed, pod: &Value) {
    let client = &deployed.client;
    client.get("/readyz").await.expect(200);
    let denied = client.execute("hello-world", &json!({ "inputs": { "name": "Ann" } }), &[]).await;
    assert!(matches!(denied.status, 401 | 403), "{}", denied.text());
    let answer = client.execute("hello-world", &json!({ "inputs": hello("Ann") }), &[]).await.expect(200);
    assert_eq!((answer.text().as_str(), answer.header("content-type")), ("Hello 'Ann'!", "text/plain"));

    let id = client.submit("hello-world", &hello("Bob")).await;
    assert_eq!(client.ended(&id).await["status"], "successful");
    let result = client.get(&format!("/jobs/{id}/results")).await.expect(200);
    assert_eq!(result.text(), "Hello 'Bob'!");
    let log = client.get(&format!("/jobs/{id}/logs")).await.expect(200).text();
    assert!(log.ends_with("PYGEOAPI_K8S_MANAGER_RESULT_START\nHello 'Bob'!"), "{log}");
    assert_eq!(deployed.cluster.objects("logs/").len(), 2, "both logs are in the bucket");

    // The history, as an operator asks for it in the pod.
    let statement = "select id, status, inputs::text as inputs from job_history order by created";
    let rows = deployed.exec(pod, &["/usr/bin/vespiary", "sql", "--json", statement]).unwrap();
    let rows: Vec<Value> = serde_json::from_str(&rows).unwrap();
    assert_eq!(rows.len(), 2, "{rows:?}");
    assert!(rows.iter().all(|row| row["status"] == "successful"), "{rows:?}");
    assert_eq!(rows[1]["id"], json!(id));
    assert!(!json!(rows).to_string().contains(TOKEN), "{rows:?}");
}

/// One that sends requests until it is told to stop.
struct Stream<'a> {
    deployed: &'a Deployed,
    number: usize,
    stop: &'a AtomicBool,
}

impl Stream<'_> {
    /// Requests of one kind, one after another: the jobs that were made, and the synchronous answers that were whole.
    async fn run(&self, synchronous: bool) -> (Vec<String>, usize) {
        let (mut ids, mut whole, mut count) = (Vec::new(), 0, 0);
        let kept = &self.deployed.client;
        while !self.stop.load(Ordering::Relaxed) {
            count += 1;
            // Half of them on connections of their own: those are spread over all pods that the Service knows.
            let fresh = Client::new(kept.url(), None);
            let client = if self.number.is_multiple_of(2) { &fresh } else { kept };
            let name = format!("{}-{count}", self.number);
            let body = json!({ "inputs": hello(&name) });
            let prefer: &[_] = if synchronous { &[] } else { &[("prefer", "respond-async")] };
            let mut headers = vec![("content-type", "application/json")];
            headers.extend_from_slice(prefer);
            let path = "/processes/hello-world/execution";
            let sent = client.try_send(Method::POST, path, &headers, body.to_string()).await;
            let answer = sent.unwrap_or_else(|error| panic!("request {name} was dropped: {error:?}"));
            match (synchronous, answer.status) {
                (true, 200) => {
                    assert_eq!(answer.text(), format!("Hello '{name}'!"));
                    whole += 1;
                }
                // Also of a synchronous one, whose server stops: the job goes on.
                (_, 201) => ids.push(answer.json()["jobID"].as_str().unwrap().to_owned()),
                (_, other) => panic!("request {name}: {other} {}", answer.text()),
            }
            if !synchronous {
                tokio::time::sleep(Duration::from_millis(800)).await;
            }
        }
        (ids, whole)
    }
}

/// A rolling restart while requests of both kinds come: none is dropped, no job is lost.
async fn updates(deployed: &Deployed) {
    let name = |pod: &Value| pod["metadata"]["name"].as_str().unwrap().to_owned();
    let before: BTreeSet<String> = deployed.pods().iter().map(name).collect();
    let stop = AtomicBool::new(false);
    let streams = join_all((0..4).map(|number| {
        let stream = Stream { deployed, number, stop: &stop };
        async move { stream.run(number < 2).await }
    }));
    let namespace = deployed.namespace().name().to_owned();
    let restart = async {
        tokio::task::spawn_blocking(move || {
            let _ = kubectl(&["-n", &namespace, "rollout", "restart", "deployment/vespiary"]);
            rolled_out(&namespace);
        })
        .await
        .expect("the restart is done");
        // The last old pod goes when the Deployment is available already.
        until("the old pods to be gone", Duration::from_secs(180), || async {
            let all = deployed.namespace().pods(|pods| async move {
                pods.list_metadata(&kube::api::ListParams::default().labels(SERVERS)).await
            });
            let all = all.expect("pods can be listed").items;
            (all.len() == 2).then_some(())
        })
        .await;
        stop.store(true, Ordering::Relaxed);
    };
    let (done, ()) = tokio::join!(streams, restart);
    let after: BTreeSet<String> = deployed.pods().iter().map(name).collect();
    assert!(before.is_disjoint(&after) && after.len() == 2, "{before:?}, {after:?}");

    let whole: usize = done.iter().map(|(_, whole)| whole).sum();
    let ids: Vec<&String> = done.iter().flat_map(|(ids, _)| ids).collect();
    eprintln!("during the update: {whole} synchronous answers, {} jobs", ids.len());
    assert!(whole > 0 && !ids.is_empty());
    for id in ids {
        let job = deployed.client.ended(id).await;
        assert_eq!(job["status"], "successful", "{job}");
        let result = deployed.client.get(&format!("/jobs/{id}/results")).await.expect(200).text();
        assert!(result.starts_with("Hello '"), "{result}");
    }
    let statement = "select count(*) as jobs from job_history where status <> 'successful'";
    let pod = deployed.pods().remove(0);
    let rows = deployed.exec(&pod, &["/usr/bin/vespiary", "sql", "--json", statement]).unwrap();
    assert_eq!(serde_json::from_str::<Value>(&rows).unwrap(), json!([{ "jobs": 0 }]));
}

/// The server's identity in a namespace.
fn account(namespace: &Namespace) -> String {
    format!("system:serviceaccount:{}:vespiary", namespace.name())
}

/// What the API server lets the ServiceAccount do in a namespace, of all that there is to do with what could be of use to it.
async fn granted(user: &str, namespace: &str) -> BTreeSet<(String, String)> {
    const RESOURCES: [(&str, &[&str]); 4] = [
        ("batch", &["jobs", "jobs/status", "jobs/finalizers", "cronjobs"]),
        (
            "",
            &[
                "pods",
                "pods/log",
                "pods/exec",
                "pods/status",
                "pods/eviction",
                "events",
                "secrets",
                "configmaps",
                "services",
                "serviceaccounts",
                "serviceaccounts/token",
                "namespaces",
                "nodes",
                "persistentvolumeclaims",
            ],
        ),
        ("coordination.k8s.io", &["leases"]),
        ("rbac.authorization.k8s.io", &["roles", "rolebindings"]),
    ];
    const VERBS: [&str; 8] = ["get", "list", "watch", "create", "update", "patch", "delete", "deletecollection"];
    let reviews: Api<SubjectAccessReview> = Api::all(kube::Client::try_default().await.unwrap());
    let mut found = BTreeSet::new();
    for (group, resource) in RESOURCES.iter().flat_map(|(group, all)| all.iter().map(move |one| (*group, *one))) {
        let (name, subresource) = resource.split_once('/').unwrap_or((resource, ""));
        for verb in VERBS {
            let asked = json!({
                "metadata": {},
                "spec": {
                    "user": user,
                    "groups": ["system:serviceaccounts", format!("system:serviceaccounts:{namespace}"), "system:authenticated"],
                    "resourceAttributes": {
                        "namespace": namespace, "group": group, "resource": name, "subresource": subresource, "verb": verb,
                    },
                },
            });
            let asked: SubjectAccessReview = serde_json::from_value(asked).unwrap();
            let answer = reviews.create(&PostParams::default(), &asked).await.expect("the API server answers");
            if answer.status.is_some_and(|status| status.allowed) {
                found.insert((format!("{group}/{resource}"), verb.to_owned()));
            }
        }
    }
    found
}

/// Runs of every kind, so that a server uses all its rights: `wait` waits, `password` gets an input that is secret.
const PROCESSES: &str = r"
processes:
  - processor: hello-world
  - processor: generic-image
    config:
      metadata:
        id: wait
        version: 1.0.0
        title: Waits
        inputs:
          seconds: { schema: { type: integer } }
          password: { schema: { type: string, format: password }, minOccurs: 0 }
        outputs: { text: { schema: { type: string, contentMediaType: text/plain } } }
      default_image: busybox:1.36
      check_auth: false
      command:
        - sh
        - -c
        - |
          sleep $(echo $PYGEOAPI_K8S_MANAGER_INPUTS | grep -o 'seconds...[0-9]*' | grep -o '[0-9]*$')
          printf 'PYGEOAPI_K8S_MANAGER_RESULT_START\nwaited'
";

/// Puts a finalizer of somebody else in front of ours.
fn hold_first(namespace: &Namespace, pod: &str) {
    let operations = json!([{ "op": "add", "path": "/metadata/finalizers/0", "value": "example.org/held" }]);
    let patch: Patch<()> = Patch::Json(serde_json::from_value(operations).unwrap());
    namespace.pods(|pods| async move { pods.patch(pod, &PatchParams::default(), &patch).await.unwrap() });
}

/// A change of the Role: takes a verb from the rule of this number.
fn without(namespace: &Namespace, rule: usize, verb: &str) {
    let role = kubectl(&["-n", namespace.name(), "get", "role", "vespiary", "-o", "json"]);
    let role: Value = serde_json::from_str(&role).unwrap();
    let verbs = role["rules"][rule]["verbs"].as_array().unwrap();
    let place = verbs.iter().position(|one| one == verb).unwrap();
    let patch = json!([{ "op": "remove", "path": format!("/rules/{rule}/verbs/{place}") }]).to_string();
    let _ = kubectl(&["-n", namespace.name(), "patch", "role", "vespiary", "--type=json", "-p", &patch]);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_role_grants_what_is_used_and_nothing_else() {
    let Some(cluster) = Cluster::with_kubernetes() else { return };
    let namespace = cluster.namespace().unwrap();
    let user = account(namespace);
    // Nothing runs in it: the server of this test is here, and is the ServiceAccount for the API server.
    let overlay = Overlay::write(&cluster, "vespiary:none", 0);
    overlay.apply();
    let proxy = ApiProxy::start(Some(&user));
    let folder = tempfile::tempdir().unwrap();
    let kubeconfig = proxy.kubeconfig(folder.path()).to_string_lossy().into_owned();
    let options = || ServerOptions::default().config(PROCESSES).env("KUBECONFIG", kubeconfig.clone());

    let server = Server::replica(&cluster, options());
    let client = server.client();
    until("the server to be ready", Duration::from_secs(30), || async {
        (client.get("/readyz").await.status == 200).then_some(())
    })
    .await;
    client.execute("hello-world", &json!({ "inputs": { "name": "Ann" } }), &[]).await.expect(200);
    let secret = json!({ "seconds": 0, "password": "nobody may know" });
    let secret = client.submit("wait", &secret).await;
    assert_eq!(client.ended(&secret).await["status"], "successful");
    // Dismissed while it runs.
    let long = client.submit("wait", &json!({ "seconds": 600 })).await;
    client.reaches(&long, "running").await;
    client.delete(&format!("/jobs/{long}")).await.expect(200);
    // Somebody else holds the pod, too.
    let held = client.submit("wait", &json!({ "seconds": 2 })).await;
    let pod = until("the pod", Duration::from_secs(30), || async {
        namespace.pods_of(&held).first().and_then(|pod| pod["metadata"]["name"].as_str().map(str::to_owned))
    })
    .await;
    hold_first(namespace, &pod);
    assert_eq!(client.ended(&held).await["status"], "successful");
    until("every run to be let go", Duration::from_secs(60), || async { namespace.held().is_empty().then_some(()) })
        .await;

    let calls = proxy.calls();
    let refused: Vec<_> = calls.iter().filter(|call| matches!(call.status, 401 | 403)).collect();
    assert!(refused.is_empty(), "{refused:?}");
    // What it may do itself, everybody may ask.
    let own = |call: &Call| call.resource == "authorization.k8s.io/selfsubjectaccessreviews";
    let used: BTreeSet<_> =
        calls.into_iter().filter(|call| !own(call)).map(|call| (call.resource, call.verb)).collect();
    assert_eq!(granted(&user, namespace.name()).await, used, "granted on the left, used on the right");
    assert!(granted(&user, "default").await.is_empty(), "nothing in another namespace");

    // A right that is missing: a job says so.
    without(namespace, 0, "create");
    let failed = until("the Role to be in force", Duration::from_secs(30), || async {
        let body = json!({ "inputs": { "name": "Ann" } });
        let answer = client.execute("hello-world", &body, &[("prefer", "respond-async")]).await.expect(201);
        Some(answer.json()).filter(|job| job["status"] == "failed")
    })
    .await;
    let message = failed["message"].as_str().unwrap();
    assert!(message.contains("cannot create resource \"jobs\""), "{message}");
    drop(server);

    // Or the readiness of a server that cannot see its runs.
    without(namespace, 1, "list");
    let blind = Server::replica(&cluster, options());
    let client = blind.client();
    let part = until("the readiness to name what is missing", Duration::from_secs(60), || async {
        let answer = client.get("/readyz").await.expect(503).json();
        let part = answer["parts"].as_array().unwrap().iter().find(|part| part["name"] == "runner").unwrap().clone();
        // Before it has tried, it is not ready either.
        blind.log().contains("cannot list resource \\\"pods\\\"").then_some(part)
    })
    .await;
    assert!(part["ready"] == false && part["reason"].as_str().unwrap().contains("pods"), "{part}");
    drop(blind);
    overlay.delete(namespace.name());
}
