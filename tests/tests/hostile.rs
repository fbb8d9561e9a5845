//! Whatever a client sends: a 4xx with a problem document, never a 500, never an answer that is not one of ours. However slowly it
//! sends it: others are answered.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};
use reqwest::Method;
use serde_json::{Value, json};
use vespiary_tests::{Answer, Client, Server, ServerOptions};

/// Sends what is generated; a 5xx or an error that is no problem document fails.
fn all_are_4xx<S: Strategy>(
    cases: u32,
    strategy: &S,
    send: impl Fn(&Client, S::Value) -> futures::future::BoxFuture<'static, Answer>,
) {
    all_of_this_server_are_4xx(&Server::start(), cases, strategy, send);
}

fn all_of_this_server_are_4xx<S: Strategy>(
    server: &Server,
    cases: u32,
    strategy: &S,
    send: impl Fn(&Client, S::Value) -> futures::future::BoxFuture<'static, Answer>,
) {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let client = server.client();
    let mut runner = TestRunner::new(Config { cases, failure_persistence: None, ..Config::default() });
    runner
        .run(strategy, |value| {
            let answer = runtime.block_on(send(&client, value));
            prop_assert!((200..500).contains(&answer.status), "{}: {}", answer.status, answer.text());
            if answer.status >= 400 {
                let problem: Value = serde_json::from_slice(&answer.body).unwrap_or_default();
                let text = |member: &str| problem[member].as_str().is_some_and(|text| !text.is_empty());
                prop_assert!(text("type") && text("title") && text("detail"), "{}", answer.text());
                prop_assert_eq!(&problem["status"], &json!(answer.status));
                let kind = answer.header("content-type");
                prop_assert!(["application/problem+json", "application/json"].contains(&kind), "{}", kind);
            }
            Ok(())
        })
        .unwrap();
    runtime.block_on(async { client.get("/healthz").await.expect(200) });
}

#[test]
fn any_bytes_as_body() {
    let bytes = prop_oneof![
        proptest::collection::vec(any::<u8>(), 0..2000),
        "[\\[{\":a0,\\]}]{0,200}".prop_map(String::into_bytes),
        ".{0,300}".prop_map(|text| json!({ "inputs": { "message": text.clone(), text: 1 } }).to_string().into_bytes()),
        (0usize..3000).prop_map(|depth| [b"[".repeat(depth), b"]".repeat(depth)].concat()),
    ];
    all_are_4xx(200, &bytes, |client, body| {
        let client = client.clone();
        Box::pin(async move {
            let json_body = [("content-type", "application/json")];
            client.send(Method::POST, "/processes/echo/execution?dryRun=true", &json_body, body).await
        })
    });
}

fn encoded(text: &str) -> String {
    text.bytes().map(|byte| format!("%{byte:02X}")).collect()
}

#[test]
fn any_text_as_id() {
    let server = Server::start();
    let client = server.client();
    // A job that is there: what is looked for below it is not.
    let job = tokio::runtime::Runtime::new().unwrap().block_on(async {
        let job = client.submit("hello-world", &json!({ "name": "a" })).await;
        client.ended(&job).await;
        job
    });
    all_of_this_server_are_4xx(&server, 250, &(".{0,80}", 0..10u8), |client, (text, place)| {
        let (client, job) = (client.clone(), job.clone());
        Box::pin(async move {
            let id = encoded(&text);
            let (method, path) = match place {
                0 => (Method::GET, format!("/processes/{id}")),
                1 => (Method::GET, format!("/jobs/{id}")),
                2 => (Method::GET, format!("/jobs/{id}/results")),
                3 => (Method::GET, format!("/jobs/{id}/logs")),
                4 => (Method::GET, format!("/jobs/{id}/receipt")),
                5 => (Method::GET, format!("/jobs/{job}/results/{id}")),
                6 => (Method::GET, format!("/jobs/{id}/results/{id}")),
                7 => (Method::DELETE, format!("/jobs/{id}")),
                8 => (Method::DELETE, format!("/jobs/{job}/results/{id}")),
                _ => (Method::GET, format!("/{id}")),
            };
            client.send(method, &path, &[], "").await
        })
    });
}

#[test]
fn any_text_as_filter() {
    let names = prop_oneof![
        "status",
        "type",
        "processID",
        "datetime",
        "minDuration",
        "maxDuration",
        "limit",
        "after",
        "cursor",
        "f",
        "follow",
        "[a-z]{1,8}"
    ];
    all_are_4xx(250, &(names, ".{0,60}"), |client, (name, value)| {
        let client = client.clone();
        Box::pin(async move {
            let path = format!("/jobs?{name}={}", encoded(&value));
            let first = client.get(&path).await;
            let second = client.get(&format!("/processes?{name}={}", encoded(&value))).await;
            if first.status > second.status { first } else { second }
        })
    });
}

