//! Servers go away while jobs run: ours at every step, the API server, etcd, PostgreSQL, S3, one of several replicas, all of them one
//! after another. No job is lost, doubled or stuck, and nothing stays behind.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use futures::StreamExt as _;
use futures::future::join_all;
use serde_json::json;
use vespiary_tests::namespace::fault;
use vespiary_tests::verdict::{all_let_go, all_succeeded};
use vespiary_tests::{Calm, Client, Cluster, Outage, Server, ServerOptions, Verdict, process, until};

const TEXT: &str = "{ text: { schema: { type: string, contentMediaType: text/plain } } }";
const RESULT: &str = "a,b\n1,2\n";
const LOG: &str = "before the result\nPYGEOAPI_K8S_MANAGER_RESULT_START\na,b\n1,2\n";
/// In which all jobs of a test must have ended: the test cluster ends two or three a second.
const ALL_END_WITHIN: Duration = Duration::from_secs(150);

fn options() -> ServerOptions {
    lasting(1)
}

/// A process whose container runs for so many seconds.
fn lasting(seconds: u32) -> ServerOptions {
    let script = format!(
        "echo before the result\nsleep {seconds}\necho PYGEOAPI_K8S_MANAGER_RESULT_START\nprintf 'a,b\\n1,2\\n'"
    );
    let work = process("toil", TEXT, "", &script);
    ServerOptions::default()
        .config(&format!("jobs: {{ repair_after_seconds: 2, retry_max_seconds: 5 }}\nprocesses:\n{work}"))
}

/// What a good client does: while the server has no room or no database it sends the same again.
async fn submitted(client: &Client, key: &str) -> String {
    let headers = [("prefer", "respond-async"), ("idempotency-key", key)];
    until("the execution to be accepted", Duration::from_secs(60), || async {
        let answer = client.execute("toil", &json!({ "inputs": {} }), &headers).await;
        if answer.status == 503 {
            assert!(!answer.header("retry-after").is_empty(), "{}", answer.text());
            tokio::time::sleep(Duration::from_millis(300)).await;
            return None;
        }
        Some(answer.expect(201).json()["jobID"].as_str().unwrap().to_owned())
    })
    .await
}

/// So many jobs, four at once, one a second each.
async fn stream_of(clients: Vec<Client>, count: usize) -> Vec<String> {
    let sent = (0..4).map(|lane| {
        let clients = clients.clone();
        tokio::spawn(async move {
            let mut ids = Vec::new();
            for number in (lane..count).step_by(4) {
                ids.push(submitted(&clients[number % clients.len()], &format!("job-{number}")).await);
                tokio::time::sleep(Duration::from_millis(1000)).await;
            }
            ids
        })
    });
    join_all(sent.collect::<Vec<_>>()).await.into_iter().flat_map(|ids| ids.unwrap()).collect()
}

/// Synchronous executions, one after another: the ids of their jobs, and how many of these were there already when their client was
/// told that there is none.
async fn synchronous(client: Client, lane: usize) -> (Vec<String>, usize) {
    let (mut ids, mut disowned) = (Vec::new(), 0);
    for number in 0..8 {
        let key = format!("sync-{lane}-{number}");
        let headers = [("prefer", "wait=60"), ("idempotency-key", key.as_str())];
        let sent = until("the execution to be answered", Duration::from_secs(120), || async {
            let sent = now_millis();
            let answer = client.execute("toil", &json!({ "inputs": {} }), &headers).await;
            if answer.status == 503 {
                tokio::time::sleep(Duration::from_millis(300)).await;
                return None;
            }
            assert!(answer.status == 201 || (answer.status == 200 && answer.text() == RESULT), "{}", answer.text());
            Some(sent)
        })
        .await;
        // The same key again finds the job.
        let id = submitted(&client, &key).await;
        // Of version 7: it begins with the moment at which the job was accepted.
        let accepted = u128::from_str_radix(&id.replace('-', "")[..12], 16).unwrap();
        disowned += usize::from(accepted < sent);
        ids.push(id);
    }
    (ids, disowned)
}

fn now_millis() -> u128 {
    std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_millis()
}

async fn pause(seconds: u64) {
    tokio::time::sleep(Duration::from_secs(seconds)).await;
}

