//! The router and the server without what is behind them: requests that end before a use case begins.

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::State;
use axum::routing::{get, post};
use http::header::{ACCEPT, ALLOW, CACHE_CONTROL, CONTENT_TYPE, X_CONTENT_TYPE_OPTIONS};
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Response, StatusCode};
use metrics_exporter_prometheus::PrometheusBuilder;
use proptest::prelude::*;
use serde_json::Value;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Notify;
use tower::ServiceExt as _;

use super::layer::{Care, Edge, REQUEST_ID};
use super::query::{Path, Query};
use super::*;
use crate::core::{Digest, Role};

/// Real use cases that offer nothing.
fn jobs() -> Arc<Jobs> {
    crate::jobs::testing::jobs()
}

pub(super) fn state(settings: Settings) -> ApiState {
    // Reachable from elsewhere, so that it may be asked by any name.
    let settings = Settings { listen: "0.0.0.0:0".to_owned(), ..settings };
    let token = |name: &str, roles: Vec<Role>| crate::core::access::TokenSettings {
        name: name.into(),
        sha256: Digest::of(name.as_bytes()).to_string(),
        roles,
    };
    let tokens = vec![token("reader", vec![Role::Read]), token("root", vec![Role::Admin])];
    let access = crate::core::access::Settings { tokens, ..Default::default() };
    let metrics = PrometheusBuilder::new().build_recorder().handle();
    ApiState::new(jobs(), Arc::new(TokenTable::new(&access).unwrap()), settings, metrics).unwrap()
}

fn app() -> Router {
    router(state(Settings::default()))
}

fn request(method: &str, uri: &str, headers: &[(&str, &str)]) -> Request<Body> {
    let mut request = Request::builder().method(method).uri(uri);
    if !headers.iter().any(|(name, _)| *name == "host") {
        request = request.header("host", "api.example:8080");
    }
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    request.body(Body::empty()).unwrap()
}

async fn ask(app: &Router, request: Request<Body>) -> (StatusCode, HeaderMap, Vec<u8>) {
    let response: Response<Body> = app.clone().oneshot(request).await.unwrap();
    let (head, body) = response.into_parts();
    (head.status, head.headers, axum::body::to_bytes(body, 1 << 20).await.unwrap().to_vec())
}

/// Sends a request that must be refused, and checks what every refusal has.
async fn refused(app: &Router, request: Request<Body>, status: u16) -> (HeaderMap, Value) {
    let head = request.method() == Method::HEAD;
    let (got, headers, body) = ask(app, request).await;
    let document: Value = if head { Value::Null } else { serde_json::from_slice(&body).expect("a problem document") };
    assert_eq!(got, status, "{document}");
    assert_eq!(headers[X_CONTENT_TYPE_OPTIONS], "nosniff");
    assert_eq!(headers[CACHE_CONTROL], "no-store");
    if !head {
        assert_eq!(document["status"], status);
        assert_eq!(document["requestId"].as_str().unwrap(), headers[REQUEST_ID].to_str().unwrap());
        assert!(document["type"].as_str().unwrap().contains(':') && document["title"].is_string());
        assert!(headers[CONTENT_TYPE] == "application/problem+json" || headers[CONTENT_TYPE] == "application/json");
    }
    (headers, document)
}

