//! Several servers on one PostgreSQL database and one bucket: what one accepts, all show; what one does, no other does again.
//!
//! Their runs are those of the local runner: each server has its own.

use std::collections::BTreeSet;
use std::path::Path;
use std::time::{Duration, Instant};

use futures::future::join_all;
use reqwest::Method;
use serde_json::{Value, json};
use vespiary_tests::{Client, Cluster, Server, ServerOptions, until};

/// `count` leaves a line in a file each time it runs, takes `seconds`, and answers 600,000 bytes.
fn options(runs: &Path) -> ServerOptions {
    let config = format!(
        r#"
jobs: {{ repair_after_seconds: 1 }}
processes:
  - processor: hello-world
  - processor: echo
  - processor: generic-image
    config:
      metadata:
        id: count
        version: 1.0.0
        title: Counts its runs
        inputs: {{ seconds: {{ schema: {{ type: integer }} }} }}
        outputs: {{ text: {{ schema: {{ type: string, contentMediaType: text/plain }} }} }}
      default_image: busybox:1.36
      check_auth: false
      command:
        - sh
        - -c
        - |
          echo "ran $PYGEOAPI_JOB_ID" >> "$RUNS"
          echo before the result
          sleep "$(echo "$PYGEOAPI_K8S_MANAGER_INPUTS" | tr -dc 0-9)"
          echo PYGEOAPI_K8S_MANAGER_RESULT_START
          yes 0123456789 | head -c 600000
      env:
        - {{ name: RUNS, value: "{}" }}
"#,
        runs.join("runs").display()
    );
    ServerOptions::default().config(&config)
}

/// Two servers on the same backends.
struct Pair {
    a: Server,
    b: Server,
    runs: tempfile::TempDir,
    // Behind the servers: they must not use a database that is gone.
    cluster: std::sync::Arc<Cluster>,
}

impl Pair {
    fn start() -> Option<Self> {
        let cluster = Cluster::if_any()?;
        let runs = tempfile::tempdir().unwrap();
        let [a, b] = [(); 2].map(|()| Server::replica(&cluster, options(runs.path())));
        Some(Self { a, b, runs, cluster })
    }

    fn ran(&self) -> Vec<String> {
        let lines = std::fs::read_to_string(self.runs.path().join("runs")).unwrap_or_default();
        lines.lines().map(str::to_owned).collect()
    }
}

