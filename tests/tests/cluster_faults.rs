//! What happens to single jobs on a cluster: deleted, evicted, out of memory, too slow, never started, refused. Each ends right, with its
//! log, and nothing stays behind that the server holds.

use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};
use vespiary_tests::namespace::FINALIZER;
use vespiary_tests::verdict::all_let_go;
use vespiary_tests::{Calm, Client, Cluster, Namespace, Server, ServerOptions, Verdict, process, until};

const TEXT: &str = "{ text: { schema: { type: string, contentMediaType: text/plain } } }";
const RESULT: &str = "echo before\necho PYGEOAPI_K8S_MANAGER_RESULT_START\nprintf done";
const RESULT_LOG: &str = "before\nPYGEOAPI_K8S_MANAGER_RESULT_START\ndone";
const LONG: &str = "echo before\nsleep 300";

/// A server whose runs are in a namespace of its own. Fields in the order in which they must go.
struct Field {
    server: Server,
    cluster: Arc<Cluster>,
    _calm: Calm,
}

impl Field {
    fn open(settings: &str, processes: &[String]) -> Option<Self> {
        let calm = Calm::hold();
        let cluster = Cluster::with_kubernetes()?;
        let config = format!("jobs: {{ repair_after_seconds: 1 }}\n{settings}processes:\n{}", processes.concat());
        let server = Server::replica(&cluster, ServerOptions::default().config(&config));
        Some(Self { server, cluster, _calm: calm })
    }

    fn client(&self) -> Client {
        self.server.client()
    }

    fn namespace(&self) -> &Namespace {
        self.cluster.namespace().unwrap()
    }

    async fn submit(&self, process: &str) -> String {
        self.client().submit(process, &json!({})).await
    }

    /// Waits until the job's first line is in its log: its pod.
    async fn pod_at_work(&self, id: &str) -> String {
        self.client().reaches(id, "running").await;
        until("the first line", Duration::from_secs(30), || async {
            let log = self.client().get(&format!("/jobs/{id}/logs")).await;
            (log.status == 200 && log.text().contains("before\n")).then_some(())
        })
        .await;
        let pods = self.namespace().pods_of(id);
        pods[0]["metadata"]["name"].as_str().unwrap().to_owned()
    }

    async fn is(&self, id: &str, verdict: Verdict<'_>) {
        verdict.hold(&self.server, id).await;
    }
}

fn job_name(id: &str) -> String {
    format!("pygeoapi-job-{id}")
}