#[tokio::test]
async fn the_landing_page_links_to_what_works() {
    let app = app();
    let (status, headers, body) = ask(&app, request("GET", "/", &[])).await;
    let page: Value = serde_json::from_slice(&body).unwrap();
    assert_eq!((status.as_u16(), &headers[CONTENT_TYPE]), (200, &HeaderValue::from_static("application/json")));
    let links: Vec<_> = page["links"]
        .as_array()
        .unwrap()
        .iter()
        .map(|link| (link["rel"].as_str().unwrap(), link["href"].as_str().unwrap()))
        .collect();
    assert_eq!(
        links,
        [
            ("self", "http://api.example:8080/"),
            ("http://www.opengis.net/def/rel/ogc/1.0/conformance", "http://api.example:8080/conformance"),
            ("http://www.opengis.net/def/rel/ogc/1.0/processes", "http://api.example:8080/processes"),
            ("http://www.opengis.net/def/rel/ogc/1.0/job-list", "http://api.example:8080/jobs"),
        ]
    );
    let fixed = router(state(Settings { base_url: Some("https://x.example/p/".into()), ..Settings::default() }));
    let (_, _, body) = ask(&fixed, request("GET", "/?f=json", &[("accept", "text/html")])).await;
    assert!(String::from_utf8(body).unwrap().contains("\"https://x.example/p/jobs\""));

    let (_, _, body) = ask(&app, request("GET", "/conformance", &[("accept", "*/*")])).await;
    let classes: Value = serde_json::from_slice(&body).unwrap();
    assert!(
        classes["conformsTo"]
            .as_array()
            .unwrap()
            .contains(&"http://www.opengis.net/spec/ogcapi-processes-1/1.0/conf/core".into())
    );
}

#[tokio::test]
async fn head_is_get_without_a_body() {
    let app = app();
    let (status, headers, body) = ask(&app, request("HEAD", "/conformance", &[])).await;
    let (_, _, whole) = ask(&app, request("GET", "/conformance", &[])).await;
    assert_eq!((status.as_u16(), body.len()), (200, 0));
    assert_eq!(headers["content-length"].to_str().unwrap(), whole.len().to_string());
    refused(&app, request("HEAD", "/nothing", &[]), 404).await;
}

#[tokio::test]
async fn refusals_are_problem_documents() {
    let app = app();
    let (_, problem) = refused(&app, request("GET", "/nothing/here", &[]), 404).await;
    assert_eq!(
        (&problem["type"], &problem["instance"]),
        (&"urn:vespiary:problem:not-found".into(), &"/nothing/here".into())
    );
    let (headers, _) = refused(&app, request("POST", "/jobs", &[]), 405).await;
    assert_eq!(headers[ALLOW], "GET,HEAD");
    let (headers, _) = refused(&app, request("PUT", "/jobs/x", &[]), 405).await;
    assert_eq!(headers[ALLOW], "GET,HEAD,DELETE");
    refused(&app, request("BREW", "/", &[]), 405).await;
    refused(&app, request("GET", "/", &[("accept", "image/png")]), 406).await;
    refused(&app, request("GET", "/conformance", &[("accept", "text/html;q=0.9")]), 406).await;
    let (_, problem) = refused(&app, request("GET", "/?f=html", &[]), 400).await;
    assert_eq!(problem["parameter"], "f");
    for uri in [
        "/jobs?limit=0",
        "/jobs?status=done",
        "/jobs?datetime=now",
        "/jobs?cursor=x",
        "/jobs?f=%ff",
        "/jobs?type=wps",
        "/jobs?limit=1&limit=2",
    ] {
        let (_, problem) = refused(&app, request("GET", uri, &[]), 400).await;
        assert!(problem["type"].as_str().unwrap().ends_with("/invalid-query-parameter-value"), "{problem}");
    }
    let unknown = [
        ("GET", "/jobs?stauts=failed&f=json", "stauts", "type, processID, status, datetime"),
        ("GET", "/processes?limits=1", "limits", "limit, cursor, f"),
        ("GET", "/jobs/x/logs?folow=true", "folow", "follow, f"),
        ("GET", "/jobs/x/results?follow=true", "follow", "are f"),
        ("POST", "/processes/x/execution?dryrun=true", "dryrun", "dryRun, f"),
    ];
    for (method, uri, name, known) in unknown {
        let (_, problem) = refused(&app, request(method, uri, &[]), 400).await;
        let detail = problem["detail"].as_str().unwrap();
        assert!(problem["parameter"] == name && detail.contains(known), "{uri}: {problem}");
    }
    for uri in ["/healthz?now", "/metrics?name=x", "/?x=1", "/jobs?status=failed&f=json", "/processes?f=json"] {
        assert_eq!(ask(&app, request("GET", uri, &[])).await.0, 200, "{uri}");
    }
    refused(&app, request("GET", "/jobs/%ff/results", &[]), 400).await;
    refused(&app, request("GET", "/jobs/x/logs?follow=true", &[("range", "bytes=0-1")]), 400).await;
    refused(&app, request("GET", "/jobs/x/logs?follow=1", &[]), 400).await;
    refused(&app, request("GET", "/", &[("host", "a b")]), 400).await;
    let long = format!("/?x={}", "y".repeat(17_000));
    refused(&app, request("GET", &long, &[]), 414).await;
    refused(&app, request("GET", "/", &[("x-long", &"y".repeat(40_000))]), 431).await;
    let mut many = request("GET", "/", &[]);
    for number in 0..70 {
        many.headers_mut()
            .insert(HeaderName::from_bytes(format!("x-{number}").as_bytes()).unwrap(), HeaderValue::from_static("1"));
    }
    refused(&app, many, 431).await;
}

