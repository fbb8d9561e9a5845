//! The main job over HTTP: execute, watch, results, log, receipt, dismiss, as the standard says.

use std::collections::HashSet;
use std::time::{Duration, Instant};

use reqwest::Method;
use serde_json::{Value, json};
use vespiary_tests::{Answer, Client, Server, ServerOptions, until};

const ASYNC: (&str, &str) = ("prefer", "respond-async");

fn with_misbehaving() -> Server {
    let path = vespiary_tests::workspace::processor("misbehaving");
    let config =
        format!("processes:\n  - processor: hello-world\n  - processor: echo\n  - processor: {}\n", path.display());
    Server::with(ServerOptions::default().config(&config))
}

fn violations(answer: &Answer) -> Vec<String> {
    let problem = answer.json();
    let all = problem["violations"].as_array().cloned().unwrap_or_default();
    all.iter().map(|one| one["pointer"].as_str().unwrap().to_owned()).collect()
}

fn link(document: &Value, rel: &str) -> Option<String> {
    let links = document["links"].as_array()?;
    links.iter().find(|link| link["rel"].as_str().is_some_and(|found| found.ends_with(rel)))?["href"]
        .as_str()
        .map(str::to_owned)
}

#[tokio::test(flavor = "multi_thread")]
async fn the_shipped_processes_answer_without_any_configuration() {
    let server = Server::start();
    let client = server.client();
    let landing = client.get("/").await.expect(200).json();
    for rel in ["conformance", "processes", "job-list", "self"] {
        let href = link(&landing, rel).unwrap_or_else(|| panic!("no link {rel} in {landing}"));
        client.get(&href).await.expect(200);
    }
    let list = client.get("/processes").await.expect(200).json();
    let ids: Vec<&str> = list["processes"].as_array().unwrap().iter().map(|one| one["id"].as_str().unwrap()).collect();
    assert_eq!(ids, ["echo", "hello-world"]);
    let hello = client.get("/processes/hello-world").await.expect(200).json();
    assert_eq!(hello["inputs"]["name"]["schema"]["type"], "string");
    assert!(link(&hello, "execute").unwrap().ends_with("/processes/hello-world/execution"));
    let conformance = client.get("/conformance").await.expect(200).json();
    for class in ["core", "ogc-process-description", "json", "job-list", "dismiss"] {
        let uri = format!("http://www.opengis.net/spec/ogcapi-processes-1/1.0/conf/{class}");
        assert!(conformance["conformsTo"].as_array().unwrap().contains(&json!(uri)), "{uri}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn asynchronous_execution() {
    let server = Server::start();
    let client = server.client();
    let body = json!({ "inputs": { "name": "Ada", "message": "$(id); 'quoted' \"text\"" } });
    let accepted = client.execute("hello-world", &body, &[ASYNC]).await.expect(201);
    let job = accepted.json();
    let id = job["jobID"].as_str().unwrap();
    assert_eq!((&job["type"], &job["processID"]), (&json!("process"), &json!("hello-world")));
    assert_eq!(accepted.header("preference-applied"), "respond-async");
    let location = accepted.header("location").to_owned();
    assert!(location.starts_with(server.url()), "{location} is absolute");
    let ended = client.ended(id).await;
    assert_eq!(ended["status"], "successful", "{ended}");
    assert!(ended["finished"].is_string() && ended["started"].is_string() && ended["created"].is_string());
    assert_eq!(client.get(&location).await.expect(200).json(), ended);
    let results = client.get(&link(&ended, "results").unwrap()).await.expect(200);
    assert_eq!(results.text(), "Hello 'Ada': '$(id); 'quoted' \"text\"'");
    assert!(results.header("content-type").starts_with("text/plain"));
    assert!(results.header("content-security-policy").contains("sandbox"));
    let log = client.get(&format!("/jobs/{id}/logs")).await.expect(200);
    assert!(log.text().ends_with("'$(id); 'quoted' \"text\"'"), "{}", log.text());
    let receipt = client.get(&format!("/jobs/{id}/receipt")).await.expect(200).json();
    assert_eq!(receipt["bytes"], log.body.len());
    assert_eq!(receipt["sha256"].as_str().unwrap().len(), 64);
    assert_eq!(receipt["complete"], true);
    let row = &server.sql("select process, status, caller, result_media_type, exit_code, inputs from job_history")[0];
    assert_eq!(row["process"], "hello-world");
    assert_eq!(row["exit_code"], 0);
    assert!(row["inputs"].to_string().contains("Ada"));
}

#[tokio::test(flavor = "multi_thread")]
async fn synchronous_execution_in_every_form() {
    let server = Server::start();
    let client = server.client();
    let inputs = json!({ "message": "teststring", "numbers": [1, 2, 3], "mixed": 7 });
    // One output, raw.
    let body = json!({ "inputs": inputs, "outputs": { "message": {} } });
    let one = client.execute("echo", &body, &[]).await.expect(200);
    assert_eq!(one.text(), "teststring");
    assert_eq!(one.header("preference-applied"), "");
    // Several, as a document.
    let body = json!({ "inputs": inputs, "response": "document" });
    let document = client.execute("echo", &body, &[]).await.expect(200);
    assert!(document.header("content-type").starts_with("application/json"));
    let document = document.json();
    assert_eq!(
        (&document["message"], &document["numbers"], &document["mixed"]),
        (&json!("teststring"), &json!([1, 2, 3]), &json!(7))
    );
    assert!(document.get("bbox").is_none(), "what was not given is left out");
    // One, raw, but for a client that asks for JSON.
    let body = json!({ "inputs": inputs, "outputs": { "message": {} } }).to_string();
    let path = "/processes/echo/execution?f=json";
    let asked = client.send(Method::POST, path, &[("content-type", "application/json")], body).await.expect(200);
    assert_eq!(asked.json(), json!({ "message": "teststring" }));
    // Several, raw.
    let body = json!({ "inputs": inputs, "outputs": { "message": {}, "numbers": {} } });
    let many = client.execute("echo", &body, &[]).await.expect(200);
    let kind = many.header("content-type").to_owned();
    assert!(kind.starts_with("multipart/related"), "{kind}");
    let boundary = kind.split("boundary=").nth(1).unwrap().split(';').next().unwrap().trim_matches('"').to_owned();
    let text = many.text();
    assert!(text.ends_with(&format!("--{boundary}--\r\n")) || text.ends_with(&format!("--{boundary}--")), "{text}");
    assert!(text.contains("Content-ID: <message>") || text.contains("Content-ID: message"), "{text}");
    // By reference.
    let body = json!({ "inputs": inputs, "outputs": { "message": { "transmissionMode": "reference" } } });
    let reference = client.execute("echo", &body, &[]).await.expect(204);
    let link = reference.header("link").to_owned();
    let href = link.split(['<', '>']).nth(1).unwrap();
    assert_eq!(client.get(href).await.expect(200).text(), "teststring");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wait_that_is_too_short_leaves_the_job_running() {
    let server = with_misbehaving();
    let client = server.client();
    let body = json!({ "inputs": { "seconds": 3, "text": "late" } });
    let begun = Instant::now();
    let answer = client.execute("misbehaving", &body, &[("prefer", "wait=1")]).await.expect(201);
    assert!(
        begun.elapsed() >= Duration::from_secs(1) && begun.elapsed() < Duration::from_millis(2900),
        "{:?}",
        begun.elapsed()
    );
    let id = answer.json()["jobID"].as_str().unwrap().to_owned();
    assert_eq!(client.get(&format!("/jobs/{id}/results")).await.expect(404).problem(), "result-not-ready");
    assert_eq!(client.ended(&id).await["status"], "successful");
    assert_eq!(client.get(&format!("/jobs/{id}/results")).await.expect(200).text(), "late");
    // Long enough, and combined with respond-async.
    let body = json!({ "inputs": { "seconds": 0.2, "text": "soon" } });
    let answer = client.execute("misbehaving", &body, &[("prefer", "respond-async, wait=20")]).await;
    assert_eq!((answer.status, answer.text().as_str()), (200, "soon"));
}

#[tokio::test(flavor = "multi_thread")]
async fn failures_say_why() {
    let server = with_misbehaving();
    let client = server.client();
    let body = json!({ "inputs": { "exit": 7, "text": "half a result" } });
    let sync = client.execute("misbehaving", &body, &[]).await.expect(500);
    assert_eq!(sync.problem(), "job-failed");
    assert!(sync.json()["detail"].as_str().unwrap().contains("exit code 7"), "{}", sync.text());
    let id = client.submit("misbehaving", &json!({ "exit": 7 })).await;
    let job = client.ended(&id).await;
    assert_eq!(job["status"], "failed");
    assert_eq!(job["message"], "container 'main' ended with exit code 7");
    assert!(link(&job, "results").is_none() && link(&job, "exceptions").is_some(), "{job}");
    assert_eq!(client.get(&format!("/jobs/{id}/results")).await.expect(500).problem(), "job-failed");
    let row = &server.sql("select status, exit_code, reason from job_history where status = 'failed' limit 1")[0];
    assert_eq!(row, &json!({ "status": "failed", "exit_code": 7, "reason": "Error" }));
}

#[tokio::test(flavor = "multi_thread")]
async fn all_violations_at_once_before_the_plugin_is_asked() {
    let server = Server::start();
    let client = server.client();
    let body = json!({ "inputs": { "pause": -1, "numbers": ["x"], "nonsense": 1 }, "outputs": { "nothing": {} } });
    let answer = client.execute("echo", &body, &[("accept", "application/json")]).await.expect(400);
    assert!(answer.header("content-type").starts_with("application/json"), "as the ETS wants it");
    let mut found = violations(&answer);
    found.sort();
    assert_eq!(
        found,
        ["/inputs/message", "/inputs/nonsense", "/inputs/numbers/0", "/inputs/pause", "/outputs/nothing"]
    );
    for (body, status) in [("", 400), ("{", 400), ("[]", 400), ("{\"inputs\":[]}", 400)] {
        let answer =
            client.send(Method::POST, "/processes/echo/execution", &[("content-type", "application/json")], body).await;
        assert_eq!(answer.status, status, "{body:?}");
    }
    let unknown = client.execute("nothing", &json!({}), &[]).await.expect(404);
    assert_eq!(unknown.json()["type"], "http://www.opengis.net/def/exceptions/ogcapi-processes-1/1.0/no-such-process");
    let text = client.send(Method::POST, "/processes/echo/execution", &[("content-type", "text/plain")], "{}").await;
    assert_eq!(text.status, 415);
    assert!(client.get("/jobs").await.expect(200).json()["jobs"].as_array().unwrap().is_empty(), "nothing was created");
}

#[tokio::test(flavor = "multi_thread")]
async fn dry_run_creates_nothing() {
    let server = Server::start();
    let client = server.client();
    let body = json!({ "inputs": { "name": "Ada" } }).to_string();
    let path = "/processes/hello-world/execution?dryRun=true";
    let answer =
        client.send(Method::POST, path, &[("content-type", "application/json")], body).await.expect(200).json();
    assert_eq!(answer["processId"], "hello-world");
    assert!(answer["plan"]["containers"][0]["args"] == json!(["Ada"]), "{answer}");
    assert!(server.sql("select id from job_history").is_empty());
    let refused = client.send(Method::POST, path, &[("content-type", "application/json")], "{}").await.expect(400);
    assert_eq!(violations(&refused), ["/inputs/name"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_same_key_is_the_same_job() {
    let server = Server::start();
    let client = server.client();
    let key = [("idempotency-key", "k-1"), ASYNC];
    let body = json!({ "inputs": { "name": "Ada" } });
    let first = client.execute("hello-world", &body, &key).await.expect(201).json();
    let second = client.execute("hello-world", &body, &key).await.expect(201).json();
    assert_eq!(first["jobID"], second["jobID"]);
    let other = client.execute("hello-world", &json!({ "inputs": { "name": "Eve" } }), &key).await.expect(422);
    assert_eq!(other.problem(), "idempotency-key-reused");
    assert_eq!(server.sql("select id from job_history").len(), 1);
    client.execute("hello-world", &body, &[("idempotency-key", "")]).await.expect(400);
    // At the same time, one of them waiting for the result.
    let (key, sync) = ([("idempotency-key", "k-2"), ASYNC], [("idempotency-key", "k-2")]);
    let many = futures::future::join_all((0..12).map(|_| client.execute("hello-world", &body, &key)));
    let (many, one) = futures::join!(many, client.execute("hello-world", &body, &sync));
    assert_eq!(one.expect(200).text(), "Hello 'Ada'!");
    let ids: HashSet<String> = many.into_iter().map(|one| one.expect(201).json()["jobID"].to_string()).collect();
    assert_eq!(ids.len(), 1);
    assert_eq!(server.sql("select id from job_history").len(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn dismiss_stops_and_then_removes() {
    let server = with_misbehaving();
    let client = server.client();
    let id = client.submit("misbehaving", &json!({ "seconds": 600 })).await;
    client.reaches(&id, "running").await;
    let dismissed = client.delete(&format!("/jobs/{id}")).await.expect(200).json();
    assert_eq!((&dismissed["status"], &dismissed["jobID"]), (&json!("dismissed"), &json!(id)));
    assert_eq!(client.job(&id).await["status"], "dismissed");
    let begun = Instant::now();
    until("the run to be captured", Duration::from_secs(20), || async {
        (client.get(&format!("/jobs/{id}/receipt")).await.status == 200).then_some(())
    })
    .await;
    assert!(begun.elapsed() < Duration::from_secs(20), "the process group was stopped");
    assert_eq!(client.job(&id).await["status"], "dismissed", "a late end does not overwrite it");
    assert_eq!(client.get(&format!("/jobs/{id}/results")).await.expect(404).problem(), "result-not-available");
    // Again: it is removed; its history stays.
    client.delete(&format!("/jobs/{id}")).await.expect(200);
    assert_eq!(client.get(&format!("/jobs/{id}")).await.expect(404).problem(), "no-such-job");
    client.delete(&format!("/jobs/{id}")).await.expect(410);
    assert_eq!(server.sql("select status from job_history where removed is not null")[0]["status"], "dismissed");
    assert!(server.archived("logs/").is_empty(), "its log is gone");
    client.delete("/jobs/00000000-0000-7000-8000-000000000000").await.expect(404);
    client.delete("/jobs/nonsense").await.expect(404);
}

#[tokio::test(flavor = "multi_thread")]
async fn logs_live_and_archived_look_the_same() {
    let server = with_misbehaving();
    let client = server.client();
    let id = client.submit("echo", &json!({ "message": "x".repeat(50), "pause": 3 })).await;
    client.reaches(&id, "running").await;
    let following = {
        let (client, id) = (client.clone(), id.clone());
        tokio::spawn(async move { client.get(&format!("/jobs/{id}/logs?follow=true")).await.expect(200).text() })
    };
    client.get(&format!("/jobs/{id}/logs")).await.expect(200);
    client.ended(&id).await;
    let followed = following.await.unwrap();
    let archived = client.get(&format!("/jobs/{id}/logs")).await.expect(200);
    assert_eq!(followed, archived.text());
    let range = client.send(Method::GET, &format!("/jobs/{id}/logs"), &[("range", "bytes=5-14")], "").await.expect(206);
    assert_eq!(range.text(), archived.text()[5..15]);
    assert_eq!(range.header("content-range"), format!("bytes 5-14/{}", archived.body.len()));
    let tail = client.send(Method::GET, &format!("/jobs/{id}/logs"), &[("range", "bytes=-4")], "").await.expect(206);
    assert!(archived.text().ends_with(&tail.text()) && tail.body.len() == 4);
    client.send(Method::GET, &format!("/jobs/{id}/logs"), &[("range", "bytes=99999999-")], "").await.expect(416);
}

#[tokio::test(flavor = "multi_thread")]
async fn so_many_follow_and_no_more() {
    let path = vespiary_tests::workspace::processor("misbehaving");
    let config = format!("server: {{ max_followers: 1 }}\nprocesses:\n  - processor: {}\n", path.display());
    let server = Server::with(ServerOptions::default().config(&config));
    let client = server.client();
    let id = client.submit("misbehaving", &json!({ "seconds": 600 })).await;
    client.reaches(&id, "running").await;
    let follow = format!("/jobs/{id}/logs?follow=true");
    let first = until("the log to begin", Duration::from_secs(60), || async {
        let answer = reqwest::get(format!("{}{follow}", server.url())).await.unwrap();
        (answer.status() == 200).then_some(answer)
    })
    .await;
    let refused = client.get(&follow).await.expect(503);
    assert_eq!((refused.problem().as_str(), refused.header("retry-after")), ("overloaded", "1"));
    client.get(&format!("/jobs/{id}/logs")).await.expect(200);
    // Who goes away makes room.
    drop(first);
    let second = until("the place to be free", Duration::from_secs(60), || async {
        let answer = reqwest::get(format!("{}{follow}", server.url())).await.unwrap();
        (answer.status() == 200).then_some(answer)
    })
    .await;
    drop(second);
    client.delete(&format!("/jobs/{id}")).await.expect(200);
}

async fn ids(client: &Client, query: &str) -> Vec<String> {
    let page = client.get(&format!("/jobs?limit=100&{query}")).await.expect(200).json();
    page["jobs"].as_array().unwrap().iter().map(|job| job["jobID"].as_str().unwrap().to_owned()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_job_list_filters_and_pages() {
    let server = with_misbehaving();
    let client = server.client();
    let good = client.submit("hello-world", &json!({ "name": "a" })).await;
    let bad = client.submit("misbehaving", &json!({ "exit": 1 })).await;
    let long = client.submit("misbehaving", &json!({ "seconds": 2.2 })).await;
    for id in [&good, &bad, &long] {
        client.ended(id).await;
    }
    assert_eq!(ids(&client, "").await, [long.clone(), bad.clone(), good.clone()], "newest first");
    assert_eq!(ids(&client, "status=failed").await, [bad.clone()]);
    assert_eq!(ids(&client, "status=failed,successful&processID=misbehaving").await, [long.clone(), bad.clone()]);
    assert_eq!(ids(&client, "minDuration=2").await, [long.clone()]);
    assert_eq!(ids(&client, "maxDuration=1&processID=hello-world").await, [good.clone()]);
    assert_eq!(ids(&client, "type=process").await.len(), 3);
    let created = client.job(&bad).await["created"].as_str().unwrap().to_owned();
    assert_eq!(ids(&client, &format!("datetime={created}")).await, [bad.clone()]);
    assert_eq!(ids(&client, &format!("datetime=../{created}")).await, [bad.clone(), good.clone()]);
    for wrong in ["status=done", "limit=0", "limit=x", "datetime=yesterday", "minDuration=-1", "f=xml"] {
        client.get(&format!("/jobs?{wrong}")).await.expect(400);
    }
    let first = client.get("/jobs?limit=2").await.expect(200).json();
    assert_eq!(first["jobs"].as_array().unwrap().len(), 2);
    let rest = client.get(&link(&first, "next").unwrap()).await.expect(200).json();
    assert_eq!(rest["jobs"][0]["jobID"], json!(good));
    assert!(link(&rest, "next").is_none());
}

#[tokio::test(flavor = "multi_thread")]
async fn health_and_metrics() {
    let server = Server::start();
    let client = server.client();
    client.get("/healthz").await.expect(200);
    client.get("/readyz").await.expect(200);
    let id = client.submit("hello-world", &json!({ "name": "a" })).await;
    client.ended(&id).await;
    let metrics = client.get("/metrics").await.expect(200).text();
    assert!(metrics.contains("vespiary_jobs_finished_total{status=\"successful\"} 1"), "{metrics}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_graceful_stop_answers_what_is_under_way() {
    let mut server = with_misbehaving();
    let client = server.client();
    let waiting = {
        let client = client.clone();
        let body = json!({ "inputs": { "seconds": 1, "text": "in time" } });
        tokio::spawn(async move { client.execute("misbehaving", &body, &[]).await })
    };
    until("the job to run", Duration::from_secs(10), || async {
        (!ids(&client, "status=running").await.is_empty()).then_some(())
    })
    .await;
    assert!(server.stop(), "exit code 0:\n{}", server.log());
    // A caller that waits is told where its job is; the job itself outlives the server.
    let answer = waiting.await.unwrap().expect(201);
    let id = answer.json()["jobID"].as_str().unwrap().to_owned();
    let server = server.restart();
    let client = server.client();
    assert_eq!(client.ended(&id).await["status"], "successful");
    assert_eq!(client.get(&format!("/jobs/{id}/results")).await.expect(200).text(), "in time");
}