async fn listed(client: &Client) -> BTreeSet<String> {
    let jobs = client.get("/jobs?limit=1000").await.expect(200).json();
    jobs["jobs"].as_array().unwrap().iter().map(|job| job["jobID"].as_str().unwrap().to_owned()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn four_start_at_once_on_an_empty_database() {
    let Some(cluster) = Cluster::if_any() else { return };
    let runs = tempfile::tempdir().unwrap();
    let begin = std::sync::Barrier::new(4);
    let servers: Vec<Server> = std::thread::scope(|scope| {
        let start = || {
            begin.wait();
            Server::replica(&cluster, options(runs.path()))
        };
        let starting: Vec<_> = (0..4).map(|_| scope.spawn(start)).collect();
        starting.into_iter().map(|one| one.join().unwrap()).collect()
    });
    let mut ids = BTreeSet::new();
    for server in &servers {
        server.client().get("/readyz").await.expect(200);
        ids.insert(server.client().submit("hello-world", &json!({ "name": "a" })).await);
    }
    for server in &servers {
        assert_eq!(listed(&server.client()).await, ids);
    }
    for id in &ids {
        assert_eq!(servers[0].client().ended(id).await["status"], "successful");
    }
    let applied = servers[0].sql("select version, count(*) as times from _sqlx_migrations group by version");
    assert!(!applied.is_empty() && applied.iter().all(|row| row["times"] == 1), "{applied:?}");
    let offered = servers[0].sql("select id from process_history where offered_until is null order by id");
    assert_eq!(offered, [json!({ "id": "count" }), json!({ "id": "echo" }), json!({ "id": "hello-world" })]);
    drop(servers);
    drop(cluster);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_one_accepts_the_other_shows() {
    let Some(pair) = Pair::start() else { return };
    let (a, b) = (pair.a.client(), pair.b.client());
    let id = a.submit("count", &json!({ "seconds": 0 })).await;
    assert!(listed(&b).await.contains(&id));
    assert_eq!(b.ended(&id).await["status"], "successful");
    assert_eq!(a.job(&id).await, {
        let mut seen = b.job(&id).await;
        rebase(&mut seen, b.url(), a.url());
        seen
    });
    // Bytes that only the bucket has.
    let whole = b.get(&format!("/jobs/{id}/results")).await.expect(200);
    assert!(whole.body.len() == 600_000 && whole.text().starts_with("0123456789\n0123"));
    let part = b.send(Method::GET, &format!("/jobs/{id}/results/text"), &[("range", "bytes=11-20")], "").await;
    assert_eq!(part.expect(206).text(), "0123456789");
    let log = b.get(&format!("/jobs/{id}/logs")).await.expect(200).text();
    assert!(log.starts_with("before the result\nPYGEOAPI_K8S_MANAGER_RESULT_START\n0123"), "{}", &log[..80]);
    let receipt = b.get(&format!("/jobs/{id}/receipt")).await.expect(200).json();
    assert_eq!((&receipt["complete"], &receipt["bytes"]), (&json!(true), &json!(log.len())));
    assert!(receipt["uri"].as_str().unwrap().starts_with("s3://"), "{receipt}");
    assert_eq!(pair.cluster.objects("logs/").len(), 1);
    assert_eq!(pair.b.sql("select status, log_size from job_history")[0]["log_size"], json!(log.len()));
    // Removed by one, gone for both.
    b.delete(&format!("/jobs/{id}")).await.expect(200);
    a.get(&format!("/jobs/{id}")).await.expect(404);
    assert!(pair.cluster.objects("logs/").is_empty() && pair.cluster.objects("results/").is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_large_result_can_come_from_the_bucket_itself() {
    let Some(cluster) = Cluster::if_any() else { return };
    let runs = tempfile::tempdir().unwrap();
    let through = Server::replica(&cluster, options(runs.path()));
    let signing = Server::replica(&cluster, options(runs.path()).env("VESPIARY_S3_PRESIGN", "true"));
    let id = through.client().submit("count", &json!({ "seconds": 0 })).await;
    through.client().ended(&id).await;
    let path = format!("/jobs/{id}/results/text");
    assert_eq!(through.client().get(&path).await.expect(200).body.len(), 600_000);
    let http = reqwest::Client::builder().redirect(reqwest::redirect::Policy::none()).build().unwrap();
    let sent = http.get(format!("{}{path}", signing.url())).send().await.unwrap();
    assert_eq!(sent.status(), 307);
    assert_eq!(sent.headers()["cache-control"], "no-store");
    let address = sent.headers()["location"].to_str().unwrap();
    assert!(!address.contains(&std::env::var("TEST_S3_SECRET").unwrap()));
    let bytes = http.get(address).send().await.unwrap();
    assert_eq!(bytes.headers()["content-type"], "text/plain");
    assert_eq!(bytes.bytes().await.unwrap().len(), 600_000);
    // The results as such come through the API, and so does the head of one.
    assert_eq!(signing.client().get(&format!("/jobs/{id}/results")).await.expect(200).body.len(), 600_000);
    let head = signing.client().send(Method::HEAD, &path, &[], "").await.expect(200);
    assert_eq!(head.header("content-length"), "600000");
    drop((through, signing, cluster));
}

/// Links of a document as another server writes them.
fn rebase(value: &mut Value, from: &str, to: &str) {
    match value {
        Value::String(text) => *text = text.replace(from, to),
        Value::Array(items) => items.iter_mut().for_each(|item| rebase(item, from, to)),
        Value::Object(members) => members.values_mut().for_each(|member| rebase(member, from, to)),
        _ => {}
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn one_key_is_one_job_whoever_is_asked() {
    let Some(pair) = Pair::start() else { return };
    let clients = [pair.a.client(), pair.b.client()];
    let body = json!({ "inputs": { "seconds": 0 } });
    let headers = [("idempotency-key", "once"), ("prefer", "respond-async")];
    let answers = join_all((0..20).map(|n| clients[n % 2].execute("count", &body, &headers))).await;
    let ids: BTreeSet<String> =
        answers.into_iter().map(|answer| answer.expect(201).json()["jobID"].as_str().unwrap().to_owned()).collect();
    assert_eq!(ids.len(), 1, "{ids:?}");
    let id = ids.first().unwrap();
    assert_eq!(clients[1].ended(id).await["status"], "successful");
    let other = json!({ "inputs": { "seconds": 1 } });
    for client in &clients {
        let refused = client.execute("count", &other, &headers).await;
        assert!((400..500).contains(&refused.status), "{}", refused.text());
    }
    assert_eq!(pair.ran(), [format!("ran {id}")]);
}

/// The row is looked at every two seconds even without a notice: of so many waits, not all would be short by luck.
const WAITS: u64 = 10;

#[tokio::test(flavor = "multi_thread")]
async fn who_waits_at_one_hears_that_the_other_has_finished() {
    let Some(pair) = Pair::start() else { return };
    let (a, b) = (pair.a.client(), pair.b.client());
    let waits = join_all((0..WAITS).map(|n| {
        let (a, b) = (a.clone(), b.clone());
        async move {
            // Different lengths, so that they end at different moments of those two seconds.
            let body = json!({ "inputs": { "message": "x", "pause": 1 } });
            let key = format!("wait-{n}");
            tokio::time::sleep(Duration::from_millis(n * 170)).await;
            let asked = [("idempotency-key", key.as_str()), ("prefer", "respond-async")];
            let id = a.execute("echo", &body, &asked).await.expect(201).json()["jobID"].as_str().unwrap().to_owned();
            let ended = async {
                // This one has the run: it knows at once.
                until("the job to end", Duration::from_secs(60), || async {
                    (a.job(&id).await["status"] == "successful").then(Instant::now)
                })
                .await
            };
            let heard = async {
                b.execute("echo", &body, &[("idempotency-key", key.as_str())]).await.expect(200);
                Instant::now()
            };
            let (ended, heard) = tokio::join!(ended, heard);
            heard.saturating_duration_since(ended)
        }
    }))
    .await;
    assert!(waits.iter().all(|wait| *wait < Duration::from_millis(1_200)), "{waits:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_repairs_what_runs_elsewhere() {
    let Some(pair) = Pair::start() else { return };
    let Pair { a, b, runs, cluster } = pair;
    let long = json!({ "seconds": 8 });
    let ids = [a.client().submit("count", &long).await, b.client().submit("count", &long).await];
    // Older than the age at which jobs without a run are looked after.
    tokio::time::sleep(Duration::from_millis(1_500)).await;
    // A server that starts looks for them at once.
    let b = b.restart();
    for id in &ids {
        let job = a.client().ended(id).await;
        assert_eq!(job["status"], "successful", "{job}");
    }
    let ran = std::fs::read_to_string(runs.path().join("runs")).unwrap();
    let mut ran: Vec<&str> = ran.lines().collect();
    ran.sort_unstable();
    let mut want = ids.map(|id| format!("ran {id}"));
    want.sort_unstable();
    assert_eq!(ran, want, "each ran once");
    drop((a, b, cluster));
}

#[tokio::test(flavor = "multi_thread")]
async fn one_dies_and_the_other_goes_on() {
    let Some(pair) = Pair::start() else { return };
    let Pair { mut a, b, runs, cluster } = pair;
    let (before, during) = (a.client().submit("count", &json!({ "seconds": 0 })).await, {
        let client = a.client();
        let id = client.submit("count", &json!({ "seconds": 3 })).await;
        client.reaches(&id, "running").await;
        id
    });
    a.client().ended(&before).await;
    a.kill();
    let client = b.client();
    assert_eq!(client.get(&format!("/jobs/{before}/results")).await.expect(200).body.len(), 600_000);
    assert_eq!(client.job(&during).await["status"], "running", "its run goes on without the server");
    client.submit("count", &json!({ "seconds": 0 })).await;
    client.get("/readyz").await.expect(200);
    let a = a.restart();
    assert_eq!(client.ended(&during).await["status"], "successful");
    assert_eq!(a.client().get(&format!("/jobs/{during}/logs")).await.expect(200).body.len(), 600_052);
    let ran = std::fs::read_to_string(runs.path().join("runs")).unwrap();
    assert_eq!(ran.lines().count(), 3, "each ran once: {ran}");
    drop((a, b, cluster));
}