#[tokio::test(flavor = "multi_thread")]
async fn jobs_that_fail_by_themselves() {
    let greedy = "resources: { limits: { memory: 16Mi } }";
    let init =
        "init_containers:\n  - { name: fetch, image: busybox:1.36, command: [sh, -c, 'echo no source; exit 4'] }";
    let processes = [
        process("greedy", TEXT, greedy, "echo before\nexec tail /dev/zero"),
        process("late", TEXT, "deadline_seconds: 8", LONG),
        process("sourceless", TEXT, init, RESULT),
        process("right", TEXT, "", RESULT),
    ];
    let Some(field) = Field::open("", &processes) else { return };
    let (greedy, late) = (field.submit("greedy").await, field.submit("late").await);
    let (sourceless, right) = (field.submit("sourceless").await, field.submit("right").await);
    let log = "==> container fetch <==\nno source\n";
    let words = ["container 'fetch' ended with exit code 4"];
    field.is(&sourceless, Verdict::failure("Error", &words, log)).await;
    let words = ["stopped at its deadline of 8 s"];
    field.is(&late, Verdict::failure("DeadlineExceeded", &words, "before\n").of_deleted_pod()).await;
    field.is(&right, Verdict::success("done", RESULT_LOG)).await;
    // Where runtimes cannot tell (no memory events in their control group) it is an end by the signal, and the limit is named.
    let ended = field.client().ended(&greedy).await;
    let told =
        if ended["message"].as_str().unwrap().contains("when it had no memory left") { "OOMKilled" } else { "Error" };
    let words = ["signal 9 (SIGKILL)", "its memory is limited to 16Mi"];
    field.is(&greedy, Verdict::failure(told, &words, "before\n")).await;
    all_let_go(&field.cluster).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_that_kubectl_deletes() {
    let Some(field) = Field::open("", &[process("long", TEXT, "", LONG)]) else { return };
    let id = field.submit("long").await;
    field.pod_at_work(&id).await;
    field.namespace().delete_job(&job_name(&id));
    field.is(&id, Verdict::failure("Cancelled", &["cancelled"], "before\n").of_deleted_pod()).await;
    all_let_go(&field.cluster).await;
    until("the Job to be gone", Duration::from_secs(20), || async {
        field.namespace().job(&job_name(&id)).is_none().then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_is_drained() {
    // The second attempt finds what the first did not.
    let again =
        "retries: 1\nenv:\n  - { name: GO, valueFrom: { configMapKeyRef: { name: second, key: go, optional: true } } }";
    let twice = "echo before\n[ -n \"$GO\" ] || sleep 300\necho PYGEOAPI_K8S_MANAGER_RESULT_START\nprintf done";
    let Some(field) = Field::open("", &[process("once", TEXT, "", LONG), process("twice", TEXT, again, twice)]) else {
        return;
    };
    let (once, twice) = (field.submit("once").await, field.submit("twice").await);
    let pods = [field.pod_at_work(&once).await, field.pod_at_work(&twice).await];
    field.namespace().configure("second", &json!({ "go": "1" }));
    for pod in &pods {
        field.namespace().drain(pod);
    }
    let words = ["evicted from node 'node-1'"];
    field.is(&once, Verdict::failure("Lost", &words, "before\n").of_deleted_pod()).await;
    let job = field.client().ended(&twice).await;
    assert_eq!(job["status"], "successful", "{job}");
    assert_eq!(field.client().get(&format!("/jobs/{twice}/results")).await.expect(200).text(), "done");
    let log = field.client().get(&format!("/jobs/{twice}/logs")).await.expect(200).text();
    let attempts = log.matches("before\n").count() + log.matches("==> missing: ").count();
    assert_eq!(attempts, 2, "both attempts, the log of the first if its node still had it: {log}");
    all_let_go(&field.cluster).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_finalizer_of_somebody_else_stays() {
    const FOREIGN: &str = "example.org/hold";
    let Some(field) = Field::open("", &[process("long", TEXT, "", LONG), process("right", TEXT, "", RESULT)]) else {
        return;
    };
    let (long, right) = (field.submit("long").await, field.submit("right").await);
    let pod = field.pod_at_work(&long).await;
    // Before ours, so that it is not enough to remove the first.
    field.namespace().finalize(&pod, &[FOREIGN, FINALIZER]);
    field.client().delete(&format!("/jobs/{long}")).await.expect(200);
    let verdict = Verdict { status: "dismissed", ..Verdict::failure("Cancelled", &[], "before\n") };
    field.is(&long, verdict.of_deleted_pod()).await;
    field.is(&right, Verdict::success("done", RESULT_LOG)).await;
    until("our finalizer to go", Duration::from_secs(30), || async {
        field.namespace().held().is_empty().then_some(())
    })
    .await;
    // What else the server does for a job that is let go must not touch it.
    tokio::time::sleep(Duration::from_secs(6)).await;
    let pods = field.namespace().pods_of(&long);
    assert_eq!(pods[0]["metadata"]["finalizers"], json!([FOREIGN]));
    field.namespace().finalize(&pod, &[]);
    all_let_go(&field.cluster).await;
}

fn foreign_job(name: &str) -> Value {
    let pod = json!({ "restartPolicy": "Never", "containers": [{ "name": "main", "image": "busybox:1.36", "command": ["true"] }] });
    json!({ "metadata": { "name": name, "finalizers": ["example.org/hold"] }, "spec": { "template": { "spec": pod } } })
}

#[tokio::test(flavor = "multi_thread")]
async fn a_foreign_job_with_our_prefix_is_left_alone() {
    let processes = [process("right", TEXT, "", RESULT)];
    let config = format!("jobs: {{ repair_after_seconds: 4 }}\nprocesses:\n{}", processes.concat());
    let calm = Calm::hold();
    let Some(cluster) = Cluster::with_kubernetes() else { return };
    let namespace = cluster.namespace().unwrap();
    let stranger = job_name(&vespiary::core::JobId::new().to_string());
    namespace.create_job(&foreign_job(&stranger));
    let options = ServerOptions::default().config(&config).env("FAILPOINTS", "submit-inserted=return");
    let mut server = Server::replica(&cluster, options);
    let client = server.client();
    let sent = client.try_send(
        reqwest::Method::POST,
        "/processes/right/execution",
        &[("content-type", "application/json"), ("prefer", "respond-async")],
        r#"{"inputs":{}}"#,
    );
    assert!(sent.await.is_err(), "the server dies before it launches");
    server.wait_dead(Duration::from_secs(30));
    // While it is away somebody takes the name of the Job that it is going to make.
    let rows = server.sql("select id from job_history");
    let id = rows[0]["id"].as_str().unwrap();
    namespace.create_job(&foreign_job(&job_name(id)));
    let server = server.restart();
    let client = server.client();
    let job = client.ended(id).await;
    assert_eq!(job["status"], "failed", "{job}");
    let message = job["message"].as_str().unwrap();
    assert!(message.contains(&job_name(id)) && message.contains("not of this server"), "{message}");
    let other = client.submit("right", &json!({})).await;
    Verdict::success("done", RESULT_LOG).hold(&server, &other).await;
    client.delete(&format!("/jobs/{id}")).await.expect(200);
    assert_eq!(client.get("/jobs").await.expect(200).json()["jobs"].as_array().unwrap().len(), 1);
    for name in [stranger, job_name(id)] {
        let found = namespace.job(&name).expect("the foreign Job is still there");
        assert!(found["metadata"].get("deletionTimestamp").is_none(), "{found}");
        let finalizers = found["metadata"]["finalizers"].to_string();
        assert!(finalizers.contains("example.org/hold") && !finalizers.contains(FINALIZER), "{finalizers}");
        assert_eq!(found["metadata"]["labels"].get("vespiary.io/job-id"), None);
    }
    all_let_go(&cluster).await;
    drop((server, calm));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_image_that_cannot_be_pulled() {
    let missing = process("missing", TEXT, "", RESULT).replace("busybox:1.36", "nowhere.example/none:1");
    let settings = "kubernetes: { start_timeout_seconds: 15 }\n";
    let Some(field) = Field::open(settings, &[missing]) else { return };
    let id = field.submit("missing").await;
    let said = until("the reason", Duration::from_secs(60), || async {
        let job = field.client().job(&id).await;
        assert!(["accepted", "failed"].contains(&job["status"].as_str().unwrap()), "{job}");
        job["message"].as_str().filter(|message| message.contains("nowhere.example/none:1")).map(str::to_owned)
    })
    .await;
    assert!(said.contains("cannot be pulled: ") && said.len() > 80, "which image, which error: {said}");
    let words = ["not started within 15 s", "nowhere.example/none:1", "cannot be pulled"];
    field.is(&id, Verdict::failure("StartError", &words, "")).await;
    all_let_go(&field.cluster).await;
    until("its pod to be gone", Duration::from_secs(30), || async {
        field.namespace().pods_of(&id).is_empty().then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_image_that_cannot_be_pulled_behind_an_init_container() {
    let init = "init_containers:\n  - { name: fetch, image: busybox:1.36, command: [echo, fetched] }";
    let missing = process("missing", TEXT, init, RESULT).replacen("busybox:1.36", "nowhere.example/none:1", 1);
    let settings = "kubernetes: { start_timeout_seconds: 30 }\n";
    let Some(field) = Field::open(settings, &[missing]) else { return };
    let id = field.submit("missing").await;
    until("the reason", Duration::from_secs(90), || async {
        let job = field.client().job(&id).await;
        let said = job["message"].as_str().is_some_and(|message| message.contains("cannot be pulled: "));
        (job["status"] == "running" && said).then_some(())
    })
    .await;
    let words = ["not started within 30 s", "nowhere.example/none:1", "cannot be pulled"];
    field.is(&id, Verdict::failure("StartError", &words, "==> container fetch <==\nfetched\n")).await;
    all_let_go(&field.cluster).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn quotas() {
    let Some(field) = Field::open("", &[process("right", TEXT, "", RESULT)]) else { return };
    // Of pods: the Job is there and waits.
    field.namespace().limit("pods", &json!({ "pods": "0" }));
    let waiting = field.submit("right").await;
    until("the reason", Duration::from_secs(60), || async {
        let job = field.client().job(&waiting).await;
        assert_eq!(job["status"], "accepted", "{job}");
        let message = job["message"].as_str().unwrap_or_default();
        (message.contains("its pod could not be made") && message.contains("exceeded quota: pods")).then_some(())
    })
    .await;
    // Of Jobs: the caller is told at once.
    field.namespace().limit("jobs", &json!({ "count/jobs.batch": "1" }));
    let refused = field.submit("right").await;
    let job = field.client().job(&refused).await;
    assert_eq!(job["status"], "failed", "{job}");
    let message = job["message"].as_str().unwrap();
    assert!(message.contains("the cluster refused") && message.contains("exceeded quota: jobs"), "{message}");
    let history = field.server.sql(&format!("select status, reason from job_history where id = '{refused}'"));
    assert_eq!(history, [json!({ "status": "failed", "reason": "StartError" })]);
    field.namespace().unlimit("jobs");
    field.namespace().unlimit("pods");
    field.is(&waiting, Verdict::success("done", RESULT_LOG)).await;
    assert_eq!(field.namespace().job_names(), [job_name(&waiting)], "of the refused one nothing is there");
    all_let_go(&field.cluster).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_namespace_is_deleted() {
    let Some(field) = Field::open("", &[process("long", TEXT, "", LONG)]) else { return };
    let ids = [field.submit("long").await, field.submit("long").await];
    for id in &ids {
        field.pod_at_work(id).await;
    }
    field.namespace().delete();
    for id in &ids {
        let job = field.client().ended(id).await;
        assert_eq!(job["status"], "failed", "{job}");
        field.is(id, Verdict::failure("Cancelled", &[], "before\n").of_deleted_pod()).await;
    }
    until("the namespace to be gone", Duration::from_secs(60), || async { field.namespace().is_gone().then_some(()) })
        .await;
    let late = field.submit("long").await;
    let job = field.client().job(&late).await;
    assert_eq!(job["status"], "failed", "{job}");
    let message = job["message"].as_str().unwrap();
    assert!(message.contains("the cluster refused") && message.contains(field.namespace().name()), "{message}");
    field.client().get("/jobs").await.expect(200);
}