#[test]
fn any_bytes_as_header() {
    let names = prop_oneof![
        Just("accept"),
        Just("prefer"),
        Just("authorization"),
        Just("idempotency-key"),
        Just("range"),
        Just("content-type"),
        Just("x-request-id"),
        Just("if-none-match"),
        Just("origin"),
        Just("sec-fetch-site"),
        Just("host"),
    ];
    let value = proptest::collection::vec(prop_oneof![0x20u8..0x7f, 0x80u8..=0xff, Just(b'\t')], 0..200);
    all_are_4xx(250, &(names, value), |client, (name, value)| {
        let client = client.clone();
        Box::pin(async move {
            let url = format!("{}/processes/hello-world/execution?dryRun=true", client.url());
            let request = reqwest::Client::new().post(url).header(name, value).body(r#"{"inputs":{"name":"a"}}"#);
            let request =
                if name == "content-type" { request } else { request.header("content-type", "application/json") };
            let answer = request.send().await.unwrap();
            let (status, headers) = (answer.status().as_u16(), answer.headers().clone());
            Answer { status, headers, body: answer.bytes().await.unwrap().to_vec() }
        })
    });
}

#[tokio::test(flavor = "multi_thread")]
async fn too_large_and_too_many() {
    let server = Server::start();
    let client = server.client();
    let huge = vec![b' '; 17 * 1024 * 1024];
    let answer =
        client.try_send(Method::POST, "/processes/echo/execution", &[("content-type", "application/json")], huge).await;
    // The server may close the connection before all of it was sent.
    if let Ok(answer) = answer {
        assert_eq!(answer.status, 413, "{}", answer.text());
    }
    let long = format!("/jobs?status={}", "x".repeat(40_000));
    let status = reqwest::Client::new().get(format!("{}{long}", server.url())).send().await.unwrap().status().as_u16();
    assert!((400..500).contains(&status), "{status}");
    for method in [Method::PUT, Method::PATCH, Method::POST] {
        let answer = client.send(method, "/jobs", &[], "").await.expect(405);
        assert!(answer.header("allow").contains("GET"), "{:?}", answer.headers);
    }
    let head = client.send(Method::HEAD, "/processes", &[], "").await.expect(200);
    assert!(head.body.is_empty());
    client.send(Method::GET, "/processes", &[("accept", "image/png")], "").await.expect(406);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_page_of_somebody_else_s_executes_nothing() {
    let server = Server::start();
    let client = server.client();
    let path = "/processes/hello-world/execution";
    let body = r#"{"inputs": {"name": "a"}}"#;
    // What a browser sends for `fetch(url, {mode: "no-cors", method: "POST", body: new Blob([json])})`.
    let page = [("origin", "https://evil.example"), ("sec-fetch-site", "cross-site"), ("sec-fetch-mode", "no-cors")];
    assert_eq!(client.send(Method::POST, path, &page, body).await.expect(403).problem(), "forbidden");
    // The page's own name was made to lead here: for its browser that is no other site at all.
    let rebound = [("host", "evil.example"), ("origin", "http://evil.example"), ("content-type", "application/json")];
    client.send(Method::POST, path, &rebound, body).await.expect(403);
    client.send(Method::GET, "/jobs", &[("host", "evil.example")], "").await.expect(403);
    assert!(server.sql("select id from job_history").is_empty());
    // A program says neither where it comes from nor, often, what it sends.
    let id = client.send(Method::POST, path, &[("prefer", "respond-async")], body).await.expect(201).json();
    let job = format!("/jobs/{}", id["jobID"].as_str().unwrap());
    client.send(Method::DELETE, &job, &page, "").await.expect(403);
    client.get(&job).await.expect(200);
}

/// A connection that sends this.
fn sends(server: &Server, text: &str) -> TcpStream {
    let mut stream = TcpStream::connect(server.url().trim_start_matches("http://")).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
    stream.write_all(text.as_bytes()).unwrap();
    stream
}

/// What comes until the server closes.
fn rest(mut stream: TcpStream) -> String {
    let mut bytes = Vec::new();
    stream.read_to_end(&mut bytes).unwrap();
    String::from_utf8_lossy(&bytes).into_owned()
}

#[test]
fn slow_clients_are_given_up_and_others_answered() {
    let small = "server: { max_connections: 2, header_timeout_seconds: 1, request_timeout_seconds: 1 }\n";
    let server = Server::with(ServerOptions::default().config(small));
    // A body that does not come.
    let head = "POST /processes/echo/execution HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n";
    let late = rest(sends(&server, &format!("{head}content-length: 10\r\n\r\n{{")));
    assert!(late.starts_with("HTTP/1.1 408") && late.contains("urn:vespiary:problem:request-timeout"), "{late}");
    // Heads that do not come, on every connection that there may be: one more waits until the first is given up.
    let begun = Instant::now();
    let slow = [(); 2].map(|()| sends(&server, "GET /healthz HTTP/1.1\r\n"));
    let waiting = sends(&server, "GET /healthz HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n");
    let answer = rest(waiting);
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    assert!(begun.elapsed() >= Duration::from_millis(900), "it had a place after {:?}", begun.elapsed());
    for stream in slow {
        assert!(!rest(stream).contains("200 OK"));
    }
}
