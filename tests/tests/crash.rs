//! The server is killed at every arrow of an execution and started again: no job lost, doubled or stuck, log and result right.
//!
//! Needs the feature `failpoints` in the program under test; `make test` builds it so.

use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};
use vespiary_tests::cluster::is_wanted;
use vespiary_tests::{Folder, Server, ServerOptions, until};

/// Each place, and whether the client has its answer by then.
const PLACES: &[(&str, bool)] = &[
    ("submit-inserted", false),
    ("kubernetes-job-created", false),
    ("local-spec-written", false),
    ("local-shim-spawned", false),
    ("submit-launched", false),
    ("observe-started", true),
    ("finish-claimed", true),
    ("finish-log-archived", true),
    ("finish-outputs-archived", true),
    ("finish-recorded", true),
    ("finish-released", true),
];

/// Those of the runner that the server has.
fn places() -> impl Iterator<Item = (&'static str, bool)> {
    let others = if is_wanted() { "local-" } else { "kubernetes-" };
    PLACES.iter().copied().filter(move |(place, _)| !place.starts_with(others))
}

/// `ran ID`, sorted, for each time that a container was started: on a cluster a pod, elsewhere a line in the file.
fn ran(server: &Server, runs: &std::path::Path) -> Vec<String> {
    let mut ran: Vec<String> = match server.namespace() {
        Some(namespace) => namespace.jobs_of_pods().into_iter().map(|id| format!("ran {id}")).collect(),
        None => std::fs::read_to_string(runs.join("runs")).unwrap().lines().map(str::to_owned).collect(),
    };
    ran.sort_unstable();
    ran
}

/// A process whose container leaves a line in a file each time it runs, so that a run too many shows.
fn config(folder: &std::path::Path) -> String {
    format!(
        r#"
processes:
  - processor: generic-image
    config:
      metadata:
        id: count
        version: 1.0.0
        title: Counts its runs
        inputs: {{ n: {{ schema: {{ type: integer }} }} }}
        outputs: {{ text: {{ schema: {{ type: string, contentMediaType: text/plain }} }} }}
      default_image: busybox:1.36
      check_auth: false
      command:
        - sh
        - -c
        - |
          echo "ran $PYGEOAPI_JOB_ID" >> "$RUNS"
          echo before the result
          sleep {}
          echo PYGEOAPI_K8S_MANAGER_RESULT_START
          printf 'a,b\n1,2\n'
      env:
        - {{ name: RUNS, value: "{}" }}
"#,
        // A cluster does not show that a container runs when it ends within a second.
        if is_wanted() { "2" } else { "0.2" },
        if is_wanted() { "/dev/null".to_owned() } else { folder.join("runs").display().to_string() }
    )
}

