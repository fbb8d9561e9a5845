//! What clients and containers may send and write, on a cluster: plans that it refuses, large inputs, large and odd results.

use std::sync::Arc;
use std::time::Duration;

use serde_json::json;
use vespiary_tests::verdict::all_let_go;
use vespiary_tests::{Calm, Cluster, Namespace, Server, ServerOptions, Verdict, process, until};

const TEXT: &str = "{ text: { schema: { type: string, contentMediaType: text/plain } } }";
const BYTES: &str =
    "{ bytes: { schema: { type: string, contentMediaType: application/octet-stream, contentEncoding: binary } } }";

struct Field {
    server: Server,
    cluster: Arc<Cluster>,
    _calm: Calm,
}

impl Field {
    fn open(processes: &[String]) -> Option<Self> {
        let calm = Calm::hold();
        let cluster = Cluster::with_kubernetes()?;
        let config = format!("policy: {{ pod_patch: true }}\nprocesses:\n{}", processes.concat());
        let server = Server::replica(&cluster, ServerOptions::default().config(&config));
        Some(Self { server, cluster, _calm: calm })
    }

    fn namespace(&self) -> &Namespace {
        self.cluster.namespace().unwrap()
    }

    async fn submit(&self, process: &str) -> String {
        self.server.client().submit(process, &json!({})).await
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_plan_that_the_api_server_refuses() {
    let patch = |value: &str| format!("pod_patch: [{{ op: add, path: /spec/containers/0/ports, value: {value} }}]");
    let processes = [
        process("invalid", TEXT, &patch("[{ containerPort: 99999 }]"), "true"),
        process("doubled", TEXT, &patch("[{ containerPort: 80, name: a }, { containerPort: 81, name: a }]"), "true"),
        process("mistyped", TEXT, &patch("[{ containerPort: many }]"), "true"),
    ];
    let Some(field) = Field::open(&processes) else { return };
    let client = field.server.client();
    let body = json!({ "inputs": {} });
    // What is no pod at all the server knows without asking.
    let refused = client.execute("mistyped", &body, &[("prefer", "respond-async")]).await;
    assert!(refused.problem() == "not-runnable" && refused.text().contains("many"), "{}", refused.text());
    assert_eq!(client.get("/jobs").await.expect(200).json()["jobs"], json!([]));
    for (name, word) in [("invalid", "containerPort"), ("doubled", "Duplicate value")] {
        let sent = client.execute(name, &body, &[("prefer", "respond-async")]).await.expect(201).json();
        assert_eq!(sent["status"], "failed", "the caller is told at once: {sent}");
        let message = sent["message"].as_str().unwrap();
        assert!(message.contains("the cluster refused: ") && message.contains(word), "{message}");
        let id = sent["jobID"].as_str().unwrap();
        assert_eq!(client.job(id).await["message"], json!(message));
        // Who waits hears the same.
        let waited = client.execute(name, &body, &[]).await.expect(500);
        assert!(waited.text().contains("the cluster refused: "), "{}", waited.text());
        let history = field.server.sql(&format!("select status, reason from job_history where id = '{id}'"));
        assert_eq!(history, [json!({ "status": "failed", "reason": "StartError" })]);
    }
    assert!(field.namespace().job_names().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn large_inputs() {
    let count = "echo PYGEOAPI_K8S_MANAGER_RESULT_START\ntr -cd Z < \"$PYGEOAPI_K8S_MANAGER_INPUTS_FILE\" | wc -c";
    let Some(field) = Field::open(&[process("count", TEXT, "", count)]) else { return };
    let client = field.server.client();
    // Nothing is created of what cannot be carried, not even a row.
    let body = json!({ "inputs": { "text": "Z".repeat(5 * 1024 * 1024) } });
    let refused = client.execute("count", &body, &[("prefer", "respond-async")]).await;
    assert!(refused.status == 413 && refused.problem() == "too-large", "{}", refused.text());
    assert!(refused.text().contains("has 52428") && refused.text().contains("at most 921600"), "{}", refused.text());
    assert_eq!(client.get("/jobs").await.expect(200).json()["jobs"], json!([]));
    assert!(field.namespace().job_names().is_empty() && field.namespace().secrets().is_empty());

    let id = client.submit("count", &json!({ "text": "Z".repeat(200 * 1024) })).await;
    let secrets = field.namespace().secrets();
    let secret = secrets.iter().find(|secret| secret["metadata"]["name"] == json!(format!("pygeoapi-job-{id}")));
    let owner = &secret.expect("the inputs travel in a Secret")["metadata"]["ownerReferences"][0];
    assert_eq!((&owner["kind"], &owner["name"]), (&json!("Job"), &json!(format!("pygeoapi-job-{id}"))));
    Verdict::success("204800\n", "PYGEOAPI_K8S_MANAGER_RESULT_START\n204800\n").hold(&field.server, &id).await;
    all_let_go(&field.cluster).await;
    // It goes with its Job.
    field.namespace().delete_job(&format!("pygeoapi-job-{id}"));
    until("the Secret to go", Duration::from_secs(30), || async {
        field.namespace().secrets().is_empty().then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn odd_results() {
    const START: &str = "echo PYGEOAPI_K8S_MANAGER_RESULT_START";
    let impostor = "init_containers:\n  - name: fetch\n    image: busybox:1.36\n    command: [sh, -c, 'echo PYGEOAPI_K8S_MANAGER_RESULT_START; echo false']";
    let csv = "{ text: { schema: { type: string, contentMediaType: text/csv } } }";
    let processes = [
        // Container runtimes take a carriage return before a newline for a part of the newline.
        process("lines", TEXT, "", &format!("{START}\nprintf '\\n\\na\\rc\\n\\n b \\n\\n'")),
        process("nul", BYTES, "", &format!("{START}\nprintf 'a\\0b\\n\\0\\0\\377'")),
        process("none", TEXT, "", "echo no result"),
        process("blank", TEXT, "", START),
        process(
            "colonless",
            csv,
            "",
            &format!("echo PYGEOAPI_K8S_MANAGER_RESULT_MIMETYPE text/html\n{START}\nprintf 1,2"),
        ),
        process("impostor", TEXT, impostor, "echo nothing"),
        process("both", TEXT, impostor, &format!("{START}\nprintf true")),
    ];
    let Some(field) = Field::open(&processes) else { return };
    let ids = futures::future::join_all(processes_of(&field)).await;
    let [lines, nul, none, blank, colonless, impostor, both] = ids.as_slice() else { panic!("{ids:?}") };
    let hold = |id: String, result: Option<Vec<u8>>, log: Vec<u8>| {
        let field = &field;
        async move {
            let log = String::from_utf8_lossy(&log).into_owned();
            let verdict = Verdict { result: result.as_deref(), ..Verdict::success("", &log) };
            verdict.hold(&field.server, &id).await;
        }
    };
    let marked = |result: &[u8]| [b"PYGEOAPI_K8S_MANAGER_RESULT_START\n", result].concat();
    let own = |id: &String, result: &[u8]| hold(id.clone(), Some(result.to_vec()), marked(result));
    own(lines, b"\n\na\rc\n\n b \n\n").await;
    own(blank, b"").await;
    hold(none.clone(), None, b"no result\n".to_vec()).await;
    let colonless_log = "PYGEOAPI_K8S_MANAGER_RESULT_MIMETYPE text/html\nPYGEOAPI_K8S_MANAGER_RESULT_START\n1,2";
    hold(colonless.clone(), Some(b"1,2".to_vec()), colonless_log.into()).await;
    let answer = field.server.client().get(&format!("/jobs/{colonless}/results")).await;
    assert_eq!(answer.header("content-type"), "text/csv");
    let fetched = "==> container fetch <==\nPYGEOAPI_K8S_MANAGER_RESULT_START\nfalse\n==> container main <==\n";
    hold(impostor.clone(), None, format!("{fetched}nothing\n").into()).await;
    let log = format!("{fetched}PYGEOAPI_K8S_MANAGER_RESULT_START\ntrue");
    hold(both.clone(), Some(b"true".to_vec()), log.into()).await;
    // Bytes that are no text, in result and log.
    let bytes = b"a\0b\n\0\0\xff";
    let client = field.server.client();
    assert_eq!(client.ended(nul).await["status"], "successful");
    assert_eq!(client.get(&format!("/jobs/{nul}/results")).await.expect(200).body, bytes);
    assert_eq!(client.get(&format!("/jobs/{nul}/logs")).await.expect(200).body, marked(bytes));
    all_let_go(&field.cluster).await;
}

fn processes_of(field: &Field) -> Vec<impl Future<Output = String>> {
    ["lines", "nul", "none", "blank", "colonless", "impostor", "both"]
        .into_iter()
        .map(|name| field.submit(name))
        .collect()
}

/// The kubelet keeps 10 MiB and looks every ten seconds: a container that writes more is read whole or is said to be incomplete.
#[tokio::test(flavor = "multi_thread")]
async fn large_results() {
    const SMALL: usize = 300 * 1024;
    const LARGE: usize = 50 * 1024 * 1024;
    // Long lines: each costs the container's runtime some work, and the kubelet gets no time to rotate what is written in a second.
    let line = "line=$(head -c 8191 /dev/zero | tr '\\0' x)\necho PYGEOAPI_K8S_MANAGER_RESULT_START";
    // At the end time for the container's runtime to write what it has in its pipe: containerd 1.6 drops that at the exit.
    let write = |size: usize| format!("{line}\nyes \"$line\" | head -c {size}\nsleep 1");
    let Some(field) =
        Field::open(&[process("small", TEXT, "", &write(SMALL)), process("large", TEXT, "", &write(LARGE))])
    else {
        return;
    };
    let client = field.server.client();
    let small = field.submit("small").await;
    let line = format!("{}\n", "x".repeat(8191));
    let result = line.repeat(SMALL / 8192).chars().chain("x".repeat(SMALL % 8192).chars()).collect::<String>();
    let log = format!("PYGEOAPI_K8S_MANAGER_RESULT_START\n{result}");
    Verdict::success(&result, &log).hold(&field.server, &small).await;
    assert_eq!(field.cluster.objects(&format!("results/{small}")).into_values().collect::<Vec<_>>(), [SMALL as u64]);

    for attempt in 1.. {
        let id = field.submit("large").await;
        let job = until("the large result", Duration::from_secs(150), || async {
            let job = client.job(&id).await;
            (!["accepted", "running"].contains(&job["status"].as_str().unwrap())).then_some(job)
        })
        .await;
        let receipt = client.get(&format!("/jobs/{id}/receipt")).await.expect(200).json();
        if receipt["complete"] == json!(true) {
            assert_eq!(job["status"], "successful", "{job}");
            let body = client.get(&format!("/jobs/{id}/results/text")).await.expect(200).body;
            assert!(body.len() == LARGE && body.chunks(8192).all(|found| found == line.as_bytes()), "{}", body.len());
            assert_eq!(field.server.archived(&format!("logs/{id}")).into_values().next(), Some(LARGE as u64 + 34));
            break;
        }
        // Rotated while it was written: nobody is given half a result for a whole one.
        assert_eq!(job["status"], "failed", "{job} {receipt}");
        assert!(receipt["missing"].to_string().contains("rotated"), "{receipt}");
        assert!(job["message"].as_str().unwrap().contains("not complete: "), "{job}");
        client.get(&format!("/jobs/{id}/results")).await.expect(500);
        assert!(attempt < 4, "rotated each time: {receipt}");
    }
    all_let_go(&field.cluster).await;
}