/// Fifty jobs while this server is stopped for ten seconds, and then killed.
async fn without(name: &str) {
    let outage = Outage::begin();
    let Some(cluster) = Cluster::with_kubernetes() else { return };
    let server = Server::replica(&cluster, options());
    let sending = tokio::spawn(stream_of(vec![server.client()], 50));
    let lanes = if name == "postgres" { 4 } else { 0 };
    let waiting: Vec<_> = (0..lanes).map(|lane| tokio::spawn(synchronous(server.client(), lane))).collect();
    pause(3).await;
    let stopped = Instant::now();
    outage.stop(name);
    tokio::time::sleep_until((stopped + Duration::from_secs(10)).into()).await;
    if name != "postgres" {
        // What the manifests' probe asks: no replica leaves the Service for what all of them share.
        server.client().get("/readyz?exclude=archive&exclude=runner").await.expect(200);
    }
    outage.end();
    pause(3).await;
    outage.kill(name);
    outage.end();
    let mut ids = sending.await.unwrap();
    let mut disowned = 0;
    for waited in join_all(waiting).await {
        let (more, times) = waited.unwrap();
        ids.extend(more);
        disowned += times;
    }
    // A commit whose answer was lost is refused and there all the same: one of them may have met the outage just then.
    assert!(disowned <= 1, "{disowned} clients were not told of their jobs");
    all_succeeded(&server, &cluster, &ids, ALL_END_WITHIN, RESULT, LOG).await;
    server.client().get("/readyz").await.expect(200);
    drop(server);
    drop(cluster);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_api_server_goes_away() {
    without("kube-apiserver").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn etcd_goes_away() {
    without("etcd").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn postgresql_goes_away() {
    without("postgres").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn s3_goes_away() {
    without("s3").await;
}

/// Each place, whether the client has its answer by then, and whether the inputs travel in a Secret.
const PLACES: &[(&str, bool, bool)] = &[
    ("submit-inserted", false, false),
    ("kubernetes-job-created", false, false),
    ("kubernetes-job-created", false, true),
    ("kubernetes-secret-created", false, true),
    ("submit-launched", false, true),
    ("observe-started", true, false),
    ("finish-claimed", true, false),
    ("finish-log-archived", true, false),
    ("finish-outputs-archived", true, false),
    ("finish-recorded", true, false),
    ("finish-released", true, false),
];

async fn killed_at(place: &str, answered: bool, large: bool) {
    let Some(cluster) = Cluster::with_kubernetes() else { return };
    let mut server = Server::replica(&cluster, options().env("FAILPOINTS", format!("{place}=return")));
    let inputs = if large { json!({ "text": "x".repeat(200 * 1024) }) } else { json!({}) };
    let body = json!({ "inputs": inputs });
    let key = [("idempotency-key", "once"), ("prefer", "respond-async"), ("content-type", "application/json")];
    let path = "/processes/toil/execution";
    let sent = server.client().try_send(reqwest::Method::POST, path, &key, body.to_string()).await;
    assert_eq!(sent.is_ok_and(|answer| answer.status == 201), answered, "{place}");
    server.wait_dead(Duration::from_secs(60));
    let server = server.restart();
    let again = server.client().execute("toil", &body, &key[..2]).await.expect(201).json();
    let id = again["jobID"].as_str().unwrap();
    Verdict::success(RESULT, LOG).hold(&server, id).await;
    assert_eq!(cluster.namespace().unwrap().job_names().len(), 1, "{place}: it ran once");
    all_succeeded(&server, &cluster, &[id.to_owned()], ALL_END_WITHIN, RESULT, LOG).await;
    drop(server);
    drop(cluster);
}

#[tokio::test(flavor = "multi_thread")]
async fn killed_at_every_step() {
    let _calm = Calm::hold();
    let all = futures::stream::iter(PLACES).for_each_concurrent(6, |(place, answered, large)| {
        let killed = tokio::spawn(killed_at(place, *answered, *large));
        async move {
            if let Err(failed) = killed.await {
                panic!("killed at {place}, inputs in a Secret = {large}: {failed}");
            }
        }
    });
    all.await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_history_of_watches_is_thrown_away() {
    let _calm = Calm::hold();
    let Some(cluster) = Cluster::with_kubernetes() else { return };
    // Watches that begin anew all the time, so that they meet what was thrown away.
    let config = options().config.replacen("jobs:", "kubernetes: { watch_seconds: 10 }\njobs:", 1);
    let server = Server::replica(&cluster, ServerOptions::default().config(&config));
    let sending = tokio::spawn(stream_of(vec![server.client()], 20));
    while !sending.is_finished() {
        fault(&["compact"]);
        pause(1).await;
    }
    all_succeeded(&server, &cluster, &sending.await.unwrap(), ALL_END_WITHIN, RESULT, LOG).await;
    drop(server);
    drop(cluster);
}

#[tokio::test(flavor = "multi_thread")]
async fn one_of_two_replicas_is_killed() {
    let _calm = Calm::hold();
    let Some(cluster) = Cluster::with_kubernetes() else { return };
    let [mut a, b] = [(); 2].map(|()| Server::replica(&cluster, options()));
    let mut ids = stream_of(vec![a.client(), b.client()], 12).await;
    // Some run, some have just ended, some are just begun.
    a.kill();
    let late = b.client();
    for number in 0..4 {
        ids.push(submitted(&late, &format!("late-{number}")).await);
    }
    all_succeeded(&b, &cluster, &ids, ALL_END_WITHIN, RESULT, LOG).await;
    b.client().get("/readyz").await.expect(200);
    drop((a, b));
    drop(cluster);
}

/// Three replicas and who asks them.
struct Fleet {
    urls: Mutex<Vec<String>>,
    next: AtomicUsize,
    /// Each request on a connection of its own, as a proxy makes them that does not keep any.
    http: reqwest::Client,
    refused: AtomicUsize,
    over: AtomicBool,
}

impl Fleet {
    /// Asks one replica after another until one takes the connection; whatever happens after that is the answer.
    async fn ask(&self, build: impl Fn(&reqwest::Client, &str) -> reqwest::RequestBuilder) -> (u16, String) {
        for _ in 0..30 {
            let place = self.next.fetch_add(1, Ordering::Relaxed);
            let url = {
                let urls = self.urls.lock().unwrap();
                urls[place % urls.len()].clone()
            };
            match build(&self.http, &url).send().await {
                Ok(answer) => {
                    let status = answer.status().as_u16();
                    let body = answer.bytes().await.unwrap_or_else(|error| panic!("an answer was cut: {error:?}"));
                    return (status, String::from_utf8_lossy(&body).into_owned());
                }
                Err(error) if error.is_connect() => {
                    self.refused.fetch_add(1, Ordering::Relaxed);
                    tokio::time::sleep(Duration::from_millis(20)).await;
                }
                Err(error) => panic!("a request was dropped: {error:?}"),
            }
        }
        panic!("no replica takes connections");
    }

    /// Executes and looks, again and again: the jobs that were accepted.
    async fn load(self: Arc<Self>, is_sync: bool) -> Vec<String> {
        let mut ids = Vec::new();
        while !self.over.load(Ordering::Relaxed) {
            for _ in 0..15 {
                let (status, page) = self.ask(|http, url| http.get(format!("{url}/jobs?limit=5"))).await;
                assert_eq!(status, 200, "{page}");
            }
            let prefer = if is_sync { "wait=30" } else { "respond-async" };
            let (status, body) = self
                .ask(|http, url| {
                    let post = http.post(format!("{url}/processes/toil/execution")).header("prefer", prefer);
                    post.header("content-type", "application/json").body(r#"{"inputs":{}}"#)
                })
                .await;
            match status {
                // Also a synchronous caller whose replica stops meanwhile: it is told where to look.
                201 => {
                    let job: serde_json::Value = serde_json::from_str(&body).unwrap();
                    ids.push(job["jobID"].as_str().unwrap().to_owned());
                }
                200 => assert!(is_sync && body == RESULT, "{body}"),
                _ => panic!("{status}: {body}"),
            }
            tokio::time::sleep(Duration::from_millis(if is_sync { 10 } else { 1000 })).await;
        }
        ids
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn three_replicas_are_restarted_one_after_another_under_load() {
    let _calm = Calm::hold();
    let Some(cluster) = Cluster::with_kubernetes() else { return };
    let mut servers: Vec<Server> = (0..3).map(|_| Server::replica(&cluster, options())).collect();
    let http = reqwest::Client::builder().pool_max_idle_per_host(0).timeout(Duration::from_secs(60)).build().unwrap();
    let fleet = Arc::new(Fleet {
        urls: Mutex::new(servers.iter().map(|server| server.url().to_owned()).collect()),
        next: AtomicUsize::new(0),
        http,
        refused: AtomicUsize::new(0),
        over: AtomicBool::new(false),
    });
    let load: Vec<_> = (0..6).map(|lane| tokio::spawn(Arc::clone(&fleet).load(lane % 2 == 0))).collect();
    pause(2).await;
    for place in 0..3 {
        let mut old = servers.remove(0);
        let renewed = tokio::task::spawn_blocking(move || {
            assert!(old.stop(), "it ends by itself: {}", old.log());
            old.restart()
        });
        let renewed = renewed.await.unwrap();
        fleet.urls.lock().unwrap()[place] = renewed.url().to_owned();
        servers.push(renewed);
        pause(1).await;
    }
    fleet.over.store(true, Ordering::Relaxed);
    let mut ids: Vec<String> = join_all(load).await.into_iter().flat_map(|ids| ids.unwrap()).collect();
    // Synchronous callers had their answer; their jobs are in the history with all others.
    let told: Vec<String> =
        servers[0].sql("select id from job_history").iter().map(|row| row["id"].as_str().unwrap().to_owned()).collect();
    assert!(ids.len() > 6 && ids.iter().all(|id| told.contains(id)), "{ids:?}");
    ids = told;
    all_succeeded(&servers[0], &cluster, &ids, ALL_END_WITHIN, RESULT, LOG).await;
    all_let_go(&cluster).await;
    drop(servers);
    drop(cluster);
}