async fn killed_at(place: &str, answered: bool, inline_kib: u32) {
    let runs = tempfile::tempdir().unwrap();
    let config = format!("jobs: {{ inline_result_kib: {inline_kib} }}\n{}", config(runs.path()));
    let options = ServerOptions::default().config(&config).env("FAILPOINTS", format!("{place}=return"));
    let mut server = Server::with(options);
    let key = [("idempotency-key", "once"), ("prefer", "respond-async"), ("content-type", "application/json")];
    let body = json!({ "inputs": { "n": 1 } });
    let sent =
        server.client().try_send(reqwest::Method::POST, "/processes/count/execution", &key, body.to_string()).await;
    if answered {
        assert_eq!(sent.expect("the answer came before the crash").status, 201, "{place}");
    }
    server.wait_dead(Duration::from_secs(30));

    let server = server.restart();
    let client = server.client();
    // What a client does that has no answer: it sends the same again.
    let again = client.execute("count", &body, &key[..2]).await.expect(201).json();
    let id = again["jobID"].as_str().unwrap();
    let job = client.ended(id).await;
    assert_eq!(job["status"], "successful", "{place}: {job}");
    let jobs = client.get("/jobs").await.expect(200).json();
    assert_eq!(jobs["jobs"].as_array().unwrap().len(), 1, "{place}: {jobs}");
    assert_eq!(client.get(&format!("/jobs/{id}/results")).await.expect(200).text(), "a,b\n1,2\n", "{place}");
    let log = client.get(&format!("/jobs/{id}/logs")).await.expect(200).text();
    assert_eq!(log, "before the result\nPYGEOAPI_K8S_MANAGER_RESULT_START\na,b\n1,2\n", "{place}");
    let receipt = client.get(&format!("/jobs/{id}/receipt")).await.expect(200).json();
    assert_eq!(
        (&receipt["complete"], &receipt["bytes"], &receipt["lines"]),
        (&json!(true), &json!(log.len()), &json!(4)),
        "{place}"
    );
    assert_eq!(ran(&server, runs.path()), [format!("ran {id}")], "{place}: it ran once, as this job");
    // Nothing of the run is left behind.
    until(&format!("the run of {place} to be released"), Duration::from_secs(45), || async {
        (server.runs_left() == 0).then_some(())
    })
    .await;
    let history = server.sql("select id, status, exit_code, log_size from job_history");
    assert_eq!(
        history,
        [json!({ "id": id, "status": "successful", "exit_code": 0, "log_size": log.len() })],
        "{place}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn killed_at_every_arrow_of_an_execution() {
    for (place, answered) in places() {
        eprintln!("killed at {place}");
        killed_at(place, answered, 256).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn killed_while_a_result_goes_to_the_archive() {
    for place in ["finish-log-archived", "finish-outputs-archived", "finish-recorded"] {
        killed_at(place, true, 0).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn killed_after_a_dismissal_was_recorded() {
    let runs = tempfile::tempdir().unwrap();
    let config = config(runs.path()).replace("sleep 2", "sleep 300").replace("sleep 0.2", "sleep 300");
    let mut server =
        Server::with(ServerOptions::default().config(&config).env("FAILPOINTS", "dismiss-recorded=return"));
    let id = server.client().submit("count", &json!({ "n": 1 })).await;
    server.client().reaches(&id, "running").await;
    let sent = server.client().try_send(reqwest::Method::DELETE, &format!("/jobs/{id}"), &[], "").await;
    assert!(sent.is_err(), "the server died before it answered");
    server.wait_dead(Duration::from_secs(30));
    let server = server.restart();
    let client = server.client();
    assert_eq!(client.job(&id).await["status"], "dismissed");
    // The run is stopped by the server that finds it, and its log is kept.
    let receipt = until("the dismissed run to be captured", Duration::from_secs(30), || async {
        let answer = client.get(&format!("/jobs/{id}/receipt")).await;
        (answer.status == 200).then(|| answer.json())
    })
    .await;
    assert_eq!(receipt["complete"], true, "{receipt}");
    assert_eq!(client.get(&format!("/jobs/{id}/logs")).await.expect(200).text(), "before the result\n");
    assert_eq!(client.job(&id).await["status"], "dismissed");
    removed(&server, &id).await;
}

/// Removes a job that has ended: the answer says so and links to nothing that is gone.
async fn removed(server: &Server, id: &str) {
    let answer = server.client().delete(&format!("/jobs/{id}")).await.expect(200).json();
    assert_eq!((&answer["status"], &answer["jobID"]), (&json!("dismissed"), &json!(id)), "{answer}");
    let links = answer["links"].as_array().unwrap();
    assert!(links.iter().all(|link| link["rel"] == "up"), "{answer}");
}

#[tokio::test(flavor = "multi_thread")]
async fn killed_while_jobs_run() {
    let runs = tempfile::tempdir().unwrap();
    let config = config(runs.path()).replace("sleep 0.2", "sleep 2");
    let server = Server::with(ServerOptions::default().config(&config));
    let mut ids = Vec::new();
    for n in 0..20 {
        ids.push(server.client().submit("count", &json!({ "n": n })).await);
    }
    // On a busy machine the first may have ended by now; others run.
    until("the first one to start", Duration::from_secs(60), || async {
        (server.client().job(&ids[0]).await["status"] != "accepted").then_some(())
    })
    .await;
    let server = server.restart().restart();
    let client = server.client();
    for id in &ids {
        let job: Value = client.ended(id).await;
        assert_eq!(job["status"], "successful", "{job}");
        assert_eq!(client.get(&format!("/jobs/{id}/results")).await.expect(200).text(), "a,b\n1,2\n");
    }
    let mut expected: Vec<String> = ids.iter().map(|id| format!("ran {id}")).collect();
    expected.sort_unstable();
    assert_eq!(ran(&server, runs.path()), expected, "each ran once");
    removed(&server, &ids[0]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn killed_behind_a_burst() {
    let runs = tempfile::tempdir().unwrap();
    // So many that answers do not wait for their launches, which take their time.
    let slow =
        ServerOptions::default().config(&config(runs.path())).env("FAILPOINTS", "local-spec-written=sleep(3000)");
    let server = Server::with(slow);
    let (client, inputs) = (server.client(), json!({ "n": 1 }));
    let ids = futures::future::join_all((0..40).map(|_| client.submit("count", &inputs))).await;
    let metrics = client.get("/metrics").await.expect(200).text();
    // An API server may have been as fast.
    assert!(is_wanted() || !metrics.lines().any(|line| line == "vespiary_launches 0"), "{metrics}");
    let server = server.restart();
    let client = server.client();
    for id in &ids {
        let job: Value = client.ended(id).await;
        assert_eq!(job["status"], "successful", "{job}");
    }
    let mut expected: Vec<String> = ids.iter().map(|id| format!("ran {id}")).collect();
    expected.sort_unstable();
    assert_eq!(ran(&server, runs.path()), expected, "each ran once");
}

/// Kills the server before or behind its so-manieth commit, wherever in an execution that is.
async fn killed_at_commit(place: &str, number: u32) {
    let runs = tempfile::tempdir().unwrap();
    let folder = Folder::new();
    let options = ServerOptions::default().config(&config(runs.path()));
    let cut = options.clone().env("FAILPOINTS", format!("{place}={number}*off->return"));
    let Ok(mut server) = Server::try_launch(Arc::clone(&folder), cut, None) else {
        // It died while it started: the next start must not mind.
        drop(Server::try_launch(folder, options, None).unwrap());
        return;
    };
    let token = server.token();
    let body = json!({ "inputs": { "n": 1 } });
    let key = [("idempotency-key", "once"), ("prefer", "respond-async"), ("content-type", "application/json")];
    let path = "/processes/count/execution";
    let _ = server.client().try_send(reqwest::Method::POST, path, &key, body.to_string()).await;
    server.wait_dead(Duration::from_secs(30));
    drop(server);
    let server = Server::try_launch(folder, options, token).unwrap();
    let client = server.client();
    let again = client.execute("count", &body, &key[..2]).await.expect(201).json();
    let id = again["jobID"].as_str().unwrap();
    assert_eq!(client.ended(id).await["status"], "successful", "{place} {number}");
    assert_eq!(client.get(&format!("/jobs/{id}/results")).await.expect(200).text(), "a,b\n1,2\n", "{place} {number}");
    assert_eq!(ran(&server, runs.path()), [format!("ran {id}")], "{place} {number}: it ran once, as this job");
}

#[tokio::test(flavor = "multi_thread")]
async fn killed_at_every_commit() {
    for place in ["store-before-commit", "store-after-commit"] {
        // The first commits are those of the start, the last one here that of the final record.
        for number in 0..6 {
            killed_at_commit(place, number).await;
        }
    }
}