#[tokio::test]
async fn a_problem_is_labelled_as_the_client_asked_and_carries_its_id() {
    let app = app();
    let sent = [("accept", "application/json"), ("x-request-id", "abc-1")];
    let (headers, problem) = refused(&app, request("GET", "/nothing", &sent), 404).await;
    assert_eq!(
        (&headers[CONTENT_TYPE], &problem["requestId"]),
        (&HeaderValue::from_static("application/json"), &"abc-1".into())
    );
    let both = [("accept", "application/json, application/problem+json"), ("x-request-id", "<script>")];
    let (headers, problem) = refused(&app, request("GET", "/nothing", &both), 404).await;
    assert_eq!(headers[CONTENT_TYPE], "application/problem+json");
    assert_ne!(problem["requestId"], "<script>");
}

#[tokio::test]
async fn access_is_checked_before_anything_else() {
    let app = app();
    let (headers, _) = refused(&app, request("GET", "/", &[("authorization", "Bearer wrong")]), 401).await;
    assert_eq!(headers["www-authenticate"], "Bearer realm=\"vespiary\", error=\"invalid_token\"");
    let (headers, _) = refused(&app, request("GET", "/admin/processes", &[]), 401).await;
    assert_eq!(headers["www-authenticate"], access::CHALLENGE);
    refused(&app, request("GET", "/admin/processes", &[("authorization", "Bearer reader")]), 403).await;
    assert_eq!(ask(&app, request("GET", "/", &[("authorization", "bearer root")])).await.0, 200);
    assert_eq!(ask(&app, request("GET", "/healthz", &[("authorization", "Bearer wrong")])).await.0, 200);
    assert_eq!(ask(&app, request("GET", "/metrics", &[])).await.0, 200);
}

#[tokio::test]
async fn origins_are_allowed_by_configuration_only() {
    let preflight =
        || request("OPTIONS", "/jobs", &[("origin", "https://a.example"), ("access-control-request-method", "GET")]);
    refused(&app(), preflight(), 405).await;
    let open = router(state(Settings { cors_origins: vec!["https://a.example".into()], ..Settings::default() }));
    let (status, headers, _) = ask(&open, preflight()).await;
    assert_eq!(
        (status.as_u16(), &headers["access-control-allow-origin"]),
        (200, &HeaderValue::from_static("https://a.example"))
    );
    let (_, headers, _) = ask(&open, request("GET", "/", &[("origin", "https://a.example")])).await;
    assert!(headers["access-control-expose-headers"].to_str().unwrap().contains("location"));
    let (_, headers, _) = ask(&open, request("GET", "/", &[("origin", "https://b.example")])).await;
    assert!(!headers.contains_key("access-control-allow-origin"));
    // Refusals can be read as well, those of the edge too.
    let from_a = |uri: &str, long: &str| request("GET", uri, &[("origin", "https://a.example"), ("x-long", long)]);
    for (request, status) in
        [(from_a("/jobs?limit=0", "1"), 400), (from_a("/nothing", "1"), 404), (from_a("/", &"y".repeat(40_000)), 431)]
    {
        let (headers, _) = refused(&open, request, status).await;
        assert_eq!(headers["access-control-allow-origin"], "https://a.example", "{status}");
    }
}

