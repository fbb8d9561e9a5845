//! Whatever a client sends: a 4xx with a problem document, never a 500, never an answer that is not one of ours.

use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};
use reqwest::Method;
use serde_json::json;
use vespiary_tests::{Client, Server};

/// Sends what is generated; a 5xx or an error that is no problem document fails.
fn all_are_4xx<S: Strategy>(
    cases: u32,
    strategy: &S,
    send: impl Fn(&Client, S::Value) -> futures::future::BoxFuture<'static, u16>,
) {
    let server = Server::start();
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let client = server.client();
    let mut runner = TestRunner::new(Config { cases, failure_persistence: None, ..Config::default() });
    runner
        .run(strategy, |value| {
            let status = runtime.block_on(send(&client, value));
            prop_assert!((200..500).contains(&status), "status {status}");
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
            let answer = client
                .send(
                    Method::POST,
                    "/processes/echo/execution?dryRun=true",
                    &[("content-type", "application/json")],
                    body,
                )
                .await;
            answer.status
        })
    });
}

fn encoded(text: &str) -> String {
    text.bytes().map(|byte| format!("%{byte:02X}")).collect()
}

#[test]
fn any_text_as_id() {
    all_are_4xx(150, &(".{0,80}", 0..6u8), |client, (text, place)| {
        let client = client.clone();
        Box::pin(async move {
            let id = encoded(&text);
            let path = match place {
                0 => format!("/processes/{id}"),
                1 => format!("/jobs/{id}"),
                2 => format!("/jobs/{id}/results"),
                3 => format!("/jobs/{id}/logs"),
                4 => format!("/jobs/{id}/receipt"),
                _ => format!("/{id}"),
            };
            client.get(&path).await.status
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
            let first = client.get(&path).await.status;
            let second = client.get(&format!("/processes?{name}={}", encoded(&value))).await.status;
            first.max(second)
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
            let status = answer.status().as_u16();
            let kind = answer
                .headers()
                .get("content-type")
                .map(|kind| kind.to_str().unwrap_or_default().to_owned())
                .unwrap_or_default();
            assert!(status < 400 || kind.contains("json"), "{status} {kind}");
            status
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