#[tokio::test]
async fn pages_of_others_are_refused_before_anything_else() {
    let app = app();
    for (method, uri) in [("POST", "/processes/x/execution"), ("DELETE", "/jobs/x"), ("POST", "/nothing")] {
        let (headers, problem) = refused(&app, request(method, uri, &[("origin", "https://a.example")]), 403).await;
        assert!(problem["detail"].as_str().unwrap().contains("server.cors_origins"), "{problem}");
        assert!(!headers.contains_key("access-control-allow-origin"));
        refused(&app, request(method, uri, &[("sec-fetch-site", "cross-site")]), 403).await;
        refused(&app, request(method, uri, &[("origin", "http://api.example:8080")]), 404).await;
    }
}

#[tokio::test]
async fn a_panic_is_one_answer_and_load_is_shed() {
    let state = state(Settings { max_concurrent_requests: 1, ..Settings::default() });
    let (begun, go) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
    let (on_begin, on_go) = (Arc::clone(&begun), Arc::clone(&go));
    let slow = move || async move {
        on_begin.notify_one();
        on_go.notified().await;
        "done"
    };
    let app: Router = Router::new()
        .route(
            "/panic",
            get(|| async {
                if true {
                    panic!("on purpose")
                }
            })
            .layer(Edge::new(&state, "/panic", Care::Usual)),
        )
        .route("/slow", get(slow).layer(Edge::new(&state, "/slow", Care::Usual)))
        .route("/probe", get(|| async { "up" }).layer(Edge::new(&state, "/probe", Care::Probe)));
    let (_, problem) = refused(&app, request("GET", "/panic", &[]), 500).await;
    assert!(!problem.to_string().contains("on purpose"));

    let waiting = tokio::spawn(app.clone().oneshot(request("GET", "/slow", &[])));
    begun.notified().await;
    let (headers, _) = refused(&app, request("GET", "/slow", &[]), 503).await;
    assert_eq!(headers["retry-after"], "1");
    assert_eq!(ask(&app, request("GET", "/probe", &[])).await.0, 200);
    go.notify_one();
    assert_eq!(waiting.await.unwrap().unwrap().status(), 200);
    go.notify_one();
    assert_eq!(ask(&app, request("GET", "/slow", &[])).await.0, 200, "its place is free again");
}

/// All that is read of a request before a use case is called.
async fn reads(
    _: State<ApiState>,
    _: access::Caller,
    Path((job, output)): Path<(String, String)>,
    base: links::Base,
    _: negotiate::AnswerJson,
    query: Query,
    headers: HeaderMap,
) -> Result<axum::response::Response, Problem> {
    let _ = (prefer::Prefer::parse(&headers), ranges::asked(&headers, None), base.output(job, &output));
    query.limit(10, 100)?;
    query.flag("follow")?;
    query.one(cursor::NAME)?.map(cursor::job).transpose()?;
    json_answer(StatusCode::OK, &output)
}

fn reading_app() -> Router {
    let state = state(Settings::default());
    let route = "/r/{job}/{output}";
    let methods = get(reads).merge(post(reads)).layer(Edge::new(&state, route, Care::Usual));
    router(state.clone()).merge(Router::new().route(route, methods).with_state(state))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]
    #[test]
    fn nothing_that_is_sent_is_a_fault_of_ours(
        path in prop_oneof![Just("/".to_owned()), Just("/conformance".to_owned()), "/r/[!-~&&[^?#]]{1,12}/[!-~&&[^?#]]{1,12}", "/[!-~&&[^?#]]{0,20}"],
        query in prop_oneof!["[!-~&&[^#]]{0,30}", "(limit|f|cursor|follow)=[!-~&&[^#]]{0,10}"],
        method in prop_oneof![Just("GET"), Just("POST"), Just("DELETE"), Just("OPTIONS"), Just("FOO")],
        headers in proptest::collection::vec((0..7_usize, proptest::collection::vec(any::<u8>(), 0..30)), 0..5),
    ) {
        // What reaches a use case is not for this test.
        let known = ["/processes", "/jobs", "/admin", "/readyz"].iter().any(|known| path.starts_with(known));
        let names = ["accept", "authorization", "prefer", "range", "host", "if-none-match", "x-request-id"];
        let mut request = Request::builder().method(method).header("host", "h");
        for (name, value) in headers {
            if let Ok(value) = HeaderValue::from_bytes(&value) {
                request = request.header(names[name], value);
            }
        }
        let request = request.uri(format!("{path}?{query}")).body(Body::empty());
        if let (Ok(request), false) = (request, known) {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            let plain = negotiate::wants_plain_json(request.headers());
            let (status, headers, body) = runtime.block_on(ask(&reading_app(), request));
            prop_assert!(!status.is_server_error(), "{status}");
            if status.is_client_error() {
                let problem: Value = serde_json::from_slice(&body).unwrap();
                prop_assert_eq!(&problem["status"], &Value::from(status.as_u16()));
                let label = if plain { "application/json" } else { "application/problem+json" };
                prop_assert_eq!(headers.get(CONTENT_TYPE).unwrap(), label);
            }
        }
    }
}

/// Reads until the other end closes, with a deadline.
async fn rest(stream: &mut TcpStream) -> String {
    let mut bytes = Vec::new();
    tokio::time::timeout(Duration::from_secs(20), stream.read_to_end(&mut bytes)).await.unwrap().unwrap();
    String::from_utf8_lossy(&bytes).into_owned()
}

#[tokio::test]
async fn a_stop_lets_requests_finish_and_ends_streams() {
    let state = state(Settings::default());
    let (begun, go) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
    let (on_begin, on_go) = (Arc::clone(&begun), Arc::clone(&go));
    let slow = move || async move {
        on_begin.notify_one();
        on_go.notified().await;
        "done"
    };
    let stopping = state.stopping().clone();
    let stream = move || async move {
        use futures::StreamExt as _;
        let first = futures::stream::iter([Ok::<_, std::io::Error>("first line\n")]);
        Body::from_stream(first.chain(futures::stream::pending()).take_until(stopping.cancelled_owned()))
    };
    let app = router(state.clone())
        .route("/slow", get(slow).layer(Edge::new(&state, "/slow", Care::Usual)))
        .route("/follow", get(stream).layer(Edge::new(&state, "/follow", Care::Usual)));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let stop = Arc::new(Notify::new());
    let on_stop = Arc::clone(&stop);
    let server = tokio::spawn(serve(listener, app, state.clone(), async move { on_stop.notified().await }));

    let mut idle = TcpStream::connect(address).await.unwrap();
    idle.write_all(b"GET /healthz HTTP/1.1\r\nhost: h\r\n\r\n").await.unwrap();
    let mut answer = [0; 12];
    idle.read_exact(&mut answer).await.unwrap();
    assert_eq!(&answer, b"HTTP/1.1 200");
    let mut following = TcpStream::connect(address).await.unwrap();
    following.write_all(b"GET /follow HTTP/1.1\r\nhost: h\r\n\r\n").await.unwrap();
    let mut seen = Vec::new();
    while !seen.ends_with(b"first line\n\r\n") {
        seen.push(tokio::time::timeout(Duration::from_secs(20), following.read_u8()).await.unwrap().unwrap());
    }
    let mut slow = TcpStream::connect(address).await.unwrap();
    slow.write_all(b"GET /slow HTTP/1.1\r\nhost: h\r\n\r\n").await.unwrap();
    begun.notified().await;

    stop.notify_one();
    assert_eq!(rest(&mut following).await, "0\r\n\r\n", "the stream ends cleanly");
    rest(&mut idle).await;
    go.notify_one();
    assert!(rest(&mut slow).await.ends_with("done"));
    assert_eq!(server.await.unwrap(), 0, "nothing was cut");
    assert!(TcpStream::connect(address).await.is_err());
}

#[tokio::test]
async fn bodies_beyond_the_limit_are_refused() {
    // Before a process is looked up nothing is read, so that this goes through the receiving function's own route.
    let state = state(Settings { max_body_mib: 1, ..Settings::default() });
    let take = |State(state): State<ApiState>, request: axum::extract::Request| async move {
        let (parts, body) = request.into_parts();
        execution::receive(&state, &parts.headers, body).await.map(|body| body.bytes.len().to_string())
    };
    let methods = post(take).layer(Edge::new(&state, "/take", Care::Usual));
    let app: Router = Router::new().route("/take", methods).with_state(state);
    let send = |size: usize, declared: Option<&str>| {
        let mut request = Request::builder().method("POST").uri("/take").header(ACCEPT, "*/*");
        if let Some(length) = declared {
            request = request.header("content-length", length);
        }
        request.body(Body::from_stream(futures::stream::iter([Ok::<_, std::io::Error>(vec![0_u8; size])]))).unwrap()
    };
    assert_eq!(ask(&app, send(1 << 20, None)).await.2, b"1048576");
    let (_, problem) = refused(&app, send((1 << 20) + 1, None), 413).await;
    assert_eq!(problem["type"], "urn:vespiary:problem:too-large");
    refused(&app, send(1, Some("2000000")), 413).await;
    let broken = Body::from_stream(futures::stream::iter([Err::<Vec<u8>, _>(std::io::Error::other("gone"))]));
    refused(&app, Request::builder().method("POST").uri("/take").body(broken).unwrap(), 400).await;
}

#[tokio::test]
async fn large_bodies_share_the_memory() {
    let sizes = Settings { max_body_mib: 1, max_buffered_mib: 1, max_document_mib: 1, ..Settings::default() };
    let state = state(sizes);
    let (held, go) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
    let (on_held, on_go) = (Arc::clone(&held), Arc::clone(&go));
    let take = move |State(state): State<ApiState>, request: axum::extract::Request| async move {
        let (parts, body) = request.into_parts();
        let received = execution::receive(&state, &parts.headers, body).await?;
        if parts.headers.contains_key("x-hold") {
            on_held.notify_one();
            on_go.notified().await;
        }
        Ok::<_, Problem>(received.bytes.len().to_string())
    };
    let methods = post(take).layer(Edge::new(&state, "/take", Care::Usual));
    let app: Router = Router::new().route("/take", methods).with_state(state);
    let send = |size: usize, header: &str| {
        let request = Request::builder().method("POST").uri("/take").header("host", "h").header(header, "1");
        request.body(Body::from(vec![b'1'; size])).unwrap()
    };
    let holding = tokio::spawn(app.clone().oneshot(send(1 << 20, "x-hold")));
    held.notified().await;
    let (headers, problem) = refused(&app, send(1 << 20, "x-other"), 503).await;
    assert_eq!(
        (&headers["retry-after"], &problem["type"]),
        (&HeaderValue::from_static("1"), &"urn:vespiary:problem:overloaded".into())
    );
    assert_eq!(ask(&app, send(60_000, "x-other")).await.2, b"60000", "small ones are taken all the same");
    go.notify_one();
    assert_eq!(holding.await.unwrap().unwrap().status(), 200);
    assert_eq!(ask(&app, send(1 << 20, "x-other")).await.0, 200, "its room is free again");
}

#[tokio::test]
async fn a_handler_that_does_not_come_back_is_given_up() {
    let state = state(Settings { request_timeout_seconds: 1, ..Settings::default() });
    let edge = Edge::new(&state, "/never", Care::Usual);
    let app: Router = Router::new().route("/never", get(std::future::pending::<&str>).layer(edge));
    let (headers, problem) = refused(&app, request("GET", "/never", &[]), 503).await;
    assert_eq!(
        (&headers["retry-after"], &problem["type"]),
        (&HeaderValue::from_static("5"), &"urn:vespiary:problem:unavailable".into())
    );
}
